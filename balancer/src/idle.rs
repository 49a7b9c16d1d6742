//! Idle connections to upstream peers, kept for reuse: a pool per worker and group.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// `keepalive`, `keepalive_requests`, `keepalive_time`, `keepalive_timeout` of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections kept.
    pub kept: usize,
    /// Uses of one connection.
    pub uses: u64,
    /// Age of one connection.
    pub age: Duration,
    /// Time without use.
    pub idle: Duration,
}

impl Default for Limits {
    /// nginx 1.29.7 and later keep connections by default.
    fn default() -> Self {
        Limits { kept: 32, uses: 1000, age: Duration::from_secs(3600), idle: Duration::from_secs(60) }
    }
}

/// A connection with its history.
pub struct Used<T> {
    /// The connection.
    pub connection: T,
    /// When it was made.
    pub made: Instant,
    /// How often it has been used.
    pub uses: u64,
}

struct Entry<T> {
    peer: usize,
    since: Instant,
    used: Used<T>,
}

/// A pool. The connection kept last is reused first.
pub struct Idle<T> {
    limits: Limits,
    entries: RefCell<Vec<Entry<T>>>,
}

impl<T> Idle<T> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Idle { limits, entries: RefCell::default() }
    }

    /// Takes a connection to a peer. Those that `is_stale` says are stale are dropped on the way.
    pub fn take(&self, peer: usize, now: Instant, mut is_stale: impl FnMut(&mut T) -> bool) -> Option<Used<T>> {
        let mut entries = self.entries.borrow_mut();
        while let Some(at) = entries.iter().rposition(|entry| entry.peer == peer) {
            let mut entry = entries.remove(at);
            if now.saturating_duration_since(entry.since) < self.limits.idle && !is_stale(&mut entry.used.connection) {
                return Some(entry.used);
            }
        }
        None
    }

    /// Keeps a connection, if its history allows it. The one idle longest makes room.
    pub fn keep(&self, peer: usize, used: Used<T>, now: Instant) {
        if self.limits.kept == 0
            || used.uses >= self.limits.uses
            || now.saturating_duration_since(used.made) >= self.limits.age
        {
            return;
        }
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= self.limits.kept {
            entries.remove(0);
        }
        entries.push(Entry { peer, since: now, used });
    }

    /// Drops what is stale or has been idle too long.
    pub fn sweep(&self, now: Instant, mut is_stale: impl FnMut(&mut T) -> bool) {
        self.entries.borrow_mut().retain_mut(|entry| {
            now.saturating_duration_since(entry.since) < self.limits.idle && !is_stale(&mut entry.used.connection)
        });
    }

    /// When the first of them will have been idle too long.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.entries.borrow().first().and_then(|entry| entry.since.checked_add(self.limits.idle))
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// True when none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuse_is_last_in_first_out_and_bounded() {
        let now = Instant::now();
        let pool = Idle::new(Limits { kept: 2, uses: 10, ..Limits::default() });
        let used = |connection, uses| Used { connection, made: now, uses };
        pool.keep(0, used("a", 1), now);
        pool.keep(0, used("b", 1), now);
        pool.keep(1, used("c", 1), now);
        pool.keep(1, used("worn", 10), now);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take(0, now, |_| false).unwrap().connection, "b");
        assert!(pool.take(0, now, |_| false).is_none());
        assert!(pool.take(1, now, |_| true).is_none());
        assert!(pool.is_empty());
    }

    #[test]
    fn time_wears_connections_out() {
        let now = Instant::now();
        let later = now + Duration::from_secs(61);
        let pool = Idle::new(Limits::default());
        assert_eq!(pool.next_expiry(), None);
        pool.keep(0, Used { connection: (), made: now, uses: 1 }, now);
        assert_eq!(pool.next_expiry(), Some(now + Duration::from_secs(60)));
        assert!(pool.take(0, later, |_| false).is_none());
        pool.keep(0, Used { connection: (), made: now, uses: 1 }, now + Duration::from_secs(3600));
        assert!(pool.is_empty());
    }
}
