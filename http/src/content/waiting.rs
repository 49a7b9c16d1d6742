//! Content that waits for the worker's threads.

use std::future::Future;

use tidegate_core::log;
use tidegate_core::subject::Subject;

use super::{Outcome, Produce};
use crate::exchange::Exchange;
use crate::presence;

/// Content that the worker's threads have a part in. A client that gives up ends it.
pub fn waiting<'a>(exchange: &'a Exchange, work: impl Future<Output = Outcome> + 'a) -> Produce<'a> {
    Produce::Later(Box::pin(async move {
        match presence::unless_given_up(exchange, work).await {
            Some(outcome) => outcome,
            None => {
                log!(exchange.logger(), Info, "client prematurely closed connection while a file was waited for");
                Outcome::Gone
            }
        }
    }))
}
