//! Searches end, whatever the pattern and the text, and what they do not know they do not say.

use std::time::{Duration, Instant};

use super::super::{MatchError, Regex};
use crate::script::Slots;

/// Far beyond what a search takes, for machines that are slow or busy and builds that are not optimized.
const LONG: Duration = Duration::from_secs(20);

fn search(pattern: &str, text: &[u8]) -> Result<bool, MatchError> {
    let regex = Regex::new(pattern.as_bytes(), false).unwrap();
    let began = Instant::now();
    let found = regex.is_match(text).map_err(|failure| failure.error);
    assert!(began.elapsed() < LONG, "{pattern}: {:?}", began.elapsed());
    found
}

#[test]
fn work_is_limited_and_the_limit_is_no_answer() {
    let text = format!("/s/{}", "a".repeat(30_000));
    for pattern in [
        r"^/s/(?:(?!.*zz)a|a)*b$",
        r"^/s/(?:(?!.*zz)a|a)*$b|c*+d",
        r"^/s/(a+)+\1b",
        r"^/s/(?:(a)|(a))*\2b$",
        r"^/s/((?:a|aa)*)(?<!a)\1c",
        r"^/s/(?:a?){0,600}b",
        r"(*UTF)^/s/(?:(?!.*zz)a|a)*b$",
    ] {
        assert_eq!(search(pattern, text.as_bytes()), Err(MatchError::Work), "{pattern}");
    }
}

#[test]
fn memory_is_limited() {
    let text = "a".repeat(2_000_000);
    for pattern in [r"^(?:(a)|b)*(?<=b)[ce]", r"^(a(?1)|b)", r"(?:a(?R)?|c)[de]"] {
        let found = search(pattern, text.as_bytes());
        assert!(matches!(found, Err(MatchError::Memory | MatchError::Work)), "{pattern}: {found:?}");
    }
}

#[test]
fn a_recursion_that_takes_nothing_is_an_error() {
    for pattern in [r"(?R)a", r"(a|(?1)b)", r"(?:(?R)|a)b", r"(?<n>(?&n)?)x"] {
        assert_eq!(search(pattern, b"cccxab"), Err(MatchError::Recursion), "{pattern}");
    }
}

#[test]
fn texts_that_are_not_utf_8_are_an_error_where_the_pattern_asks_for_it() {
    for text in [&b"/\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"] {
        assert_eq!(search("(*UTF8)^/a", text), Err(MatchError::Utf8));
        assert_eq!(search("^/a", text), Ok(false));
    }
}

/// What backtracking takes exponential time for is done in linear time where nothing but the place matters.
#[test]
fn catastrophes_are_linear() {
    let text = format!("/s/{}", "ab".repeat(15_000));
    for (pattern, expected) in [
        (r"^/s/(a+|b+|[ab]+)+c", false),
        (r"^/s/(?:[ab]+)+$", true),
        (r"^/s/(?:[ab]*[ba]+)+[^/]c", false),
        (r"^(/[^/]+)*/s/([ab]|ab|ba)+c?$", true),
        (r"([ab]+a)+([ab]+b)+([ab]+a)+[ce]", false),
        (r"^/s/(?:(?:a|b|ab)+?(?:x|b|ba)*)+?c", false),
        (r"^/s/(?:a{1,5}b{1,5}|[ab]{1,3})+c", false),
    ] {
        assert_eq!(search(pattern, text.as_bytes()), Ok(expected), "{pattern}");
    }
}

/// A match that is found only with places remembered has the groups that it would have had without.
#[test]
fn groups_are_right_after_a_long_search() {
    let text = format!("{}bcd", "a".repeat(300));
    let regex = Regex::new(br"^((?:a|a|aa)+)(?:aa|b)(?:(c)|(b))(d)$", false).unwrap();
    let slots = Slots::default();
    assert_eq!(regex.matches(text.as_bytes(), &slots), Ok(true));
    let group = |number| {
        let mut out = Vec::new();
        slots.read_capture(number, &mut out).then_some(out)
    };
    assert_eq!(group(1), Some(vec![b'a'; 300]));
    assert_eq!((group(2), group(3), group(4)), (Some(b"c".to_vec()), None, Some(b"d".to_vec())));
}

#[test]
fn a_failure_says_which_pattern_and_how_much() {
    let regex = Regex::new(br"^/s/(?:(?!.*zz)a|a)*b$", false).unwrap();
    let text = [&b"/s/"[..], &[b'a'; 30_000]].concat();
    let failure = regex.matches(&text, &Slots::default()).unwrap_err().to_string();
    assert_eq!(failure, r#"regex "^/s/(?:(?!.*zz)a|a)*b$" failed on 30003 bytes: match limit exceeded"#);
}

/// Patterns that are large or deep are compiled in little time, or refused.
#[test]
fn compiling_is_limited() {
    let nested = |depth: usize, open: &str, close: &str| format!("{}a{}", open.repeat(depth), close.repeat(depth));
    let words = (0..5_000).map(|number| format!("word{number}")).collect::<Vec<_>>().join("|");
    for (pattern, is_taken) in [
        (nested(249, "(", ")*"), true),
        (nested(249, "(?:", ")+"), true),
        (nested(249, "(?=", ")"), true),
        (nested(249, "(?>", "|b)"), true),
        (nested(249, "(?:b|", ")"), true),
        (nested(1_000, "(", ")"), false),
        (nested(1_000, "(?:", ")*"), false),
        ("a?".repeat(3_000), true),
        ("(?:a|b)?".repeat(1_500), true),
        ("(a|b|c|d|e|f)".repeat(1_000), true),
        (format!("^(?:{words})$"), true),
        (format!("(?i)({words})"), true),
        ("((a{0,100}){0,100}){0,100}".to_owned(), true),
        ("(?:(?:(?:ab?){1,300}){1,300}){1,300}".to_owned(), true),
        ("(ab){65535}".to_owned(), true),
        ("(?:ab?|b){60}".repeat(400), false),
        ("(?1)".repeat(5_000) + "(a)", true),
    ] {
        let began = Instant::now();
        let shown = pattern.get(..30.min(pattern.len())).unwrap();
        assert_eq!(Regex::new(pattern.as_bytes(), false).is_ok(), is_taken, "{shown}");
        assert!(began.elapsed() < LONG, "{shown}: {:?}", began.elapsed());
    }
}
