//! The location for a path: `=`, the longest prefix, `^~`, then regular expressions in order, nested ones first.

use std::rc::Rc;
use tidegate_core::conf::Word;
use tidegate_core::lookup::Lookup;

use tidegate_core::script::regex::Matches;
use tidegate_core::script::{PatternList, Regex, Slots};

/// The locations of a server, or those nested in a location.
pub struct Locations<T> {
    exact: Lookup<Box<[u8]>, T>,
    /// Sorted by length, longest first.
    prefixes: Vec<Prefix<T>>,
    regexes: PatternList<Pattern<T>>,
    named: Lookup<Box<[u8]>, T>,
}

struct Prefix<T> {
    path: Box<[u8]>,
    no_regex: bool,
    auto_redirect: bool,
    value: T,
    nested: Locations<T>,
}

struct Pattern<T> {
    value: T,
    nested: Locations<T>,
}

impl<T> Default for Locations<T> {
    fn default() -> Self {
        Locations {
            exact: Lookup::default(),
            prefixes: Vec::new(),
            regexes: PatternList::default(),
            named: Lookup::default(),
        }
    }
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// A location.
    Location(T),
    /// The path lacks the last slash of this location: the client is sent there.
    Redirect(T),
    /// No location.
    Nothing,
}

impl<T: Clone> Locations<T> {
    /// Adds `= path`. `false` if it is there already.
    pub fn add_exact(&mut self, path: &[u8], value: T) -> bool {
        self.exact.insert(path.into(), value).is_none()
    }

    /// Adds a prefix with what is nested in it. `false` if it is there already.
    pub fn add_prefix(
        &mut self,
        path: &[u8],
        no_regex: bool,
        auto_redirect: bool,
        value: T,
        nested: Locations<T>,
    ) -> bool {
        if self.prefixes.iter().any(|prefix| *prefix.path == *path) {
            return false;
        }
        let at = self.prefixes.partition_point(|prefix| prefix.path.len() >= path.len());
        self.prefixes.insert(at, Prefix { path: path.into(), no_regex, auto_redirect, value, nested });
        true
    }

    /// Adds a pattern with what is nested in it.
    pub fn add_regex(&mut self, regex: Rc<Regex>, value: T, nested: Locations<T>) {
        self.regexes.push(regex, Pattern { value, nested });
    }

    /// Makes the patterns fast, once all of them are there.
    pub fn prepare(&mut self) {
        self.regexes.prepare();
    }

    /// Adds `@name`. nginx: of several the first; `false` says that this is not it.
    pub fn add_named(&mut self, name: &[u8], value: T) -> bool {
        let is_first = !self.named.contains_key(name);
        if is_first {
            self.named.insert(name.into(), value);
        }
        is_first
    }

    /// The location of this name.
    pub fn named(&self, name: &[u8]) -> Option<&T> {
        self.named.get(name)
    }

    /// The location for a path.
    ///
    /// # Errors
    /// A pattern could not say: no location is, least of all one that comes later.
    pub fn find(&self, path: &[u8], slots: &Slots) -> Matches<Found<T>> {
        Ok(self.search(path, slots)?.0)
    }

    /// What is found, and whether it is final (exact, or a regex) or only the best prefix so far.
    fn search(&self, path: &[u8], slots: &Slots) -> Matches<(Found<T>, bool)> {
        if !self.exact.is_empty()
            && let Some(value) = self.exact.get(path)
        {
            return Ok((Found::Location(value.clone()), true));
        }
        let mut best = Found::Nothing;
        let mut no_regex = false;
        for prefix in &self.prefixes {
            if prefix.auto_redirect && prefix.path.strip_suffix(b"/") == Some(path) {
                return Ok((Found::Redirect(prefix.value.clone()), true));
            }
            if path.starts_with(&prefix.path) {
                let (nested, is_final) = prefix.nested.search(path, slots)?;
                best = if nested.is_nothing() { Found::Location(prefix.value.clone()) } else { nested };
                if is_final {
                    return Ok((best, true));
                }
                no_regex = prefix.no_regex;
                break;
            }
        }
        if no_regex {
            return Ok((best, true));
        }
        if let Some(pattern) = self.regexes.find(path, slots)? {
            let (nested, _) = pattern.nested.search(path, slots)?;
            return Ok((if nested.is_nothing() { Found::Location(pattern.value.clone()) } else { nested }, true));
        }
        Ok((best, false))
    }
}

impl<T> Found<T> {
    fn is_nothing(&self) -> bool {
        matches!(self, Found::Nothing)
    }
}

/// nginx also takes a modifier that is glued to its path.
pub fn glued(name: &Word) -> (String, Word) {
    for modifier in ["=", "^~", "~*", "~"] {
        if let Some(rest) = name.after(modifier) {
            return (modifier.to_owned(), rest);
        }
    }
    (String::new(), name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> Rc<Regex> {
        Rc::new(Regex::new(pattern.as_bytes(), false).unwrap())
    }

    #[test]
    fn precedence_is_nginx_s() {
        let mut nested = Locations::default();
        nested.add_regex(regex(r"\.php$"), "nested php", Locations::default());
        nested.add_prefix(b"/docs/deep/", false, false, "nested prefix", Locations::default());
        let mut locations = Locations::default();
        assert!(locations.add_exact(b"/", "exact root"));
        assert!(locations.add_prefix(b"/", false, false, "root", Locations::default()));
        assert!(locations.add_prefix(b"/docs/", false, true, "docs", nested));
        assert!(locations.add_prefix(b"/images/", true, false, "images", Locations::default()));
        assert!(!locations.add_prefix(b"/images/", false, false, "twice", Locations::default()));
        locations.add_regex(regex(r"\.(gif|php)$"), "regex", Locations::default());
        let slots = Slots::default();
        for (path, expected) in [
            ("/", Found::Location("exact root")),
            ("/index.html", Found::Location("root")),
            ("/docs", Found::Redirect("docs")),
            ("/docs/a.html", Found::Location("docs")),
            ("/docs/a.gif", Found::Location("regex")),
            ("/docs/a.php", Found::Location("nested php")),
            ("/docs/deep/x", Found::Location("nested prefix")),
            ("/images/a.gif", Found::Location("images")),
            ("/a.gif", Found::Location("regex")),
        ] {
            assert_eq!(locations.find(path.as_bytes(), &slots), Ok(expected), "{path}");
        }
        assert_eq!(Locations::<&str>::default().find(b"/", &slots), Ok(Found::Nothing));
    }
}
