//! What may be asked of one exchange or session, whatever its protocol; and what its plan must offer to modules.

use std::rc::Rc;
use std::time::Instant;

use crate::log::Logger;
use crate::net::{Address, PeerInfo};
use crate::phase::{Gate, Phase};
use crate::script::Slots;

pub use crate::states::{State, States};

/// One unit of work: an exchange, a session. `map`, `set`, access rules and logs are written once over this.
pub trait Subject: Sized + 'static {
    /// What a block enables for its subjects.
    type Plan: Plan<Self>;

    /// The client's connection.
    fn peer(&self) -> &PeerInfo;
    /// The client's address: that of its connection, or what somebody trusted has said of it.
    fn client(&self) -> &Address {
        &self.peer().client
    }
    /// The subject's own variables.
    fn slots(&self) -> &Slots;
    /// What features remember of it.
    fn states(&self) -> &States;
    /// Where its errors are logged.
    fn logger(&self) -> Logger<'_>;
    /// When it began.
    fn started(&self) -> Instant;
    /// Its status so far; 0 when there is none yet.
    fn status(&self) -> u16;
    /// Bytes sent to the client.
    fn bytes_sent(&self) -> u64;
    /// Bytes received from the client.
    fn bytes_received(&self) -> u64;
    /// The text of the predefined log format, when an access log names none; `None` if the protocol demands one.
    fn default_log_format() -> Option<(&'static str, &'static str)> {
        None
    }

    /// The addresses that those who have passed it on have noted of each other, the last one last.
    fn forwarded_for(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What a feature remembers of it, from now on at the latest.
    fn state<T: State>(&self) -> Rc<T> {
        self.states().get()
    }

    /// What a feature remembers of it, if it does.
    fn known_state<T: State>(&self) -> Option<Rc<T>> {
        self.states().find()
    }
}

/// The run-time form of a block's settings: exactly what its subjects run through.
pub trait Plan<S: Subject> {
    /// Adds a handler at the end of a phase.
    fn gate(&mut self, phase: Phase, gate: Box<dyn Gate<S>>);
    /// Adds something that is told of every finished subject.
    fn sink(&mut self, sink: Box<dyn Sink<S>>);
}

/// Told of every finished subject: access logs.
pub trait Sink<S> {
    /// The subject has ended.
    fn finished(&self, subject: &S);
}
