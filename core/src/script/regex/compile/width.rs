//! How many characters a part of a pattern takes.

use super::super::ast::{Condition, Node, Target, Verb};
use super::Compiler;
use super::group::find;

/// How deep subroutines and references are followed.
const DEPTH: u32 = 8;

type Width = (u32, Option<u32>);

impl Compiler<'_> {
    /// The least and the most; `None` for the most without a limit, and altogether where it cannot be told.
    pub(super) fn width(&self, node: &Node, depth: u32) -> Option<Width> {
        Some(match node {
            Node::Char(_) | Node::Letter(_) | Node::Set(_) => (1, Some(1)),
            Node::Empty | Node::Assert(_) | Node::Look(..) | Node::Keep | Node::Verb(_) => (0, Some(0)),
            Node::Concat(nodes) => {
                nodes.iter().take_while(|node| !is_end(node)).try_fold((0, Some(0)), |sum: Width, node| {
                    let own = self.width(node, depth)?;
                    Some((sum.0.saturating_add(own.0), add(sum.1, own.1)))
                })?
            }
            Node::Alt(nodes) => self.either(nodes.iter(), depth)?,
            Node::Group(_, inner) | Node::Atomic(inner) => self.width(inner, depth)?,
            Node::Repeat(inner, times) => {
                let (least, most) = self.width(inner, depth)?;
                let most = match (most, times.max) {
                    (Some(0), _) => Some(0),
                    (Some(most), Some(max)) => most.checked_mul(max),
                    _ => None,
                };
                (least.saturating_mul(times.min), most)
            }
            Node::Back(target, _) | Node::Call(target) => self.target_width(target, depth)?,
            Node::If(condition, yes, no) => match &**condition {
                Condition::Known(true) => self.width(yes, depth)?,
                Condition::Known(false) => self.width(no, depth)?,
                _ => self.either([&**yes, &**no].into_iter(), depth)?,
            },
        })
    }

    fn either<'n>(&self, nodes: impl Iterator<Item = &'n Node>, depth: u32) -> Option<Width> {
        let mut widths = nodes.map(|node| self.width(node, depth));
        let first = widths.next()??;
        widths.try_fold(first, |sum, own| {
            let own = own?;
            let most = sum.1.zip(own.1).map(|(one, other)| one.max(other));
            Some((sum.0.min(own.0), most))
        })
    }

    fn target_width(&self, target: &Target, depth: u32) -> Option<Width> {
        let Target::Groups(groups) = target else { return None };
        let [group] = **groups else { return None };
        if depth >= DEPTH || group == 0 {
            return None;
        }
        self.width(find(&self.pattern.root, group)?, depth + 1)
    }

    /// True unless it takes something in any case.
    pub(super) fn may_be_empty(&self, node: &Node) -> bool {
        // A group that is referred to may not have matched, or nothing.
        self.width(node, 0).is_none_or(|(least, _)| least == 0) || has_accept(node)
    }
}

fn add(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    one.zip(other).and_then(|(one, other)| one.checked_add(other))
}

/// Nothing that follows is reached.
fn is_end(node: &Node) -> bool {
    matches!(node, Node::Verb(Verb::Accept | Verb::Fail))
}

/// `(*ACCEPT)` ends a subroutine wherever it is.
fn has_accept(node: &Node) -> bool {
    match node {
        Node::Verb(Verb::Accept) | Node::Call(_) => true,
        Node::Concat(nodes) | Node::Alt(nodes) => nodes.iter().any(has_accept),
        Node::Group(_, inner) | Node::Repeat(inner, _) | Node::Atomic(inner) => has_accept(inner),
        Node::If(_, yes, no) => has_accept(yes) || has_accept(no),
        _ => false,
    }
}
