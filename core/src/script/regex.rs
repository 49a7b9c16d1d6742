//! Regular expressions as nginx.conf writes them: PCRE syntax on bytes, linear time where the pattern allows it.
//!
//! Patterns with look-around, back-references or atomic groups backtrack, up to a limit; a match that reaches the
//! limit is no match.

use std::fmt;

use fancy_regex::BytesMode;

use crate::conf::{ConfigError, Place};
use crate::script::{Slots, Variables};
use crate::subject::Subject;

/// Steps that a backtracking pattern may take on one text.
const BACKTRACK_LIMIT: usize = 100_000;

/// A compiled pattern and the variables that its named groups set.
pub struct Regex {
    inner: fancy_regex::Regex,
    names: Vec<(usize, usize)>,
    groups: usize,
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.inner.as_str())
    }
}

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The pattern's mistake, as the compiler of patterns explains it.
    pub fn new(pattern: &[u8], ignore_case: bool) -> Result<Self, String> {
        let pattern = translate(&String::from_utf8_lossy(pattern));
        let inner = fancy_regex::RegexBuilder::new(&pattern)
            .bytes_mode(BytesMode::Ascii)
            .case_insensitive(ignore_case)
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map_err(|error| format!("regex \"{pattern}\" is invalid: {error}").replace('\n', " "))?;
        let groups = inner.captures_len();
        Ok(Regex { inner, names: Vec::new(), groups })
    }

    /// Compiles a pattern whose named groups become variables.
    ///
    /// # Errors
    /// As [`Regex::new`], or a group is named like a built-in variable.
    pub fn compile<S: Subject>(
        pattern: &[u8],
        ignore_case: bool,
        at: &Place,
        variables: &mut Variables<S>,
    ) -> Result<Self, ConfigError> {
        let mut regex = Regex::new(pattern, ignore_case).map_err(|message| ConfigError::new(at, message))?;
        let names: Vec<(usize, String)> = regex
            .inner
            .capture_names()
            .enumerate()
            .filter_map(|(group, name)| Some((group, name?.to_owned())))
            .collect();
        for (group, name) in names {
            regex.names.push((group, variables.settable(&name, at)?));
        }
        Ok(regex)
    }

    /// The number of groups, the whole match included.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// True when the pattern occurs in `text`.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.inner.is_match(text).unwrap_or(false)
    }

    /// Like [`is_match`](Regex::is_match), and leaves the groups in `slots` when it is one.
    pub fn matches(&self, text: &[u8], slots: &Slots) -> bool {
        if self.groups <= 1 {
            let found = self.is_match(text);
            if found {
                slots.capture(text, Vec::new());
            }
            return found;
        }
        let Ok(Some(captures)) = self.inner.captures(text) else { return false };
        let groups: Vec<_> = (0..self.groups).map(|group| captures.get(group).map(|m| m.start()..m.end())).collect();
        for (group, slot) in &self.names {
            slots.set(*slot, groups.get(*group).cloned().flatten().and_then(|range| text.get(range)));
        }
        slots.capture(text, groups);
        true
    }
}

/// Rewrites what PCRE and the Rust syntax understand differently: `\<`, set operations in classes, a literal `{`, `\Q..\E`.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut class = false;
    while let Some(first) = rest.chars().next() {
        let (taken, written): (usize, String) = if let Some(quoted) = rest.strip_prefix("\\Q") {
            let text = quoted.split("\\E").next().unwrap_or(quoted);
            let end = if quoted.len() > text.len() { 4 } else { 2 };
            (text.len() + end, text.chars().map(escape_literal).collect())
        } else if rest.starts_with("\\<") || rest.starts_with("\\>") {
            (2, rest.get(1..2).unwrap_or_default().to_owned())
        } else if let Some(braced) = braced_escape(rest) {
            (braced.len(), property(braced, class).unwrap_or_else(|| braced.to_owned()))
        } else if first == '\\' {
            let pair: String = rest.chars().take(2).collect();
            (pair.len(), pair)
        } else if class {
            if ["&&", "--", "~~"].iter().any(|pair| rest.starts_with(pair)) {
                (2, rest.chars().take(2).map(escape_literal).collect())
            } else if first == '[' && !rest.starts_with("[:") {
                (1, "\\[".to_owned())
            } else if let Some(end) = rest.strip_prefix("[:").and_then(|tail| tail.find(":]")) {
                (end + 4, rest.get(..end + 4).unwrap_or_default().to_owned())
            } else {
                class = first != ']';
                (first.len_utf8(), first.to_string())
            }
        } else if first == '[' {
            class = true;
            // `]` right behind the opening is a literal in both.
            let head = ["[^]", "[]", "[^"].iter().find(|head| rest.starts_with(**head)).copied().unwrap_or("[");
            (head.len(), head.replace(']', "\\]"))
        } else if first == '{' && !is_quantifier(rest) {
            (1, "\\{".to_owned())
        } else {
            (first.len_utf8(), first.to_string())
        };
        out.push_str(&written);
        rest = rest.get(taken..).unwrap_or_default();
    }
    out
}

/// `\p{N}`, `\x{41}` and their like at the beginning of `text`: the braces belong to the escape.
fn braced_escape(text: &str) -> Option<&str> {
    let inner = ["\\p{", "\\P{", "\\x{", "\\k{", "\\g{"].iter().find_map(|head| text.strip_prefix(*head))?;
    text.get(..text.len() - inner.len() + inner.find('}')? + 1)
}

/// The ASCII members of a property such as `\p{N}`: patterns match bytes, which have no other.
fn property(escape: &str, in_class: bool) -> Option<String> {
    const MEMBERS: [(&str, &str); 5] = [("L", "A-Za-z"), ("Ll", "a-z"), ("Lu", "A-Z"), ("N", "0-9"), ("Nd", "0-9")];
    let (head, name) = escape.strip_suffix('}')?.split_once('{')?;
    let members = MEMBERS.iter().find(|(known, _)| *known == name)?.1;
    match (head, in_class) {
        ("\\p", true) => Some(members.to_owned()),
        ("\\p", false) => Some(format!("[{members}]")),
        ("\\P", false) => Some(format!("[^{members}]")),
        _ => None,
    }
}

fn escape_literal(character: char) -> String {
    if character.is_ascii_punctuation() { format!("\\{character}") } else { character.to_string() }
}

fn is_quantifier(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('{').and_then(|tail| tail.split_once('}')).map(|(inner, _)| inner) else {
        return false;
    };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    !least.is_empty() && [least, most].iter().all(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcre_idioms_match_as_in_pcre() {
        for (pattern, text, expected) in [
            (r"\.php$", "/a.php", true),
            (r"^/(?!api)", "/api", false),
            (r"^/(?!api)", "/web", true),
            (r"\<b\>", "<b>", true),
            (r"[a&&b]+$", "a&b", true),
            (r"[[]", "[", true),
            (r"[[:digit:]]{2}", "12", true),
            (r"a{b}", "a{b}", true),
            (r"a{2}", "aa", true),
            (r"^www\p{N}+\.", "www12.", true),
            (r"^www\p{N}+\.", "wwwx.", false),
            (r"^[\p{Lu}_]\x{41}\P{L}$", "BA1", true),
            (r"\Qa.b\E$", "a.b", true),
            (r"\Qa.b\E$", "axb", false),
            (r"(a)\1", "aa", true),
            (r"^[^]]+$", "ab", true),
            (r"^/\w+$", "/abc_1", true),
        ] {
            assert_eq!(
                Regex::new(pattern.as_bytes(), false).unwrap().is_match(text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_text_can_be_matched() {
        assert!(Regex::new(b"^/.+x$", false).unwrap().is_match(b"/\xff\xfex"));
    }

    #[test]
    fn groups_are_left_for_templates() {
        let slots = Slots::default();
        assert!(Regex::new(b"^/(a+)/(b)?", false).unwrap().matches(b"/aa/c", &slots));
        let mut out = Vec::new();
        assert!(slots.read_capture(1, &mut out));
        assert!(!slots.read_capture(2, &mut out));
        assert_eq!(out, b"aa");
    }

    #[test]
    fn a_catastrophic_pattern_ends() {
        let regex = Regex::new(br"^(?=(a+)+$)(a+)+\2$", false).unwrap();
        assert!(!regex.is_match(&[&[b'a'; 64][..], b"!"].concat()));
    }
}
