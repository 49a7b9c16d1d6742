//! Whether the DATA of a request is as long as its head said.

use std::fmt;

use super::limits::Code;
use crate::framing::Framing;

/// Counts the DATA of a request against its `Content-Length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLength {
    declared: Option<u64>,
    received: u64,
}

/// DATA and `Content-Length` contradict each other: the request is malformed (RFC 9113 section 8.1.1). nginx answers 400;
/// if an answer has begun, the stream is reset with `PROTOCOL_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthFault {
    /// More came than was declared.
    TooLong,
    /// The client ended the stream after so many of the declared bytes.
    TooShort {
        /// What came.
        received: u64,
        /// What the head said.
        declared: u64,
    },
}

impl ContentLength {
    /// For the body that a head announced. Without one, any byte is too many; without a length none is.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let declared = match framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self { declared, received: 0 }
    }

    /// DATA has come, counted without padding.
    ///
    /// # Errors
    /// [`LengthFault::TooLong`]; the bytes must not be passed on.
    pub fn data(&mut self, bytes: usize) -> Result<(), LengthFault> {
        self.received = self.received.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        match self.declared {
            Some(declared) if self.received > declared => Err(LengthFault::TooLong),
            _ => Ok(()),
        }
    }

    /// The client ended the stream, with or without trailers.
    ///
    /// # Errors
    /// [`LengthFault::TooShort`]; the body must not be passed on as if it were whole.
    pub fn end(&self) -> Result<(), LengthFault> {
        match self.declared {
            Some(declared) if self.received < declared => {
                Err(LengthFault::TooShort { received: self.received, declared })
            }
            Some(declared) if self.received > declared => Err(LengthFault::TooLong),
            _ => Ok(()),
        }
    }

    /// How many bytes have come.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl LengthFault {
    /// The status, if no answer has begun.
    #[must_use]
    pub fn status(&self) -> u16 {
        400
    }

    /// The code to reset the stream with, if one has.
    #[must_use]
    pub fn reset(&self) -> Code {
        Code::ProtocolError
    }
}

impl fmt::Display for LengthFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("client intended to send body data larger than declared"),
            Self::TooShort { received, declared } => {
                write!(
                    f,
                    "client prematurely closed stream: only {received} out of {declared} bytes of request body received"
                )
            }
        }
    }
}

impl std::error::Error for LengthFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_counted_against_the_declared_length() {
        let short = |received, declared| Err(LengthFault::TooShort { received, declared });
        for (framing, data, expected) in [
            (Framing::None, &[][..], Ok(())),
            (Framing::None, &[0, 0], Ok(())),
            (Framing::None, &[1], Err(LengthFault::TooLong)),
            (Framing::Length(0), &[], Ok(())),
            (Framing::Length(0), &[1], Err(LengthFault::TooLong)),
            (Framing::Length(5), &[5], Ok(())),
            (Framing::Length(5), &[1, 0, 4], Ok(())),
            (Framing::Length(5), &[], short(0, 5)),
            (Framing::Length(5), &[4], short(4, 5)),
            (Framing::Length(5), &[4, 2], Err(LengthFault::TooLong)),
            (Framing::Length(u64::MAX), &[usize::MAX, 1], Ok(())),
            (Framing::Chunked, &[], Ok(())),
            (Framing::Chunked, &[usize::MAX, usize::MAX], Ok(())),
        ] {
            let mut length = ContentLength::new(framing);
            let found = data.iter().try_for_each(|bytes| length.data(*bytes)).and_then(|()| length.end());
            assert_eq!(found, expected, "{framing:?} {data:?}");
        }
        let fault = LengthFault::TooShort { received: 4, declared: 5 };
        assert_eq!((fault.status(), fault.reset()), (400, Code::ProtocolError));
        assert!(fault.to_string().contains("only 4 out of 5 bytes"));
    }

    #[test]
    fn too_much_stays_too_much() {
        let mut length = ContentLength::new(Framing::Length(1));
        assert_eq!(length.data(2), Err(LengthFault::TooLong));
        assert_eq!(length.data(0), Err(LengthFault::TooLong));
        assert_eq!(length.end(), Err(LengthFault::TooLong));
        assert_eq!(length.received(), 2);
    }
}
