//! Arguments of a request: `$arg_NAME`.

/// The value of the first argument with this name, in any case and undecoded. nginx: an argument without `=` has no
/// value and is passed over.
#[must_use]
pub fn find<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    args.split(|byte| *byte == b'&').find_map(|pair| {
        let (found, rest) = pair.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b"=")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn arguments_are_found() {
        let args = b"a=1&B=2&c&a=3&d=&e=x=y&ab=%20";
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("2")),
            ("c", None),
            ("d", Some("")),
            ("e", Some("x=y")),
            ("ab", Some("%20")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(find(args, name.as_bytes()), value.map(str::as_bytes), "{name}");
        }
        assert_eq!(find(b"", b"a"), None);
        assert_eq!(find(b"a", b"a"), None);
    }
}
