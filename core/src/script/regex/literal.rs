//! What a text must contain for a pattern to match it: one of a few strings, in any case of ASCII.

use super::ast::{Condition, Node, Pattern};
use super::compile::encode;
use super::set::CharSet;

/// The most strings of one pattern.
const MOST: usize = 64;
/// The longest of them.
const LONGEST: usize = 64;
/// The shortest that are worth looking for.
const SHORTEST: usize = 2;

/// Strings, in lower case, one of which is in every text that matches.
pub type Needs = Vec<Vec<u8>>;

/// The strings of a pattern; `None` when there are none that would tell much.
pub fn needs(pattern: &Pattern) -> Option<Needs> {
    let needs = best(&pattern.root, pattern.utf).filter(|needs| weight(needs) >= SHORTEST);
    needs.filter(|_| !pattern.accepts)
}

/// What it is worth: the length of the shortest.
fn weight(needs: &Needs) -> usize {
    needs.iter().map(Vec::len).min().unwrap_or(0)
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
fn best(node: &Node, utf: bool) -> Option<Needs> {
    match node {
        Node::Char(_) | Node::Letter(_) => exact(node, utf),
        Node::Group(_, inner) | Node::Atomic(inner) => best(inner, utf),
        Node::Repeat(inner, times) if times.min > 0 => best(inner, utf),
        Node::Look(look, inner) if !look.negative => best(inner, utf),
        Node::Alt(branches) => union(branches.iter().map(|branch| best(branch, utf))),
        Node::If(condition, yes, no) => match &**condition {
            Condition::Known(known) => best(if *known { yes } else { no }, utf),
            _ => union([best(yes, utf), best(no, utf)].into_iter()),
        },
        Node::Concat(nodes) => concat(nodes, utf),
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
fn concat(nodes: &[Node], utf: bool) -> Option<Needs> {
    let mut found = None;
    let mut run: Option<Needs> = None;
    for node in nodes {
        if is_nothing(node) {
            continue;
        }
        match exact(node, utf) {
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
                found = better(found, best(node, utf));
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
fn exact(node: &Node, utf: bool) -> Option<Needs> {
    let one = |code: u32| {
        let mut bytes = Vec::new();
        encode(code, utf, &mut bytes);
        bytes.make_ascii_lowercase();
        bytes
    };
    match node {
        Node::Char(code) => Some(vec![one(*code)]),
        Node::Letter(byte) => Some(vec![vec![*byte]]),
        Node::Set(set) => few(set).map(|codes| {
            let mut strings: Needs = codes.into_iter().map(one).collect();
            strings.sort_unstable();
            strings.dedup();
            strings
        }),
        Node::Group(_, inner) | Node::Atomic(inner) => exact(inner, utf),
        Node::Concat(nodes) => nodes
            .iter()
            .filter(|node| !is_nothing(node))
            .try_fold(vec![Vec::new()], |sum, node| cross(&sum, &exact(node, utf)?)),
        Node::Alt(branches) => union(branches.iter().map(|branch| exact(branch, utf))),
        Node::Repeat(inner, times) if times.max == Some(times.min) && (1..=8).contains(&times.min) => {
            let strings = exact(inner, utf)?;
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
