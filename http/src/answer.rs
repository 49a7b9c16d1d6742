//! An answer on its way to the client: a head and a body that is pulled.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::future::LocalBoxFuture;
use smallvec::SmallVec;
use tidegate_core::file::OpenFile;
use tidegate_http_wire::{Fields, Known, status};

use crate::exchange::Exchange;
use crate::settings::Tokens;

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<Bytes>,
    /// All fields but those that frame the body and manage the connection.
    pub fields: Fields,
    /// The time of the last change of what is answered, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// Parts of the body may be asked for.
    pub ranges: bool,
    /// It is an upstream's: what that has decided about preconditions and redirects is not decided again.
    pub passed_on: bool,
    /// The body.
    pub body: Body,
    /// The client's part of the exchange cannot go on behind this answer.
    pub close: bool,
}

/// Where a body comes from.
pub enum Body {
    /// Nowhere.
    Empty,
    /// Nowhere, but its length is told: the answer to HEAD.
    Announced(u64),
    /// Nowhere, and its length is not known: the answer to HEAD.
    Unknown,
    /// Memory.
    Bytes(Bytes),
    /// A file.
    File(FilePart),
    /// Pieces one after the other: several ranges.
    Pieces(Vec<Piece>),
    /// Something that gives it bit by bit, as it comes.
    Source(Box<dyn Source>),
    /// A peer that has switched protocols: bytes both ways until one side ends.
    Tunnel(Box<dyn Tunnel>),
}

/// A body that is pulled.
pub trait Source {
    /// The length, if it is known beforehand.
    fn length(&self) -> Option<u64>;

    /// The next chunk. The client has yet to take `waiting` bytes: a source that may keep no more beside them is not ready,
    /// and is asked again when they are fewer. Nothing is asked behind [`Chunk::End`].
    ///
    /// # Errors
    /// There is no more to be had, though this was not the end; the log says why.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, exchange: &Exchange, waiting: usize) -> Poll<Result<Chunk, Broken>>;

    /// Something once when the client turns out to be slow: what lies with the sink will lie there for long, so no more than
    /// this should. The rest may be [put back](Source::put_back).
    fn falls_behind(&mut self) -> Option<usize> {
        None
    }

    /// Takes back what was given last, before it gives anything else.
    fn put_back(&mut self, _pieces: Vec<Bytes>) {}

    /// The client takes no more.
    fn abandon(&mut self, _exchange: &Exchange) {}
}

/// A source, or a filter, has failed in the middle of a body; the log says why. The client must not take what it has for
/// the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A peer that speaks something else than HTTP from now on.
pub trait Tunnel {
    /// Moves bytes between the peer and the client of an exchange until one of the two ends.
    fn run<'a>(&'a mut self, exchange: &'a Exchange) -> LocalBoxFuture<'a, ()>;
}

/// A part of a file.
#[derive(Clone)]
pub struct FilePart {
    /// The file.
    pub file: Arc<OpenFile>,
    /// Which bytes of it.
    pub range: Range<u64>,
}

/// A piece of a body made of several.
#[derive(Clone)]
pub enum Piece {
    /// Memory.
    Bytes(Bytes),
    /// A part of a file.
    File(FilePart),
}

/// What a source gives and filters see of a body.
pub enum Chunk {
    /// Bytes that have come together.
    Data(SmallVec<[Bytes; 4]>),
    /// What has been given so far should reach the client.
    Flush,
    /// What another source gives, in order between what is before it and behind it: the answer to a subrequest.
    Include(Box<dyn Source>),
    /// The end, and the fields behind it if there are any.
    End(Option<Box<Fields>>),
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chunk::Data(pieces) => f.debug_tuple("Data").field(pieces).finish(),
            Chunk::Flush => f.write_str("Flush"),
            Chunk::Include(_) => f.write_str("Include"),
            Chunk::End(trailers) => f.debug_tuple("End").field(trailers).finish(),
        }
    }
}

impl Body {
    /// The length, if it is known beforehand.
    pub fn length(&self) -> Option<u64> {
        let size = |bytes: &Bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match self {
            Body::Empty => Some(0),
            Body::Announced(length) => Some(*length),
            Body::Unknown => None,
            Body::Bytes(bytes) => Some(size(bytes)),
            Body::File(part) => Some(part.range.end.saturating_sub(part.range.start)),
            Body::Pieces(pieces) => Some(pieces.iter().fold(0, |sum: u64, piece| {
                sum.saturating_add(match piece {
                    Piece::Bytes(bytes) => size(bytes),
                    Piece::File(part) => part.range.end.saturating_sub(part.range.start),
                })
            })),
            Body::Source(source) => source.length(),
            Body::Tunnel(_) => None,
        }
    }

    /// A part of the body, where parts can be had.
    pub fn part(&self, range: &Range<u64>) -> Option<Piece> {
        match self {
            Body::Bytes(bytes) => {
                let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
                (start <= end && end <= bytes.len()).then(|| Piece::Bytes(bytes.slice(start..end)))
            }
            Body::File(part) => {
                let range = part.range.start.checked_add(range.start)?..part.range.start.checked_add(range.end)?;
                Some(Piece::File(FilePart { file: part.file.clone(), range }))
            }
            _ => None,
        }
    }
}

impl Answer {
    /// An answer without fields.
    pub fn new(status: u16, body: Body) -> Answer {
        Answer {
            status,
            reason: None,
            fields: Fields::new(),
            last_modified: None,
            ranges: false,
            passed_on: false,
            body,
            close: false,
        }
    }

    /// An answer of a content type.
    pub fn typed(status: u16, content_type: &[u8], body: Body) -> Answer {
        let mut answer = Answer::new(status, body);
        if !content_type.is_empty() {
            answer.fields.push_known(Known::ContentType, content_type);
        }
        answer
    }

    /// The page that goes with an error status, in nginx's form.
    pub fn page(code: u16, tokens: Tokens) -> Answer {
        let (shown, title): (u16, String) = match code {
            494 => (400, "400 Request Header Or Cookie Too Large".into()),
            495 => (400, "400 The SSL certificate error".into()),
            496 => (400, "400 No required SSL certificate was sent".into()),
            497 => (400, "400 The plain HTTP request was sent to HTTPS port".into()),
            // nginx: the status line says "Moved Temporarily", the page does not.
            302 => (302, "302 Found".into()),
            code => (code, format!("{code} {}", status::reason(code))),
        };
        let body = match code {
            494..=497 => {
                let text = title.trim_start_matches("400 ");
                format!(
                    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>400 Bad Request</h1></center>\r\n<center>{text}</center>\r\n<hr><center>{}</center>\r\n</body>\r\n</html>\r\n",
                    product(tokens)
                )
            }
            201..=299 => String::new(),
            _ => format!(
                "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n<hr><center>{}</center>\r\n</body>\r\n</html>\r\n",
                product(tokens)
            ),
        };
        if body.is_empty() {
            return Answer::new(shown, Body::Empty);
        }
        Answer::typed(shown, b"text/html", Body::Bytes(body.into()))
    }
}

/// What we call ourselves.
pub fn product(tokens: Tokens) -> &'static str {
    match tokens {
        Tokens::On => concat!("tidegate/", env!("CARGO_PKG_VERSION")),
        Tokens::Off => "tidegate",
    }
}

/// Ranges of a body, as the range filter keeps them.
pub type RangeList = SmallVec<[Range<u64>; 4]>;
