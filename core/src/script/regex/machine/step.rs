//! One attempt: instruction after instruction.

use super::super::ast::{Assertion, Case};
use super::super::parse::{newline_at, newline_before};
use super::super::program::{ANY, NO_FENCE, Op, Run, Split};
use super::super::unicode;
use super::{Ended, Frame, Machine, MatchError, NO_CALL, UNSET};

impl Machine<'_> {
    /// Tries to match from one place.
    pub(super) fn attempt(&mut self, start: usize) -> Result<Ended, MatchError> {
        let count = self.program.registers;
        self.spend(u64::try_from(count / 32).unwrap_or(u64::MAX))?;
        self.scratch.registers.clear();
        self.scratch.registers.resize(count, UNSET);
        self.scratch.stack.clear();
        self.scratch.calls.clear();
        self.scratch.saved.clear();
        self.call = NO_CALL;
        self.keep = UNSET;
        let (mut pc, mut pos) = (0_u32, start);
        loop {
            self.spend(1)?;
            let Some(op) = self.program.ops.get(pc as usize).copied() else { return Ok(Ended::Failed) };
            let next = match op {
                Op::Byte(byte) => (self.text.get(pos) == Some(&byte)).then_some((pc + 1, pos + 1)),
                Op::Set(id) => self.byte_of(id, pos).then_some((pc + 1, pos + 1)),
                Op::Literal(from, length) => self.literal(from, length, pos).map(|pos| (pc + 1, pos)),
                Op::Folded(from, length) => self.folded(from, length, pos)?.map(|pos| (pc + 1, pos)),
                Op::Char(id) => {
                    self.spend(2)?;
                    self.char_of(id, pos).map(|length| (pc + 1, pos + length))
                }
                Op::Run(_) => self.repeat(pc, pos)?,
                Op::Assert(assertion) => {
                    if matches!(assertion, Assertion::Word(true) | Assertion::NotWord(true)) {
                        self.spend(4)?;
                    }
                    self.holds(assertion, pos).then_some((pc + 1, pos))
                }
                Op::Split(split) => self.split(split, pc, pos)?,
                Op::Switch(id) => self.switch(id, pc, pos)?,
                Op::Jump(to) => Some((to, pos)),
                Op::Match if self.is_unwanted(start, pos) => None,
                Op::Match => {
                    self.keep = self.register(self.keep_register());
                    return Ok(Ended::Matched(pos));
                }
                Op::Fail => None,
                _ => self.rare(op, pc, pos)?,
            };
            (pc, pos) = match next {
                Some(next) => next,
                None => match self.back()? {
                    Ok(next) => next,
                    Err(ended) => return Ok(ended),
                },
            };
        }
    }

    /// Instructions about groups, assertions, loops that count, and subroutines.
    fn rare(&mut self, op: Op, pc: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let next = Some((pc + 1, pos));
        Ok(match op {
            Op::Mark(register) | Op::Here(register) => {
                self.set(register, pos)?;
                next
            }
            Op::Close(group, register) => {
                let from = self.register(register);
                self.set(group * 2, from)?;
                self.set(group * 2 + 1, pos)?;
                next
            }
            Op::Empty(register, out) => {
                if self.register(register) == pos {
                    Some((out, pos))
                } else {
                    next
                }
            }
            Op::Counter(register) => {
                self.set(register, 0)?;
                next
            }
            Op::Iterate(register) => {
                let count = self.register(register);
                self.set(register, count.saturating_add(1))?;
                self.set(register + 1, pos)?;
                next
            }
            Op::Loop(id) => self.count(id, pos)?,
            Op::Fence(register) => {
                self.fence(register, pos)?;
                next
            }
            Op::FenceElse(register, other) => {
                self.fence(register, pos)?;
                self.push(Frame::Way { pc: other, pos })?;
                next
            }
            Op::Cut(register) => {
                self.cut(self.register(register))?;
                next
            }
            Op::CutBack(register) => {
                self.cut(self.register(register))?;
                Some((pc + 1, self.register(register + 1)))
            }
            Op::Back(register) => Some((pc + 1, self.register(register + 1))),
            Op::Undo(register, to) => {
                let place = self.register(register + 1);
                self.unwind(self.register(register))?;
                Some((to, place))
            }
            Op::UndoFail(register) => {
                self.unwind(self.register(register))?;
                None
            }
            Op::Behind(most, least) => self.behind(most, least, pc, pos)?,
            Op::At(register) => (self.register(register + 1) == pos).then_some((pc + 1, pos)),
            Op::Reference(list, case) => self.reference(list, case, pos)?.map(|pos| (pc + 1, pos)),
            Op::Call(group, to) => {
                self.enter(group, pos, pc + 1)?;
                Some((to, pos))
            }
            Op::Return => self.leave()?.map(|pc| (pc, pos)),
            Op::Matched(list, other) => {
                let has_matched = self.list(list).iter().any(|group| self.register(group * 2 + 1) != UNSET);
                if has_matched { next } else { Some((other, pos)) }
            }
            Op::Inside(list, other) => {
                let inside = self.scratch.calls.get(self.call as usize).map(|call| call.group);
                let is_meant = inside.is_some_and(|group| list == u32::MAX || self.list(list).contains(&group));
                if is_meant { next } else { Some((other, pos)) }
            }
            Op::Keep => {
                self.set(self.keep_register(), pos)?;
                next
            }
            Op::Verb(_, fence) => {
                let call = self.scratch.calls.get(self.call as usize).map(|call| call.height);
                let height = if fence == NO_FENCE { call } else { Some(self.register(fence) + 1) };
                self.push(Frame::Verb { pc, pos, height: height.unwrap_or(0), inner: height.is_some() })?;
                next
            }
            _ => None,
        })
    }

    fn keep_register(&self) -> u32 {
        u32::try_from(self.program.groups * 2).unwrap_or(u32::MAX)
    }

    fn fence(&mut self, register: u32, pos: usize) -> Result<(), MatchError> {
        self.set(register, 0)?;
        self.set(register + 1, pos)?;
        // Behind what undoes the registers themselves.
        let height = self.scratch.stack.len();
        self.put(register, height);
        Ok(())
    }

    /// `(*NOTEMPTY)` and `(*NOTEMPTY_ATSTART)`
    fn is_unwanted(&self, start: usize, pos: usize) -> bool {
        let program = self.program;
        if !program.not_empty && !program.not_empty_at_start {
            return false;
        }
        let kept = self.register(self.keep_register());
        let begin = if kept == UNSET { start } else { kept };
        begin == pos && (program.not_empty || pos == 0)
    }

    #[inline]
    fn byte_of(&self, id: u32, pos: usize) -> bool {
        let set = self.program.sets.get(id as usize);
        set.zip(self.text.get(pos)).is_some_and(|(set, byte)| set.has(*byte))
    }

    fn char_of(&self, id: u32, pos: usize) -> Option<usize> {
        let (character, length) = self.decode(pos)?;
        self.program.chars.get(id as usize)?.has(character).then_some(length)
    }

    fn literal(&self, from: u32, length: u32, pos: usize) -> Option<usize> {
        let (from, length) = (from as usize, length as usize);
        let wanted = self.program.literals.get(from..from + length)?;
        (self.text.get(pos..pos + length)? == wanted).then_some(pos + length)
    }

    fn folded(&mut self, from: u32, length: u32, pos: usize) -> Result<Option<usize>, MatchError> {
        self.spend(u64::from(length / 8))?;
        let (from, length) = (from as usize, length as usize);
        let wanted = self.program.literals.get(from..from + length);
        let found = wanted.zip(self.text.get(pos..pos + length));
        let is_same = found.is_some_and(|(wanted, found)| wanted.eq_ignore_ascii_case(found));
        Ok(is_same.then_some(pos + length))
    }

    #[inline]
    fn split(&mut self, split: Split, pc: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        if self.remembers && !self.is_new(pc, pos) {
            return Ok(None);
        }
        let (next, other) = (self.may_begin(split.next_set, pos), self.may_begin(split.other_set, pos));
        let next = next.then_some(pc + 1);
        let other = other.then_some(split.other);
        let (first, second) = if split.swapped { (other, next) } else { (next, other) };
        match (first, second) {
            (Some(first), Some(second)) => {
                self.push(Frame::Way { pc: second, pos })?;
                Ok(Some((first, pos)))
            }
            (one, other) => Ok(one.or(other).map(|pc| (pc, pos))),
        }
    }

    #[inline]
    fn may_begin(&self, set: u16, pos: usize) -> bool {
        set == ANY
            || self
                .program
                .sets
                .get(usize::from(set))
                .is_none_or(|set| self.text.get(pos).is_some_and(|byte| set.has(*byte)))
    }

    fn switch(&mut self, id: u32, pc: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        if self.remembers && !self.is_new(pc, pos) {
            return Ok(None);
        }
        let Some(switch) = self.program.switches.get(id as usize) else { return Ok(None) };
        let list = match self.text.get(pos) {
            Some(byte) => switch.by_byte.get(usize::from(*byte)).copied().unwrap_or(switch.at_end),
            None => switch.at_end,
        };
        self.way(id, list, 0, pos)
    }

    fn count(&mut self, id: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let Some(counted) = self.program.loops.get(id as usize).copied() else { return Ok(None) };
        let count = self.register(counted.register);
        let is_empty = count > 0 && self.register(counted.register + 1) == pos;
        let (enter, exit) = (Some((counted.enter, pos)), Some((counted.exit, pos)));
        if count < counted.min {
            return Ok(enter);
        }
        if count >= counted.max || (is_empty && counted.max == usize::MAX) {
            return Ok(exit);
        }
        let later = if counted.lazy { counted.enter } else { counted.exit };
        self.push(Frame::Way { pc: later, pos })?;
        Ok(if counted.lazy { exit } else { enter })
    }

    /// Goes back: as far as it can within the most, then nearer.
    fn behind(&mut self, most: u32, least: u32, pc: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let mut at = pos;
        let mut steps = 0;
        if self.program.utf {
            while steps < most && at > 0 {
                at -= 1;
                while at > 0 && !self.is_boundary(at) {
                    at -= 1;
                }
                steps += 1;
            }
            self.spend(u64::from(steps / 4))?;
        } else {
            let room = u32::try_from(pos).unwrap_or(u32::MAX);
            steps = most.min(room);
            at = pos - steps as usize;
        }
        if steps < least {
            return Ok(None);
        }
        if steps > least {
            self.push(Frame::Nearer { pc: pc + 1, pos: at, left: steps - least })?;
        }
        Ok(Some((pc + 1, at)))
    }

    fn list(&self, index: u32) -> &[u32] {
        self.program.lists.get(index as usize).map_or(&[], |list| list)
    }

    /// What a group has matched, once more; the first of several that has matched.
    fn reference(&mut self, list: u32, case: Case, pos: usize) -> Result<Option<usize>, MatchError> {
        let groups = self.program.lists.get(list as usize).map_or(&[][..], |list| list);
        let found = groups.iter().find(|group| self.register(**group * 2 + 1) != UNSET);
        let Some(group) = found else { return Ok(None) };
        let (from, to) = (self.register(group * 2), self.register(group * 2 + 1));
        let wanted = self.text.get(from..to).unwrap_or_default();
        self.spend(u64::try_from(wanted.len() / 8).unwrap_or(u64::MAX))?;
        let rest = self.text.get(pos..).unwrap_or_default();
        Ok(match case {
            Case::Exact => rest.starts_with(wanted).then_some(pos + wanted.len()),
            Case::Ascii => rest
                .get(..wanted.len())
                .filter(|found| found.eq_ignore_ascii_case(wanted))
                .map(|found| pos + found.len()),
            Case::Unicode => self.same_letters(from, to, pos)?,
        })
    }

    fn same_letters(&mut self, from: usize, to: usize, pos: usize) -> Result<Option<usize>, MatchError> {
        let (mut at, mut pos) = (from, pos);
        while at < to {
            self.spend(1)?;
            let (Some((wanted, length)), Some((found, taken))) = (self.decode(at), self.decode(pos)) else {
                return Ok(None);
            };
            if wanted != found {
                // Folding by table is slow.
                self.spend(200)?;
                if !unicode::folded(wanted, wanted).has(found) {
                    return Ok(None);
                }
            }
            at += length;
            pos += taken;
        }
        Ok(Some(pos))
    }

    /// The character at a place, and its length.
    #[inline]
    pub(super) fn decode(&self, pos: usize) -> Option<(u32, usize)> {
        let rest = self.text.get(pos..)?;
        let first = u32::from(*rest.first()?);
        if !self.program.utf || first < 0x80 {
            return Some((first, 1));
        }
        let more = |at: usize| rest.get(at).map_or(0, |byte| u32::from(byte & 0x3f));
        Some(match first {
            0xc0..=0xdf => ((first & 0x1f) << 6 | more(1), 2),
            0xe0..=0xef => ((first & 0x0f) << 12 | more(1) << 6 | more(2), 3),
            _ => ((first & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4),
        })
    }

    pub(super) fn is_boundary(&self, at: usize) -> bool {
        !matches!(self.text.get(at), Some(0x80..=0xbf))
    }

    /// The place of the next character.
    pub(super) fn next_place(&self, pos: usize) -> usize {
        pos + self.decode(pos).map_or(1, |(_, length)| length)
    }

    /// The length of what a run takes at a place; 0 for nothing.
    #[inline]
    pub(super) fn takes(&self, run: &Run, pos: usize) -> usize {
        if !run.chars {
            return usize::from(self.byte_of(run.set, pos));
        }
        self.char_of(run.set, pos).unwrap_or(0)
    }

    fn holds(&self, assertion: Assertion, pos: usize) -> bool {
        let (newline, utf) = (self.program.newline, self.program.utf);
        let is_end = pos == self.text.len();
        let line_break = || newline_at(newline, self.text, pos, utf);
        match assertion {
            Assertion::Start => pos == 0,
            Assertion::LineStart => pos == 0 || (!is_end && newline_before(newline, self.text, pos, utf)),
            Assertion::End => is_end,
            Assertion::LastLineEnd => {
                is_end || {
                    let length = line_break();
                    length > 0 && pos + length == self.text.len()
                }
            }
            Assertion::LineEnd => is_end || line_break() > 0,
            Assertion::Word(by_unicode) => self.is_edge(pos, by_unicode),
            Assertion::NotWord(by_unicode) => !self.is_edge(pos, by_unicode),
        }
    }

    fn is_edge(&self, pos: usize, by_unicode: bool) -> bool {
        let before = pos.checked_sub(1).map(|mut at| {
            while self.program.utf && at > 0 && !self.is_boundary(at) {
                at -= 1;
            }
            at
        });
        let is_word = |at: usize| self.decode(at).is_some_and(|(character, _)| is_word(character, by_unicode));
        before.is_some_and(is_word) != is_word(pos)
    }
}

fn is_word(character: u32, by_unicode: bool) -> bool {
    match u8::try_from(character).ok().filter(u8::is_ascii) {
        Some(byte) => byte.is_ascii_alphanumeric() || byte == b'_',
        None if by_unicode => WORDS.with(|words| words.has(character)),
        None => false,
    }
}

thread_local! {
    static WORDS: super::super::set::CharSet = unicode::word().unwrap_or_default();
}
