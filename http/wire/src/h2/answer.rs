//! The fields of an answer as HTTP/2 sends them.

use std::borrow::Cow;

use crate::fields::{Field, Fields};
use crate::h1::write::{self, BadPart};
use crate::known::Known;

/// The fields of an answer with their names in lower case, in order, without those that say how a body of HTTP/1 is
/// framed or that concern its connection: whoever sends the head decides on `content-length`. As for HTTP/1, the options
/// that `Connection` names are not looked into. A usual name is not copied.
///
/// # Errors
/// [`BadPart`] if a value has a line end or a name is none, as a writer of HTTP/1 says it: nothing is to be sent then.
pub fn answer_fields(fields: &Fields) -> Result<impl Iterator<Item = (Cow<'_, [u8]>, &[u8])>, BadPart> {
    let sent = |field: &Field<'_>| !write::is_hop_by_hop(field.known);
    fields.iter().filter(sent).try_for_each(|field| write::check(field.name, field.value))?;
    Ok(fields.iter().filter(sent).map(|field| (lowered(field), field.value)))
}

fn lowered(field: Field<'_>) -> Cow<'_, [u8]> {
    match field.known {
        Known::Other if field.name.iter().any(u8::is_ascii_uppercase) => Cow::Owned(field.name.to_ascii_lowercase()),
        Known::Other => Cow::Borrowed(field.name),
        known => Cow::Borrowed(known.lower_name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    #[test]
    fn names_are_lowered_and_the_connection_is_left_out() {
        let fields = fields(&[
            ("Content-Type", "text/plain"),
            ("X-Own-Name", "A"),
            ("x-lower", "B"),
            ("Connection", "close, X-Own-Name"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("Content-Length", "5"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("SET-COOKIE", "a=1"),
            ("set-cookie", "b=2"),
            ("ETag", ""),
        ]);
        let sent: Vec<_> = answer_fields(&fields)
            .unwrap()
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        assert_eq!(
            sent,
            ["content-type: text/plain", "x-own-name: A", "x-lower: B", "set-cookie: a=1", "set-cookie: b=2", "etag: "]
        );
        let copied = answer_fields(&fields).unwrap().filter(|(name, _)| matches!(name, Cow::Owned(_))).count();
        assert_eq!(copied, 1);
    }

    #[test]
    fn what_would_break_out_is_refused() {
        for (name, value) in
            [("a", "b\r\nc"), ("a", "b\0"), ("a", "\n"), ("", "v"), ("a b", "v"), ("a:", "v"), ("\r", "v")]
        {
            assert_eq!(
                answer_fields(&fields(&[("ok", "1"), (name, value)])).err(),
                Some(BadPart),
                "{name:?} {value:?}"
            );
        }
        let left_out = fields(&[("Connection", "a\r\nb")]);
        assert_eq!(answer_fields(&left_out).unwrap().count(), 0);
    }
}
