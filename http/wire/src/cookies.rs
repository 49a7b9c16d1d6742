//! Cookies of a request: `$cookie_NAME`.

use crate::fields::Fields;
use crate::known::Known;

/// The value of the first cookie with this name, in any case, in any of the `Cookie` fields, as nginx finds it:
/// unquoted and undecoded, spaces after the `=` dropped.
#[must_use]
pub fn find<'a>(fields: &'a Fields, name: &[u8]) -> Option<&'a [u8]> {
    fields.all(Known::Cookie).find_map(|value| value.split(|byte| *byte == b';').find_map(|pair| named(pair, name)))
}

/// The value of the first cookie with this name, in any case, that a `Set-Cookie` field sets.
#[must_use]
pub fn find_set<'a>(fields: &'a Fields, name: &[u8]) -> Option<&'a [u8]> {
    fields.all(Known::SetCookie).find_map(|value| named(value.split(|byte| *byte == b';').next()?, name))
}

fn named<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = skip_spaces(pair).split_at_checked(name.len())?;
    let value = skip_spaces(rest).strip_prefix(b"=")?;
    found.eq_ignore_ascii_case(name).then(|| skip_spaces(value))
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found() {
        let fields: Fields = [("Cookie", "a=1; bb=2;c = x y ;d; e=; f=g=h"), ("cookie", "z=9; a=3")]
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        for (name, value) in [
            ("a", Some("1")),
            ("A", Some("1")),
            ("bb", Some("2")),
            ("b", None),
            ("c", Some("x y ")),
            ("d", None),
            ("e", Some("")),
            ("f", Some("g=h")),
            ("z", Some("9")),
            ("zz", None),
            ("h", None),
        ] {
            assert_eq!(find(&fields, name.as_bytes()), value.map(str::as_bytes), "{name}");
        }
    }
}
