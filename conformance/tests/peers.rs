//! The real servers of the harness themselves, so that a test that uses one fails for its own reasons only.

use tidegate_conformance::Wire;
use tidegate_conformance::peers::{Dovecot, Redis};

#[test]
fn redis_answers() {
    let Some(redis) = Redis::start() else { return };
    assert_eq!(Wire::connect(redis.port()).ask("PING"), "+PONG");
}

#[test]
fn dovecot_lets_alice_in() {
    let Some(dovecot) = Dovecot::start() else { return };
    let mut wire = Wire::connect(dovecot.imap_port());
    assert!(wire.line().starts_with("* OK"));
    wire.send_line("a LOGIN alice pw");
    assert!(wire.lines_until("a ").last().is_some_and(|line| line.starts_with("a OK")), "{}", dovecot.log());
}
