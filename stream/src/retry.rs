//! Whether a session whose peer could not be reached tries another. Pure decisions.

use std::time::Duration;

/// `proxy_next_upstream` and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `proxy_next_upstream`
    pub enabled: bool,
    /// `proxy_next_upstream_tries`; 0 is as many as there are peers.
    pub tries: u64,
    /// `proxy_next_upstream_timeout`; zero is any time.
    pub timeout: Duration,
}

/// What to do after a failure to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the group for another peer.
    Another,
    /// The session ends with status 502.
    GiveUp,
}

impl Policy {
    /// Decides after `failed` peers, of a group with `peers` of them, have failed within `elapsed`.
    pub fn after_failure(&self, failed: usize, peers: usize, elapsed: Duration) -> Next {
        let most = match usize::try_from(self.tries).unwrap_or(usize::MAX) {
            0 => peers,
            tries => tries.min(peers),
        };
        let in_time = self.timeout.is_zero() || elapsed < self.timeout;
        if self.enabled && failed < most && in_time { Next::Another } else { Next::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_peer_is_tried_while_peers_tries_and_time_are_left() {
        let on = Policy { enabled: true, tries: 0, timeout: Duration::ZERO };
        let (two, timed) = (Policy { tries: 2, ..on }, Policy { timeout: Duration::from_secs(3), ..on });
        for (policy, failed, peers, seconds, expected) in [
            (on, 1, 1, 0, Next::GiveUp),
            (on, 1, 3, 0, Next::Another),
            (on, 2, 3, 9999, Next::Another),
            (on, 3, 3, 0, Next::GiveUp),
            (two, 1, 3, 0, Next::Another),
            (two, 2, 3, 0, Next::GiveUp),
            (two, 1, 1, 0, Next::GiveUp),
            (timed, 1, 3, 2, Next::Another),
            (timed, 1, 3, 3, Next::GiveUp),
            (Policy { enabled: false, ..on }, 1, 3, 0, Next::GiveUp),
        ] {
            let next = policy.after_failure(failed, peers, Duration::from_secs(seconds));
            assert_eq!(next, expected, "{policy:?} after {failed} of {peers} in {seconds} s");
        }
    }
}
