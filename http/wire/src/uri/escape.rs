//! Percent-escaping by nginx's tables.

use bytes::BufMut;

/// What a text is escaped for: which bytes may stay is nginx's choice for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A path: also escapes `#`, `%` and `?`.
    Uri,
    /// An argument: as a path, and `&`, `+` and `;`.
    Args,
    /// A component: everything but letters, digits and `-._~`.
    UriComponent,
    /// A link in a page: `"`, `'`, `#` and `%`, but not `?`.
    Html,
    /// A redirect by the browser: `"` and `'`.
    Refresh,
    /// A key for memcached: control characters, space and `%`.
    Memcached,
    /// A value for the mail auth service: as for memcached.
    MailAuth,
    /// What is a URI already: only what cannot stand in a line of its own, control characters and spaces.
    Line,
    /// A field's value: only CR, LF and NUL, which would end its line.
    Breaks,
    /// SMTP's xtext (RFC 3461), whose escape is `+`.
    MailXtext,
}

/// How an escaped text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unescape {
    /// All of it.
    All,
    /// Up to and with the first `?`, escaped or not.
    Uri,
    /// As `Uri`, but what may not stand bare in a URI stays escaped.
    Redirect,
}

impl Escape {
    fn table(self) -> &'static [bool; 256] {
        match self {
            Self::Uri => &URI,
            Self::Args => &ARGS,
            Self::UriComponent => &COMPONENT,
            Self::Html => &HTML,
            Self::Refresh => &REFRESH,
            Self::Memcached | Self::MailAuth => &MEMCACHED,
            Self::Line => &LINE,
            Self::Breaks => &BREAKS,
            Self::MailXtext => &XTEXT,
        }
    }

    fn escapes(self, byte: u8) -> bool {
        self.table().get(usize::from(byte)).copied().unwrap_or(true)
    }
}

/// Appends `text`, escaped for `kind`, to `out`.
pub fn escape_uri(text: &[u8], kind: Escape, out: &mut impl BufMut) {
    let prefix = if kind == Escape::MailXtext { b'+' } else { b'%' };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| kind.escapes(*byte)) {
        let Some((clean, tail)) = rest.split_at_checked(at) else { break };
        out.put_slice(clean);
        let Some((byte, tail)) = tail.split_first() else { break };
        out.put_slice(&[prefix, hex_digit(byte >> 4), hex_digit(byte & 0xf)]);
        rest = tail;
    }
    out.put_slice(rest);
}

/// Whether escaping would change the text.
#[must_use]
pub fn needs_escape(text: &[u8], kind: Escape) -> bool {
    text.iter().any(|byte| kind.escapes(*byte))
}

/// Decodes a text, lenient as nginx: of `%x` with a bad first digit only the `%` is lost, with a bad second digit all of
/// it. Gives what was read and how many bytes of `text` that took.
#[must_use]
pub fn unescape(text: &[u8], kind: Unescape) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            if *first == b'?' && kind != Unescape::All {
                break;
            }
            continue;
        }
        let Some((high, tail)) = tail.split_first() else { break };
        rest = tail;
        if !high.is_ascii_hexdigit() {
            out.push(*high);
            continue;
        }
        let Some((low, tail)) = tail.split_first() else { break };
        rest = tail;
        let Some(byte) = hex_pair(&[*high, *low]) else { continue };
        let bare = kind != Unescape::Redirect || (byte > b'%' && byte < 0x7f);
        if bare {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', *high, *low]);
        }
        if byte == b'?' && kind != Unescape::All {
            break;
        }
    }
    let taken = text.len() - rest.len();
    (out, taken)
}

/// The byte that two hexadecimal digits spell.
pub(crate) fn hex_pair(digits: &[u8]) -> Option<u8> {
    match digits {
        [high, low] => Some(hex_value(*high)? << 4 | hex_value(*low)?),
        _ => None,
    }
}

/// The value of a hexadecimal digit in either case.
#[inline]
pub(crate) fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'A' + (value & 0xf) - 10,
    }
}

const CONTROLS: u8 = 0x1f;
/// Never bare in a URI (RFC 3986 section 2).
const FOREIGN: &[u8] = b" \"<>\\^`{|}\x7f";

static URI: [bool; 256] = table(&[FOREIGN, b"#%?"], true);
static ARGS: [bool; 256] = table(&[FOREIGN, b"#%?&+;"], true);
static HTML: [bool; 256] = table(&[FOREIGN, b"#%'"], true);
/// nginx: `~` is escaped and `}` is not.
static REFRESH: [bool; 256] = table(&[b" \"'<>\\^`{|~\x7f"], true);
static LINE: [bool; 256] = table(&[b" \x7f"], false);
static BREAKS: [bool; 256] = breaks();
static MEMCACHED: [bool; 256] = table(&[b" %"], false);
static XTEXT: [bool; 256] = table(&[b" +=\x7f"], true);
static COMPONENT: [bool; 256] = component();

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn table(lists: &[&[u8]], high: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte <= CONTROLS as usize || (byte >= 0x80 && high);
        byte += 1;
    }
    let mut list = 0;
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            table[lists[list][at] as usize] = true;
            at += 1;
        }
        list += 1;
    }
    table
}

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn breaks() -> [bool; 256] {
    let mut table = [false; 256];
    table[b'\r' as usize] = true;
    table[b'\n' as usize] = true;
    table[0] = true;
    table
}

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn component() -> [bool; 256] {
    let mut table = [true; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        table[byte as usize] = !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, kind: Escape) -> String {
        let mut out = Vec::new();
        escape_uri(text.as_bytes(), kind, &mut out);
        assert_eq!(needs_escape(text.as_bytes(), kind), out != text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind_has_its_table() {
        let printable: String = (' '..='~').collect();
        for (kind, kept) in [
            (Escape::Uri, "!$&'()*+,-./0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~"),
            (Escape::Args, "!$'()*,-./0123456789:=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~"),
            (Escape::UriComponent, "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"),
            (Escape::Html, "!$&()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~"),
            (Escape::Refresh, "!#$%&()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz}"),
        ] {
            let found: String = printable.chars().filter(|c| !kind.escapes(*c as u8)).collect();
            assert_eq!(found, kept, "{kind:?}");
            for byte in (0..32).chain(127..=255u8) {
                assert!(kind.escapes(byte), "{kind:?} {byte}");
            }
        }
        let memcached: Vec<u8> = (0..=255).filter(|byte| Escape::Memcached.escapes(*byte)).collect();
        assert_eq!(memcached.len(), 34);
        assert!(!Escape::MailAuth.escapes(0x7f) && !Escape::MailAuth.escapes(0xff));
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped("/a b?c", Escape::Uri), "/a%20b%3Fc");
        assert_eq!(escaped("\u{e9}", Escape::Uri), "%C3%A9");
        assert_eq!(escaped("a=b&c", Escape::Args), "a=b%26c");
        assert_eq!(escaped("a b=+", Escape::MailXtext), "a+20b+3D+2B");
        assert_eq!(escaped("", Escape::Uri), "");
        assert_eq!(escaped("clean", Escape::UriComponent), "clean");
    }

    #[test]
    fn texts_are_unescaped_leniently() {
        for (text, kind, read, taken) in [
            ("a%20b", Unescape::All, "a b", 5),
            ("%zz", Unescape::All, "zz", 3),
            ("%4zx", Unescape::All, "x", 4),
            ("%4", Unescape::All, "", 2),
            ("%", Unescape::All, "", 1),
            ("a%3Fb", Unescape::All, "a?b", 5),
            ("a%3Fb", Unescape::Uri, "a?", 4),
            ("a?b", Unescape::Uri, "a?", 2),
            ("a?b", Unescape::All, "a?b", 3),
            ("%41%20%25%3f", Unescape::Redirect, "A%20%25?", 12),
        ] {
            let (found, length) = unescape(text.as_bytes(), kind);
            assert_eq!((String::from_utf8_lossy(&found).as_ref(), length), (read, taken), "{text} {kind:?}");
        }
    }

    #[test]
    fn unescaping_undoes_escaping() {
        let every: Vec<u8> = (0..=255).collect();
        for kind in [Escape::Uri, Escape::Args, Escape::UriComponent, Escape::Html, Escape::Memcached] {
            let mut out = Vec::new();
            escape_uri(&every, kind, &mut out);
            assert_eq!(unescape(&out, Unescape::All).0, every, "{kind:?}");
        }
    }
}
