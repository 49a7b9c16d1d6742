//! The server for a host name: exact, then wildcards, then regular expressions, then the default.

use std::rc::Rc;

use tidegate_core::script::names::BadName;
use tidegate_core::script::regex::Matches;
use tidegate_core::script::{Names, PatternList, Regex, Slots};

/// The servers of one address.
pub struct ServerNames<T> {
    names: Names<T>,
    regexes: PatternList<T>,
    default: T,
}

impl<T: Clone> ServerNames<T> {
    /// Only the default server.
    pub fn new(default: T) -> Self {
        ServerNames { names: Names::default(), regexes: PatternList::default(), default }
    }

    /// Adds a name.
    ///
    /// # Errors
    /// Another server has it already, or it is no name.
    pub fn add(&mut self, name: &[u8], server: T) -> Result<(), BadName> {
        self.names.add(name, server)
    }

    /// Adds a pattern.
    pub fn add_regex(&mut self, regex: Rc<Regex>, server: T) {
        self.regexes.push(regex, server);
    }

    /// Makes the patterns fast, once all of them are there.
    pub fn prepare(&mut self) {
        self.regexes.prepare();
    }

    /// The server for a host in lower case; groups of a matching pattern are left in `slots`.
    ///
    /// # Errors
    /// A pattern could not say: the server is not known.
    pub fn find(&self, host: &[u8], slots: &Slots) -> Matches<&T> {
        if let Some(server) = self.names.find(host) {
            return Ok(server);
        }
        Ok(self.regexes.find(host, slots)?.unwrap_or(&self.default))
    }

    /// The default server.
    pub fn default_server(&self) -> &T {
        &self.default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence() {
        let mut names = ServerNames::new("default");
        assert_eq!(names.add(b"a.example.org", "exact"), Ok(()));
        assert_eq!(names.add(b"a.example.org", "again"), Err(BadName::Conflict));
        assert_eq!(names.add(b"*.example.org", "leading"), Ok(()));
        assert_eq!(names.add(b"a.*", "trailing"), Ok(()));
        names.add_regex(Rc::new(Regex::new(b"^(?<user>.+)\\.example\\.net$", true).unwrap()), "regex");
        let slots = Slots::default();
        for (host, expected) in [
            ("a.example.org", "exact"),
            ("b.example.org", "leading"),
            ("a.example.net", "trailing"),
            ("b.example.net", "regex"),
            ("other", "default"),
        ] {
            assert_eq!(names.find(host.as_bytes(), &slots), Ok(&expected), "{host}");
        }
    }
}
