//! `least_conn`: the fewest connections in proportion to the weight; round robin among equals.

use super::{Ask, Balancer, Candidate, round_robin};

/// Least connections.
pub struct LeastConn;

impl Balancer for LeastConn {
    fn pick(&self, candidates: &[Candidate<'_>], _ask: &Ask<'_>) -> Option<usize> {
        // a/wa < b/wb without a division
        let less = |a: &Candidate<'_>, b: &Candidate<'_>| {
            (u128::from(a.connections) * u128::from(b.weight)).cmp(&(u128::from(b.connections) * u128::from(a.weight)))
        };
        let least = candidates.iter().min_by(|a, b| less(a, b))?;
        round_robin::richest(candidates, |candidate| less(candidate, least).is_eq())
    }

    fn counts_connections(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{State, WORDS};
    use std::sync::atomic::AtomicU64;

    #[test]
    fn connections_count_in_proportion_to_weight() {
        for (peers, expected) in
            [(&[(1, 2), (1, 1)][..], 1), (&[(4, 4), (1, 2)], 0), (&[(1, 0), (1, 0)], 0), (&[(2, 4), (1, 2), (1, 1)], 2)]
        {
            let words: Vec<AtomicU64> = (0..peers.len() * WORDS).map(|_| AtomicU64::new(0)).collect();
            let candidates: Vec<Candidate<'_>> = peers
                .iter()
                .enumerate()
                .map(|(index, (weight, connections))| Candidate {
                    index,
                    weight: *weight,
                    connections: *connections,
                    state: State::of(&words, index),
                })
                .collect();
            candidates.iter().for_each(|candidate| candidate.state.reset(1, candidate.weight));
            let client = tidegate_core::net::Address::Unix("".into());
            assert_eq!(LeastConn.pick(&candidates, &Ask { client: &client, tried: &[] }), Some(expected), "{peers:?}");
        }
    }
}
