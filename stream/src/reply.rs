//! `return`: a text instead of an upstream.

use std::time::Duration;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::net::connection::{IoFailure, write};
use tidegate_core::net::{Timer, Transport};
use tidegate_core::script::Template;
use tidegate_core::subject::Subject;

use crate::plan::{Content, Plan};
use crate::session::Session;

/// Longest time for the client to take something. nginx: five seconds, whatever is configured.
const PATIENCE: Duration = Duration::from_secs(5);

/// The settings of one block.
#[derive(Default)]
pub struct ReturnConf {
    text: Setting<Word>,
}

inherit!(ReturnConf {} own { text });

/// `return`
pub struct Return;

impl Feature for Return {
    type Conf = ReturnConf;
    const NAME: &'static str = "return";
    const DIRECTIVES: &'static [Directive<ReturnConf>] = &[Directive {
        name: "return",
        levels: Levels::SERVER,
        arity: Arity::Exactly(1),
        set: Set::Word(|conf| &mut conf.text),
        doc: "Sends a text, which may contain variables, and closes the connection.",
    }];
}

impl Module<Session> for Return {
    fn install(conf: &ReturnConf, plan: &mut Plan, env: &mut Install<'_, Session>) -> Result<(), ConfigError> {
        if let Some(text) = conf.text.get() {
            plan.content = Content::Return(env.template(text)?);
        }
        Ok(())
    }
}

/// Sends the text; the session's status, and how long the client may take to hear of the end, unless it is to hear nothing.
pub async fn send(
    session: &Session,
    text: &Template<Session>,
    client: &mut Transport,
    timer: &mut Timer,
) -> (u16, Option<Duration>) {
    session.details.action.set("returning text");
    let text = text.value(session);
    match write(client, timer, &text, PATIENCE).await {
        Ok(()) => {
            session.details.counters.to_client.set(u64::try_from(text.len()).unwrap_or(u64::MAX));
            (200, Some(PATIENCE))
        }
        Err(failure @ IoFailure::TimedOut) => {
            log!(session.logger(), Info, "connection timed out ({failure})");
            (200, Some(Duration::ZERO))
        }
        Err(failure) => {
            log!(session.logger(), Info, "send() failed ({failure})");
            (500, None)
        }
    }
}
