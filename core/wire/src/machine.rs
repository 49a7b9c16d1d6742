//! A protocol with no I/O: bytes and end of input go in, events and replies come out.

use bytes::BytesMut;

/// One side of a dialogue as a pure state machine.
///
/// The driver appends what it read to `input` and calls [`receive`](Machine::receive) until it answers `None`; then it
/// writes out `replies` and reads again. The machine takes from `input` what it has understood and leaves the rest, so
/// pipelined input needs no special care. Time never appears: deadlines belong to the driver.
pub trait Machine {
    /// What the machine has understood.
    type Event;
    /// Why it refuses to go on; says who erred.
    type Error;

    /// Consumes input and appends what has to be sent back to `replies`. `Ok(None)` asks for more input.
    fn receive(&mut self, input: &mut BytesMut, replies: &mut BytesMut) -> Result<Option<Self::Event>, Self::Error>;

    /// The peer will send no more. An event that only the end completes, or an error if it came too early.
    fn end(&mut self) -> Result<Option<Self::Event>, Self::Error>;
}
