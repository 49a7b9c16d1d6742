//! Passive health: what failures and successes do to a peer. Pure decisions on a peer's state.

use crate::peer::{Peer, State};

/// True when the peer rests after failures. `now` is in milliseconds of the monotonic clock.
pub fn is_resting(peer: &Peer, state: &State<'_>, now: u64) -> bool {
    peer.max_fails > 0
        && state.fails() >= u64::from(peer.max_fails)
        && now.saturating_sub(state.checked_at()) <= timeout(peer)
}

/// The peer has been chosen: a new period begins when the last one is over.
pub fn chosen(peer: &Peer, state: &State<'_>, now: u64) {
    if now.saturating_sub(state.checked_at()) > timeout(peer) {
        state.set_checked_at(now);
    }
}

/// The peer has failed. True when that makes it rest.
pub fn failed(peer: &Peer, state: &State<'_>, now: u64) -> bool {
    state.set_fails(state.fails().saturating_add(1));
    state.set_failed_at(now);
    state.set_checked_at(now);
    if peer.max_fails == 0 {
        return false;
    }
    let cost = i64::from(peer.weight / peer.max_fails);
    state.set_effective_weight(state.effective_weight().saturating_sub(cost).max(0));
    state.fails() >= u64::from(peer.max_fails)
}

/// The peer has done its work: failures of an earlier period are forgotten.
pub fn succeeded(state: &State<'_>) {
    if state.failed_at() < state.checked_at() {
        state.set_fails(0);
    }
}

fn timeout(peer: &Peer) -> u64 {
    u64::try_from(peer.fail_timeout.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use tidegate_core::net::Address;

    #[test]
    fn a_peer_rests_after_its_failures_and_is_tried_again() {
        let peer = Peer { max_fails: 2, weight: 4, ..Peer::new(Address::Unix("/a".into())) };
        let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        let state = State::of(&words, 0);
        state.reset(1, 4);
        assert!(!failed(&peer, &state, 1_000));
        assert!(!is_resting(&peer, &state, 1_000));
        assert!(failed(&peer, &state, 2_000));
        assert_eq!(state.effective_weight(), 0);
        assert!(is_resting(&peer, &state, 12_000));
        assert!(!is_resting(&peer, &state, 12_001));
        chosen(&peer, &state, 12_001);
        succeeded(&state);
        assert_eq!(state.fails(), 0);
    }

    #[test]
    fn max_fails_of_zero_never_rests() {
        let peer = Peer { max_fails: 0, ..Peer::new(Address::Unix("/a".into())) };
        let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        let state = State::of(&words, 0);
        for _ in 0..100 {
            assert!(!failed(&peer, &state, 5));
        }
        assert!(!is_resting(&peer, &state, 5));
    }
}
