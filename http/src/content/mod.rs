//! What answers: files, upstreams, and whatever else is plugged into a plan.

pub mod files;
pub mod index;
pub mod stub_status;
pub mod try_files;
mod waiting;

use std::future::Future;
use std::pin::Pin;

use crate::answer::Answer;
use crate::exchange::Exchange;

/// Produces the answer to an exchange.
pub trait Content {
    /// Answers, now or later; one that need not wait does not allocate.
    fn answer<'a>(&'a self, exchange: &'a Exchange) -> Produce<'a>;
}

/// An outcome, or the promise of one.
pub enum Produce<'a> {
    /// At once.
    Now(Outcome),
    /// When the future is done.
    Later(Pin<Box<dyn Future<Output = Outcome> + 'a>>),
}

/// What came of it.
pub enum Outcome {
    /// An answer.
    Answer(Box<Answer>),
    /// A status, for which an error page may stand in.
    Status(u16),
    /// The exchange's target has been changed: start again.
    Restart,
    /// The client is gone; nobody is left to answer.
    Gone,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Outcome::Answer(Box::new(answer))
    }
}
