//! A balancing method: `upstream u { first; server ..; server ..; }` uses the servers in the order written, the next
//! one only while those before it are down, full or resting. It saves starting machines that are not needed.
//!
//! 1. A [`Balancer`]: arithmetic over candidates, which the group has narrowed down before. It keeps what it must
//!    remember in the candidates' [`State`](tidegate_balancer::peer::State), which all workers may share.
//! 2. A row that chooses it. Features with the same settings share them, so that the row can stand in a feature of its own
//!    that says `type Conf = UpstreamConf`; a method of this project is a row in `balancer/src/module.rs`.
//!
//! It serves http and stream alike, and mail: every protocol whose module list has it.

use tidegate_balancer::module::UpstreamConf;
use tidegate_balancer::{Ask, Balancer, Candidate};
use tidegate_core::conf::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::module::Module;
use tidegate_core::subject::Subject;

/// The first server that can be used.
pub struct First;

impl Balancer for First {
    fn pick(&self, candidates: &[Candidate<'_>], _ask: &Ask<'_>) -> Option<usize> {
        let first = candidates.iter().enumerate().min_by_key(|(_, candidate)| candidate.index);
        first.map(|(position, _)| position)
    }
}

/// `first`
pub struct FirstServer;

impl Feature for FirstServer {
    type Conf = UpstreamConf;
    const NAME: &'static str = "first";
    const DIRECTIVES: &'static [Directive<UpstreamConf>] = &[Directive {
        name: "first",
        levels: Levels::UPSTREAM,
        arity: Arity::Exactly(0),
        set: Set::With(|conf, line| conf.choose(line, |_| Box::new(First))),
        doc: "Chooses the first server in the order written that can be used.",
    }];
}

impl<S: Subject> Module<S> for FirstServer {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::load;
    use std::sync::atomic::AtomicU64;
    use tidegate_balancer::peer::{State, WORDS};
    use tidegate_core::net::Address;
    use tidegate_http::Http;

    #[test]
    fn the_lowest_index_wins_wherever_it_stands() {
        let words: Vec<AtomicU64> = (0..WORDS * 10).map(|_| AtomicU64::new(0)).collect();
        let client = Address::Unix("".into());
        for (indices, expected) in [(&[0, 1, 2][..], Some(0)), (&[2, 1], Some(1)), (&[7], Some(0)), (&[], None)] {
            let candidate = |index: &usize| Candidate {
                index: *index,
                weight: 1,
                connections: 0,
                state: State::of(&words, *index),
            };
            let candidates: Vec<Candidate<'_>> = indices.iter().map(candidate).collect();
            assert_eq!(First.pick(&candidates, &Ask { client: &client, tried: &[] }), expected, "{indices:?}");
        }
    }

    #[test]
    fn the_row_chooses_it_as_the_others_do() {
        let http = Http::with(|modules| _ = modules.add::<FirstServer>());
        let group = |lines: &str| {
            let text = format!(
                "http {{ upstream u {{ server 127.0.0.1:1; {lines} }}
                 server {{ listen 127.0.0.1:80; location / {{ proxy_pass http://u; }} }} }}"
            );
            load(&http, &text).err()
        };
        assert_eq!(group("first;"), None);
        assert_eq!(group("first; least_conn;"), None, "the last one counts");
        assert!(group("first 1;").is_some_and(|error| error.contains("invalid number of arguments")));
    }
}
