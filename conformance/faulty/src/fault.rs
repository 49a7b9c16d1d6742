//! `fault panic;` panics while a request is served; `fault block=500ms;` keeps the whole worker from doing anything else.

use std::thread::sleep;
use std::time::Duration;

use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Line, Refusal, Set, Setting, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::subject::Plan as _;
use tidegate_http::exchange::Exchange;
use tidegate_http::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct FaultConf {
    fault: Setting<Fault>,
}

inherit!(FaultConf {} own { fault });

/// What goes wrong.
#[derive(Clone, Copy)]
enum Fault {
    Panic,
    Block(Duration),
}

/// `fault`
pub struct Faults;

impl Feature for Faults {
    type Conf = FaultConf;
    const NAME: &'static str = "fault";
    const DIRECTIVES: &'static [Directive<FaultConf>] = &[Directive {
        name: "fault",
        levels: Levels::LOCATION,
        arity: Arity::Exactly(1),
        set: Set::With(fault),
        doc: "Panics (panic), or holds the worker up for a time (block=time), before each answer.",
    }];
}

fn fault(conf: &mut FaultConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let fault = match word.after("block=") {
        None if word.is("panic") => Fault::Panic,
        None => return Err(format!("invalid value \"{word}\", it must be panic or block=time").into()),
        Some(time) => Fault::Block(value::time(&time).ok_or_else(|| format!("invalid time \"{word}\""))?),
    };
    conf.fault.set(fault)
}

impl Module<Exchange> for Faults {
    fn install(conf: &FaultConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if let Some(fault) = conf.fault.get() {
            plan.gate(Phase::PreAccess, Box::new(*fault));
        }
        Ok(())
    }
}

impl Gate<Exchange> for Fault {
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        match self {
            Fault::Panic => panic!("fault of {}", String::from_utf8_lossy(&exchange.target.borrow().path)),
            Fault::Block(time) => sleep(*time),
        }
        Step::Now(Verdict::Continue)
    }
}
