//! Entity tags: nginx's own, and the lists that conditions compare them with.

/// nginx's tag of a file: modification time and size in hexadecimal, in quotes.
#[must_use]
pub fn of_file(modified: i64, size: u64) -> Vec<u8> {
    let mut tag = Vec::with_capacity(36);
    tag.push(b'"');
    put_hex(modified.cast_unsigned(), &mut tag);
    tag.push(b'-');
    put_hex(size, &mut tag);
    tag.push(b'"');
    tag
}

/// Appends a number in hexadecimal, without zeros before it.
fn put_hex(number: u64, out: &mut Vec<u8>) {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = u8::try_from(number >> (4 * place) & 0xf).unwrap_or(0);
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

/// The weak form of a tag, for a body that is transformed on its way; `None` if it is no tag at all, and has to go, as
/// nginx does.
#[must_use]
pub fn weaken(tag: &[u8]) -> Option<Vec<u8>> {
    if tag.starts_with(b"W/") && tag.len() > 2 {
        return Some(tag.to_vec());
    }
    let quoted = tag.len() >= 2 && tag.first() == Some(&b'"') && tag.last() == Some(&b'"');
    quoted.then(|| [b"W/", tag].concat())
}

/// Whether a list of `If-Match` or `If-None-Match` has the tag, by nginx's reading: `*` alone always does; `weak`
/// compares without `W/` on either side (RFC 9110 section 8.8.3.2).
#[must_use]
pub fn matches(list: &[u8], tag: Option<&[u8]>, weak: bool) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(tag) = tag else { return false };
    let strip = |text| if weak { opaque(text) } else { text };
    let tag = strip(tag);
    let mut rest = list;
    loop {
        rest = strip(rest);
        if rest.len() < tag.len() || rest.is_empty() {
            return false;
        }
        if let Some(after) = rest.strip_prefix(tag)
            && matches!(skip(after, b" \t").first(), None | Some(b','))
        {
            return true;
        }
        let comma = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        rest = skip(rest.get(comma..).unwrap_or_default(), b" \t,");
    }
}

/// The tag without a `W/` before it.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").filter(|rest| !rest.is_empty()).unwrap_or(tag)
}

fn skip<'a>(text: &'a [u8], bytes: &[u8]) -> &'a [u8] {
    let start = text.iter().position(|byte| !bytes.contains(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_tags() {
        assert_eq!(of_file(0x5f00_0001, 0x264), b"\"5f000001-264\"");
        assert_eq!(of_file(0, 0), b"\"0-0\"");
        for number in [0, 1, 9, 10, 15, 16, 0xff, 0x100, 0xdead_beef, 1 << 60, i64::MAX, -1, i64::MIN] {
            for size in [0, 7, 0xfff, 0x1000, u64::MAX] {
                assert_eq!(of_file(number, size), format!("\"{number:x}-{size:x}\"").as_bytes());
            }
        }
    }

    #[test]
    fn tags_are_weakened_once() {
        for (tag, weak) in [
            ("\"a\"", Some("W/\"a\"")),
            ("W/\"a\"", Some("W/\"a\"")),
            ("a", None),
            ("\"", None),
            ("", None),
            ("W/", None),
        ] {
            assert_eq!(weaken(tag.as_bytes()), weak.map(|weak| weak.as_bytes().to_vec()), "{tag}");
        }
    }

    #[test]
    fn lists_are_matched() {
        for (list, tag, weakly, strongly) in [
            ("*", None, true, true),
            ("*", Some("\"a\""), true, true),
            ("* ", Some("\"a\""), false, false),
            ("\"a\"", None, false, false),
            ("\"a\"", Some("\"a\""), true, true),
            ("\"b\", \"a\"", Some("\"a\""), true, true),
            ("\"b\",\t,\"a\" ,\"c\"", Some("\"a\""), true, true),
            ("\"a\"x", Some("\"a\""), false, false),
            ("\"b\"", Some("\"a\""), false, false),
            ("\"\"", Some("\"a\""), false, false),
            ("", Some("\"a\""), false, false),
            ("W/\"a\"", Some("\"a\""), true, false),
            ("\"a\"", Some("W/\"a\""), true, false),
            ("W/\"a\"", Some("W/\"a\""), true, true),
            ("\"b\", W/\"a\"", Some("W/\"a\""), true, true),
            ("a", Some("a"), true, true),
        ] {
            let tag = tag.map(str::as_bytes);
            assert_eq!(matches(list.as_bytes(), tag, true), weakly, "{list} {tag:?} weak");
            assert_eq!(matches(list.as_bytes(), tag, false), strongly, "{list} {tag:?} strong");
        }
    }
}
