//! Counts over a sliding period of time, in a fixed number of words.

use std::time::{Duration, Instant};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    RefusedStreams,
    RapidResets,
    OwnResets,
    Pings,
    Settings,
    EmptyData,
    PaddingOnly,
    WindowUpdates,
    TinyWindowUpdates,
    Dribbles,
    Priorities,
    UnknownFrames,
    StrayFrames,
    /// Requests begun.
    Requests,
    /// Answers completed.
    Answers,
    /// HEADERS and DATA frames that we sent.
    AnswerFrames,
    /// DATA frames that we sent, without those that the window cut short.
    DataFrames,
    /// Bytes of DATA that we sent.
    DataBytes,
    /// Bytes of heads and bodies in both directions.
    Payload,
    /// All bytes in both directions.
    Wire,
}

const COUNTS: usize = Count::Wire as usize + 1;

/// Counts of the period that runs and of the one before: together, weighted by how much of the earlier one still
/// lies within the last period, a close and cheap estimate of a sliding window.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    period: Duration,
    /// When the running period began, and the time that was last told.
    start: Instant,
    now: Instant,
    /// How much of the running period is left, in 1/1024: the weight of the earlier counts.
    weight: u64,
    running: [u64; COUNTS],
    earlier: [u64; COUNTS],
}

/// What a full weight is.
const FULL: u64 = 1024;

impl Tally {
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        let period = period.max(Duration::from_millis(1));
        Self { period, start: now, now, weight: FULL, running: [0; COUNTS], earlier: [0; COUNTS] }
    }

    /// Moves on in time. Times before an earlier one count as that one.
    pub(super) fn advance(&mut self, now: Instant) {
        // frames that are read at once have one time
        if now <= self.now {
            return;
        }
        self.now = now;
        let mut elapsed = now.saturating_duration_since(self.start);
        if elapsed >= self.period {
            let long_ago = elapsed >= self.period.saturating_mul(2);
            self.earlier = if long_ago { [0; COUNTS] } else { self.running };
            self.running = [0; COUNTS];
            self.start = if long_ago { now } else { self.start + self.period };
            elapsed = now.saturating_duration_since(self.start);
        }
        let left = micros(self.period.saturating_sub(elapsed)).saturating_mul(FULL);
        self.weight = left / micros(self.period).max(1);
    }

    pub(super) fn add(&mut self, count: Count, more: u64) {
        if let Some(running) = self.running.get_mut(count as usize) {
            *running = running.saturating_add(more);
        }
    }

    /// How many there were within the last period.
    pub(super) fn recent(&self, count: Count) -> u64 {
        let of = |counts: &[u64; COUNTS]| counts.get(count as usize).copied().unwrap_or(0);
        let earlier = of(&self.earlier).saturating_mul(self.weight) / FULL;
        of(&self.running).saturating_add(earlier)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_further_back_counts_less() {
        let start = Instant::now();
        let mut tally = Tally::new(Duration::from_secs(10), start);
        tally.add(Count::Pings, 100);
        for (seconds, expected) in [(0, 100), (9, 100), (10, 100), (15, 50), (19, 10), (14, 10), (20, 0)] {
            tally.advance(start + Duration::from_secs(seconds));
            assert!(tally.recent(Count::Pings).abs_diff(expected) <= 1, "{seconds}: {}", tally.recent(Count::Pings));
        }
        assert_eq!(tally.recent(Count::Settings), 0);
        tally.add(Count::Pings, u64::MAX);
        tally.add(Count::Pings, 1);
        assert_eq!(tally.recent(Count::Pings), u64::MAX);
        tally.advance(start + Duration::from_secs(1000));
        assert_eq!(tally.recent(Count::Pings), 0);
    }

    #[test]
    fn a_steady_rate_is_seen_as_it_is() {
        let start = Instant::now();
        let mut tally = Tally::new(Duration::from_secs(10), start);
        for step in 0..10_000u64 {
            tally.advance(start + Duration::from_millis(step * 10));
            tally.add(Count::Pings, 1);
            if step > 1000 {
                assert!(tally.recent(Count::Pings).abs_diff(1000) <= 2, "{step}: {}", tally.recent(Count::Pings));
            }
        }
    }
}
