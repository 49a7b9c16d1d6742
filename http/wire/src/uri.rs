//! Request targets: the one normalised form that routing, access rules, cache keys and file paths all use.
//!
//! Refuses what nginx refuses, and a fragment, which nginx silently drops. Escaping is in [`escape`].

pub mod escape;

use std::fmt;

use bytes::Bytes;

use crate::scan;
use crate::span::Span;

pub use escape::{Escape, Unescape, escape_uri, needs_escape, unescape};

/// In which form a target came (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?args`
    Origin,
    /// `http://host/path?args`
    Absolute,
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
}

/// A parsed request target: the buffer it was received in, and where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In which form it came.
    pub form: Form,
    /// Decoded, dot segments resolved, slashes merged if so asked: nginx's `$uri`. Begins with `/`.
    pub path: Vec<u8>,
    /// Whether a `%` had to be decoded: then a path put back together has to be escaped (nginx's `quoted_uri`).
    pub quoted: bool,
    /// Whether `path` differs from the path in [`raw`](Self::raw).
    pub changed: bool,
    /// Whether the path itself was missing (`http://host?args`): then [`raw`](Self::raw) cannot be sent on as it is
    /// (nginx clears `valid_unparsed_uri`).
    pub empty_path: bool,
    base: Bytes,
    args: Span,
    raw: Raw,
    authority: Option<Span>,
    scheme: Option<Span>,
}

/// Where path and arguments as received are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raw {
    Received(Span),
    /// nginx makes up a `/`.
    MadeUp,
}

impl Target {
    /// What stands for the target of a request whose line could not be read.
    #[must_use]
    pub fn unknown() -> Self {
        Self::of_path(Form::Origin, Vec::new(), Raw::Received(Span::default()))
    }

    /// What follows the first `?`, undecoded; empty without one: nginx's `$args`.
    #[must_use]
    pub fn args(&self) -> Bytes {
        if self.args.is_empty() { Bytes::new() } else { self.args.share(&self.base) }
    }

    /// Path and arguments as received, without scheme and authority: nginx's `$request_uri`.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        match self.raw {
            Raw::Received(span) => span.of(&self.base),
            Raw::MadeUp => b"/",
        }
    }

    /// `host[:port]` of an absolute or authority form, not yet validated as a host.
    #[must_use]
    pub fn authority(&self) -> Option<Bytes> {
        self.authority.map(|span| span.share(&self.base))
    }

    /// The scheme of an absolute form.
    #[must_use]
    pub fn scheme(&self) -> Option<&[u8]> {
        self.scheme.map(|span| span.of(&self.base))
    }
}

/// The target is malformed: 400, in nginx's words `client sent invalid request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTarget {
    /// None of the four forms.
    Form,
    /// A space or control character.
    Byte,
    /// A fragment.
    Fragment,
    /// `%` without two hexadecimal digits.
    Escape,
    /// An escaped NUL.
    Nul,
    /// `..` beyond the root.
    AboveRoot,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid request")
    }
}

impl std::error::Error for BadTarget {}

impl Target {
    /// Parses the target of a request line; `connect` says that the method is CONNECT.
    ///
    /// # Errors
    /// See [`BadTarget`].
    pub fn parse(target: &Bytes, connect: bool, merge_slashes: bool) -> Result<Self, BadTarget> {
        Self::whole(target, connect, merge_slashes).map(|parsed| Self { base: target.clone(), ..parsed })
    }

    /// Parses a target that must be a path, as `:path` of HTTP/2 must.
    ///
    /// # Errors
    /// See [`BadTarget`].
    pub fn parse_path(target: &Bytes, merge_slashes: bool) -> Result<Self, BadTarget> {
        Self::origin(target, merge_slashes).map(|parsed| Self { base: target.clone(), ..parsed })
    }

    /// Whether there are arguments (`$is_args`).
    #[must_use]
    pub fn has_args(&self) -> bool {
        !self.args.is_empty()
    }

    /// Becomes the target that begins at `start` and ends at a space or with the line, and gives where it ends. The buffer,
    /// which begins with the line, is to be given to [`set_base`](Self::set_base).
    pub(crate) fn read(
        &mut self,
        line: &[u8],
        start: usize,
        connect: bool,
        merge_slashes: bool,
    ) -> Result<usize, BadTarget> {
        let text = line.get(start..).unwrap_or_default();
        let len = if text.first() == Some(&b'/') && !connect {
            self.read_path(text, merge_slashes)?
        } else {
            let len = text.iter().take_while(|byte| **byte != b' ').count();
            *self = Self::whole(text.get(..len).unwrap_or_default(), connect, merge_slashes)?;
            len
        };
        self.shift(start);
        Ok(start + len)
    }

    /// Gives the buffer that the target lies in.
    pub(crate) fn set_base(&mut self, base: Bytes) {
        self.base = base;
    }

    /// Names the authority that the target is for, by its place in the buffer.
    pub(crate) fn set_authority(&mut self, authority: Option<Span>) {
        self.authority = authority;
    }

    /// Counts the places of the parts from a byte that is `by` bytes earlier.
    pub(crate) fn shift(&mut self, by: usize) {
        self.args = self.args.shifted(by);
        if let Raw::Received(span) = &mut self.raw {
            *span = span.shifted(by);
        }
        self.authority = self.authority.map(|span| span.shifted(by));
        self.scheme = self.scheme.map(|span| span.shifted(by));
    }

    pub(crate) fn whole(target: &[u8], connect: bool, merge_slashes: bool) -> Result<Self, BadTarget> {
        match target.first() {
            _ if connect => Self::connect(target),
            Some(b'/') => Self::origin(target, merge_slashes),
            Some(b'*') if target.len() == 1 => {
                Ok(Self::of_path(Form::Asterisk, b"*".to_vec(), Raw::Received(Span::between(0, 1))))
            }
            Some(first) if first.is_ascii_alphabetic() => Self::absolute(target, merge_slashes),
            _ => Err(BadTarget::Form),
        }
    }

    /// A path and its arguments.
    pub(crate) fn origin(text: &[u8], merge_slashes: bool) -> Result<Self, BadTarget> {
        if text.first() != Some(&b'/') {
            return Err(BadTarget::Form);
        }
        let mut target = Self::unknown();
        if target.read_path(text, merge_slashes)? == text.len() { Ok(target) } else { Err(BadTarget::Byte) }
    }

    /// Becomes the path and its arguments that `text` begins with, up to a space, and gives their length.
    fn read_path(&mut self, text: &[u8], merge_slashes: bool) -> Result<usize, BadTarget> {
        let shape = Shape::of(text)?;
        let path = text.get(..shape.path_end).unwrap_or_default();
        if shape.plain {
            self.path = path.to_vec();
        } else {
            self.path = normalise(path, merge_slashes)?;
            self.changed = self.path != path;
        }
        self.quoted = shape.quoted;
        self.raw = Raw::Received(Span::between(0, shape.end));
        if shape.path_end < shape.end {
            self.args = Span::between(shape.path_end + 1, shape.end);
        }
        Ok(shape.end)
    }

    #[inline]
    fn of_path(form: Form, path: Vec<u8>, raw: Raw) -> Self {
        Self {
            form,
            path,
            quoted: false,
            changed: false,
            empty_path: false,
            base: Bytes::new(),
            args: Span::default(),
            raw,
            authority: None,
            scheme: None,
        }
    }

    /// `scheme://authority[path][?args]`; any scheme, as nginx.
    fn absolute(target: &[u8], merge_slashes: bool) -> Result<Self, BadTarget> {
        let colon = target.iter().position(|byte| *byte == b':').ok_or(BadTarget::Form)?;
        let (scheme, rest) = target.split_at_checked(colon).ok_or(BadTarget::Form)?;
        let scheme_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        if !scheme.iter().all(scheme_byte) {
            return Err(BadTarget::Form);
        }
        let rest = rest.strip_prefix(b"://").ok_or(BadTarget::Form)?;
        let host_start = target.len() - rest.len();
        let host_len = authority_len(rest).ok_or(BadTarget::Form)?;
        let tail_start = host_start + host_len;
        let tail = rest.get(host_len..).unwrap_or_default();
        let mut parsed = match tail.first() {
            None => Self::of_path(Form::Absolute, b"/".to_vec(), Raw::MadeUp),
            Some(b'/') => Self::origin(tail, merge_slashes)?,
            Some(b'?') => {
                if Shape::of(tail)?.end != tail.len() {
                    return Err(BadTarget::Byte);
                }
                let received = Raw::Received(Span::between(0, tail.len()));
                let mut parsed = Self::of_path(Form::Absolute, b"/".to_vec(), received);
                parsed.args = Span::between(1, tail.len());
                parsed.empty_path = true;
                parsed.changed = true;
                parsed
            }
            Some(_) => return Err(BadTarget::Form),
        };
        parsed.form = Form::Absolute;
        parsed.shift(tail_start);
        parsed.authority = Some(Span::between(host_start, tail_start));
        parsed.scheme = Some(Span::between(0, colon));
        Ok(parsed)
    }

    /// `host:port`: nginx wants the port of CONNECT to be there.
    fn connect(target: &[u8]) -> Result<Self, BadTarget> {
        let port = target.iter().rposition(|byte| *byte == b':').ok_or(BadTarget::Form)?;
        let digits = target.get(port + 1..).unwrap_or_default();
        let whole = authority_len(target) == Some(target.len());
        if !whole || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(BadTarget::Form);
        }
        let mut parsed = Self::of_path(Form::Authority, b"/".to_vec(), Raw::MadeUp);
        parsed.authority = Some(Span::between(0, target.len()));
        Ok(parsed)
    }
}

/// How many bytes at the start of `text` are `host[:port]`, by nginx's rules for a request line.
fn authority_len(text: &[u8]) -> Option<usize> {
    let host = if text.first() == Some(&b'[') {
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b":-._~!$&'()*+,;=".contains(byte);
        let close = text.iter().position(|byte| *byte == b']')?;
        text.get(1..close)?.iter().all(inner).then_some(close + 1)?
    } else {
        let outside = |byte: &u8| !(byte.is_ascii_alphanumeric() || *byte == b'.' || *byte == b'-');
        text.iter().position(outside).unwrap_or(text.len())
    };
    let rest = text.get(host..)?;
    let port = match rest.split_first() {
        Some((b':', digits)) => 1 + digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    Some(host + port)
}

/// What one look at a target tells.
struct Shape {
    path_end: usize,
    /// The first space, or the end of the text.
    end: usize,
    /// The path is its own normal form.
    plain: bool,
    quoted: bool,
}

impl Shape {
    fn of(text: &[u8]) -> Result<Self, BadTarget> {
        let mut shape = Self { path_end: text.len(), end: text.len(), plain: true, quoted: false };
        let mut bytes = text.iter().enumerate();
        while let Some((at, byte)) = bytes.find(|(_, byte)| !is_usual(**byte)) {
            match byte {
                b'/' | b'.' => shape.plain &= text.get(at.wrapping_sub(1)) != Some(&b'/'),
                b'%' => (shape.plain, shape.quoted) = (false, true),
                b'?' => {
                    shape.path_end = at;
                    shape.end = end_of_args(text, at + 1)?;
                    break;
                }
                b' ' => {
                    (shape.path_end, shape.end) = (at, at);
                    break;
                }
                _ => return Err(bad_byte(*byte)),
            }
        }
        Ok(shape)
    }
}

/// Where the arguments end that begin at `start`: at a space, or with the text.
fn end_of_args(text: &[u8], start: usize) -> Result<usize, BadTarget> {
    let end = start + scan::end_of_args(text.get(start..).unwrap_or_default());
    match text.get(end) {
        None | Some(b' ') => Ok(end),
        Some(byte) => Err(bad_byte(*byte)),
    }
}

fn bad_byte(byte: u8) -> BadTarget {
    if byte == b'#' { BadTarget::Fragment } else { BadTarget::Byte }
}

/// Whether a byte of a path is nothing but itself, wherever it stands.
#[inline]
fn is_usual(byte: u8) -> bool {
    USUAL.get(usize::from(byte)).copied().unwrap_or(false)
}

static USUAL: [bool; 256] = usual();

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn usual() -> [bool; 256] {
    let mut table = [true; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        table[byte as usize] = !matches!(byte, b'/' | b'.' | b'%' | b'?' | b'#' | 0..=b' ' | 0x7f);
        byte += 1;
    }
    table
}

/// Where the last byte written left the path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Name,
    Slash,
    Dot,
    DotDot,
}

/// Decodes and resolves a path that begins with `/`. An escaped slash or dot counts as the byte itself; an escaped `?`,
/// `#` or `%` is part of a name, as in nginx.
fn normalise(raw: &[u8], merge_slashes: bool) -> Result<Vec<u8>, BadTarget> {
    let mut path = Vec::with_capacity(raw.len());
    let mut at = At::Name;
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        let byte = if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2).ok_or(BadTarget::Escape)?;
            rest = tail;
            escape::hex_pair(digits).ok_or(BadTarget::Escape)?
        } else {
            rest = tail;
            *first
        };
        if byte == 0 {
            return Err(BadTarget::Nul);
        }
        at = step(&mut path, at, byte, merge_slashes)?;
    }
    finish(&mut path, at)?;
    Ok(path)
}

fn step(path: &mut Vec<u8>, at: At, byte: u8, merge_slashes: bool) -> Result<At, BadTarget> {
    if byte == b'/' {
        match at {
            At::Name => path.push(b'/'),
            At::Slash if merge_slashes => {}
            At::Slash => path.push(b'/'),
            At::Dot | At::DotDot => finish(path, at)?,
        }
        return Ok(At::Slash);
    }
    path.push(byte);
    Ok(match (at, byte) {
        (At::Slash, b'.') => At::Dot,
        (At::Dot, b'.') => At::DotDot,
        _ => At::Name,
    })
}

/// Takes back a `.` or `..` that turned out to be a segment of its own.
fn finish(path: &mut Vec<u8>, at: At) -> Result<(), BadTarget> {
    match at {
        At::Name | At::Slash => {}
        At::Dot => {
            path.pop();
        }
        At::DotDot => {
            let above = path.len().checked_sub(3).ok_or(BadTarget::AboveRoot)?;
            path.truncate(above);
            let parent = path.iter().rposition(|byte| *byte == b'/').ok_or(BadTarget::AboveRoot)?;
            path.truncate(parent + 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, BadTarget> {
        Target::parse(&Bytes::copy_from_slice(text.as_bytes()), false, true)
    }

    #[test]
    fn paths_are_normalised() {
        for (raw, path, args, changed) in [
            ("/", "/", "", false),
            ("/a/b.c", "/a/b.c", "", false),
            ("/a?b=/../c", "/a", "b=/../c", false),
            ("/?", "/", "", false),
            ("/a??b", "/a", "?b", false),
            ("/a//b", "/a/b", "", true),
            ("//", "/", "", true),
            ("///a", "/a", "", true),
            ("/./a", "/a", "", true),
            ("/a/.", "/a/", "", true),
            ("/a/..", "/", "", true),
            ("/a/../b", "/b", "", true),
            ("/a/b/../../c/", "/c/", "", true),
            ("/a/.?x", "/a/", "x", true),
            ("/a/..?x", "/", "x", true),
            ("/a/...", "/a/...", "", false),
            ("/.a/..b", "/.a/..b", "", false),
            ("/a..", "/a..", "", false),
            ("/%41", "/A", "", true),
            ("/a%2Fb", "/a/b", "", true),
            ("/a%2f%2e%2e%2fb", "/b", "", true),
            ("/a/%2e%2e", "/", "", true),
            ("/%3fx", "/?x", "", true),
            ("/%23x%25", "/#x%", "", true),
            ("/%3f/../x", "/x", "", true),
            ("/a/.%3f", "/a/.?", "", true),
            ("/%E2%82%AC", "/\u{20ac}", "", true),
            ("/\u{20ac}", "/\u{20ac}", "", false),
            ("/a%20b", "/a b", "", true),
            ("/a+b", "/a+b", "", false),
            ("/a;x=1/..;y", "/a;x=1/..;y", "", false),
            ("/+/./x", "/+/x", "", true),
        ] {
            let target = parse(raw).unwrap();
            assert_eq!(String::from_utf8_lossy(&target.path), path, "{raw}");
            assert_eq!(target.args(), args, "{raw}");
            assert_eq!(target.changed, changed, "{raw}");
            assert_eq!(target.raw(), raw.as_bytes());
            assert_eq!(target.quoted, raw.split('?').next().unwrap().contains('%'));
            assert_eq!((target.form, target.authority(), target.empty_path), (Form::Origin, None, false));
        }
    }

    #[test]
    fn slashes_are_kept_if_not_to_be_merged() {
        for (raw, path) in [
            ("/a//b", "/a//b"),
            ("//", "//"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/%2f", "//"),
            ("/a/.//b", "/a//b"),
        ] {
            let target = Target::parse(&Bytes::from_static(raw.as_bytes()), false, false).unwrap();
            assert_eq!(String::from_utf8_lossy(&target.path), path, "{raw}");
        }
    }

    #[test]
    fn malformed_targets_are_refused() {
        for (raw, error) in [
            ("", BadTarget::Form),
            ("a", BadTarget::Form),
            ("?a", BadTarget::Form),
            ("**", BadTarget::Form),
            ("/..", BadTarget::AboveRoot),
            ("/../a", BadTarget::AboveRoot),
            ("/a/../..", BadTarget::AboveRoot),
            ("/%2e%2e/", BadTarget::AboveRoot),
            ("/..?", BadTarget::AboveRoot),
            ("/%", BadTarget::Escape),
            ("/%4", BadTarget::Escape),
            ("/%4x", BadTarget::Escape),
            ("/%x4", BadTarget::Escape),
            ("/%4?1", BadTarget::Escape),
            ("/%00", BadTarget::Nul),
            ("/a#b", BadTarget::Fragment),
            ("/a?b#c", BadTarget::Fragment),
            ("/a b", BadTarget::Byte),
            ("/a\tb", BadTarget::Byte),
            ("/a?b\u{7f}", BadTarget::Byte),
            ("/a\0", BadTarget::Byte),
        ] {
            assert_eq!(parse(raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn an_escape_in_the_arguments_is_left_alone() {
        assert_eq!(parse("/a?%zz%00").unwrap().args(), "%zz%00");
    }

    #[test]
    fn absolute_targets_give_an_authority() {
        for (target, scheme, authority, raw, path, args, empty) in [
            ("http://h/p?x", "http", "h", "/p?x", "/p", "x", false),
            ("HTTPS://H.x:8443/", "HTTPS", "H.x:8443", "/", "/", "", false),
            ("http://h", "http", "h", "/", "/", "", false),
            ("http://h:", "http", "h:", "/", "/", "", false),
            ("http://h?x", "http", "h", "?x", "/", "x", true),
            ("a+b-c.1://[::1]:80/../", "", "", "", "", "", false),
            ("http://[::1]:80//a", "http", "[::1]:80", "//a", "/a", "", false),
            ("http:///x", "http", "", "/x", "/x", "", false),
        ] {
            let Ok(found) = parse(target) else {
                assert!(target.contains(".."), "{target}");
                continue;
            };
            assert_eq!(found.form, Form::Absolute);
            assert_eq!(found.scheme(), Some(scheme.as_bytes()), "{target}");
            assert_eq!(found.authority().as_deref(), Some(authority.as_bytes()), "{target}");
            assert_eq!((found.raw(), &*found.args()), (raw.as_bytes(), args.as_bytes()), "{target}");
            assert_eq!((&*found.path, found.empty_path), (path.as_bytes(), empty), "{target}");
        }
        for bad in
            ["http:/h/", "http//h/", "http:", "http://h\\x", "http://a_b/", "http://u@h/", "http://h:8a/", "1a://h/"]
        {
            assert_eq!(parse(bad), Err(BadTarget::Form), "{bad}");
        }
    }

    #[test]
    fn connect_takes_an_authority_with_a_port() {
        let connect = |text: &'static str| Target::parse(&Bytes::from_static(text.as_bytes()), true, true);
        let target = connect("example.com:443").unwrap();
        assert_eq!((target.form, &*target.path, target.raw()), (Form::Authority, &b"/"[..], &b"/"[..]));
        assert_eq!(target.authority().unwrap(), "example.com:443");
        assert!(connect("[::1]:443").is_ok());
        for bad in ["example.com", "h:", "/", "http://h:1/", "h:1/", "h:1x", "", ":x", "[::1]"] {
            assert_eq!(connect(bad), Err(BadTarget::Form), "{bad}");
        }
    }

    #[test]
    fn an_asterisk_is_a_form_of_its_own_and_paths_must_be_paths() {
        assert_eq!(parse("*").unwrap().form, Form::Asterisk);
        assert_eq!(Target::parse_path(&Bytes::from_static(b"http://h/"), true), Err(BadTarget::Form));
        assert_eq!(Target::parse_path(&Bytes::from_static(b"/a?b"), true).unwrap().args(), "b");
        assert_eq!(Target::parse_path(&Bytes::new(), true), Err(BadTarget::Form));
    }

    /// Every short word over the letters that matter: normalising never leaves a dot segment, a double slash or
    /// something that does not begin with a slash.
    #[test]
    fn no_short_path_escapes_normalisation() {
        let letters = [&b"/"[..], b".", b"a", b"%2f", b"%2E", b"?"];
        let mut words = vec![b"/".to_vec()];
        for _ in 0..5 {
            words = words.iter().flat_map(|word| letters.iter().map(move |letter| [word, *letter].concat())).collect();
            for word in &words {
                let Ok(target) = Target::parse(&Bytes::copy_from_slice(word), false, true) else { continue };
                let text = String::from_utf8(target.path).unwrap();
                assert!(text.starts_with('/') && !text.contains("//"), "{word:?} became {text}");
                assert!(text.split('/').all(|segment| segment != "." && segment != ".."), "{word:?} became {text}");
            }
        }
    }
}
