//! The list of what passes: names, one a line, sorted; `#` begins a comment.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The list as a file holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    heading: String,
    /// The names of what passes.
    pub names: BTreeSet<String>,
}

impl Expected {
    /// Reads a list; a missing file is an empty one.
    pub fn read(path: &Path) -> io::Result<Expected> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Expected::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Expected::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the list, with the comment at its head.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.to_text())
    }

    /// Makes the list say of these names, and of no others, what they came to.
    pub fn update<'a>(&mut self, outcomes: impl IntoIterator<Item = (&'a str, bool)>) {
        for (name, passed) in outcomes {
            if passed {
                self.names.insert(name.to_owned());
            } else {
                self.names.remove(name);
            }
        }
    }

    fn parse(text: &str) -> Expected {
        let heading = text.lines().take_while(|line| line.starts_with('#') || line.trim().is_empty());
        let heading = heading.map(|line| format!("{line}\n")).collect();
        let names = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
        Expected { heading, names: names.filter(|name| !name.is_empty()).map(str::to_owned).collect() }
    }

    fn to_text(&self) -> String {
        let names: String = self.names.iter().map(|name| format!("{name}\n")).collect();
        format!("{}{names}", self.heading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_heading_and_its_order() {
        let mut list = Expected::parse("# What passes.\n\nb.t\na.t # slow\n");
        list.update([("c.t", true), ("b.t", false), ("d.t", false)]);
        assert_eq!(list.to_text(), "# What passes.\n\na.t\nc.t\n");
    }
}
