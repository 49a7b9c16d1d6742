//! Host names with wildcards: exact names, `*.example.org`, `.example.org`, `mail.*`; the most specific wins.

use crate::lookup::Lookup;
use std::collections::hash_map::Entry;

use crate::conf::{Line, Refusal};

/// A table from host name patterns to values.
#[derive(Debug)]
pub struct Names<T> {
    exact: Lookup<Box<[u8]>, T>,
    /// By suffix, with its leading dot.
    leading: Lookup<Box<[u8]>, T>,
    /// By prefix, with its trailing dot.
    trailing: Lookup<Box<[u8]>, T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Names { exact: Lookup::default(), leading: Lookup::default(), trailing: Lookup::default() }
    }
}

/// Why a pattern cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// A wildcard in the middle, or more than one.
    Invalid,
    /// The same pattern is there already, and stays what it was.
    Conflict,
}

/// Looks at the arguments of `server_name`: what no name can begin with is refused, a slash is told of.
///
/// # Errors
/// nginx's words. Whether a wildcard elsewhere makes sense shows when the names of an address come together.
pub fn judge(line: &mut Line<'_>) -> Result<(), Refusal> {
    for name in line.args() {
        match name.bytes() {
            b"~" => return Err(format!("empty regex in server name \"{name}\"").into()),
            b"." | b"*" | b"*." => return Err(format!("server name \"{name}\" is invalid").into()),
            [b'*', next, ..] if *next != b'.' => return Err(format!("server name \"{name}\" is invalid").into()),
            _ => {}
        }
    }
    for name in line.args().iter().filter(|name| name.bytes().contains(&b'/')) {
        line.warn(format!("server name \"{name}\" has suspicious symbols"));
    }
    Ok(())
}

impl<T: Clone> Names<T> {
    /// Adds a pattern, whatever its case.
    ///
    /// # Errors
    /// See [`BadName`].
    pub fn add(&mut self, pattern: &[u8], value: T) -> Result<(), BadName> {
        let pattern = pattern.to_ascii_lowercase();
        let put = |table: &mut Lookup<Box<[u8]>, T>, key: &[u8], value: T| match table.entry(key.into()) {
            Entry::Occupied(_) => Err(BadName::Conflict),
            Entry::Vacant(place) => {
                place.insert(value);
                Ok(())
            }
        };
        let plain =
            |name: &[u8]| !name.is_empty() && !name.contains(&b'*') && !name.windows(2).any(|pair| pair == b"..");
        if let Some(suffix) = pattern.strip_prefix(b"*") {
            return if suffix.starts_with(b".") && plain(suffix) {
                put(&mut self.leading, suffix, value)
            } else {
                Err(BadName::Invalid)
            };
        }
        if let Some(prefix) = pattern.strip_suffix(b"*") {
            return if prefix.ends_with(b".") && plain(prefix) {
                put(&mut self.trailing, prefix, value)
            } else {
                Err(BadName::Invalid)
            };
        }
        if let Some(name) = pattern.strip_prefix(b".") {
            if !plain(name) {
                return Err(BadName::Invalid);
            }
            put(&mut self.leading, &pattern, value.clone())?;
            return put(&mut self.exact, name, value);
        }
        if plain(&pattern) || pattern.is_empty() {
            put(&mut self.exact, &pattern, value)
        } else {
            Err(BadName::Invalid)
        }
    }

    /// Adds literal names, already in lower case, that may contain anything.
    pub fn add_exact(&mut self, names: impl IntoIterator<Item = (Vec<u8>, T)>) {
        self.exact.extend(names.into_iter().map(|(name, value)| (name.into(), value)));
    }

    /// The value of the most specific pattern that `name`, which must be in lower case, matches: the exact name, else
    /// the longest `*.suffix`, else the longest `prefix.*`.
    pub fn find(&self, name: &[u8]) -> Option<&T> {
        if let Some(value) = self.exact.get(name) {
            return Some(value);
        }
        let dots = || name.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        if !self.leading.is_empty()
            && let Some(value) = dots().filter(|at| *at > 0).find_map(|at| self.leading.get(name.get(at..)?))
        {
            return Some(value);
        }
        if self.trailing.is_empty() {
            return None;
        }
        dots()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .filter(|at| *at + 1 < name.len())
            .find_map(|at| self.trailing.get(name.get(..=at)?))
    }

    /// True when nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.leading.is_empty() && self.trailing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_wins() {
        let mut names = Names::default();
        for pattern in ["example.org", "*.example.org", "*.sub.example.org", "www.*", "www.example.*", ".both.org"] {
            names.add(pattern.as_bytes(), pattern).unwrap();
        }
        for (name, expected) in [
            ("example.org", Some("example.org")),
            ("a.example.org", Some("*.example.org")),
            ("a.b.example.org", Some("*.example.org")),
            ("a.sub.example.org", Some("*.sub.example.org")),
            ("www.example.org", Some("*.example.org")),
            ("www.example.com", Some("www.example.*")),
            ("www.other.com", Some("www.*")),
            ("both.org", Some(".both.org")),
            ("x.both.org", Some(".both.org")),
            (".example.org", None),
            ("www.", None),
            ("other", None),
        ] {
            assert_eq!(names.find(name.as_bytes()).copied(), expected, "{name}");
        }
    }

    #[test]
    fn bad_patterns() {
        let mut names = Names::default();
        for pattern in ["a.*.b", "*a.b", "a.b*", "*", "a..b"] {
            assert_eq!(names.add(pattern.as_bytes(), ()), Err(BadName::Invalid), "{pattern}");
        }
    }

    #[test]
    fn the_first_of_two_equal_patterns_stays() {
        let mut names = Names::default();
        names.add(b"a", 1).unwrap();
        assert_eq!(names.add(b"A", 2), Err(BadName::Conflict));
        assert_eq!(names.find(b"a"), Some(&1));
    }
}
