//! Conditional requests (RFC 9110 section 13), decided as nginx decides them.

use crate::date;
use crate::etag;
use crate::fields::Fields;
use crate::known::Known;

/// What is known of the body that would be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// When it was last changed, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// Its tag.
    pub etag: Option<&'a [u8]>,
}

/// The directive `if_modified_since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Since {
    /// The field never leads to 304.
    Off,
    /// Only the very time does.
    #[default]
    Exact,
    /// That time and any later one does.
    Before,
}

/// What to answer instead of 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 200 after all.
    Pass,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Judges the conditions of a request whose answer would be 200; nginx applies none to other answers.
///
/// nginx's order, and its reading of a malformed date: as one that was before everything.
#[must_use]
pub fn evaluate(request: &Fields, body: &Validators<'_>, since: Since) -> Verdict {
    if let Some(date) = request.get(Known::IfUnmodifiedSince)
        && !unmodified(date, body)
    {
        return Verdict::PreconditionFailed;
    }
    if let Some(list) = request.get(Known::IfMatch)
        && !etag::matches(list, body.etag, false)
    {
        return Verdict::PreconditionFailed;
    }
    let (date, list) = (request.get(Known::IfModifiedSince), request.get(Known::IfNoneMatch));
    if date.is_none() && list.is_none() {
        return Verdict::Pass;
    }
    let changed = date.is_some_and(|date| modified(date, body, since));
    let other = list.is_some_and(|list| !etag::matches(list, body.etag, true));
    if changed || other { Verdict::Pass } else { Verdict::NotModified }
}

/// Whether `Range` counts, given `If-Range`: a tag must be the very tag, a date the very date.
#[must_use]
pub fn if_range(request: &Fields, body: &Validators<'_>) -> bool {
    let Some(value) = request.get(Known::IfRange) else { return true };
    if value.len() >= 2 && value.last() == Some(&b'"') {
        return body.etag == Some(value);
    }
    body.last_modified.is_some_and(|modified| date::parse(value) == Some(modified))
}

fn unmodified(date: &[u8], body: &Validators<'_>) -> bool {
    body.last_modified.is_some_and(|modified| date::parse(date).is_some_and(|date| date >= modified))
}

fn modified(date: &[u8], body: &Validators<'_>, since: Since) -> bool {
    let Some(modified) = body.last_modified else { return true };
    match (since, date::parse(date)) {
        (Since::Off, _) | (_, None) => true,
        (Since::Exact, Some(date)) => date != modified,
        (Since::Before, Some(date)) => date < modified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const IMS: &str = "If-Modified-Since";
    const IUMS: &str = "If-Unmodified-Since";
    const INM: &str = "If-None-Match";
    const IM: &str = "If-Match";
    const FULL: Validators<'_> = Validators { last_modified: Some(784_111_777), etag: Some(b"\"a\"") };
    const BARE: Validators<'_> = Validators { last_modified: None, etag: None };

    fn fields(lines: &[(&str, &str)]) -> Fields {
        lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    #[test]
    fn conditions_are_judged() {
        use Verdict::{NotModified, Pass, PreconditionFailed};
        for (lines, body, verdict) in [
            (&[][..], FULL, Pass),
            (&[(IMS, SAME)], FULL, NotModified),
            (&[(IMS, EARLIER)], FULL, Pass),
            (&[(IMS, LATER)], FULL, Pass),
            (&[(IMS, "x")], FULL, Pass),
            (&[(IMS, SAME)], BARE, Pass),
            (&[(INM, "\"a\"")], FULL, NotModified),
            (&[(INM, "W/\"a\"")], FULL, NotModified),
            (&[(INM, "*")], BARE, NotModified),
            (&[(INM, "\"b\"")], FULL, Pass),
            (&[(INM, "\"a\"")], BARE, Pass),
            (&[(IMS, SAME), (INM, "\"b\"")], FULL, Pass),
            (&[(IMS, EARLIER), (INM, "\"a\"")], FULL, Pass),
            (&[(IMS, SAME), (INM, "\"a\"")], FULL, NotModified),
            (&[(IUMS, SAME)], FULL, Pass),
            (&[(IUMS, LATER)], FULL, Pass),
            (&[(IUMS, EARLIER)], FULL, PreconditionFailed),
            (&[(IUMS, "x")], FULL, PreconditionFailed),
            (&[(IUMS, LATER)], BARE, PreconditionFailed),
            (&[(IM, "\"a\"")], FULL, Pass),
            (&[(IM, "W/\"a\"")], FULL, PreconditionFailed),
            (&[(IM, "\"b\"")], FULL, PreconditionFailed),
            (&[(IM, "*")], BARE, Pass),
            (&[(IM, "\"a\""), (INM, "\"a\"")], FULL, NotModified),
        ] {
            assert_eq!(evaluate(&fields(lines), &body, Since::Exact), verdict, "{lines:?} {body:?}");
        }
    }

    #[test]
    fn the_directive_changes_what_a_date_means() {
        use Verdict::{NotModified, Pass};
        for (since, earlier, same, later) in [
            (Since::Off, Pass, Pass, Pass),
            (Since::Exact, Pass, NotModified, Pass),
            (Since::Before, Pass, NotModified, NotModified),
        ] {
            for (date, verdict) in [(EARLIER, earlier), (SAME, same), (LATER, later)] {
                assert_eq!(evaluate(&fields(&[(IMS, date)]), &FULL, since), verdict, "{since:?} {date}");
            }
        }
    }

    #[test]
    fn a_range_counts_for_the_very_body_only() {
        for (value, full, bare) in [
            (None, true, true),
            (Some("\"a\""), true, false),
            (Some("\"b\""), false, false),
            (Some("W/\"a\""), false, false),
            (Some(SAME), true, false),
            (Some(LATER), false, false),
            (Some("x"), false, false),
            (Some("\""), false, false),
        ] {
            let lines: Vec<_> = value.map(|value| ("If-Range", value)).into_iter().collect();
            assert_eq!(if_range(&fields(&lines), &FULL), full, "{value:?}");
            assert_eq!(if_range(&fields(&lines), &BARE), bare, "{value:?}");
        }
    }
}
