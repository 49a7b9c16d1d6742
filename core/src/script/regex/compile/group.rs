//! Groups, assertions and subroutines.

use super::super::ast::{Condition, Look, Node, Target};
use super::super::program::Op;
use super::{Around, Compiled, Compiler, Open};

/// The longest that an assertion may look back.
const LONGEST_LOOK: u32 = 65_535;
/// The same where it is not one length alone.
const LONGEST_VARIABLE_LOOK: u32 = 255;

impl Compiler<'_> {
    pub(super) fn group(&mut self, number: u32, inner: &Node) -> Compiled<()> {
        let mark = self.register(1);
        self.emit(Op::Mark(mark))?;
        let assertions = self.around.len();
        self.open.push(Open { group: number, mark, assertions });
        self.node(inner)?;
        self.open.pop();
        self.emit(Op::Close(number, mark))?;
        Ok(())
    }

    pub(super) fn atomic(&mut self, inner: &Node) -> Compiled<()> {
        let fence = self.register(2);
        self.emit(Op::Fence(fence))?;
        self.sealing += 1;
        self.node(inner)?;
        self.emit(Op::Cut(fence))?;
        self.sealing -= 1;
        Ok(())
    }

    pub(super) fn look(&mut self, look: Look, inner: &Node) -> Compiled<()> {
        let fence = self.register(2);
        let begin = self.emit(if look.negative { Op::FenceElse(fence, 0) } else { Op::Fence(fence) })?;
        self.looked_at(look, inner, fence, look.negative)?;
        let end = match (look.negative, look.retried) {
            (true, _) => Op::UndoFail(fence),
            (false, false) => Op::CutBack(fence),
            (false, true) => Op::Back(fence),
        };
        self.emit(end)?;
        if look.negative {
            self.land(begin);
        } else {
            let here = self.here();
            self.looks.insert(begin, here);
        }
        Ok(())
    }

    /// An assertion as a condition.
    pub(super) fn asks(&mut self, look: Look, inner: &Node, yes: &Node, no: &Node) -> Compiled<()> {
        let fence = self.register(2);
        let begin = self.emit(Op::FenceElse(fence, 0))?;
        self.looked_at(look, inner, fence, true)?;
        let (first, second) = if look.negative { (yes, no) } else { (no, yes) };
        // Behind the assertion stands what holds when it has matched.
        let matched = if look.negative { self.emit(Op::Undo(fence, 0))? } else { self.emit(Op::CutBack(fence))? };
        if look.negative {
            self.land(begin);
            self.node(first)?;
            let end = self.emit(Op::Jump(0))?;
            self.land(matched);
            self.node(second)?;
            self.land(end);
        } else {
            self.node(second)?;
            let end = self.emit(Op::Jump(0))?;
            self.land(begin);
            self.node(first)?;
            self.land(end);
        }
        Ok(())
    }

    /// What an assertion looks at.
    fn looked_at(&mut self, look: Look, inner: &Node, fence: u32, has_else: bool) -> Compiled<()> {
        self.sealing += 1;
        self.around.push(Around { fence, has_else, accepts: Vec::new() });
        if look.behind {
            self.behind(look, inner, fence)?;
        } else {
            self.node(inner)?;
        }
        let accepts = self.around.pop().map(|around| around.accepts).unwrap_or_default();
        accepts.into_iter().for_each(|jump| self.land(jump));
        self.sealing -= 1;
        Ok(())
    }

    /// Each of the branches that an assertion looks back with has a length of its own.
    fn behind(&mut self, look: Look, inner: &Node, fence: u32) -> Compiled<()> {
        let branches = match inner {
            Node::Alt(branches) => branches.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ends = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            let is_last = index + 1 == branches.len();
            let split = if is_last { None } else { Some(self.split(false)?) };
            let Some((least, Some(most))) = self.width(branch, 0) else {
                return Err(("length of lookbehind assertion is not limited".to_owned(), look.at));
            };
            if most > LONGEST_LOOK || (most > LONGEST_VARIABLE_LOOK && most != least) {
                return Err(("lookbehind assertion is too long".to_owned(), look.at));
            }
            self.emit(Op::Behind(most, least))?;
            self.node(branch)?;
            if most != least {
                self.emit(Op::At(fence))?;
            }
            if let Some(split) = split {
                ends.push(self.emit(Op::Jump(0))?);
                self.land(split);
            }
        }
        ends.into_iter().for_each(|end| self.land(end));
        Ok(())
    }

    pub(super) fn call(&mut self, target: &Target) -> Compiled<()> {
        (self.pure, self.plain) = (false, false);
        let Target::Groups(groups) = target else { return Ok(()) };
        let group = groups.first().copied().unwrap_or_default();
        self.emit(Op::Call(group, 0))?;
        self.called.push_back(group);
        Ok(())
    }

    /// Compiles each group that is called once more, as a subroutine.
    pub(super) fn subroutines(&mut self) -> Compiled<()> {
        self.in_subroutine = true;
        while let Some(group) = self.called.pop_front() {
            if self.bodies.contains_key(&group) {
                continue;
            }
            let here = self.here();
            self.bodies.insert(group, here);
            let pattern = self.pattern;
            match if group == 0 { Some(&pattern.root) } else { find(&pattern.root, group) } {
                Some(body) => self.node(body)?,
                None => return Err(("reference to non-existent group".to_owned(), 0)),
            }
            self.emit(Op::Return)?;
        }
        for op in &mut self.ops {
            if let Op::Call(group, to) = op {
                *to = self.bodies.get(group).copied().unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// The content of a group; of several with this number, the first.
pub(super) fn find(node: &Node, number: u32) -> Option<&Node> {
    match node {
        Node::Group(own, inner) if *own == number => Some(inner),
        Node::Concat(nodes) | Node::Alt(nodes) => nodes.iter().find_map(|node| find(node, number)),
        Node::Group(_, inner) | Node::Repeat(inner, _) | Node::Atomic(inner) | Node::Look(_, inner) => {
            find(inner, number)
        }
        Node::If(condition, yes, no) => {
            let asked = if let Condition::Look(_, inner) = &**condition { find(inner, number) } else { None };
            asked.or_else(|| find(yes, number)).or_else(|| find(no, number))
        }
        _ => None,
    }
}
