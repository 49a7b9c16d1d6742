//! Repetitions.

use super::super::ast::{Greed, Node, Times};
use super::super::program::{ANY, Counted, Op, Pc, Run};
use super::super::set::{ByteSet, CharSet};
use super::{Compiled, Compiler};

/// The largest that copies of a repeated part may become; beyond that it is counted.
const MOST_COPIES: usize = 500;

impl Compiler<'_> {
    pub(super) fn repeat(&mut self, inner: &Node, times: Times) -> Compiled<()> {
        let Times { min, max, greed } = times;
        if max == Some(0) {
            return self.never(inner);
        }
        if self.single(inner, times)? {
            return Ok(());
        }
        let lazy = greed == Greed::Lazy;
        let copies = max.unwrap_or(min).max(min).max(1);
        if size(inner).saturating_mul(copies as usize) > MOST_COPIES && (copies > 1) {
            return self.counted(inner, min, max, lazy);
        }
        let Some(max) = max else { return self.endless(inner, min, lazy) };
        for _ in 0..min {
            self.node(inner)?;
        }
        let mut exits = Vec::new();
        for _ in min..max {
            exits.push(self.split(lazy)?);
            self.node(inner)?;
        }
        exits.into_iter().for_each(|exit| self.land(exit));
        Ok(())
    }

    /// What is repeated zero times is only looked at for mistakes.
    fn never(&mut self, inner: &Node) -> Compiled<()> {
        let here = self.here();
        self.node(inner)?;
        self.ops.truncate(here as usize);
        self.sealed.truncate(here as usize);
        self.looks.retain(|begin, _| *begin < here);
        Ok(())
    }

    /// A repeated character, which takes one instruction.
    fn single(&mut self, inner: &Node, times: Times) -> Compiled<bool> {
        let utf = self.pattern.utf;
        let set = match inner {
            Node::Char(code) => CharSet::of([*code]),
            Node::Letter(byte) => CharSet::of([u32::from(*byte), u32::from(byte.to_ascii_uppercase())]),
            Node::Set(set) => (**set).clone(),
            _ => return Ok(false),
        };
        let chars = utf && !set.is_ascii();
        let set = if chars { self.char_set(&set) } else { self.set(*set.low()) };
        let run = Run {
            set,
            chars,
            min: times.min as usize,
            max: times.max.map_or(usize::MAX, |max| max as usize),
            greed: times.greed,
            then: ANY,
        };
        self.runs.push(run);
        self.emit(Op::Run(u32::try_from(self.runs.len() - 1).unwrap_or(u32::MAX)))?;
        Ok(true)
    }

    /// At least so many, without an end. PCRE: an iteration that takes nothing is the last.
    fn endless(&mut self, inner: &Node, min: u32, lazy: bool) -> Compiled<()> {
        for _ in 1..min {
            self.node(inner)?;
        }
        let guarded = self.may_be_empty(inner);
        if guarded {
            self.pure = false;
        }
        let split = if min == 0 { Some(self.split(lazy)?) } else { None };
        let begin = split.unwrap_or_else(|| self.here());
        let empty = self.iteration(inner, guarded)?;
        match split {
            Some(split) => {
                self.emit(Op::Jump(begin))?;
                self.land(split);
            }
            None => {
                let again = self.split(!lazy)?;
                self.point(again, begin);
            }
        }
        if let Some(empty) = empty {
            self.land(empty);
        }
        Ok(())
    }

    /// One iteration; where it leaves the loop if it took nothing.
    fn iteration(&mut self, inner: &Node, guarded: bool) -> Compiled<Option<Pc>> {
        if !guarded {
            self.node(inner)?;
            return Ok(None);
        }
        let register = self.register(1);
        self.emit(Op::Here(register))?;
        self.node(inner)?;
        Ok(Some(self.emit(Op::Empty(register, 0))?))
    }

    fn counted(&mut self, inner: &Node, min: u32, max: Option<u32>, lazy: bool) -> Compiled<()> {
        self.pure = false;
        let register = self.register(2);
        let index = u32::try_from(self.loops.len()).unwrap_or(u32::MAX);
        self.emit(Op::Counter(register))?;
        let head = self.emit(Op::Loop(index))?;
        let enter = self.emit(Op::Iterate(register))?;
        let max = max.map_or(usize::MAX, |max| max as usize);
        self.loops.push(Counted { register, min: min as usize, max, lazy, enter, exit: 0 });
        self.node(inner)?;
        self.emit(Op::Jump(head))?;
        let here = self.here();
        if let Some(counted) = self.loops.get_mut(index as usize) {
            counted.exit = here;
        }
        Ok(())
    }

    /// The bytes that a run can begin with.
    pub(super) fn leads(&self, run: &Run) -> ByteSet {
        if run.chars {
            self.chars.get(run.set as usize).map_or(ByteSet::ALL, |set| set.leads(true))
        } else {
            self.sets.get(run.set as usize).copied().unwrap_or(ByteSet::ALL)
        }
    }
}

/// About how many instructions a part takes.
fn size(node: &Node) -> usize {
    match node {
        Node::Concat(nodes) | Node::Alt(nodes) => nodes.iter().map(size).sum::<usize>() + nodes.len(),
        Node::Group(_, inner) | Node::Atomic(inner) | Node::Look(_, inner) => size(inner) + 2,
        Node::Repeat(inner, times) => {
            let copies = times.max.unwrap_or(times.min).max(times.min).max(1) as usize;
            if matches!(**inner, Node::Char(_) | Node::Letter(_) | Node::Set(_)) {
                1
            } else {
                let one = size(inner);
                let copied = one.saturating_mul(copies);
                if copies > 1 && copied > MOST_COPIES { one + 4 } else { copied + copies + 2 }
            }
        }
        Node::If(_, yes, no) => size(yes) + size(no) + 8,
        _ => 1,
    }
}
