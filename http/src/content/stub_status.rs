//! `stub_status`: what all workers have counted, in nginx's form.

use std::rc::Rc;

use tidegate_core::conf::ConfigError;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::zone::counters::{self, State, Total};
use tidegate_http_wire::Method;

use super::{Content, Outcome, Produce};
use crate::answer::{Answer, Body};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct StubConf {
    on: bool,
}

inherit!(StubConf {} own { on });

/// `stub_status`
pub struct StubStatus;

impl Feature for StubStatus {
    type Conf = StubConf;
    const NAME: &'static str = "stub_status";
    const DIRECTIVES: &'static [Directive<StubConf>] = &[Directive {
        name: "stub_status",
        levels: Levels::SERVER.or(Levels::LOCATION),
        arity: Arity::Between(0, 1),
        set: Set::With(|conf, _| {
            conf.on = true;
            Ok(())
        }),
        doc: "Answers with the connections and requests that all workers have counted.",
    }];
}

impl Module<Exchange> for StubStatus {
    const VARIABLES: &'static [Variable<Exchange>] = &[
        state("connections_active", |_, out| now(out, State::Active), "Open connections."),
        state(
            "connections_reading",
            |_, out| now(out, State::Reading),
            "Connections whose request head is awaited or read.",
        ),
        state("connections_writing", |_, out| now(out, State::Writing), "Connections with an exchange under way."),
        state("connections_waiting", |_, out| now(out, State::Waiting), "Idle keep-alive connections."),
    ];

    fn install(conf: &StubConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.on {
            plan.content = Some(Rc::new(StubStatus));
        }
        Ok(())
    }
}

const fn state(name: &'static str, get: fn(&Exchange, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<Exchange> {
    Variable { name, get: Get::Value(get), doc }
}

fn now(out: &mut Vec<u8>, state: State) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(counters::of_worker().now(state)).as_bytes());
    true
}

impl Content for StubStatus {
    fn answer<'a>(&'a self, exchange: &'a Exchange) -> Produce<'a> {
        if !matches!(exchange.method(), Method::Get | Method::Head) {
            return Produce::Now(Outcome::Status(405));
        }
        let counters = counters::of_worker();
        let text = format!(
            "Active connections: {} \nserver accepts handled requests\n {} {} {} \nReading: {} Writing: {} Waiting: {} \n",
            counters.now(State::Active),
            counters.total(Total::Accepted),
            counters.total(Total::Handled),
            counters.total(Total::Exchanges),
            counters.now(State::Reading),
            counters.now(State::Writing),
            counters.now(State::Waiting),
        );
        Produce::Now(Answer::typed(200, b"text/plain", Body::Bytes(text.into())).into())
    }
}
