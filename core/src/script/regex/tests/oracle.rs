//! PCRE2 itself, as nginx calls it: without options but the one for case.

use std::ops::Range;

use super::super::Regex;

/// What became of a pattern and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pattern is refused.
    Refused,
    /// The groups, the whole match first.
    Found(Vec<Option<Range<usize>>>),
    /// No match.
    None,
    /// A limit, or a text that is not UTF-8.
    Unknown,
}

/// A pattern compiled by both.
pub struct Both {
    theirs: Result<pcre2::bytes::Regex, String>,
    ours: Result<Regex, String>,
}

impl Both {
    pub fn new(pattern: &str, caseless: bool) -> Both {
        let theirs =
            pcre2::bytes::RegexBuilder::new().caseless(caseless).build(pattern).map_err(|error| error.to_string());
        Both { theirs, ours: Regex::new(pattern.as_bytes(), caseless) }
    }

    pub fn theirs(&self, text: &[u8]) -> Outcome {
        let Ok(regex) = &self.theirs else { return Outcome::Refused };
        match regex.captures(text) {
            Ok(None) => Outcome::None,
            Ok(Some(found)) => {
                Outcome::Found((0..found.len()).map(|at| found.get(at).map(|m| m.start()..m.end())).collect())
            }
            Err(_) => Outcome::Unknown,
        }
    }

    pub fn ours(&self, text: &[u8]) -> Outcome {
        let Ok(regex) = &self.ours else { return Outcome::Refused };
        let found = regex.search(text, usize::MAX);
        if let (Ok(found), Ok(is_match)) = (&found, regex.is_match(text)) {
            assert_eq!(found.is_some(), is_match, "{regex:?} on \"{}\"", text.escape_ascii());
        }
        match found {
            Ok(None) => Outcome::None,
            Ok(Some(groups)) => Outcome::Found(groups),
            Err(_) => Outcome::Unknown,
        }
    }

    /// Why ours is refused.
    pub fn refusal(&self) -> Option<&str> {
        self.ours.as_ref().err().map(String::as_str)
    }

    /// Why theirs is.
    pub fn complaint(&self) -> &str {
        self.theirs.as_ref().err().map_or("", String::as_str)
    }

    /// PCRE2 takes the pattern.
    pub fn is_valid(&self) -> bool {
        self.theirs.is_ok()
    }

    /// PCRE2 refuses it for its size, or for how it looks back, where we take more.
    pub fn is_too_much(&self) -> bool {
        self.theirs.as_ref().is_err_and(|error| error.contains("too large") || error.contains("lookbehind"))
    }
}
