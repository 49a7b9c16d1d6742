//! Configuration errors: where, what, and nginx's `[emerg] ... in FILE:LINE` form.

use std::fmt;
use std::rc::Rc;

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
}

impl ConfigError {
    /// An error that belongs to a place.
    pub fn new(at: &Place, message: impl Into<String>) -> Self {
        ConfigError { at: Some(at.clone()), message: message.into() }
    }

    /// An error of no particular line, for example an address that cannot be bound.
    pub fn general(message: impl Into<String>) -> Self {
        ConfigError { at: None, message: message.into() }
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
}

impl Errors {
    /// Records a mistake; the same mistake at the same place is recorded once.
    pub fn push(&mut self, error: ConfigError) {
        if !self.found.contains(&error) {
            self.found.push(error);
        }
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
