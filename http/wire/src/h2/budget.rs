//! The budgets of a connection: every frame of both directions is counted, and the first limit exceeded is told.
//!
//! What is earned by ordinary use (requests, answers, DATA that we sent) is counted over the same sliding period as what
//! is spent, so neither an old connection has saved up for a flood, nor is a good client's life finite.

use std::time::Instant;

use super::frames::{Detail, Frame, Kind};
use super::limits::{Excess, Limit, Limits};
use super::streams::{Opening, Streams};
use super::tally::{Count, Tally};

/// Counts what a client does on one connection. Memory is bounded by the number of concurrent streams.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    tally: Tally,
    streams: Streams,
    block: Block,
    totals: Totals,
    /// SETTINGS and PING that we sent and the client has not acknowledged.
    settings_asked: u32,
    pings_asked: u32,
    /// Since when more streams wait than may.
    stalled: Option<Instant>,
}

/// The header block that the client is sending.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    bytes: u32,
    continuations: u32,
    /// When it began, until it ends.
    since: Option<Instant>,
}

/// Counts over the life of the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    requests: u64,
    answers: u64,
    rapid_resets: u64,
    own_resets: u64,
}

impl Budget {
    /// The budget of a connection that begins now.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            tally: Tally::new(limits.period, now),
            streams: Streams::new(limits.concurrent_streams),
            block: Block::default(),
            totals: Totals::default(),
            settings_asked: 0,
            pings_asked: 0,
            stalled: None,
            limits,
        }
    }

    /// The client sent a frame.
    ///
    /// # Errors
    /// The limit that it exceeds. What follows on the connection is of no interest.
    pub fn seen(&mut self, frame: &Frame, now: Instant) -> Result<(), Excess> {
        self.tally.advance(now);
        self.tally.add(Count::Wire, frame.wire_length().into());
        match frame.kind {
            Kind::Data => self.data(frame),
            Kind::Headers => self.headers(frame, now),
            Kind::Continuation => self.continuation(frame),
            Kind::ResetStream => self.reset(frame, now),
            Kind::Settings | Kind::Ping if frame.is_ack() => self.acknowledged(frame.kind),
            Kind::Settings => self.settings(frame),
            Kind::Ping => self.spend(Count::Pings),
            Kind::WindowUpdate => self.window_update(frame),
            Kind::Priority | Kind::PriorityUpdate => self.spend(Count::Priorities),
            Kind::Unknown(_) => self.spend(Count::UnknownFrames),
            Kind::PushPromise | Kind::GoAway => self.spend(Count::StrayFrames),
        }?;
        self.weigh()?;
        self.watch_windows(now)
    }

    /// We sent a frame.
    ///
    /// # Errors
    /// As for [`seen`](Self::seen): what we send tells of the client's errors and of its windows.
    pub fn sent(&mut self, frame: &Frame, now: Instant) -> Result<(), Excess> {
        self.tally.advance(now);
        self.tally.add(Count::Wire, frame.wire_length().into());
        match frame.kind {
            Kind::Data => self.sent_data(frame)?,
            Kind::Headers => {
                self.tally.add(Count::Payload, frame.length.into());
                self.tally.add(Count::AnswerFrames, 1);
                self.streams.answering(frame.stream);
                self.answered(frame);
            }
            Kind::Continuation => self.tally.add(Count::Payload, frame.length.into()),
            Kind::ResetStream => self.sent_reset(frame)?,
            Kind::Settings if !frame.is_ack() => self.settings_asked = self.settings_asked.saturating_add(1),
            Kind::Ping if !frame.is_ack() => self.pings_asked = self.pings_asked.saturating_add(1),
            _ => {}
        }
        self.weigh()?;
        self.watch_windows(now)
    }

    /// Nothing came, but time has passed.
    ///
    /// # Errors
    /// [`Limit::StalledStreams`].
    pub fn check(&mut self, now: Instant) -> Result<(), Excess> {
        self.tally.advance(now);
        self.watch_windows(now)
    }

    /// When [`check`](Self::check) has something to say if no frame comes before.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        self.stalled.and_then(|since| since.checked_add(self.limits.stall))
    }

    /// How many requests the client has begun, refused ones excepted.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.totals.requests
    }

    /// Since when the client has been sending a header block that is not complete: for `client_header_timeout`. No other
    /// frame can come before it is.
    #[must_use]
    pub fn unfinished_head(&self) -> Option<Instant> {
        self.block.since
    }

    /// How many bytes the head of an open stream took, compressed, as nginx counts for `$request_length`.
    #[must_use]
    pub fn head_size(&self, stream: u32) -> Option<u32> {
        self.streams.head_size(stream)
    }

    fn data(&mut self, frame: &Frame) -> Result<(), Excess> {
        let content = frame.content();
        // of a stream that ended early too: uploads that were refused, bounded by their frames
        self.tally.add(Count::Payload, content.into());
        if !self.streams.is_open(frame.stream) {
            return self.spend(Count::StrayFrames);
        }
        if frame.is_end_stream() {
            self.streams.sent(frame.stream);
            return Ok(());
        }
        match (content, frame.length) {
            (0, 0) => self.spend(Count::EmptyData),
            (0, _) => self.spend(Count::PaddingOnly),
            _ => Ok(()),
        }
    }

    fn headers(&mut self, frame: &Frame, now: Instant) -> Result<(), Excess> {
        let since = (!frame.is_end_headers()).then_some(now);
        self.block = Block { bytes: frame.length, continuations: 0, since };
        match self.streams.headers(frame.stream, frame.length, now) {
            Opening::Opened => {
                self.totals.requests += 1;
                self.tally.add(Count::Requests, 1);
                self.tally.add(Count::Payload, frame.content().into());
            }
            Opening::Trailers => self.tally.add(Count::Payload, frame.content().into()),
            Opening::Refused => self.spend(Count::RefusedStreams)?,
            Opening::Stray => self.spend(Count::StrayFrames)?,
        }
        if frame.is_end_stream() {
            self.streams.sent(frame.stream);
        }
        self.measure_block()
    }

    fn continuation(&mut self, frame: &Frame) -> Result<(), Excess> {
        self.block.bytes = self.block.bytes.saturating_add(frame.length);
        self.block.continuations = self.block.continuations.saturating_add(1);
        if frame.is_end_headers() {
            self.block.since = None;
        }
        self.streams.continued(frame.stream, frame.length);
        self.tally.add(Count::Payload, frame.length.into());
        self.measure_block()
    }

    fn measure_block(&self) -> Result<(), Excess> {
        let Block { bytes, continuations, .. } = self.block;
        self.within(Limit::HeaderBlock, bytes.into(), self.limits.header_block.into())?;
        self.within(Limit::Continuations, continuations.into(), self.limits.continuations.into())
    }

    fn reset(&mut self, frame: &Frame, now: Instant) -> Result<(), Excess> {
        let Some(stream) = self.streams.reset(frame.stream) else { return self.spend(Count::StrayFrames) };
        if !stream.is_rapid(self.limits.rapid, now) {
            return Ok(());
        }
        self.totals.rapid_resets += 1;
        self.spend(Count::RapidResets)?;
        let allowed = u64::from(self.limits.rapid_resets_in_all).saturating_add(self.totals.answers);
        self.within(Limit::RapidResetsInAll, self.totals.rapid_resets, allowed)
    }

    fn acknowledged(&mut self, kind: Kind) -> Result<(), Excess> {
        let asked = if kind == Kind::Ping { &mut self.pings_asked } else { &mut self.settings_asked };
        let Some(left) = asked.checked_sub(1) else { return self.spend(Count::StrayFrames) };
        *asked = left;
        Ok(())
    }

    fn settings(&mut self, frame: &Frame) -> Result<(), Excess> {
        if let Detail::InitialWindow(bytes) = frame.detail {
            self.streams.set_initial_window(bytes);
        }
        self.within(Limit::SettingsEntries, frame.settings().into(), self.limits.settings_entries.into())?;
        self.spend(Count::Settings)
    }

    fn window_update(&mut self, frame: &Frame) -> Result<(), Excess> {
        if let Detail::Increment(bytes) = frame.detail {
            self.streams.credit(frame.stream, bytes);
            if bytes < self.limits.tiny {
                self.spend(Count::TinyWindowUpdates)?;
            }
        }
        self.spend(Count::WindowUpdates)
    }

    fn sent_data(&mut self, frame: &Frame) -> Result<(), Excess> {
        let content = frame.content();
        self.tally.add(Count::Payload, content.into());
        self.tally.add(Count::DataBytes, content.into());
        self.tally.add(Count::AnswerFrames, 1);
        let is_full = self.streams.debit(frame.stream, frame.length);
        self.answered(frame);
        if is_full && content > 0 && content < self.limits.tiny && !frame.is_end_stream() {
            return self.spend(Count::Dribbles);
        }
        self.tally.add(Count::DataFrames, 1);
        Ok(())
    }

    fn sent_reset(&mut self, frame: &Frame) -> Result<(), Excess> {
        // what still arrives for a stream that was closed is reset too, and was counted as stray when it came
        let was_open = self.streams.reset(frame.stream).is_some();
        if !was_open || !matches!(frame.detail, Detail::Code(code) if blames_client(code)) {
            return Ok(());
        }
        self.totals.own_resets += 1;
        self.spend(Count::OwnResets)?;
        let allowed = u64::from(self.limits.own_resets_in_all).saturating_add(self.totals.answers);
        self.within(Limit::OwnResetsInAll, self.totals.own_resets, allowed)
    }

    /// Our side of a stream may have ended.
    fn answered(&mut self, frame: &Frame) {
        if frame.is_end_stream() && self.streams.answered(frame.stream) {
            self.totals.answers += 1;
            self.tally.add(Count::Answers, 1);
        }
    }

    /// Counts one more, and compares with the limit and what was earned.
    fn spend(&mut self, count: Count) -> Result<(), Excess> {
        self.tally.add(count, 1);
        let (limits, recent) = (&self.limits, |count| self.tally.recent(count));
        let (limit, base, earned) = match count {
            Count::RefusedStreams => (Limit::RefusedStreams, limits.refused_streams, 0),
            Count::RapidResets => (Limit::RapidResets, limits.rapid_resets, recent(Count::Answers)),
            Count::OwnResets => (Limit::OwnResets, limits.own_resets, 0),
            Count::Pings => (Limit::Pings, limits.pings, recent(Count::AnswerFrames)),
            Count::Settings => (Limit::Settings, limits.settings, 0),
            Count::EmptyData => (Limit::EmptyData, limits.empty_data, recent(Count::Requests)),
            Count::PaddingOnly => (Limit::PaddingOnly, limits.padding_only, recent(Count::Requests)),
            Count::WindowUpdates => {
                let uses = recent(Count::DataFrames).saturating_add(recent(Count::Requests));
                (Limit::WindowUpdates, limits.window_updates, uses.saturating_mul(4))
            }
            Count::TinyWindowUpdates => {
                (Limit::TinyWindowUpdates, limits.tiny_window_updates, recent(Count::DataFrames).saturating_mul(2))
            }
            Count::Dribbles => (Limit::Dribbles, limits.dribbles, recent(Count::DataBytes) / 1024),
            Count::Priorities => (Limit::Priorities, limits.priorities, recent(Count::Requests).saturating_mul(8)),
            Count::UnknownFrames => {
                (Limit::UnknownFrames, limits.unknown_frames, recent(Count::Requests).saturating_mul(4))
            }
            Count::StrayFrames => (Limit::StrayFrames, limits.stray_frames, recent(Count::Requests).saturating_mul(64)),
            Count::Requests
            | Count::Answers
            | Count::AnswerFrames
            | Count::DataFrames
            | Count::DataBytes
            | Count::Payload
            | Count::Wire => return Ok(()),
        };
        self.within(limit, recent(count), u64::from(base).saturating_add(earned))
    }

    /// All bytes against those that carry something, as nginx weighs them.
    fn weigh(&self) -> Result<(), Excess> {
        let wire = self.tally.recent(Count::Wire) / 8;
        if wire <= self.limits.overhead {
            return Ok(());
        }
        self.within(Limit::Overhead, wire, self.tally.recent(Count::Payload).saturating_add(self.limits.overhead))
    }

    fn watch_windows(&mut self, now: Instant) -> Result<(), Excess> {
        let waiting = self.streams.waiting();
        if waiting <= self.limits.stalled_streams {
            self.stalled = None;
            return Ok(());
        }
        let since = *self.stalled.get_or_insert(now);
        if now.saturating_duration_since(since) < self.limits.stall {
            return Ok(());
        }
        self.within(Limit::StalledStreams, waiting.into(), self.limits.stalled_streams.into())
    }

    fn within(&self, limit: Limit, count: u64, allowed: u64) -> Result<(), Excess> {
        if count <= allowed {
            return Ok(());
        }
        let over = if limit == Limit::StalledStreams { self.limits.stall } else { self.limits.period };
        let Totals { requests, answers: answered, .. } = self.totals;
        Err(Excess { limit, count, allowed, over, requests, answered })
    }
}

/// Whether an `RST_STREAM` with this code says that the client erred: protocol, flow control, closed stream, frame size,
/// calm. Refused streams have a budget of their own, and the rest is our own doing.
fn blames_client(code: u32) -> bool {
    matches!(code, 0x1 | 0x3 | 0x5 | 0x6 | 0xb)
}

#[cfg(test)]
mod conversations;
#[cfg(test)]
mod tests;
