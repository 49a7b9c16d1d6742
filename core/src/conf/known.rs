//! Directives that nginx has, so that one we lack is told apart from one that nobody has; and "did you mean".

use std::collections::BTreeSet;

/// The names of nginx's directives, by the top-level block that they live in.
#[derive(Debug, Default)]
pub struct Known {
    rows: Vec<(&'static str, &'static str)>,
}

impl Known {
    /// Reads `area<TAB>name` lines; `#` begins a comment.
    pub fn parse(table: &'static str) -> Self {
        let rows =
            table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t')).collect();
        Known { rows }
    }

    /// True when nginx has a directive of this name in this area (`core`, `http`, `stream`, `mail`).
    pub fn contains(&self, area: &str, name: &str) -> bool {
        self.rows.iter().any(|(its_area, its_name)| *its_area == area && *its_name == name)
    }

    /// The areas in which nginx has a directive of this name.
    pub fn areas(&self, name: &str) -> Vec<&'static str> {
        self.rows.iter().filter(|(_, its_name)| *its_name == name).map(|(area, _)| *area).collect()
    }

    /// All rows, `(area, name)`.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.rows.iter().copied()
    }
}

/// The candidate nearest to `name`, if it is near enough to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.len() / 3).clamp(1, 3);
    let candidates: BTreeSet<&str> = candidates.collect();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= allowed)
        .map(|candidate| (distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace) that turn `a` into `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for ((right, diagonal), above) in b.iter().zip(&row).zip(row.iter().skip(1)) {
            let before = next.last().copied().unwrap_or(0);
            next.push((diagonal + usize::from(left != right)).min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        let names = ["proxy_pass", "proxy_bind", "listen", "root"];
        for (name, expected) in [
            ("prox_pass", Some("proxy_pass")),
            ("proxy_psas", Some("proxy_pass")),
            ("lisen", Some("listen")),
            ("roots", Some("root")),
            ("gzip", None),
        ] {
            assert_eq!(nearest(name, names.into_iter()), expected, "{name}");
        }
    }
}
