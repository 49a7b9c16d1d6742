//! Smooth weighted round robin, nginx's default: each turn everybody earns its weight, the richest pays for all.

use super::{Ask, Balancer, Candidate};

/// Smooth weighted round robin.
pub struct RoundRobin;

impl Balancer for RoundRobin {
    fn pick(&self, candidates: &[Candidate<'_>], _ask: &Ask<'_>) -> Option<usize> {
        richest(candidates, |_| true)
    }
}

/// One turn among the candidates that `allowed` lets through.
pub(super) fn richest(candidates: &[Candidate<'_>], allowed: impl Fn(&Candidate<'_>) -> bool) -> Option<usize> {
    let mut best: Option<(usize, i64)> = None;
    let mut total: i64 = 0;
    for (position, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| allowed(candidate)) {
        let state = &candidate.state;
        let effective = state.effective_weight();
        let current = state.current_weight().saturating_add(effective);
        state.set_current_weight(current);
        total = total.saturating_add(effective);
        if effective < i64::from(candidate.weight) {
            state.set_effective_weight(effective + 1);
        }
        if best.is_none_or(|(_, most)| current > most) {
            best = Some((position, current));
        }
    }
    let (position, current) = best?;
    candidates.get(position)?.state.set_current_weight(current.saturating_sub(total));
    Some(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{State, WORDS};
    use std::sync::atomic::AtomicU64;

    fn sequence(weights: &[u32], turns: usize) -> Vec<usize> {
        let words: Vec<AtomicU64> = (0..weights.len() * WORDS).map(|_| AtomicU64::new(0)).collect();
        let candidates: Vec<Candidate<'_>> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Candidate {
                index,
                weight: *weight,
                connections: 0,
                state: State::of(&words, index),
            })
            .collect();
        candidates.iter().for_each(|candidate| candidate.state.reset(1, candidate.weight));
        let client = tidegate_core::net::Address::Unix("".into());
        (0..turns).map(|_| RoundRobin.pick(&candidates, &Ask { client: &client, tried: &[] }).unwrap()).collect()
    }

    #[test]
    fn turns_are_smooth() {
        assert_eq!(sequence(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(sequence(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(sequence(&[3, 1], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(sequence(&[], 0), Vec::<usize>::new());
        let client = tidegate_core::net::Address::Unix("".into());
        assert_eq!(RoundRobin.pick(&[], &Ask { client: &client, tried: &[] }), None);
    }
}
