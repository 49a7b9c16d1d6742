//! Balancing methods: arithmetic over candidates. Down, full and resting peers have been left out before.

pub mod ip_hash;
pub mod least_conn;
pub mod round_robin;

use tidegate_core::net::Address;

use crate::peer::State;

/// What a method may know of who asks.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The client.
    pub client: &'a Address,
    /// Peers (by index) already tried for this subject.
    pub tried: &'a [usize],
}

/// A peer that may be chosen.
pub struct Candidate<'a> {
    /// Its index in the group.
    pub index: usize,
    /// Its configured weight.
    pub weight: u32,
    /// Its connections, over all workers that share its state.
    pub connections: u64,
    /// Its state.
    pub state: State<'a>,
}

/// A balancing method.
pub trait Balancer {
    /// The position in `candidates` of the one to use; `None` only if there is none.
    fn pick(&self, candidates: &[Candidate<'_>], ask: &Ask<'_>) -> Option<usize>;

    /// True when the method looks at connection counts, which cost something to sum.
    fn counts_connections(&self) -> bool {
        false
    }
}
