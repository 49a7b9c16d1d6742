//! Heads by the ten thousand, most of them slightly wrong, read by our parsers and by httparse: whatever both accept they
//! must understand alike, and ours must understand the same in whatever pieces the head arrives.

use std::fmt::Debug;

use bytes::BytesMut;

use super::{HeadLimits, ReplyParser, RequestParser};
use crate::{Fields, Version};

const HEADS: u32 = 12_000;

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "GET /a/path/of/some/length?with=arguments&of=some+length HTTP/1.1",
    "POST /a/../b//c/./%20d?x#y HTTP/1.0",
    "PURGE http://Example.com:80/a HTTP/1.1",
    "OPTIONS /\u{e9} HTTP/1.1",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.0 404 Not Found",
    "HTTP/1.1 302 Elsewhere",
    "HTTP/1.1 204",
    "HTTP/1.1 299 \u{e9}",
    "HTTP/1.1 100 Continue",
];

const LINES: &[&str] = &[
    "Host: a",
    "content-length: 12",
    "Transfer-Encoding:chunked",
    "X-Own:   a value of several words  ",
    "Set-Cookie: a=b; c=\"d\"",
    "A:",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    "a-name-of-no-note-that-is-rather-long: \t tabs \t and spaces",
    "X_Under: score",
    "Connection: keep-alive, Upgrade",
    "Via: 1.1 \u{e9}",
    "Strict-Transport-Security: max-age=1",
];

const BYTES: &[u8] = b" \t\r\n:\0\x7f/.%?#_-(\x80a0";

/// A generator of numbers, the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    fn head(&mut self, first_lines: &[&str]) -> Vec<u8> {
        let mut head = first_lines[self.below(first_lines.len())].to_owned();
        for _ in 0..self.below(7) {
            head.push_str(if self.below(9) == 0 { "\n" } else { "\r\n" });
            head.push_str(LINES[self.below(LINES.len())]);
        }
        head.push_str("\r\nHost: b\r\n\r\n");
        let mut head = head.into_bytes();
        for _ in 0..self.below(4) {
            let (at, byte) = (self.below(head.len()), BYTES[self.below(BYTES.len())]);
            match self.below(3) {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        head
    }

    /// Up to four pieces.
    fn pieces<'a>(&mut self, mut rest: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        for _ in 0..self.below(4) {
            let (piece, after) = rest.split_at(self.below(rest.len() + 1));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }
}

/// What a head says, in the terms of both parsers.
#[derive(Debug, PartialEq)]
struct Said {
    first: Vec<u8>,
    code: u16,
    minor: u8,
    text: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    size: usize,
}

/// Blanks around a value are no part of it; we leave tabs there, as nginx does.
fn trimmed(value: &[u8]) -> Vec<u8> {
    value.trim_ascii().to_vec()
}

fn ours(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_vec(), trimmed(field.value))).collect()
}

fn theirs(fields: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.as_bytes().to_vec(), trimmed(field.value))).collect()
}

fn minor(version: Version) -> u8 {
    u8::from(version == Version::Http11)
}

/// Reads pieces up to the first head or error.
fn read<T, E: Debug>(
    pieces: &[&[u8]],
    mut parse: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
) -> Result<Option<T>, String> {
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        match parse(&mut input) {
            Ok(None) => {}
            other => return other.map_err(|error| format!("{error:?}")),
        }
    }
    Ok(None)
}

fn our_request(pieces: &[&[u8]]) -> Result<Option<Said>, String> {
    let limits = HeadLimits { ignore_invalid: false, ..HeadLimits::default() };
    let mut parser = RequestParser::new(limits);
    let head = read(pieces, |input| parser.parse(input))?;
    Ok(head.map(|head| Said {
        first: head.method.as_bytes().to_vec(),
        code: 0,
        minor: minor(head.version),
        text: head.line().split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(1).unwrap().to_vec(),
        fields: ours(&head.fields),
        size: head.size(),
    }))
}

fn their_request(input: &[u8]) -> Option<Said> {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(size) = head.parse(input).ok()? else { return None };
    Some(Said {
        first: head.method?.as_bytes().to_vec(),
        code: 0,
        minor: head.version?,
        text: head.path?.as_bytes().to_vec(),
        fields: theirs(head.headers),
        size,
    })
}

fn our_reply(pieces: &[&[u8]]) -> Result<Option<Said>, String> {
    let mut parser = ReplyParser::new(4096);
    let head = read(pieces, |input| parser.parse(input))?;
    Ok(head.map(|head| Said {
        first: Vec::new(),
        code: head.status,
        minor: minor(head.version),
        text: head.reason.to_vec(),
        fields: ours(&head.fields),
        size: head.size(),
    }))
}

fn their_reply(input: &[u8]) -> Option<Said> {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(size) = head.parse(input).ok()? else { return None };
    Some(Said {
        first: Vec::new(),
        code: head.code?,
        minor: head.version?,
        text: head.reason?.as_bytes().to_vec(),
        fields: theirs(head.headers),
        size,
    })
}

/// Reads heads by both parsers and gives how many both understood.
fn compare(
    seed: u64,
    first_lines: &[&str],
    ours: impl Fn(&[&[u8]]) -> Result<Option<Said>, String>,
    theirs: impl Fn(&[u8]) -> Option<Said>,
) -> u32 {
    let mut numbers = Numbers(seed);
    let mut understood = 0;
    for _ in 0..HEADS {
        let input = numbers.head(first_lines);
        let shown = input.escape_ascii();
        let whole = ours(&[&input]);
        let bytes: Vec<_> = input.chunks(1).collect();
        assert_eq!(ours(&bytes), whole, "{shown} byte by byte");
        let pieces = numbers.pieces(&input);
        assert_eq!(ours(&pieces), whole, "{shown} in {:?}", pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>());
        if let (Ok(Some(ours)), Some(mut theirs)) = (whole, theirs(&input)) {
            // Empty lines before a request are no part of our head.
            theirs.size -= input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            // httparse gives no phrase that is not ASCII.
            if theirs.text.is_empty() && !ours.text.is_ascii() {
                theirs.text.clone_from(&ours.text);
            }
            assert_eq!(ours, theirs, "{shown}");
            understood += 1;
        }
    }
    understood
}

#[test]
fn requests_are_understood_as_httparse_does() {
    let understood = compare(88_172_645_463_325_252, REQUEST_LINES, our_request, their_request);
    assert!(understood > HEADS / 8, "only {understood}");
}

#[test]
fn replies_are_understood_as_httparse_does() {
    let understood = compare(2_463_534_242_325_217, STATUS_LINES, our_reply, their_reply);
    assert!(understood > HEADS / 3, "only {understood}");
}
