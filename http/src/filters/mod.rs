//! Output filters: each sees an answer's head, and may transform its body chunk by chunk.

pub mod conditional;
pub mod expires;
pub mod headers;
pub mod range;
pub mod trailers;

use crate::answer::{Answer, Chunk};
use crate::exchange::Exchange;

/// A filter as a plan holds it.
pub trait Filter {
    /// Looks at the head and may change it, or the body as a whole. A filter that wants to see the chunks returns a
    /// transformer; it must then see to it that no length is announced that it will not keep.
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Option<Box<dyn Transform>>;
}

/// A synchronous transformer of chunks.
pub trait Transform {
    /// Takes a chunk and appends what becomes of it.
    fn chunk(&mut self, chunk: Chunk, out: &mut Vec<Chunk>);
}
