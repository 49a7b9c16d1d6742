//! Bytes of peers in messages for people.

use std::fmt;

/// Bytes inside a message: what is UTF-8 as it is, any other byte as `\xFF`, so that no two values look the same.
///
/// For messages alone. What is matched, resolved or sent stays bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02X}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn no_byte_is_lost() {
        for (bytes, shown) in [
            (&b""[..], ""),
            (b"plain \"text\"", "plain \"text\""),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"caf\xe9", "caf\\xE9"),
            (b"\xff\xfe/a", "\\xFF\\xFE/a"),
            (b"a\xc3", "a\\xC3"),
            (b"\xe2\x82/\xed\xa0\x80", "\\xE2\\x82/\\xED\\xA0\\x80"),
        ] {
            assert_eq!(Shown(bytes).to_string(), shown);
        }
    }
}
