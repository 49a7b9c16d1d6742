//! Bodies of HTTP/1, taken out of a growing buffer without a copy.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::line::{self, Line};
use crate::fields::Fields;
use crate::framing::{Framing, ReplyFraming};
use crate::uri::escape::hex_value;

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What stands around the data of a chunked body is limited; nginx has no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of chunk extensions and needless zeros in a whole body.
    pub extensions: usize,
    /// Bytes of all trailer lines.
    pub trailers: usize,
    /// Trailer lines.
    pub trailer_fields: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { extensions: 16 * 1024, trailers: 8 * 1024, trailer_fields: 100 }
    }
}

/// What a decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A piece of the body, never empty.
    Data(Bytes),
    /// The input holds nothing more of the body.
    NeedMore,
    /// The body is complete; what is left in the input belongs to the next message. Trailers if there were any.
    End(Option<Box<Fields>>),
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// No hexadecimal number below 2^63, or something else than an extension after it.
    ChunkSize,
    /// A control character in a chunk extension.
    ChunkExtension,
    /// More chunk extensions than the limit.
    ExtensionsTooLarge,
    /// The data of a chunk is not followed by CRLF.
    ChunkEnd,
    /// A malformed trailer line, or one without a colon.
    Trailer,
    /// More trailers than the limit.
    TrailersTooLarge,
    /// The peer closed before the end.
    Closed,
}

impl BadBody {
    /// How nginx logs it of a client, always with status 400.
    #[must_use]
    pub fn by_client(self) -> &'static str {
        match self {
            Self::Closed => "client prematurely closed connection",
            _ => "client sent invalid chunked body",
        }
    }

    /// How nginx logs it of an upstream.
    #[must_use]
    pub fn by_upstream(self) -> &'static str {
        match self {
            Self::Closed => "upstream prematurely closed connection",
            _ => "upstream sent invalid chunked response",
        }
    }
}

impl fmt::Display for BadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkSize => "invalid chunk size",
            Self::ChunkExtension => "invalid chunk extension",
            Self::ExtensionsTooLarge => "too large chunk extensions",
            Self::ChunkEnd => "no line end after a chunk",
            Self::Trailer => "invalid trailer line",
            Self::TrailersTooLarge => "too large trailers",
            Self::Closed => "closed before the end of the body",
        })
    }
}

impl std::error::Error for BadBody {}

/// Takes one body out of the input, piece by piece.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    limits: BodyLimits,
    extensions: usize,
}

/// What is expected next.
#[derive(Debug)]
enum State {
    /// So many bytes of data, then the end.
    Length(u64),
    /// Data until the peer closes.
    Close,
    /// The first digit of a size.
    SizeStart,
    /// Another digit, or what ends a size.
    Size(u64),
    /// The rest of an extension, or the CR that ends it.
    Extension(u64),
    /// The LF after a size.
    SizeEnd(u64),
    /// So many bytes of a chunk.
    Chunk(u64),
    /// CR after a chunk.
    ChunkCr,
    /// LF after a chunk.
    ChunkLf,
    /// Trailer lines; those before `line_start` are understood.
    Trailers { fields: Box<Fields>, line_start: usize, scanned: usize },
    /// Nothing: the end was told or is due.
    Done,
}

impl BodyDecoder {
    /// A decoder for the body of a request.
    #[must_use]
    pub fn request(framing: Framing, limits: BodyLimits) -> Self {
        Self::new(
            match framing {
                Framing::None => State::Done,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::SizeStart,
            },
            limits,
        )
    }

    /// A decoder for the body of a reply; after a switch of protocols everything is data.
    #[must_use]
    pub fn reply(framing: ReplyFraming, limits: BodyLimits) -> Self {
        Self::new(
            match framing {
                ReplyFraming::Empty => State::Done,
                ReplyFraming::Length(length) => State::Length(length),
                ReplyFraming::Chunked => State::SizeStart,
                ReplyFraming::Close | ReplyFraming::Switch => State::Close,
            },
            limits,
        )
    }

    fn new(state: State, limits: BodyLimits) -> Self {
        Self { state, limits, extensions: 0 }
    }

    /// Takes the next piece of the body out of `input` (RFC 9112 sections 6 and 7). After the end it says `End` again.
    ///
    /// # Errors
    /// See [`BadBody`]; the connection is of no further use then.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, BadBody> {
        loop {
            match &mut self.state {
                State::Done | State::Length(0) => {
                    self.state = State::Done;
                    return Ok(Decoded::End(None));
                }
                State::Length(left) => return Ok(take(left, input)),
                State::Close if input.is_empty() => return Ok(Decoded::NeedMore),
                State::Close => return Ok(Decoded::Data(input.split().freeze())),
                State::Chunk(0) => self.state = State::ChunkCr,
                State::Chunk(left) => return Ok(take(left, input)),
                State::Trailers { .. } => return self.trailers(input),
                _ => {
                    if !self.between_data(input)? {
                        return Ok(Decoded::NeedMore);
                    }
                }
            }
        }
    }

    /// The peer will send no more.
    ///
    /// # Errors
    /// [`BadBody::Closed`] unless the body is complete or ends with the connection.
    pub fn end(&mut self) -> Result<(), BadBody> {
        match self.state {
            State::Done | State::Close | State::Length(0) => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BadBody::Closed),
        }
    }

    /// Whether the end has been reached: the connection may carry another message.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Length(0))
    }

    /// How many bytes of data are certain to follow, as far as they are announced.
    #[must_use]
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Chunk(left) => left,
            _ => 0,
        }
    }

    /// Consumes what stands between the data of chunks; true once data or trailers are due.
    fn between_data(&mut self, input: &mut BytesMut) -> Result<bool, BadBody> {
        let mut taken = 0;
        let mut due = false;
        for byte in input.iter() {
            self.step(*byte)?;
            taken += 1;
            due = matches!(self.state, State::Chunk(_) | State::Trailers { .. });
            if due {
                break;
            }
        }
        input.advance(taken);
        Ok(due)
    }

    fn step(&mut self, byte: u8) -> Result<(), BadBody> {
        self.state = match (&self.state, byte) {
            (State::SizeStart, _) => State::Size(hex_value(byte).map(u64::from).ok_or(BadBody::ChunkSize)?),
            (State::Size(size) | State::Extension(size), b'\r') => State::SizeEnd(*size),
            (State::Size(size), b';' | b' ' | b'\t') => State::Extension(*size),
            (State::Size(size), _) => {
                let (size, digit) = (*size, hex_value(byte).map(u64::from).ok_or(BadBody::ChunkSize)?);
                if size > MAX_SIZE / 16 {
                    return Err(BadBody::ChunkSize);
                }
                if size == 0 {
                    self.count_extension()?;
                }
                State::Size(size * 16 + digit)
            }
            (State::Extension(_), 0..=8 | 10..=31 | 127) => return Err(BadBody::ChunkExtension),
            (State::Extension(size), _) => {
                let size = *size;
                self.count_extension()?;
                State::Extension(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailers { fields: Box::default(), line_start: 0, scanned: 0 },
            (State::SizeEnd(size), b'\n') => State::Chunk(*size),
            (State::SizeEnd(_), _) => return Err(BadBody::ChunkSize),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::SizeStart,
            _ => return Err(BadBody::ChunkEnd),
        };
        Ok(())
    }

    fn count_extension(&mut self) -> Result<(), BadBody> {
        self.extensions += 1;
        if self.extensions > self.limits.extensions { Err(BadBody::ExtensionsTooLarge) } else { Ok(()) }
    }

    /// Reads lines up to the empty one, each ended by CRLF.
    fn trailers(&mut self, input: &mut BytesMut) -> Result<Decoded, BadBody> {
        let State::Trailers { fields, line_start, scanned } = &mut self.state else { return Ok(Decoded::NeedMore) };
        loop {
            let found = memchr::memchr(b'\n', input.get(*scanned..).unwrap_or_default());
            let end = found.map_or(input.len(), |at| *scanned + at);
            if end > self.limits.trailers.saturating_add(1) {
                return Err(BadBody::TrailersTooLarge);
            }
            *scanned = end + usize::from(found.is_some());
            if found.is_none() {
                return Ok(Decoded::NeedMore);
            }
            let line = input.get(*line_start..end).unwrap_or_default();
            let text = line.strip_suffix(b"\r").ok_or(BadBody::Trailer)?;
            if text.is_empty() {
                break;
            }
            if fields.len() >= self.limits.trailer_fields {
                return Err(BadBody::TrailersTooLarge);
            }
            match line::read(input, *line_start, true) {
                Line::Field(field) if field.colon && !text.ends_with(b"\r") => {
                    fields.push_parsed(field.name, field.value, field.known);
                }
                _ => return Err(BadBody::Trailer),
            }
            *line_start = *scanned;
        }
        let mut fields = std::mem::take(fields);
        fields.set_base(input.split_to((*scanned).min(input.len())).freeze());
        self.state = State::Done;
        Ok(Decoded::End((!fields.is_empty()).then_some(fields)))
    }
}

/// nginx: sizes are `off_t`.
const MAX_SIZE: u64 = i64::MAX.unsigned_abs();

/// Takes up to `left` bytes and counts them off.
fn take(left: &mut u64, input: &mut BytesMut) -> Decoded {
    let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if wanted == 0 {
        return Decoded::NeedMore;
    }
    *left = left.saturating_sub(u64::try_from(wanted).unwrap_or(*left));
    Decoded::Data(input.split_to(wanted).freeze())
}

/// Appends what precedes the data of a chunk of `size` bytes: the size and CRLF. Another CRLF follows the data.
/// A size of 0 would end the body and appends nothing.
pub fn chunk_header(size: u64, out: &mut impl BufMut) {
    if size == 0 {
        return;
    }
    let mut text = [0u8; 18];
    let mut start = text.len();
    let mut rest = size;
    let mut put = |byte: u8| {
        start = start.saturating_sub(1);
        if let Some(slot) = text.get_mut(start) {
            *slot = byte;
        }
    };
    put(b'\n');
    put(b'\r');
    while rest > 0 {
        put(match u8::try_from(rest & 0xf).unwrap_or_default() {
            digit @ 0..=9 => b'0' + digit,
            digit => b'a' + digit - 10,
        });
        rest >>= 4;
    }
    out.put_slice(text.get(start..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core_wire::testing::every_split;

    /// A body, its trailers and the rest of the input; or why it was refused; or that it was incomplete.
    fn run(input: &[u8], limits: BodyLimits, framing: Framing) -> Result<(Vec<u8>, String, Vec<u8>), BadBody> {
        every_split(input, |pieces| {
            let (mut decoder, mut buffer, mut body) = (BodyDecoder::request(framing, limits), BytesMut::new(), vec![]);
            let mut trailers = None;
            for piece in pieces {
                buffer.extend_from_slice(piece);
                while trailers.is_none() {
                    match decoder.decode(&mut buffer)? {
                        Decoded::Data(data) => {
                            assert!(!data.is_empty());
                            body.extend_from_slice(&data);
                        }
                        Decoded::NeedMore => break,
                        Decoded::End(fields) => {
                            trailers = Some(fields.map_or(String::new(), |fields| format!("{fields:?}")));
                        }
                    }
                }
            }
            decoder.end()?;
            assert!(decoder.is_done());
            assert_eq!(decoder.decode(&mut BytesMut::new()), Ok(Decoded::End(None)));
            Ok((body, trailers.unwrap_or_default(), buffer.to_vec()))
        })
    }

    fn chunked(input: &[u8]) -> Result<(Vec<u8>, String, Vec<u8>), BadBody> {
        run(input, BodyLimits::default(), Framing::Chunked)
    }

    #[test]
    fn chunks_are_joined_under_every_split() {
        for (input, body, trailers, rest) in [
            ("0\r\n\r\n", "", "", ""),
            ("3\r\nabc\r\n0\r\n\r\nGET /", "abc", "", "GET /"),
            ("3\r\nabc\r\nA\r\n0123456789\r\n00\r\n\r\n", "abc0123456789", "", ""),
            ("1;a=b\r\nx\r\n0;c\r\n\r\n", "x", "", ""),
            ("1 \t;a=\"b c\"\r\nx\r\n0\r\n\r\n", "x", "", ""),
            ("000000000000000000001\r\nx\r\n0\r\n\r\n", "x", "", ""),
            ("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", "\r\n", "", ""),
            ("0\r\nA: b\r\nC_d: \r\n\r\nrest", "", "[A: b, C_d: ]", "rest"),
        ] {
            let found = chunked(input.as_bytes());
            assert_eq!(found, Ok((body.into(), trailers.into(), rest.into())), "{input:?}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for (input, error) in [
            ("g\r\n", BadBody::ChunkSize),
            ("\r\n", BadBody::ChunkSize),
            (" 1\r\n", BadBody::ChunkSize),
            ("+1\r\n", BadBody::ChunkSize),
            ("-1\r\n", BadBody::ChunkSize),
            ("0x1\r\n", BadBody::ChunkSize),
            ("1\nx", BadBody::ChunkSize),
            ("1\rx", BadBody::ChunkSize),
            ("1,\r\n", BadBody::ChunkSize),
            (";a\r\n", BadBody::ChunkSize),
            ("8000000000000000\r\n", BadBody::ChunkSize),
            ("10000000000000000\r\n", BadBody::ChunkSize),
            ("fffffffffffffffff\r\n", BadBody::ChunkSize),
            ("1;a\n", BadBody::ChunkExtension),
            ("1;a\0\r\n", BadBody::ChunkExtension),
            ("1;\x7f\r\n", BadBody::ChunkExtension),
            ("1;a\rb\r\n", BadBody::ChunkSize),
            ("1\r\nxy\r\n", BadBody::ChunkEnd),
            ("1\r\nx\n", BadBody::ChunkEnd),
            ("1\r\nx\rx", BadBody::ChunkEnd),
            ("1\r\nx0\r\n\r\n", BadBody::ChunkEnd),
            ("0\r\n\n", BadBody::Trailer),
            ("0\r\nA: b\n\r\n", BadBody::Trailer),
            ("0\r\nA\r\n\r\n", BadBody::Trailer),
            ("0\r\n A: b\r\n\r\n", BadBody::Trailer),
            ("0\r\nA: \0\r\n\r\n", BadBody::Trailer),
            ("0\r\nA: b\r\r\n\r\n", BadBody::Trailer),
        ] {
            assert_eq!(chunked(input.as_bytes()), Err(error), "{input:?}");
        }
    }

    #[test]
    fn an_early_end_is_noticed_everywhere() {
        let input = b"3;x\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for cut in 0..input.len() {
            assert_eq!(chunked(&input[..cut]), Err(BadBody::Closed), "{cut}");
        }
        assert!(chunked(input).is_ok());
        for cut in 0..3 {
            assert_eq!(run(&b"abc"[..cut], BodyLimits::default(), Framing::Length(3)), Err(BadBody::Closed));
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let limits = BodyLimits { extensions: 3, trailers: 6, trailer_fields: 1 };
        let run = |input: &str| run(input.as_bytes(), limits, Framing::Chunked).map(|found| found.0);
        assert_eq!(run("1;abc\r\nx\r\n0\r\n\r\n"), Ok(b"x".to_vec()));
        assert_eq!(run("1;abcd\r\nx\r\n0\r\n\r\n"), Err(BadBody::ExtensionsTooLarge));
        assert_eq!(run("1;ab\r\nx\r\n0;cd\r\n\r\n"), Err(BadBody::ExtensionsTooLarge));
        assert_eq!(run("00001\r\nx\r\n0\r\n\r\n"), Err(BadBody::ExtensionsTooLarge));
        assert_eq!(run("0\r\nA: b\r\n\r\n"), Ok(Vec::new()));
        assert_eq!(run("0\r\nA: bcd\r\n\r\n"), Err(BadBody::TrailersTooLarge));
        assert_eq!(run("0\r\nA: bcdefghijklm"), Err(BadBody::TrailersTooLarge));
        let many = BodyLimits { trailers: 100, ..limits };
        let input = b"0\r\nA: b\r\nC: d\r\n\r\n";
        assert_eq!(super::tests::run(input, many, Framing::Chunked), Err(BadBody::TrailersTooLarge));
    }

    #[test]
    fn lengths_are_exact_and_leave_the_rest() {
        for (length, input, body, rest) in [(0, "abc", "", "abc"), (3, "abc", "abc", ""), (2, "abc", "ab", "c")] {
            let found = run(input.as_bytes(), BodyLimits::default(), Framing::Length(length));
            assert_eq!(found, Ok((body.into(), String::new(), rest.into())));
        }
        let found = run(b"GET", BodyLimits::default(), Framing::None);
        assert_eq!(found, Ok((vec![], String::new(), b"GET".to_vec())));
    }

    #[test]
    fn a_body_until_close_ends_with_the_connection() {
        for framing in [ReplyFraming::Close, ReplyFraming::Switch] {
            let mut decoder = BodyDecoder::reply(framing, BodyLimits::default());
            let mut input = BytesMut::from(&b"abc"[..]);
            assert_eq!(decoder.decode(&mut input), Ok(Decoded::Data(Bytes::from_static(b"abc"))));
            assert_eq!(decoder.decode(&mut input), Ok(Decoded::NeedMore));
            assert_eq!(decoder.end(), Ok(()));
            assert_eq!(decoder.decode(&mut input), Ok(Decoded::End(None)));
        }
        assert!(BodyDecoder::reply(ReplyFraming::Empty, BodyLimits::default()).is_done());
        assert_eq!(BodyDecoder::reply(ReplyFraming::Length(9), BodyLimits::default()).announced(), 9);
    }

    #[test]
    fn chunk_headers_are_what_the_decoder_reads() {
        for (size, text) in [
            (0, ""),
            (1, "1\r\n"),
            (10, "a\r\n"),
            (255, "ff\r\n"),
            (4096, "1000\r\n"),
            (u64::MAX, "ffffffffffffffff\r\n"),
        ] {
            let mut out = Vec::new();
            chunk_header(size, &mut out);
            assert_eq!(out, text.as_bytes());
        }
        let mut out = Vec::new();
        for size in 1..70usize {
            chunk_header(u64::try_from(size).unwrap(), &mut out);
            out.extend_from_slice(&vec![b'x'; size]);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(LAST_CHUNK);
        let mut decoder = BodyDecoder::request(Framing::Chunked, BodyLimits::default());
        let (mut input, mut total) = (BytesMut::from(&out[..]), 0);
        while let Decoded::Data(data) = decoder.decode(&mut input).unwrap() {
            total += data.len();
        }
        assert_eq!((total, decoder.is_done(), input.len()), (69 * 70 / 2, true, 0));
    }
}
