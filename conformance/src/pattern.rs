//! Regular expressions over ASCII text: the workspace builds the regex crate without its Unicode tables, and turning
//! them on here would turn them on for the server too.

use regex::bytes::{Regex, RegexBuilder};

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles one, or says what is wrong with it.
    pub fn try_new(text: &str) -> Result<Pattern, String> {
        RegexBuilder::new(text).unicode(false).build().map(Pattern).map_err(|error| error.to_string())
    }

    /// Compiles one that a test wrote.
    #[track_caller]
    pub fn new(text: &str) -> Pattern {
        Pattern::try_new(text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether it matches anywhere in a text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }

    /// The groups of every match, the whole match first; a group that took no part is empty.
    pub fn captures(&self, text: &str) -> Vec<Vec<String>> {
        let group = |found: Option<regex::bytes::Match<'_>>| {
            found.map(|found| String::from_utf8_lossy(found.as_bytes()).into_owned()).unwrap_or_default()
        };
        self.0.captures_iter(text.as_bytes()).map(|found| found.iter().map(group).collect()).collect()
    }
}

/// Whether a regular expression matches anywhere in a text.
#[track_caller]
pub fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).is_match(text)
}
