//! A range of a buffer in eight bytes: what a parsed head remembers instead of slices.

use bytes::Bytes;

/// Start and length within a buffer that is kept elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// `len` bytes from `start` on. Beyond 4 GiB, which no limit allows, the span reads as empty.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(start: usize, len: usize) -> Self {
        // one look tells that both fit
        if start | len > u32::MAX as usize {
            return Self::default();
        }
        Self { start: start as u32, len: len as u32 }
    }

    /// The bytes from `start` to before `end`.
    #[inline]
    pub(crate) fn between(start: usize, end: usize) -> Self {
        Self::new(start, end.saturating_sub(start))
    }

    /// What the span covers, or nothing if `bytes` is not the buffer it was made for.
    #[inline]
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start.saturating_add(self.len as usize)).unwrap_or_default()
    }

    /// As [`of`](Self::of), sharing the buffer.
    pub(crate) fn share(self, bytes: &Bytes) -> Bytes {
        let start = self.start as usize;
        let end = start.saturating_add(self.len as usize);
        if end > bytes.len() { Bytes::new() } else { bytes.slice(start..end) }
    }

    /// What this span, `between` and `next` cover together, or nothing if `next` does not begin there.
    #[inline]
    pub(crate) fn joined<'a>(self, next: Self, between: &[u8], bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        let middle = start.saturating_add(self.len as usize);
        let next_start = next.start as usize;
        if middle.saturating_add(between.len()) != next_start || bytes.get(middle..next_start) != Some(between) {
            return &[];
        }
        bytes.get(start..next_start.saturating_add(next.len as usize)).unwrap_or_default()
    }

    /// The same span seen from a buffer that begins `by` bytes earlier.
    #[inline]
    pub(crate) fn shifted(self, by: usize) -> Self {
        let start = (self.start as usize).saturating_add(by);
        Self::new(start, self.len as usize)
    }

    /// Whether nothing is covered.
    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }
}
