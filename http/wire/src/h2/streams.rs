//! The streams that are open on a connection, as far as budgets need to know them: their age and their windows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a window is before anything was said (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;

/// A stream that the client opened and that neither side has reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    id: u32,
    opened: Instant,
    /// Bytes of the header blocks.
    head: u32,
    /// What we may send; below zero after the client took some back, which is plain flow control.
    window: i64,
    /// Our answer has begun.
    answering: bool,
    /// Our answer is complete.
    answered: bool,
    /// The client's side is closed.
    sent: bool,
}

impl Stream {
    fn is_waiting(&self) -> bool {
        self.answering && !self.answered && self.window <= 0
    }

    fn is_under_way(&self) -> bool {
        self.answering && !self.answered
    }

    /// Whether the stream is younger than `age` and has no complete answer.
    pub(super) fn is_rapid(&self, age: Duration, now: Instant) -> bool {
        !self.answered && now.saturating_duration_since(self.opened) < age
    }
}

/// The open streams in order, never more than the announced number.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    /// Those that were opened first are mostly done first.
    open: VecDeque<Stream>,
    /// Where the last one looked for was: mostly where the next one is.
    found: usize,
    most: usize,
    last: u32,
    /// The window of the connection.
    window: i64,
    /// The window that a new stream has.
    initial: i64,
    /// How many of the open streams wait for their own window, and how many answers are under way.
    waiting: u32,
    under_way: u32,
}

/// What HEADERS did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Opened a stream.
    Opened,
    /// Would have, but there are too many.
    Refused,
    /// Belongs to an open stream: trailers.
    Trailers,
    /// A stream that is closed, or one that a client must not open.
    Stray,
}

impl Streams {
    pub(super) fn new(most: u32) -> Self {
        Self {
            open: VecDeque::new(),
            found: 0,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            last: 0,
            window: INITIAL_WINDOW,
            initial: INITIAL_WINDOW,
            waiting: 0,
            under_way: 0,
        }
    }

    /// The client sent HEADERS.
    pub(super) fn headers(&mut self, id: u32, head: u32, now: Instant) -> Opening {
        if id <= self.last {
            return if self.is_open(id) { Opening::Trailers } else { Opening::Stray };
        }
        if id.is_multiple_of(2) {
            return Opening::Stray;
        }
        self.last = id;
        if self.open.len() >= self.most {
            return Opening::Refused;
        }
        let window = self.initial;
        self.open.push_back(Stream { id, opened: now, head, window, answering: false, answered: false, sent: false });
        self.found = self.open.len() - 1;
        Opening::Opened
    }

    /// The client sent more of the header block.
    pub(super) fn continued(&mut self, id: u32, bytes: u32) {
        self.change(id, |stream| stream.head = stream.head.saturating_add(bytes));
    }

    pub(super) fn head_size(&self, id: u32) -> Option<u32> {
        let at = self.open.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.open.get(at).map(|stream| stream.head)
    }

    pub(super) fn is_open(&mut self, id: u32) -> bool {
        self.find(id).is_some()
    }

    /// The client will send no more on a stream.
    pub(super) fn sent(&mut self, id: u32) {
        self.change(id, |stream| stream.sent = true);
    }

    /// Our answer begins.
    pub(super) fn answering(&mut self, id: u32) {
        self.change(id, |stream| stream.answering = true);
    }

    /// Our answer is complete. Tells whether there was a stream to answer.
    pub(super) fn answered(&mut self, id: u32) -> bool {
        self.change(id, |stream| stream.answered = true).is_some()
    }

    /// One side resets a stream.
    pub(super) fn reset(&mut self, id: u32) -> Option<Stream> {
        let at = self.find(id)?;
        let stream = self.open.remove(at)?;
        self.count(&stream, false);
        Some(stream)
    }

    /// The client gives us more to send, on a stream or, for 0, on the connection.
    pub(super) fn credit(&mut self, id: u32, bytes: u32) {
        let bytes = i64::from(bytes);
        if id == 0 {
            self.window = self.window.saturating_add(bytes);
        } else {
            self.change(id, |stream| stream.window = stream.window.saturating_add(bytes));
        }
    }

    /// We sent DATA. Tells whether that left nothing to send with.
    pub(super) fn debit(&mut self, id: u32, bytes: u32) -> bool {
        let bytes = i64::from(bytes);
        self.window = self.window.saturating_sub(bytes);
        let stream = self.change(id, |stream| stream.window = stream.window.saturating_sub(bytes));
        self.window <= 0 || stream.is_some_and(|stream| stream.window <= 0)
    }

    /// The client changes the window that streams begin with, and by the difference those that are open.
    pub(super) fn set_initial_window(&mut self, bytes: u32) {
        let change = i64::from(bytes) - self.initial;
        self.initial = i64::from(bytes);
        for stream in &mut self.open {
            stream.window = stream.window.saturating_add(change);
        }
        self.waiting = u32::try_from(self.open.iter().filter(|stream| stream.is_waiting()).count()).unwrap_or(u32::MAX);
    }

    /// How many answers wait for a window, their own or that of the connection.
    pub(super) fn waiting(&self) -> u32 {
        if self.window <= 0 { self.under_way } else { self.waiting }
    }

    fn find(&mut self, id: u32) -> Option<usize> {
        if self.open.get(self.found).is_none_or(|stream| stream.id != id) {
            self.found = self.open.binary_search_by_key(&id, |stream| stream.id).ok()?;
        }
        Some(self.found)
    }

    /// Changes a stream, keeps the counts right, and forgets it when both sides are done. Gives what became of it.
    fn change(&mut self, id: u32, change: impl FnOnce(&mut Stream)) -> Option<Stream> {
        let at = self.find(id)?;
        let stream = self.open.get_mut(at)?;
        let before = *stream;
        change(stream);
        let after = *stream;
        self.count(&before, false);
        self.count(&after, true);
        if after.sent && after.answered {
            self.open.remove(at);
        }
        Some(after)
    }

    fn count(&mut self, stream: &Stream, add: bool) {
        let step = |count: &mut u32, counted: bool| match (counted, add) {
            (true, true) => *count = count.saturating_add(1),
            (true, false) => *count = count.saturating_sub(1),
            (false, _) => {}
        };
        step(&mut self.waiting, stream.is_waiting());
        step(&mut self.under_way, stream.is_under_way());
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.open.capacity()
    }
}
