//! Output filters: each sees an answer's head, and may transform its body chunk by chunk.

pub mod conditional;
pub mod expires;
pub mod headers;
pub mod range;
pub mod trailers;

use tidegate_core::script::Template;

use crate::answer::{Answer, Broken, Chunk};
use crate::exchange::Exchange;

/// A filter as a plan holds it.
pub trait Filter {
    /// Looks at the head and may change it, or the body as a whole.
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered;

    /// Answers to subrequests are shown to it as well. nginx: to what changes bodies, not to what is about heads.
    fn sees_subrequests(&self) -> bool {
        false
    }
}

/// What a filter makes of an answer.
pub enum Filtered {
    /// It has seen what it wanted to see.
    Pass,
    /// It wants to see the chunks as well. It must then see to it that no length is announced that it will not keep.
    Transform(Box<dyn Transform>),
    /// The answer must not be sent: this status takes its place, for which an error page may stand in.
    Refuse(u16),
}

/// The value of a template that may ask for the answer that is being made: its fields, its status, its length.
pub fn value(template: &Template<Exchange>, exchange: &Exchange, answer: &mut Answer) -> Vec<u8> {
    if let Some(text) = template.constant() {
        return text.to_vec();
    }
    exchange.sent.look_at(answer);
    std::mem::swap(&mut *exchange.sent.fields.borrow_mut(), &mut answer.fields);
    let value = template.value(exchange);
    std::mem::swap(&mut *exchange.sent.fields.borrow_mut(), &mut answer.fields);
    value
}

/// A synchronous transformer of chunks.
pub trait Transform {
    /// Takes a chunk and appends what becomes of it.
    ///
    /// # Errors
    /// It cannot go on; it has logged why, and the client gets no end of what it has got.
    fn chunk(&mut self, exchange: &Exchange, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), Broken>;
}
