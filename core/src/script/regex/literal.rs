//! What a text must contain for a pattern to match it: one of a few strings, in any case of ASCII.

use super::ast::{Condition, Node, Pattern};
use super::compile::encode;
use super::set::CharSet;

/// The most strings of one pattern.
const MOST: usize = 512;
/// The longest of them.
const LONGEST: usize = 64;
/// The shortest that are worth looking for.
const SHORTEST: usize = 2;

/// Strings, in lower case, one of which is in every text that matches.
pub type Needs = Vec<Vec<u8>>;

/// The strings of a pattern; `None` when there are none that would tell much.
pub fn needs(pattern: &Pattern) -> Option<Needs> {
    let needs = best(&pattern.root, Letters { utf: pattern.utf, fold: true }).filter(|needs| weight(needs) >= SHORTEST);
    needs.filter(|_| !pattern.accepts)
}

/// What it is worth: the length of the shortest.
fn weight(needs: &Needs) -> usize {
    needs.iter().map(Vec::len).min().unwrap_or(0)
}

/// A string that is in every text that matches, as it stands there.
pub fn contained(pattern: &Pattern) -> Option<Vec<u8>> {
    if pattern.accepts {
        return None;
    }
    match &mut *best(&pattern.root, Letters { utf: pattern.utf, fold: false })? {
        [only] if !only.is_empty() => Some(std::mem::take(only)),
        _ => None,
    }
}

/// How characters become strings.
#[derive(Clone, Copy)]
struct Letters {
    utf: bool,
    /// All in lower case.
    fold: bool,
}

fn better(one: Option<Needs>, other: Option<Needs>) -> Option<Needs> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let key = |needs: &Needs| (weight(needs), usize::MAX - needs.len());
            Some(if key(&other) > key(&one) { other } else { one })
        }
        (one, other) => one.or(other),
    }
}

/// Strings one of which is in every match.
fn best(node: &Node, letters: Letters) -> Option<Needs> {
    match node {
        Node::Char(_) | Node::Letter(_) => exact(node, letters),
        Node::Group(_, inner) | Node::Atomic(inner) => best(inner, letters),
        Node::Repeat(inner, times) if times.min > 0 => best(inner, letters),
        Node::Look(look, inner) if !look.negative => best(inner, letters),
        Node::Alt(branches) => union(branches.iter().map(|branch| best(branch, letters))),
        Node::If(condition, yes, no) => match &**condition {
            Condition::Known(known) => best(if *known { yes } else { no }, letters),
            _ => union([best(yes, letters), best(no, letters)].into_iter()),
        },
        Node::Concat(nodes) => concat(nodes, letters),
        _ => None,
    }
}

fn union(mut all: impl Iterator<Item = Option<Needs>>) -> Option<Needs> {
    all.try_fold(Needs::new(), |mut sum, needs| {
        sum.extend(needs?);
        (sum.len() <= MOST).then_some(sum)
    })
}

/// Parts in a row that are strings by themselves are one string.
fn concat(nodes: &[Node], letters: Letters) -> Option<Needs> {
    let mut found = None;
    let mut run: Option<Needs> = None;
    for node in nodes {
        if is_nothing(node) {
            continue;
        }
        match exact(node, letters) {
            Some(strings) => match run.take() {
                None => run = Some(strings),
                Some(begun) => match cross(&begun, &strings) {
                    Some(longer) => run = Some(longer),
                    None => {
                        found = better(found, Some(begun));
                        run = Some(strings);
                    }
                },
            },
            None => {
                found = better(found, run.take());
                found = better(found, best(node, letters));
            }
        }
    }
    better(found, run)
}

fn is_nothing(node: &Node) -> bool {
    matches!(node, Node::Empty | Node::Assert(_) | Node::Keep | Node::Look(..))
}

fn cross(begun: &Needs, more: &Needs) -> Option<Needs> {
    if begun.len() * more.len() > MOST || begun.iter().any(|string| string.len() >= LONGEST) {
        return None;
    }
    let join = |one: &Vec<u8>, other: &Vec<u8>| [&**one, other].concat();
    Some(begun.iter().flat_map(|one| more.iter().map(move |other| join(one, other))).collect())
}

/// All strings that a part can be, if those are few.
fn exact(node: &Node, letters: Letters) -> Option<Needs> {
    let one = |code: u32| {
        let mut bytes = Vec::new();
        encode(code, letters.utf, &mut bytes);
        if letters.fold {
            bytes.make_ascii_lowercase();
        }
        bytes
    };
    match node {
        Node::Char(code) => Some(vec![one(*code)]),
        Node::Letter(byte) if letters.fold => Some(vec![vec![*byte]]),
        Node::Letter(byte) => Some(vec![vec![*byte], vec![byte.to_ascii_uppercase()]]),
        Node::Set(set) => few(set).map(|codes| {
            let mut strings: Needs = codes.into_iter().map(one).collect();
            strings.sort_unstable();
            strings.dedup();
            strings
        }),
        Node::Group(_, inner) | Node::Atomic(inner) => exact(inner, letters),
        Node::Concat(nodes) => nodes
            .iter()
            .filter(|node| !is_nothing(node))
            .try_fold(vec![Vec::new()], |sum, node| cross(&sum, &exact(node, letters)?)),
        Node::Alt(branches) => union(branches.iter().map(|branch| exact(branch, letters))),
        Node::Repeat(inner, times) if times.max == Some(times.min) && (1..=8).contains(&times.min) => {
            let strings = exact(inner, letters)?;
            (1..times.min).try_fold(strings.clone(), |sum, _| cross(&sum, &strings))
        }
        _ => None,
    }
}

/// The members of a small set.
fn few(set: &CharSet) -> Option<Vec<u32>> {
    let mut codes: Vec<u32> = set.low().iter().map(u32::from).collect();
    for (first, last) in set.high() {
        if last - first > 4 {
            return None;
        }
        codes.extend(*first..=*last);
    }
    (codes.len() <= 4).then_some(codes)
}

/// The most beginnings that are looked for at once.
const MOST_BEGINNINGS: usize = 64;

/// A string that a match can begin with, and whether more of it may be known.
type Beginning = (Vec<u8>, bool);

/// Strings of two or three bytes that all matches begin with, or of more than that cut off; `None` when they are too many
/// or too short.
pub fn beginnings(root: &Node, utf: bool) -> Option<Needs> {
    [3, 2].into_iter().find_map(|longest| {
        let found = Beginnings { utf, longest }.after(vec![(Vec::new(), true)], root)?;
        let mut strings: Needs = found.into_iter().map(|(string, _)| string).collect();
        strings.sort_unstable();
        strings.dedup();
        (strings.len() <= MOST_BEGINNINGS && weight(&strings) >= SHORTEST).then_some(strings)
    })
}

struct Beginnings {
    utf: bool,
    longest: usize,
}

impl Beginnings {
    /// What becomes of beginnings when this part follows.
    fn after(&self, begun: Vec<Beginning>, node: &Node) -> Option<Vec<Beginning>> {
        if begun.iter().all(|(_, open)| !open) {
            return Some(begun);
        }
        Some(match node {
            Node::Char(code) => self.then(begun, &CharSet::of([*code]))?,
            Node::Letter(byte) => {
                self.then(begun, &CharSet::of([u32::from(*byte), u32::from(byte.to_ascii_uppercase())]))?
            }
            Node::Set(set) => self.then(begun, set)?,
            Node::Group(_, inner) | Node::Atomic(inner) => self.after(begun, inner)?,
            Node::Concat(nodes) => nodes.iter().try_fold(begun, |begun, node| self.after(begun, node))?,
            Node::Alt(branches) => {
                let mut all = Vec::new();
                for branch in branches {
                    all.extend(self.after(begun.clone(), branch)?);
                    if all.len() > MOST_BEGINNINGS {
                        all.sort_unstable();
                        all.dedup();
                    }
                }
                all
            }
            Node::Repeat(inner, times) if times.max != Some(0) => {
                let mut once = self.after(begun.clone(), inner)?;
                if times.max != Some(1) {
                    once.iter_mut().for_each(|(_, open)| *open = false);
                }
                if times.min == 0 {
                    once.extend(begun);
                }
                once
            }
            node if is_nothing(node) => begun,
            Node::Repeat(..) => begun,
            _ => begun.into_iter().map(|(string, _)| (string, false)).collect(),
        })
        .filter(|all| all.len() <= 8 * MOST_BEGINNINGS)
    }

    fn then(&self, begun: Vec<Beginning>, set: &CharSet) -> Option<Vec<Beginning>> {
        let Some(codes) = few(set) else {
            return Some(begun.into_iter().map(|(string, _)| (string, false)).collect());
        };
        let mut all = Vec::new();
        for (string, open) in begun {
            if !open {
                all.push((string, false));
                continue;
            }
            for code in &codes {
                let mut longer = string.clone();
                encode(*code, self.utf, &mut longer);
                longer.truncate(self.longest);
                let open = longer.len() < self.longest;
                all.push((longer, open));
            }
        }
        all.sort_unstable();
        all.dedup();
        Some(all)
    }
}
