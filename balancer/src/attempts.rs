//! What was tried for a subject: the `$upstream_*` variables that http and stream share.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Subject;

/// One try of one peer.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The peer's name; the group's when no peer could be chosen.
    pub address: Rc<str>,
    /// Time to connect.
    pub connected: Option<Duration>,
    /// Time to the first byte, or to the end of the head.
    pub first_byte: Option<Duration>,
    /// Time to the end.
    pub finished: Option<Duration>,
    /// The status it gave; 0 if none.
    pub status: u16,
    /// Bytes sent to it.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Of those, bytes of the body.
    pub body: u64,
    /// The next attempt is of another group, after a redirect.
    pub ends_group: bool,
}

impl Attempt {
    fn of(address: &Rc<str>) -> Self {
        Self {
            address: address.clone(),
            connected: None,
            first_byte: None,
            finished: None,
            status: 0,
            sent: 0,
            received: 0,
            body: 0,
            ends_group: false,
        }
    }
}

/// All tries so far; mostly there is one.
#[derive(Debug, Default)]
pub struct Attempts(RefCell<SmallVec<[Attempt; 1]>>);

impl Attempts {
    /// Begins another.
    pub fn begin(&self, address: &Rc<str>) {
        self.0.borrow_mut().push(Attempt::of(address));
    }

    /// Changes the current one.
    pub fn current(&self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.0.borrow_mut().last_mut() {
            change(attempt);
        }
    }

    /// True when there was none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Looks at all of them.
    pub fn look<R>(&self, look: impl FnOnce(&[Attempt]) -> R) -> R {
        look(&self.0.borrow())
    }

    /// Writes one value an attempt, as nginx does: `, ` between tries, ` : ` where a redirect changed the group.
    fn write(&self, out: &mut Vec<u8>, value: impl Fn(&Attempt, &mut Vec<u8>)) -> bool {
        let attempts = self.0.borrow();
        for (index, attempt) in attempts.iter().enumerate() {
            value(attempt, out);
            if index + 1 < attempts.len() {
                out.extend_from_slice(if attempt.ends_group { b" : " } else { b", " });
            }
        }
        !attempts.is_empty()
    }
}

/// A subject that talks to upstream peers.
pub trait HasAttempts: Subject {
    /// What was tried for it.
    fn attempts(&self) -> &Attempts;
}

fn time(value: Option<Duration>, out: &mut Vec<u8>) {
    let _ = match value {
        Some(time) => write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()),
        None => write!(out, "-"),
    };
}

fn count(value: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

/// The variables that every subject with attempts has.
pub const fn variables<S: HasAttempts>() -> [Variable<S>; 4] {
    [
        Variable {
            name: "upstream_addr",
            get: Get::Value(|s: &S, out| s.attempts().write(out, |a, out| out.extend_from_slice(a.address.as_bytes()))),
            doc: "The peers tried.",
        },
        Variable {
            name: "upstream_connect_time",
            get: Get::Value(|s: &S, out| s.attempts().write(out, |a, out| time(a.connected, out))),
            doc: "Seconds to connect, per try.",
        },
        Variable {
            name: "upstream_bytes_sent",
            get: Get::Value(|s: &S, out| s.attempts().write(out, |a, out| count(a.sent, out))),
            doc: "Bytes sent, per try.",
        },
        Variable {
            name: "upstream_bytes_received",
            get: Get::Value(|s: &S, out| s.attempts().write(out, |a, out| count(a.received, out))),
            doc: "Bytes received, per try.",
        },
    ]
}

/// Time to the first byte per try, for the protocol's own variable of it.
pub fn first_byte_time<S: HasAttempts>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject.attempts().write(out, |attempt, out| time(attempt.first_byte, out))
}

/// Time to the end per try, for the protocol's own variable of it.
pub fn total_time<S: HasAttempts>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject.attempts().write(out, |attempt, out| time(attempt.finished, out))
}

/// Status per try.
pub fn status<S: HasAttempts>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject
        .attempts()
        .write(out, |attempt, out| if attempt.status == 0 { out.push(b'-') } else { count(attempt.status.into(), out) })
}

/// Body bytes per try.
pub fn body_bytes<S: HasAttempts>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject.attempts().write(out, |attempt, out| count(attempt.body, out))
}
