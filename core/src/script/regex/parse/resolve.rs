//! References, once all groups are known.

use super::super::ast::{Condition, Node, Target};
use super::{Parsed, Parser};

impl Parser<'_> {
    /// Puts numbers in the place of names, and refuses references to groups that are not there.
    pub(super) fn resolve(&self, node: &mut Node) -> Parsed<()> {
        match node {
            Node::Empty
            | Node::Char(_)
            | Node::Letter(_)
            | Node::Set(_)
            | Node::Assert(_)
            | Node::Keep
            | Node::Verb(_) => Ok(()),
            Node::Concat(nodes) | Node::Alt(nodes) => nodes.iter_mut().try_for_each(|node| self.resolve(node)),
            Node::Group(_, inner) | Node::Repeat(inner, _) | Node::Atomic(inner) | Node::Look(_, inner) => {
                self.resolve(inner)
            }
            Node::Back(target, _) => self.target(target, false),
            Node::Call(Target::Name(_, at) | Target::Number(_, at)) if self.steers => {
                self.refuse_at(*at, "verbs other than (*FAIL) are not supported together with subroutines")
            }
            Node::Call(target) => self.target(target, true),
            Node::If(condition, yes, no) => {
                self.condition(condition)?;
                self.resolve(yes)?;
                self.resolve(no)
            }
        }
    }

    /// A subroutine is one group; anything else may mean all of one name.
    fn target(&self, target: &mut Target, single: bool) -> Parsed<()> {
        let (groups, at) = match target {
            Target::Groups(_) => return Ok(()),
            Target::Number(number, at) if *number <= self.most_groups => (vec![*number], *at),
            Target::Number(_, at) => (Vec::new(), *at),
            Target::Name(name, at) => (self.groups_of(name), *at),
        };
        let groups = if single { groups.get(..1).unwrap_or_default().to_vec() } else { groups };
        if groups.is_empty() {
            return self.refuse_at(at, "reference to non-existent group");
        }
        *target = Target::Groups(groups);
        Ok(())
    }

    fn groups_of(&self, name: &[u8]) -> Vec<u32> {
        self.names.iter().filter(|(known, _)| known == name).map(|(_, group)| *group).collect()
    }

    fn condition(&self, condition: &mut Condition) -> Parsed<()> {
        match condition {
            Condition::Known(_) | Condition::Inside(None) => Ok(()),
            Condition::Look(_, node) => self.resolve(node),
            Condition::Inside(Some(target)) => self.target(target, false),
            Condition::Matched(target) => {
                // R and R1 are names if there are groups that are called so.
                let inside = match target {
                    Target::Name(name, at) if self.groups_of(name).is_empty() => {
                        recursion(name).map(|number| (number, *at))
                    }
                    _ => None,
                };
                let Some((number, at)) = inside else { return self.target(target, false) };
                let mut inner = number.map(|number| Target::Number(number, at));
                if let Some(target) = &mut inner {
                    self.target(target, false)?;
                }
                *condition = Condition::Inside(inner);
                Ok(())
            }
        }
    }
}

/// `R` or `R1`
fn recursion(name: &[u8]) -> Option<Option<u32>> {
    let digits = name.strip_prefix(b"R")?;
    if digits.is_empty() {
        return Some(None);
    }
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().map(Some)
}
