//! `mirror`: requests are asked again elsewhere, and nobody waits for what comes of it.

use std::rc::Rc;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::subject::Plan as _;
use tidegate_http_wire::framing::Framing;

use crate::exchange::Exchange;
use crate::held_body::{self, BodyPlace};
use crate::plan::Plan;
use crate::request_body::BodyFault;
use crate::subrequest::{self, Request};

/// The settings of one block.
#[derive(Default)]
pub struct MirrorConf {
    /// `off` is an empty list.
    paths: Setting<Vec<Word>>,
    request_body: Setting<bool>,
}

inherit!(MirrorConf { paths, request_body });

/// `mirror`
pub struct Mirror;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

impl Feature for Mirror {
    type Conf = MirrorConf;
    const NAME: &'static str = "mirror";
    const DIRECTIVES: &'static [Directive<MirrorConf>] = &[
        Directive {
            name: "mirror",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(mirror),
            doc: "A path that every request is asked by as well, behind its back; may be repeated.",
        },
        Directive {
            name: "mirror_request_body",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.request_body),
            doc: "Whether the body goes along. It is read whole then before anything else happens.",
        },
    ];
}

fn mirror(conf: &mut MirrorConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let path = line.arg(0)?;
    match conf.paths.get() {
        None if path.is("off") => conf.paths.set(Vec::new()),
        Some(paths) if path.is("off") || paths.is_empty() => Err("is duplicate".into()),
        known => {
            let paths = known.into_iter().flatten().chain([path]).cloned().collect();
            conf.paths = Setting::default();
            conf.paths.set(paths)
        }
    }
}

impl Module<Exchange> for Mirror {
    fn install(conf: &MirrorConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let paths: Vec<Rc<[u8]>> = conf.paths.get().into_iter().flatten().map(|path| path.bytes().into()).collect();
        if !paths.is_empty() {
            let body = if conf.request_body.or(true) { Some(held_body::place(plan, env)?) } else { None };
            plan.gate(Phase::PreContent, Box::new(Mirrors { paths, body }));
        }
        Ok(())
    }
}

struct Mirrors {
    paths: Vec<Rc<[u8]>>,
    /// Where the body is kept, if it goes along.
    body: Option<BodyPlace>,
}

impl Gate<Exchange> for Mirrors {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        if exchange.is_subrequest() {
            return Step::Now(Verdict::Continue);
        }
        match &self.body {
            Some(place) if exchange.head.framing != Framing::None && !exchange.body.borrow().complete => {
                Step::Later(Box::pin(async move {
                    match held_body::hold(exchange, place).await {
                        Ok(()) => self.ask(exchange),
                        Err(fault) => Verdict::Refuse(BodyFault::status(fault)),
                    }
                }))
            }
            _ => Step::Now(self.ask(exchange)),
        }
    }
}

impl Mirrors {
    /// A request that cannot be mirrored is served all the same; why it cannot be is in the log by then.
    fn ask(&self, exchange: &Exchange) -> Verdict {
        for path in &self.paths {
            let args = exchange.target.borrow().args.clone();
            let request =
                Request { path: path.to_vec(), args, method: exchange.method(), with_body: self.body.is_some() };
            let _ = subrequest::leave_behind(exchange, request);
        }
        Verdict::Continue
    }
}
