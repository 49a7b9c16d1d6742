//! Proofs that take a while: commands that run a release build, print figures, and say whether these are good enough.
//!
//! Each is a file, with what it shows on top. Shorter forms of them are tests, which bound no times that a busy machine
//! would break.

pub mod chance;
pub mod events;
pub mod exchanges;
pub mod floods;
pub mod reloads;
pub mod slow_clients;

use std::time::Duration;

/// What a proof has come to so far.
#[derive(Debug, Default)]
pub struct Verdict {
    failed: usize,
}

impl Verdict {
    /// Prints whether something holds, and remembers it if not.
    pub fn check(&mut self, holds: bool, what: &str) {
        println!("{} {what}", if holds { "ok    " } else { "FAILED" });
        self.failed += usize::from(!holds);
    }

    /// Prints a figure that nothing is demanded of.
    pub fn note(&self, what: &str) {
        println!("       {what}");
    }

    /// Whether everything held.
    pub fn is_good(&self) -> bool {
        self.failed == 0
    }
}

/// The value below which this share of all lies. Nothing is as short as nothing.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut times: Vec<Duration> = (0..100).rev().map(Duration::from_millis).collect();
        for (share, expected) in [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 99)] {
            assert_eq!(percentile(&mut times, share), Duration::from_millis(expected), "{share}");
        }
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
