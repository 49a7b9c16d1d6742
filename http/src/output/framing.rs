//! How the body of an answer is framed.

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There can be none.
    Empty,
    /// By its length.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    Close,
    /// By the end of its stream: the wire marks it itself.
    Stream,
    /// The connection is no longer HTTP.
    Switched,
}

impl Framing {
    /// The length announced.
    pub fn length(self) -> Option<u64> {
        if let Framing::Length(length) = self { Some(length) } else { None }
    }

    /// The body goes in chunks.
    pub fn is_chunked(self) -> bool {
        self == Framing::Chunked
    }

    /// There is no body.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::Empty | Framing::Length(0))
    }

    /// The connection cannot go on.
    pub fn ends_by_closing(self) -> bool {
        matches!(self, Framing::Close | Framing::Switched)
    }
}
