//! What can be said once all instructions are there: what each way begins with, which repetitions give nothing back,
//! where a match can begin.

use super::super::ast::{Assertion, Greed, Newline, Node};
use aho_corasick::packed;
use memchr::memmem;

use super::super::literal;

use super::super::program::{ANY, Begins, Hint, NO_BIT, Op, Pc, Program, Simple, Switch};
use super::super::set::{ByteSet, CharSet};
use super::Compiler;

/// How many instructions are looked at for what a way begins with.
const FUEL: u32 = 200;

impl Compiler<'_> {
    pub(super) fn finish(mut self) -> Program {
        self.switch_tables();
        self.splits();
        self.possessive_runs();
        let hint = if self.pattern.optimize { self.hint() } else { Hint::Any };
        let starts = begins(&self.pattern.root, self.plain, self.pattern.newline, self.pattern.utf);
        let contains = self.contains(&hint);
        let simple = self.simple();
        let (bits, bit_count) = self.bits();
        Program {
            ops: self.ops.into(),
            literals: self.literals.into(),
            sets: self.sets.into(),
            chars: self.chars.into(),
            runs: self.runs.into(),
            switches: self.switches.into(),
            loops: self.loops.into(),
            lists: self.lists.into(),
            groups: self.pattern.groups as usize + 1,
            registers: self.registers as usize,
            bits,
            bit_count,
            utf: self.pattern.utf,
            newline: self.pattern.newline,
            not_empty: self.pattern.not_empty,
            not_empty_at_start: self.pattern.not_empty_at_start,
            names_newline: self.pattern.names_newline,
            begins: starts,
            hint,
            contains,
            contains_first: starts != Begins::AtStart,
            needs: literal::needs(self.pattern).map(Vec::into_boxed_slice),
            simple,
        }
    }

    /// The set of what a way begins with.
    fn first_id(&mut self, pc: Pc) -> u16 {
        let mut fuel = FUEL;
        match self.first(pc, &mut fuel) {
            Some(set) => u16::try_from(self.set(set)).unwrap_or(ANY),
            None => ANY,
        }
    }

    /// The bytes that a match of what stands there must begin with; `None` when it need not take any, or nobody knows.
    fn first(&self, mut pc: Pc, fuel: &mut u32) -> Option<ByteSet> {
        let single = |byte: u8| {
            let mut set = ByteSet::default();
            set.add(byte);
            set
        };
        loop {
            *fuel = fuel.checked_sub(1).filter(|_| !self.steered)?;
            let next = pc + 1;
            pc = match *self.ops.get(pc as usize)? {
                Op::Byte(byte) => return Some(single(byte)),
                Op::Literal(start, _) => return Some(single(*self.literals.get(start as usize)?)),
                Op::Folded(start, _) => {
                    let byte = *self.literals.get(start as usize)?;
                    return Some(single(byte).union(&single(byte.to_ascii_uppercase())));
                }
                Op::Set(id) => return self.sets.get(id as usize).copied(),
                Op::Char(id) => return Some(self.chars.get(id as usize)?.leads(true)),
                Op::Run(id) => {
                    let run = self.runs.get(id as usize)?;
                    let own = self.leads(run);
                    if run.min > 0 {
                        return Some(own);
                    }
                    return Some(own.union(&self.first(next, fuel)?));
                }
                Op::Fail => return Some(ByteSet::default()),
                Op::Assert(_)
                | Op::Mark(_)
                | Op::Close(..)
                | Op::Counter(_)
                | Op::Iterate(_)
                | Op::Here(_)
                | Op::At(_)
                | Op::Keep => next,
                Op::Fence(_) => self.looks.get(&pc).copied().unwrap_or(next),
                Op::FenceElse(_, other) if self.is_negative(other) => other,
                Op::Jump(to) => to,
                Op::Split(split) => {
                    return Some(self.first(next, fuel)?.union(&self.first(split.other, fuel)?));
                }
                Op::Empty(_, other) | Op::FenceElse(_, other) | Op::Matched(_, other) | Op::Inside(_, other) => {
                    return Some(self.first(next, fuel)?.union(&self.first(other, fuel)?));
                }
                Op::Switch(id) => {
                    let ways = self.ways.get(id as usize)?;
                    return ways
                        .iter()
                        .try_fold(ByteSet::default(), |sum, way| Some(sum.union(&self.first(*way, fuel)?)));
                }
                Op::Loop(id) => {
                    let counted = self.loops.get(id as usize)?;
                    return Some(self.first(counted.enter, fuel)?.union(&self.first(counted.exit, fuel)?));
                }
                // What ends an assertion or an atomic group has matched, whatever follows.
                Op::Cut(_)
                | Op::CutBack(_)
                | Op::Back(_)
                | Op::Undo(..)
                | Op::UndoFail(_)
                | Op::Behind(..)
                | Op::Reference(..)
                | Op::Call(..)
                | Op::Return
                | Op::Verb(..)
                | Op::Match => return None,
            }
        }
    }

    /// True when an assertion that ends before this place is negative, and what it looks at need not be there.
    fn is_negative(&self, end: Pc) -> bool {
        let before = end.checked_sub(1).and_then(|pc| self.ops.get(pc as usize));
        matches!(before, Some(Op::UndoFail(_)))
    }

    fn switch_tables(&mut self) {
        for ways in self.ways.clone() {
            let firsts: Vec<Option<ByteSet>> = ways
                .iter()
                .map(|way| {
                    let mut fuel = FUEL;
                    self.first(*way, &mut fuel)
                })
                .collect();
            let mut lists: Vec<Box<[Pc]>> = Vec::new();
            let mut list_of = |fits: &dyn Fn(&Option<ByteSet>) -> bool| {
                let list: Box<[Pc]> =
                    ways.iter().zip(&firsts).filter(|(_, first)| fits(first)).map(|(way, _)| *way).collect();
                let index = lists.iter().position(|known| *known == list).unwrap_or_else(|| {
                    lists.push(list);
                    lists.len() - 1
                });
                u16::try_from(index).unwrap_or_default()
            };
            let mut by_byte = Box::new([0; 256]);
            for (byte, list) in (0..=255_u8).zip(by_byte.iter_mut()) {
                *list = list_of(&|first| first.is_none_or(|first| first.has(byte)));
            }
            let at_end = list_of(&Option::is_none);
            self.switches.push(Switch { by_byte, at_end, lists });
        }
    }

    fn splits(&mut self) {
        for pc in 0..self.here() {
            let Some(Op::Split(mut split)) = self.ops.get(pc as usize).copied() else { continue };
            split.next_set = self.first_id(pc + 1);
            split.other_set = self.first_id(split.other);
            if let Some(op) = self.ops.get_mut(pc as usize) {
                *op = Op::Split(split);
            }
        }
    }

    /// A run whose bytes cannot begin what follows need not give any back.
    fn possessive_runs(&mut self) {
        for pc in 0..self.here() {
            let Some(Op::Run(id)) = self.ops.get(pc as usize).copied() else { continue };
            let then = self.first_id(pc + 1);
            let Some(run) = self.runs.get(id as usize) else { continue };
            let own = self.leads(run);
            let apart = self.sets.get(usize::from(then)).is_some_and(|set| set.is_disjoint(&own));
            if let Some(run) = self.runs.get_mut(id as usize) {
                run.then = then;
                if apart && then != ANY {
                    run.greed = Greed::Possessive;
                }
            }
        }
    }

    /// What every match begins with.
    fn hint(&self) -> Hint {
        let begin = self.ops.iter().find(|op| !matches!(op, Op::Mark(_)));
        if let Some(Op::Literal(start, length)) = begin {
            let (start, length) = (*start as usize, *length as usize);
            let text = self.literals.get(start..start + length).unwrap_or_default();
            return Hint::Literal(Box::new(memmem::Finder::new(text).into_owned()));
        }
        let mut fuel = 4 * FUEL;
        let set = self.first(0, &mut fuel);
        if set.is_none_or(|set| set.len() > 3)
            && !self.steered
            && let Some(beginnings) = literal::beginnings(&self.pattern.root, self.pattern.utf)
            && let Some(searcher) = packed::Searcher::new(beginnings)
        {
            return Hint::Beginnings(Box::new(searcher));
        }
        let Some(set) = set else { return Hint::Any };
        let mut bytes = set.iter();
        match (set.len(), bytes.next(), bytes.next(), bytes.next()) {
            (1, Some(one), ..) => Hint::Bytes([one; 3], 1),
            (2, Some(one), Some(two), _) => Hint::Bytes([one, two, two], 2),
            (3, Some(one), Some(two), Some(three)) => Hint::Bytes([one, two, three], 3),
            _ => Hint::Set(set),
        }
    }

    /// Patterns such as `\.php$` and `^/a` are comparisons.
    fn simple(&self) -> Option<Simple> {
        if self.pattern.groups > 0 || self.pattern.not_empty || self.pattern.not_empty_at_start {
            return None;
        }
        let (at_start, ops) = match &*self.ops {
            [Op::Assert(Assertion::Start), ops @ ..] => (true, ops),
            ops => (false, ops),
        };
        let (text, ops) = match ops {
            [Op::Literal(start, length), ops @ ..] => {
                let (start, length) = (*start as usize, *length as usize);
                (self.literals.get(start..start + length)?.to_vec(), ops)
            }
            [Op::Byte(byte), ops @ ..] => (vec![*byte], ops),
            _ => return None,
        };
        let end = match ops {
            [Op::Match] => None,
            [Op::Assert(end @ (Assertion::End | Assertion::LastLineEnd)), Op::Match] => Some(*end),
            _ => return None,
        };
        let line_breaks = self.pattern.newline == Newline::Lf && !self.pattern.utf;
        (line_breaks && (at_start || end.is_some())).then(|| Simple { at_start, text: text.into(), end })
    }

    /// What a text must contain, where that is not what is looked for anyway.
    fn contains(&self, hint: &Hint) -> Option<memmem::Finder<'static>> {
        if !self.pattern.optimize || matches!(hint, Hint::Literal(_)) {
            return None;
        }
        let needed = literal::contained(self.pattern)?;
        let is_hint = matches!(hint, Hint::Bytes([byte, ..], 1) if *needed == [*byte]);
        (!is_hint).then(|| memmem::Finder::new(&needed).into_owned())
    }

    /// Instructions where a search that has come by without success need not come again.
    fn bits(&self) -> (Box<[u16]>, usize) {
        if !self.pure {
            return (Box::default(), 0);
        }
        let mut count = 0_u16;
        let bits = self
            .ops
            .iter()
            .zip(&self.sealed)
            .map(|(op, sealed)| {
                if *sealed || count == NO_BIT || !matches!(op, Op::Split(_) | Op::Run(_) | Op::Switch(_)) {
                    return NO_BIT;
                }
                count += 1;
                count - 1
            })
            .collect();
        (bits, usize::from(count))
    }
}

/// Where a match can begin. A pattern that begins with any number of any characters is found at the beginning if at all.
fn begins(node: &Node, plain: bool, newline: Newline, utf: bool) -> Begins {
    let lesser = |one: Begins, other: Begins| match (one, other) {
        (Begins::AtStart, Begins::AtStart) => Begins::AtStart,
        (Begins::Anywhere, _) | (_, Begins::Anywhere) => Begins::Anywhere,
        _ => Begins::AtLine,
    };
    match node {
        Node::Assert(Assertion::Start) => Begins::AtStart,
        Node::Assert(Assertion::LineStart) => Begins::AtLine,
        Node::Group(_, inner) => begins(inner, plain, newline, utf),
        Node::Atomic(inner) => begins(inner, false, newline, utf),
        Node::Alt(branches) => {
            branches.iter().map(|branch| begins(branch, plain, newline, utf)).reduce(lesser).unwrap_or(Begins::Anywhere)
        }
        Node::Concat(nodes) => {
            let mut plain = plain;
            for node in nodes {
                match (begins(node, plain, newline, utf), node) {
                    (Begins::Anywhere, Node::Assert(_) | Node::Look(..) | Node::Keep) => plain = false,
                    (Begins::Anywhere, Node::Empty) => {}
                    (found, _) => return found,
                }
            }
            Begins::Anywhere
        }
        Node::Repeat(inner, times) if times.min > 0 && !matches!(**inner, Node::Set(_)) => {
            begins(inner, false, newline, utf)
        }
        Node::Repeat(inner, times) if plain && times.max.is_none() && times.greed != Greed::Possessive => {
            match &**inner {
                Node::Set(set) if times.min == 0 && **set == CharSet::all(utf) => Begins::AtStart,
                Node::Set(set)
                    if times.min == 0 && newline == Newline::Lf && **set == CharSet::of([10]).negated(utf) =>
                {
                    Begins::AtLine
                }
                _ => Begins::Anywhere,
            }
        }
        _ => Begins::Anywhere,
    }
}
