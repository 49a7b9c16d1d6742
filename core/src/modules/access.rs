//! `allow`, `deny`: who may, by address.

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Line, Refusal};
use crate::inherit;
use crate::module::{Install, Module};
use crate::net::network::Network;
use crate::phase::{Gate, Phase, Step, Verdict};
use crate::subject::{Plan, Subject};

/// The settings of one block: rules in order, `true` allows.
#[derive(Default)]
pub struct AccessConf {
    rules: Vec<(bool, Network)>,
}

inherit!(AccessConf { rules });

/// `allow`, `deny`
pub struct Access;

const LEVELS: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LIMIT_EXCEPT);

impl Feature for Access {
    type Conf = AccessConf;
    const NAME: &'static str = "access";
    const DIRECTIVES: &'static [Directive<AccessConf>] = &[
        Directive {
            name: "allow",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| rule(conf, line, true)),
            doc: "Allows a client address, a network, unix: or all; the first rule that matches decides.",
        },
        Directive {
            name: "deny",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| rule(conf, line, false)),
            doc: "Refuses a client address, a network, unix: or all; the first rule that matches decides.",
        },
    ];
}

fn rule(conf: &mut AccessConf, line: &mut Line<'_>, allow: bool) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let who = Network::parse(&word.text()).ok_or_else(|| {
        format!("invalid parameter \"{word}\", it must be an address, a network, \"unix:\" or \"all\"")
    })?;
    if who.has_meaningless_bits() {
        line.warn(format!("low address bits of {word} are meaningless"));
    }
    conf.rules.push((allow, who));
    Ok(())
}

impl<S: Subject> Module<S> for Access {
    fn install(conf: &AccessConf, plan: &mut S::Plan, _env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        if !conf.rules.is_empty() {
            plan.gate(Phase::Access, Box::new(Rules(conf.rules.clone())));
        }
        Ok(())
    }
}

struct Rules(Vec<(bool, Network)>);

impl<S: Subject> Gate<S> for Rules {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        let client = subject.client();
        Step::Now(match self.0.iter().find(|(_, who)| who.contains(client)) {
            None => Verdict::Continue,
            Some((true, _)) => Verdict::Allow,
            Some((false, _)) => {
                crate::log!(subject.logger(), Error, "access forbidden by rule");
                Verdict::Refuse(403)
            }
        })
    }
}
