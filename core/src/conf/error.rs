//! Configuration errors: where, what, and nginx's `[emerg] ... in FILE:LINE` form.

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use super::tree::{Node, Word};

/// The name under which the brace that closes a block is missing.
pub const CLOSING: &[u8] = b"}";
/// The name under which the brace that opens a block is missing.
pub const OPENING: &[u8] = b"{";

/// A position in a configuration file. Lines and columns count from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's full name.
    pub file: Rc<str>,
    /// The line.
    pub line: u32,
    /// The column, in bytes.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a directive's value is refused; whoever applies the directive adds the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Refusal(text)
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Refusal(text.to_owned())
    }
}

/// One mistake in a configuration. Displayed as nginx does: `message in FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, when it belongs to a place in a file.
    pub at: Option<Place>,
    /// What is wrong, in nginx's words where tools read them.
    pub message: String,
    /// The name that is not there, if that is what is wrong: nothing is, where a line that was refused would have made it.
    pub missing: Option<Box<[u8]>>,
}

impl ConfigError {
    /// An error that belongs to a place.
    pub fn new(at: &Place, message: impl Into<String>) -> Self {
        ConfigError { at: Some(at.clone()), message: message.into(), missing: None }
    }

    /// An error about a name that is not there: a variable's with its `$`, or that of a format, a zone or a group.
    pub fn missing(at: &Place, message: impl Into<String>, name: &[u8]) -> Self {
        ConfigError { missing: Some(name.to_ascii_lowercase().into()), ..ConfigError::new(at, message) }
    }

    /// An error of no particular line, for example an address that cannot be bound.
    pub fn general(message: impl Into<String>) -> Self {
        ConfigError { at: None, message: message.into(), missing: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{} in {at}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything found wrong in one run, in the order found.
#[derive(Debug, Default)]
pub struct Errors {
    found: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    excused: Box<Excused>,
    mentioned: Vec<Word>,
}

/// The names that lines would have made that were refused: who uses one of them has made no mistake.
#[derive(Debug, Default)]
struct Excused {
    names: HashSet<Box<[u8]>>,
    /// A file is missing, or is no configuration: any name may have been in it.
    any: bool,
}

impl Excused {
    fn excuses(&self, name: &[u8]) -> bool {
        let is_of_a_family = || {
            let end = name.iter().position(|byte| *byte == b'_')?;
            Some(name.starts_with(b"$") && self.names.contains(name.get(..=end)?))
        };
        self.any || self.names.contains(name) || is_of_a_family().unwrap_or(false)
    }

    /// Every name that stands in a line: words, `$variables`, `(?<groups>` and `zones=`.
    fn add(&mut self, node: &Node) {
        for word in node.args.iter().chain([&node.name]) {
            self.add_names(word.bytes());
            self.names.insert(word.bytes().to_ascii_lowercase().into());
        }
        node.body.iter().flatten().for_each(|node| self.add(node));
    }

    fn add_names(&mut self, word: &[u8]) {
        let word = word.to_ascii_lowercase();
        let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
        for (at, byte) in word.iter().enumerate() {
            let rest = word.get(at + 1..).unwrap_or_default();
            let (is_variable, rest) = match byte {
                b'$' => (true, rest.strip_prefix(b"{").unwrap_or(rest)),
                b'<' | b'\'' => (true, rest),
                b'=' => (false, rest),
                _ => continue,
            };
            let name = rest.iter().take_while(is_name).copied();
            self.names.insert(is_variable.then_some(b'$').into_iter().chain(name).collect());
        }
    }
}

impl Errors {
    /// Records a mistake; the same mistake at the same place is recorded once.
    pub fn push(&mut self, error: ConfigError) {
        if error.missing.as_ref().is_some_and(|name| self.excused.excuses(name)) {
            return;
        }
        if !self.found.contains(&error) {
            self.found.push(error);
        }
    }

    /// Remembers the names of a line that was refused: that they are missing is no mistake of who uses them.
    pub fn excuse(&mut self, node: &Node) {
        self.excused.add(node);
        // The variables of a module begin as its directives do.
        let name = node.name.bytes();
        if let Some(end) = name.iter().position(|byte| *byte == b'_') {
            let family = [b"$".as_slice(), name.get(..=end).unwrap_or_default()].concat();
            self.excused.names.insert(family.into());
        }
    }

    /// Remembers a name, a variable's with its `$`, that a mistake keeps from being made.
    pub fn excuse_name(&mut self, name: &[u8]) {
        self.excused.names.insert(name.to_ascii_lowercase().into());
    }

    /// Remembers the names of groups in a pattern that was refused.
    pub fn excuse_pattern(&mut self, pattern: &[u8]) {
        self.excused.add_names(pattern);
    }

    /// Takes back that a block is not closed: a brace in a word without quotes (`\d{4}`) has opened one by mistake.
    pub fn excuse_closing(&mut self) {
        self.found.retain(|error| error.missing.as_deref() != Some(CLOSING));
        self.excuse_name(CLOSING);
    }

    /// Remembers that there may be names which nobody has seen.
    pub fn excuse_any(&mut self) {
        self.excused.any = true;
    }

    /// Records something that is allowed but probably not meant.
    pub fn warn(&mut self, warning: ConfigError) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Records a warning that one line of a file gives for all others like it.
    pub fn warn_once(&mut self, warning: ConfigError) {
        let file = |error: &ConfigError| error.at.as_ref().map(|at| at.file.clone());
        if !self.warnings.iter().any(|other| other.message == warning.message && file(other) == file(&warning)) {
            self.warnings.push(warning);
        }
    }

    /// Remembers a word whose variables must be there, whether or not anything will use it.
    pub fn mention(&mut self, word: &Word) {
        if word.bytes().contains(&b'$') {
            self.mentioned.push(word.clone());
        }
    }

    /// The words mentioned since this was last asked.
    pub fn take_mentioned(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.mentioned)
    }

    /// Keeps the value of a result, or records its error.
    pub fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// True when nothing has been found wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The mistakes.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.found.iter()
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &ConfigError> {
        self.warnings.iter()
    }
}
