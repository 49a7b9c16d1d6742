//! Whether a failed attempt is followed by another: a pure decision.

use std::time::{Duration, Instant};

use tidegate_http_wire::Method;

use super::attempt::Fault;
use super::module::{NextUpstream, Settings};
use crate::exchange::Exchange;

/// What follows a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next peer is tried.
    AnotherPeer,
    /// The same peers are tried again, on a fresh connection.
    SamePeer,
    /// The client gets this status.
    Stop(u16),
}

/// What the decision depends on.
pub struct Judge {
    allowed: NextUpstream,
    idempotent: bool,
    tries_left: usize,
    deadline: Option<Instant>,
}

impl Judge {
    /// A judge for one exchange.
    pub fn new(settings: &Settings, exchange: &Exchange, tries: usize) -> Judge {
        let tries = settings.next_upstream_tries.map_or(tries, |most| most.min(tries));
        let deadline =
            settings.next_upstream_timeout.filter(|limit| *limit > Duration::ZERO).map(|limit| Instant::now() + limit);
        Judge {
            allowed: settings.next_upstream,
            idempotent: is_idempotent(&exchange.head.method),
            tries_left: tries,
            deadline,
        }
    }

    /// True when a reply of this status is reason to try the next peer.
    pub fn dislikes(&self, status: u16) -> bool {
        self.allowed.status(status)
    }

    /// Decides; counts the attempt. `reused` says that the connection had been idle before, `sent` that the peer may
    /// have received the request.
    pub fn next(&mut self, fault: &Fault, reused: bool, sent: bool) -> Next {
        let now = Instant::now();
        self.decide(fault, reused, sent, now)
    }

    fn decide(&mut self, fault: &Fault, reused: bool, sent: bool, now: Instant) -> Next {
        let status = fault.status();
        let repeatable = !sent || self.idempotent || self.allowed.non_idempotent;
        if reused && fault.is_closed() && repeatable {
            return Next::SamePeer;
        }
        self.tries_left = self.tries_left.saturating_sub(1);
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        if self.tries_left == 0 || late || !repeatable || !self.allowed.fault(fault) {
            Next::Stop(status)
        } else {
            Next::AnotherPeer
        }
    }
}

/// nginx: POST, LOCK and PATCH are not repeated.
fn is_idempotent(method: &Method) -> bool {
    !matches!(method, Method::Post | Method::Lock | Method::Patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn judge(allowed: NextUpstream, idempotent: bool, tries_left: usize) -> Judge {
        Judge { allowed, idempotent, tries_left, deadline: None }
    }

    #[test]
    fn what_follows_what() {
        let usual = NextUpstream::default();
        let off = NextUpstream { error: false, timeout: false, ..usual };
        let with_503 = NextUpstream { statuses: 0b1000, ..usual };
        let risky = NextUpstream { non_idempotent: true, ..usual };
        let refused = || Fault::Connect(io::ErrorKind::ConnectionRefused.into());
        for (name, allowed, idempotent, tries, fault, reused, sent, expected) in [
            ("refused", usual, true, 2, refused(), false, false, Next::AnotherPeer),
            ("refused, no peer left", usual, true, 1, refused(), false, false, Next::Stop(502)),
            ("timeout", usual, true, 2, Fault::ReadTimeout, false, true, Next::AnotherPeer),
            ("timeout, last", usual, true, 1, Fault::ReadTimeout, false, true, Next::Stop(504)),
            ("off", off, true, 2, refused(), false, false, Next::Stop(502)),
            ("POST not sent", usual, false, 2, refused(), false, false, Next::AnotherPeer),
            ("POST sent", usual, false, 2, Fault::Closed, false, true, Next::Stop(502)),
            ("POST sent, allowed", risky, false, 2, Fault::Closed, false, true, Next::AnotherPeer),
            ("idle connection closed", usual, true, 1, Fault::Closed, true, true, Next::SamePeer),
            ("idle connection closed, POST", usual, false, 1, Fault::Closed, true, true, Next::Stop(502)),
            ("503 wanted", with_503, true, 2, Fault::Status(503), false, true, Next::AnotherPeer),
            ("503 not wanted", usual, true, 2, Fault::Status(503), false, true, Next::Stop(503)),
        ] {
            assert_eq!(
                judge(allowed, idempotent, tries).decide(&fault, reused, sent, Instant::now()),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn time_runs_out() {
        let mut judge = judge(NextUpstream::default(), true, 5);
        let now = Instant::now();
        judge.deadline = Some(now);
        assert_eq!(judge.decide(&Fault::Closed, false, true, now), Next::Stop(502));
    }
}
