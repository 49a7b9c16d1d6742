//! Regular expressions as nginx.conf writes them: PCRE's, on bytes.
//!
//! A pattern is read (`parse`) from its bytes into a tree (`ast`), compiled (`compile`) to a program and tried (`machine`)
//! as PCRE tries it, so that matches and groups are the same; `tests` compares them with PCRE2 itself. What is not
//! offered is refused by name. A search whose limits are reached ends with an error, which is never an answer.

mod ast;
mod compile;
mod list;
mod literal;
mod machine;
mod parse;
mod program;
mod set;
mod unicode;

#[cfg(test)]
mod tests;

use std::fmt;

pub use list::PatternList;
pub use machine::MatchError;
use machine::search;
pub use parse::PatternError;
use program::Program;

use crate::conf::{ConfigError, Place};
use crate::script::{Slots, Variables};
use crate::subject::Subject;

/// A compiled pattern and the variables that its named groups set.
pub struct Regex {
    program: Box<Program>,
    pattern: Box<[u8]>,
    at: Option<Place>,
    names: Vec<(usize, String)>,
    /// Groups and the slots that they are left in.
    slots: Vec<(usize, usize)>,
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.pattern.escape_ascii())
    }
}

/// A search that has not come to an end: which pattern, of which line, on how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: MatchError,
    pattern: Box<[u8]>,
    at: Option<Place>,
    length: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "regex \"{}\"", String::from_utf8_lossy(&self.pattern))?;
        if let Some(at) = &self.at {
            write!(f, " in {at}")?;
        }
        write!(f, " failed on {} bytes: {}", self.length, self.error)
    }
}

/// Whether a pattern matches; boxed, since it hardly ever fails to say.
pub type Matches<T> = Result<T, Box<Failure>>;

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The pattern's mistake, or what it asks that is not offered, and where.
    pub fn new(pattern: &[u8], ignore_case: bool) -> Result<Self, String> {
        Regex::build(pattern, ignore_case)
            .map_err(|error| format!("regex \"{}\" is invalid: {error}", String::from_utf8_lossy(pattern)))
    }

    fn build(pattern: &[u8], ignore_case: bool) -> Result<Self, PatternError> {
        let tree = parse::parse(pattern, ignore_case)?;
        let program = compile::compile(&tree).map_err(|(message, offset)| PatternError { message, offset })?;
        let name = |(name, group): &(Vec<u8>, u32)| (*group as usize, String::from_utf8_lossy(name).into_owned());
        Ok(Regex {
            names: tree.names.iter().map(name).collect(),
            program: Box::new(program),
            pattern: pattern.into(),
            at: None,
            slots: Vec::new(),
        })
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
        for (group, name) in std::mem::take(&mut regex.names) {
            regex.slots.push((group, variables.capturable(&name, at)?));
        }
        Ok(regex.written_at(at))
    }

    /// Says where the pattern is written.
    #[must_use]
    pub fn written_at(mut self, at: &Place) -> Self {
        self.at = Some(at.clone());
        self
    }

    /// The number of groups, the whole match included.
    pub fn groups(&self) -> usize {
        self.program.groups
    }

    /// Whether the pattern occurs in `text`.
    ///
    /// # Errors
    /// A limit was reached.
    pub fn is_match(&self, text: &[u8]) -> Matches<bool> {
        self.search(text, 0).map(|found| found.is_some())
    }

    /// Like [`is_match`](Regex::is_match), and leaves the groups in `slots` when it is one.
    ///
    /// # Errors
    /// A limit was reached.
    pub fn matches(&self, text: &[u8], slots: &Slots) -> Matches<bool> {
        let groups = self.groups();
        let Some(found) = self.search(text, if groups > 1 { groups } else { 0 })? else { return Ok(false) };
        for (group, slot) in &self.slots {
            slots.set(*slot, found.get(*group).cloned().flatten().and_then(|range| text.get(range)));
        }
        slots.capture(text, found);
        Ok(true)
    }

    fn search(&self, text: &[u8], wanted: usize) -> Matches<Option<machine::Groups>> {
        search(&self.program, text, wanted).map_err(|error| {
            Box::new(Failure { error, pattern: self.pattern.clone(), at: self.at.clone(), length: text.len() })
        })
    }
}
