//! From the tree to instructions.

mod finish;
mod group;
mod repeat;
mod width;

use std::collections::{HashMap, VecDeque};

use super::ast::{Condition, Node, Pattern, Target, Verb};
use super::program::{Counted, NO_FENCE, Op, Pc, Program, Run, Switch};
use super::set::{ByteSet, CharSet};

/// The most instructions of a pattern.
const MOST_OPS: usize = 60_000;

/// Compiles a pattern.
///
/// # Errors
/// It is too large, or looks behind itself without a limit.
pub fn compile(pattern: &Pattern) -> Result<Program, (String, usize)> {
    let mut compiler = Compiler::new(pattern);
    compiler.node(&pattern.root)?;
    compiler.emit(Op::Match)?;
    compiler.subroutines()?;
    Ok(compiler.finish())
}

type Compiled<T> = Result<T, (String, usize)>;

/// A group that is open where an instruction is compiled.
struct Open {
    group: u32,
    mark: u32,
    /// Assertions around it.
    assertions: usize,
}

/// An assertion around what is compiled.
struct Around {
    fence: u32,
    /// It has somewhere to go when what it looks at is not there.
    has_else: bool,
    /// Where an `(*ACCEPT)` jumps to its end.
    accepts: Vec<Pc>,
}

struct Compiler<'p> {
    pattern: &'p Pattern,
    ops: Vec<Op>,
    /// For each instruction: it is within something that is matched in one way only.
    sealed: Vec<bool>,
    sealing: usize,
    literals: Vec<u8>,
    sets: Vec<ByteSet>,
    known_sets: HashMap<ByteSet, u32>,
    chars: Vec<CharSet>,
    known_chars: HashMap<CharSet, u32>,
    runs: Vec<Run>,
    /// The ways of each switch.
    ways: Vec<Vec<Pc>>,
    switches: Vec<Switch>,
    loops: Vec<Counted>,
    lists: Vec<Box<[u32]>>,
    registers: u32,
    /// Where each subroutine begins.
    bodies: HashMap<u32, Pc>,
    called: VecDeque<u32>,
    /// Within a subroutine.
    in_subroutine: bool,
    open: Vec<Open>,
    /// The assertions around.
    around: Vec<Around>,
    /// Where an assertion ends, by its beginning.
    looks: HashMap<Pc, Pc>,
    /// What becomes of a place depends on nothing but the place.
    pure: bool,
    /// References, subroutines and verbs, which a search from fewer beginnings could change.
    plain: bool,
    /// A verb would be missed if a way that cannot match were not gone.
    steered: bool,
}

impl<'p> Compiler<'p> {
    fn new(pattern: &'p Pattern) -> Self {
        Compiler {
            pattern,
            ops: Vec::new(),
            sealed: Vec::new(),
            sealing: 0,
            literals: Vec::new(),
            sets: Vec::new(),
            known_sets: HashMap::new(),
            chars: Vec::new(),
            known_chars: HashMap::new(),
            runs: Vec::new(),
            ways: Vec::new(),
            switches: Vec::new(),
            loops: Vec::new(),
            lists: Vec::new(),
            // Those of the groups, the place of `\K`, and what is left of it.
            registers: (pattern.groups + 1) * 2 + 1,
            bodies: HashMap::new(),
            called: VecDeque::new(),
            in_subroutine: false,
            open: Vec::new(),
            around: Vec::new(),
            looks: HashMap::new(),
            pure: !pattern.not_empty && !pattern.not_empty_at_start,
            plain: pattern.optimize,
            steered: false,
        }
    }

    fn emit(&mut self, op: Op) -> Compiled<Pc> {
        let at = self.here();
        if self.ops.len() >= MOST_OPS {
            return Err(("regular expression is too large".to_owned(), 0));
        }
        self.ops.push(op);
        self.sealed.push(self.sealing > 0);
        Ok(at)
    }

    fn here(&self) -> Pc {
        Pc::try_from(self.ops.len()).unwrap_or(Pc::MAX)
    }

    /// Lets an instruction lead to the next one that is emitted.
    fn land(&mut self, at: Pc) {
        let here = self.here();
        self.point(at, here);
    }

    fn point(&mut self, at: Pc, to: Pc) {
        match self.ops.get_mut(at as usize) {
            Some(Op::Split(split)) => split.other = to,
            Some(
                Op::Jump(target)
                | Op::Empty(_, target)
                | Op::FenceElse(_, target)
                | Op::Undo(_, target)
                | Op::Matched(_, target)
                | Op::Inside(_, target)
                | Op::Call(_, target),
            ) => *target = to,
            _ => {}
        }
    }

    fn register(&mut self, count: u32) -> u32 {
        self.registers += count;
        self.registers - count
    }

    fn set(&mut self, set: ByteSet) -> u32 {
        let next = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let id = *self.known_sets.entry(set).or_insert(next);
        if id == next {
            self.sets.push(set);
        }
        id
    }

    fn char_set(&mut self, set: &CharSet) -> u32 {
        let next = u32::try_from(self.chars.len()).unwrap_or(u32::MAX);
        let id = *self.known_chars.entry(set.clone()).or_insert(next);
        if id == next {
            self.chars.push(set.clone());
        }
        id
    }

    fn list(&mut self, target: &Target) -> u32 {
        if let Target::Groups(groups) = target {
            self.lists.push(groups.as_slice().into());
        }
        u32::try_from(self.lists.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    fn node(&mut self, node: &Node) -> Compiled<()> {
        match node {
            Node::Empty => {}
            Node::Char(_) | Node::Letter(_) => self.text(std::slice::from_ref(node))?,
            Node::Set(set) => {
                let op = if !self.pattern.utf || set.is_ascii() {
                    Op::Set(self.set(*set.low()))
                } else {
                    Op::Char(self.char_set(set))
                };
                self.emit(op)?;
            }
            Node::Assert(assertion) => {
                self.emit(Op::Assert(*assertion))?;
            }
            Node::Concat(nodes) => self.concat(nodes)?,
            Node::Alt(branches) => self.alternatives(branches)?,
            Node::Group(number, inner) => self.group(*number, inner)?,
            Node::Repeat(inner, times) => self.repeat(inner, *times)?,
            Node::Atomic(inner) => self.atomic(inner)?,
            Node::Look(look, inner) => self.look(*look, inner)?,
            Node::Back(target, case) => {
                (self.pure, self.plain) = (false, false);
                let list = self.list(target);
                self.emit(Op::Reference(list, *case))?;
            }
            Node::Call(target) => self.call(target)?,
            Node::If(condition, yes, no) => self.conditional(condition, yes, no)?,
            Node::Keep => {
                self.emit(Op::Keep)?;
            }
            Node::Verb(verb) => self.verb(*verb)?,
        }
        Ok(())
    }

    fn concat(&mut self, nodes: &[Node]) -> Compiled<()> {
        let mut rest = nodes;
        while let Some((first, others)) = rest.split_first() {
            let length = rest.iter().take_while(|node| matches!(node, Node::Char(_) | Node::Letter(_))).count();
            let Some((text, after)) = rest.split_at_checked(length).filter(|_| length > 0) else {
                self.node(first)?;
                rest = others;
                continue;
            };
            self.text(text)?;
            rest = after;
        }
        Ok(())
    }

    /// Characters in a row. Those that are letters in either case and those that are not letters at all can be
    /// compared together.
    fn text(&mut self, nodes: &[Node]) -> Compiled<()> {
        let is_exact =
            |node: &Node| matches!(node, Node::Char(code) if *code < 128 && (65..=90).contains(&(code & !32)));
        let mut rest = nodes;
        while let Some(first) = rest.first() {
            let folds = rest
                .iter()
                .find(|node| matches!(node, Node::Letter(_)) || is_exact(node))
                .is_some_and(|node| matches!(node, Node::Letter(_)));
            let clashes = |node: &&Node| if folds { is_exact(node) } else { matches!(node, Node::Letter(_)) };
            let length = rest.iter().take_while(|node| !clashes(node)).count();
            let start = self.literals.len();
            for node in rest.get(..length).unwrap_or_default() {
                match node {
                    Node::Letter(byte) => self.literals.push(*byte),
                    Node::Char(code) => encode(*code, self.pattern.utf, &mut self.literals),
                    _ => {}
                }
            }
            let bytes = self.literals.len() - start;
            let index = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let op = match (folds, first) {
                (false, _) if bytes == 1 => Op::Byte(self.literals.pop().unwrap_or_default()),
                (false, _) => Op::Literal(index(start), index(bytes)),
                (true, _) => Op::Folded(index(start), index(bytes)),
            };
            self.emit(op)?;
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn alternatives(&mut self, branches: &[Node]) -> Compiled<()> {
        const MANY: usize = 5;
        let mut ends = Vec::new();
        if branches.len() >= MANY {
            let id = self.ways.len();
            self.ways.push(Vec::new());
            self.emit(Op::Switch(u32::try_from(id).unwrap_or(u32::MAX)))?;
            for branch in branches {
                let here = self.here();
                if let Some(ways) = self.ways.get_mut(id) {
                    ways.push(here);
                }
                self.node(branch)?;
                ends.push(self.emit(Op::Jump(0))?);
            }
        } else {
            for (index, branch) in branches.iter().enumerate() {
                if index + 1 == branches.len() {
                    self.node(branch)?;
                } else {
                    let split = self.split(false)?;
                    self.node(branch)?;
                    ends.push(self.emit(Op::Jump(0))?);
                    self.land(split);
                }
            }
        }
        ends.into_iter().for_each(|end| self.land(end));
        Ok(())
    }

    fn split(&mut self, swapped: bool) -> Compiled<Pc> {
        use super::program::{ANY, Split};
        self.emit(Op::Split(Split { other: 0, swapped, next_set: ANY, other_set: ANY }))
    }

    fn verb(&mut self, verb: Verb) -> Compiled<()> {
        match verb {
            Verb::Accept => return self.accept(),
            Verb::Fail => self.emit(Op::Fail)?,
            Verb::Commit | Verb::Prune | Verb::Skip => {
                (self.pure, self.plain, self.steered) = (false, false, true);
                // A positive assertion lets it through.
                let around = self.around.iter().rev().find(|look| look.has_else);
                let fence = around.map_or(NO_FENCE, |look| look.fence);
                self.emit(Op::Verb(verb, fence))?
            }
        };
        Ok(())
    }

    /// `(*ACCEPT)`: groups around it end here, and so does the assertion, the subroutine or the match.
    fn accept(&mut self) -> Compiled<()> {
        self.plain = false;
        let assertions = self.around.len();
        let open: Vec<(u32, u32)> = self
            .open
            .iter()
            .rev()
            .take_while(|open| open.assertions >= assertions)
            .map(|open| (open.group, open.mark))
            .collect();
        for (group, mark) in open {
            self.emit(Op::Close(group, mark))?;
        }
        if !self.around.is_empty() {
            let jump = self.emit(Op::Jump(0))?;
            if let Some(around) = self.around.last_mut() {
                around.accepts.push(jump);
            }
        } else {
            self.emit(if self.in_subroutine { Op::Return } else { Op::Match })?;
        }
        Ok(())
    }

    fn conditional(&mut self, condition: &Condition, yes: &Node, no: &Node) -> Compiled<()> {
        match condition {
            Condition::Known(true) => self.node(yes),
            Condition::Known(false) => self.node(no),
            Condition::Matched(_) | Condition::Inside(_) => {
                (self.pure, self.plain) = (false, false);
                let test = match condition {
                    Condition::Matched(target) => {
                        let list = self.list(target);
                        self.emit(Op::Matched(list, 0))?
                    }
                    Condition::Inside(Some(target)) => {
                        let list = self.list(target);
                        self.emit(Op::Inside(list, 0))?
                    }
                    _ => self.emit(Op::Inside(u32::MAX, 0))?,
                };
                self.node(yes)?;
                let end = self.emit(Op::Jump(0))?;
                self.land(test);
                self.node(no)?;
                self.land(end);
                Ok(())
            }
            Condition::Look(look, inner) => self.asks(*look, inner, yes, no),
        }
    }
}

/// Appends a character as it stands in a text.
pub fn encode(code: u32, utf: bool, out: &mut Vec<u8>) {
    match char::from_u32(code).filter(|_| utf) {
        Some(one) => out.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.push(u8::try_from(code).unwrap_or(u8::MAX)),
    }
}
