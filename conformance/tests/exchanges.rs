//! A few of the exchanges of `tidegate-conformance exchanges`, which does ten thousand, with larger bodies.

use tidegate_conformance::proof::exchanges::{Options, run};

#[test]
fn every_byte_arrives_at_its_exchange() {
    let seed = u64::from(std::process::id());
    assert!(run(&Options { count: 300, seed, clients: 4, largest: 2_000_000 }), "with seed {seed}");
}
