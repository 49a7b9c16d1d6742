//! `auth_request`: who may is decided by the answer to a subrequest.

use bytes::Bytes;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::modules::set::{Assignment, Setter};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::subject::{Plan as _, Subject};
use tidegate_http_wire::Known;

use crate::exchange::Exchange;
use crate::plan::Plan;
use crate::subrequest::{self, Body, Failure, Request};
use crate::upstream::variables::Proxied;

/// The settings of one block.
#[derive(Default)]
pub struct AuthRequestConf {
    uri: Setting<Word>,
    assignments: Vec<Assignment>,
}

inherit!(AuthRequestConf { uri, assignments });

/// `auth_request`
pub struct AuthRequest;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

impl Feature for AuthRequest {
    type Conf = AuthRequestConf;
    const NAME: &'static str = "auth_request";
    const DIRECTIVES: &'static [Directive<AuthRequestConf>] = &[
        Directive {
            name: "auth_request",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Word(|conf| &mut conf.uri),
            doc: "The path that is asked whether a request is allowed: yes by a status of 2xx, no by 401 or 403.",
        },
        Directive {
            name: "auth_request_set",
            levels: ANYWHERE,
            arity: Arity::Exactly(2),
            set: Set::With(|conf, line| {
                conf.assignments.push(Assignment::parse(line)?);
                Ok(())
            }),
            doc: "Assigns a value to a variable once that has been answered; what it asks for is the answer's.",
        },
    ];
}

impl Module<Exchange> for AuthRequest {
    fn define(conf: &AuthRequestConf, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        for assignment in &conf.assignments {
            let defined = assignment.define(env);
            env.errors.keep(defined);
        }
        Ok(())
    }

    fn install(conf: &AuthRequestConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let setters = conf.assignments.iter().map(|assignment| assignment.compile(env));
        let setters = setters.collect::<Result<Vec<_>, ConfigError>>()?;
        if let Some(uri) = conf.uri.get().filter(|uri| !uri.is("off") && !uri.bytes().is_empty()) {
            plan.gate(Phase::Access, Box::new(Asks { path: uri.bytes().into(), setters }));
        }
        Ok(())
    }
}

struct Asks {
    path: Box<[u8]>,
    setters: Vec<Setter<Exchange>>,
}

impl Gate<Exchange> for Asks {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        Step::Later(Box::pin(self.ask(exchange)))
    }
}

impl Asks {
    async fn ask(&self, exchange: &Exchange) -> Verdict {
        let request = Request::get(self.path.to_vec(), Bytes::new());
        let answered = match subrequest::ask(exchange, request, Body::Unwanted).await {
            Ok(reply) => reply.exchange,
            Err(Failure::Gone) => return Verdict::Refuse(499),
            Err(Failure::TooMany | Failure::Incomplete) => return Verdict::Refuse(500),
        };
        self.setters.iter().for_each(|setter| setter.run_with(&answered, exchange));
        match answered.status() {
            200..=299 => Verdict::Allow,
            401 => {
                carry_challenges(&answered, exchange);
                Verdict::Refuse(401)
            }
            // nginx: what would end a connection without an answer ends this one.
            status @ (403 | 444) => Verdict::Refuse(status),
            status => {
                log!(exchange.logger(), Error, "auth request unexpected status: {status}");
                Verdict::Refuse(500)
            }
        }
    }
}

/// Has the client told how it would be allowed.
fn carry_challenges(answered: &Exchange, exchange: &Exchange) {
    let carry = |value: &[u8]| exchange.carry(Known::WwwAuthenticate, value);
    let sent = answered.sent.fields.borrow();
    if sent.has(Known::WwwAuthenticate) {
        return sent.all(Known::WwwAuthenticate).for_each(carry);
    }
    // nginx: an upstream's own, where the answer does not show them.
    if let Some(proxied) = answered.known_state::<Proxied>() {
        proxied.fields.borrow().all(Known::WwwAuthenticate).for_each(carry);
    }
}
