//! Both directions of a connection, read and counted as the bytes pass.

use std::time::Instant;

use super::budget::Budget;
use super::frames::Frames;
use super::limits::{Excess, Limits};

/// Watches a connection: give it every byte that is read and every byte that is written, in order.
///
/// After the first excess nothing more is counted and every call tells that one again, so that it is enough to ask
/// wherever it is easy to end the connection.
#[derive(Clone, Debug)]
pub struct Watch {
    incoming: Frames,
    outgoing: Frames,
    budget: Budget,
    excess: Option<Excess>,
    /// Since when the client owes the rest of a frame.
    unfinished: Option<Instant>,
}

impl Watch {
    /// Watches a connection from its first byte, the client's preface, which comes now.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            incoming: Frames::of_client(),
            outgoing: Frames::of_server(),
            budget: Budget::new(limits, now),
            excess: None,
            unfinished: None,
        }
    }

    /// Bytes that were read, before they are acted on. Bytes that are no HTTP/2 pass: the machine behind refuses them.
    ///
    /// # Errors
    /// The limit that was exceeded: the connection has to end.
    pub fn incoming(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Excess> {
        self.still_within()?;
        while let Some(frame) = self.incoming.next(&mut bytes) {
            self.unfinished = None;
            let counted = self.budget.seen(&frame, now);
            self.keep(counted)?;
        }
        self.unfinished = match self.unfinished {
            _ if self.incoming.is_between_frames() => None,
            Some(since) if !self.incoming.is_in_data() => Some(since),
            _ => Some(now),
        };
        Ok(())
    }

    /// Since when the client has owed the rest of what it began: a frame, or a header block. For
    /// `client_header_timeout`, as in nginx. DATA is large, and owed since the last of it came; whatever else may come
    /// byte by byte is owed since its first byte.
    #[must_use]
    pub fn unfinished(&self) -> Option<Instant> {
        [self.unfinished, self.budget.unfinished_head()].into_iter().flatten().min()
    }

    /// Bytes that were or will be written.
    ///
    /// # Errors
    /// As for [`incoming`](Self::incoming).
    pub fn outgoing(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Excess> {
        self.still_within()?;
        while let Some(frame) = self.outgoing.next(&mut bytes) {
            let counted = self.budget.sent(&frame, now);
            self.keep(counted)?;
        }
        Ok(())
    }

    /// Time has passed without a byte: ask at [`next_check`](Self::next_check).
    ///
    /// # Errors
    /// As for [`incoming`](Self::incoming).
    pub fn check(&mut self, now: Instant) -> Result<(), Excess> {
        self.still_within()?;
        let counted = self.budget.check(now);
        self.keep(counted)
    }

    /// When [`check`](Self::check) should be asked if no byte passes before; `None` if it need not be.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        self.budget.next_check()
    }

    /// What has been counted.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    fn still_within(&self) -> Result<(), Excess> {
        self.excess.map_or(Ok(()), Err)
    }

    fn keep(&mut self, counted: Result<(), Excess>) -> Result<(), Excess> {
        self.excess = counted.err();
        counted
    }
}
