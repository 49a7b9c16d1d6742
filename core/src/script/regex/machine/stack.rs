//! What is left to be tried, and what has to be undone before.

use super::super::ast::{Greed, Verb};
use super::super::program::{ANY, NO_BIT, Op, Run};
use super::{Call, Ended, Frame, MOST_FRAMES, MOST_SAVED, Machine, MatchError, NO_CALL};

impl<'a> Machine<'a> {
    #[inline]
    pub(super) fn spend(&mut self, work: u64) -> Result<(), MatchError> {
        match self.work.checked_sub(work) {
            Some(left) => {
                self.work = left;
                Ok(())
            }
            None => Err(MatchError::Work),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, frame: Frame) -> Result<(), MatchError> {
        if self.scratch.stack.len() >= MOST_FRAMES {
            return Err(MatchError::Memory);
        }
        self.scratch.stack.push(frame);
        Ok(())
    }

    #[inline]
    pub(super) fn register(&self, index: u32) -> usize {
        self.scratch.registers.get(index as usize).copied().unwrap_or(super::UNSET)
    }

    /// Sets a register; coming back, it has its old value again.
    #[inline]
    pub(super) fn set(&mut self, index: u32, value: usize) -> Result<(), MatchError> {
        let old = self.register(index);
        if !self.scratch.stack.is_empty() {
            self.push(Frame::Register { index, old })?;
        }
        self.put(index, value);
        Ok(())
    }

    #[inline]
    pub(super) fn put(&mut self, index: u32, value: usize) {
        if let Some(register) = self.scratch.registers.get_mut(index as usize) {
            *register = value;
        }
    }

    /// Goes back to the last way that has not been tried: where, or how the attempt has ended.
    pub(super) fn back(&mut self) -> Result<Result<(u32, usize), Ended>, MatchError> {
        loop {
            self.spend(1)?;
            let Some(frame) = self.scratch.stack.pop() else { return Ok(Err(Ended::Failed)) };
            let found = match frame {
                Frame::Way { pc, pos } => Some((pc, pos)),
                Frame::Give { pc, least, next } => self.give(pc, least, next)?,
                Frame::More { pc, pos, left } => self.more(pc, pos, left)?,
                Frame::Ways { switch, list, next, pos } => self.way(switch, list, next, pos)?,
                Frame::Nearer { pc, pos, left } => {
                    let next = self.next_place(pos);
                    if left > 1 {
                        self.push(Frame::Nearer { pc, pos: next, left: left - 1 })?;
                    }
                    Some((pc, next))
                }
                Frame::Verb { height, inner: true, .. } => {
                    // Within an assertion or a subroutine only that fails.
                    self.unwind(height)?;
                    None
                }
                Frame::Verb { pc, pos, .. } => return Ok(Err(self.verb(pc, pos))),
                undone => {
                    self.undo(undone);
                    None
                }
            };
            if let Some(found) = found {
                return Ok(Ok(found));
            }
        }
    }

    fn undo(&mut self, frame: Frame) {
        match frame {
            Frame::Register { index, old } => self.put(index, old),
            Frame::Entered { outer, saved } => {
                self.call = outer;
                self.scratch.calls.pop();
                self.scratch.saved.truncate(saved);
            }
            Frame::Left { inner } => self.call = inner,
            _ => {}
        }
    }

    /// Undoes everything above a height without trying any of it.
    pub(super) fn unwind(&mut self, height: usize) -> Result<(), MatchError> {
        while self.scratch.stack.len() > height {
            self.spend(1)?;
            if let Some(frame) = self.scratch.stack.pop() {
                self.undo(frame);
            }
        }
        Ok(())
    }

    /// Forgets the ways above a height, and keeps what has to be undone.
    pub(super) fn cut(&mut self, height: usize) -> Result<(), MatchError> {
        let above = self.scratch.stack.len().saturating_sub(height);
        self.spend(u64::try_from(above / 4).unwrap_or(u64::MAX))?;
        let mut kept = height;
        for at in height..self.scratch.stack.len() {
            let Some(frame) = self.scratch.stack.get(at).copied() else { break };
            if matches!(frame, Frame::Register { .. } | Frame::Entered { .. } | Frame::Left { .. }) {
                if let Some(slot) = self.scratch.stack.get_mut(kept) {
                    *slot = frame;
                }
                kept += 1;
            }
        }
        self.scratch.stack.truncate(kept);
        Ok(())
    }

    /// The search has come back to a verb: how the attempt ends.
    fn verb(&self, pc: u32, pos: usize) -> Ended {
        match self.program.ops.get(pc as usize) {
            Some(Op::Verb(Verb::Commit, ..)) => Ended::Committed,
            Some(Op::Verb(Verb::Skip, ..)) => Ended::Skipped(pos),
            _ => Ended::Failed,
        }
    }

    /// A run gives back to the next place where what follows could begin.
    pub(super) fn give(&mut self, pc: u32, least: usize, next: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let Some(run) = self.run(pc) else { return Ok(None) };
        let program = self.program;
        let then = program.sets.get(usize::from(run.then)).filter(|_| run.then != ANY);
        let mut at = next;
        let mut passed = 0_u64;
        loop {
            let fits = then.is_none_or(|then| self.text.get(at).is_some_and(|byte| then.has(*byte)));
            if fits && (!run.chars || self.is_boundary(at)) {
                break;
            }
            if at <= least {
                self.spend(passed / 2)?;
                return Ok(None);
            }
            at -= 1;
            passed += 1;
        }
        self.spend(passed / 2)?;
        if at > least {
            self.push(Frame::Give { pc, least, next: at - 1 })?;
        }
        Ok(Some((pc + 1, at)))
    }

    /// A run takes more, up to the next place where what follows could begin.
    pub(super) fn more(&mut self, pc: u32, pos: usize, left: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let Some(run) = self.run(pc) else { return Ok(None) };
        let program = self.program;
        let then = program.sets.get(usize::from(run.then)).filter(|_| run.then != ANY);
        let (mut pos, mut left, mut passed) = (pos, left, 0_u64);
        loop {
            if left == 0 || !self.remember(pc, run, pos) {
                self.spend(passed / 2)?;
                return Ok(None);
            }
            let length = self.takes(run, pos);
            if length == 0 {
                self.spend(passed / 2)?;
                return Ok(None);
            }
            pos += length;
            left -= 1;
            passed += if run.chars { 4 } else { 1 };
            if then.is_none_or(|then| self.text.get(pos).is_some_and(|byte| then.has(*byte))) {
                break;
            }
        }
        self.spend(passed / 2)?;
        self.push(Frame::More { pc, pos, left })?;
        Ok(Some((pc + 1, pos)))
    }

    /// A run without an end is in the same state wherever it has begun. False when it has failed from there before.
    fn remember(&mut self, pc: u32, run: &Run, pos: usize) -> bool {
        !self.remembers || run.max != usize::MAX || self.is_new(pc, pos)
    }

    #[inline]
    pub(super) fn run(&self, pc: u32) -> Option<&'a Run> {
        match self.program.ops.get(pc as usize) {
            Some(Op::Run(id)) => self.program.runs.get(*id as usize),
            _ => None,
        }
    }

    /// The next way of a switch.
    pub(super) fn way(
        &mut self,
        switch: u32,
        list: u16,
        next: u16,
        pos: usize,
    ) -> Result<Option<(u32, usize)>, MatchError> {
        let ways = self.program.switches.get(switch as usize).and_then(|switch| switch.lists.get(usize::from(list)));
        let Some(pc) = ways.and_then(|ways| ways.get(usize::from(next))).copied() else { return Ok(None) };
        if ways.is_some_and(|ways| ways.len() > usize::from(next) + 1) {
            self.push(Frame::Ways { switch, list, next: next + 1, pos })?;
        }
        Ok(Some((pc, pos)))
    }

    /// Enters a subroutine.
    pub(super) fn enter(&mut self, group: u32, pos: usize, back: u32) -> Result<(), MatchError> {
        let mut around = self.call;
        while let Some(call) = self.scratch.calls.get(around as usize).copied() {
            self.spend(1)?;
            if call.group == group {
                if call.pos == pos {
                    return Err(MatchError::Recursion);
                }
                break;
            }
            around = call.outer;
        }
        let saved = self.scratch.saved.len();
        let count = self.scratch.registers.len();
        self.spend(u64::try_from(count).unwrap_or(u64::MAX))?;
        if saved + count > MOST_SAVED || self.scratch.calls.len() >= MOST_SAVED {
            return Err(MatchError::Memory);
        }
        let scratch = &mut self.scratch;
        scratch.saved.extend_from_slice(&scratch.registers);
        self.push(Frame::Entered { outer: self.call, saved })?;
        let height = self.scratch.stack.len();
        let index = u32::try_from(self.scratch.calls.len()).unwrap_or(NO_CALL);
        self.scratch.calls.push(Call { outer: self.call, group, back, pos, saved, height });
        self.call = index;
        Ok(())
    }

    /// Leaves it: groups are again what they were before. Where it goes on.
    pub(super) fn leave(&mut self) -> Result<Option<u32>, MatchError> {
        let Some(call) = self.scratch.calls.get(self.call as usize).copied() else { return Ok(None) };
        self.spend(u64::try_from(self.scratch.registers.len()).unwrap_or(u64::MAX))?;
        let keep = self.program.groups * 2;
        for at in (0..self.scratch.registers.len()).filter(|at| *at != keep) {
            let old = self.scratch.saved.get(call.saved + at).copied().unwrap_or(super::UNSET);
            if self.scratch.registers.get(at) != Some(&old) {
                self.set(u32::try_from(at).unwrap_or(u32::MAX), old)?;
            }
        }
        self.push(Frame::Left { inner: self.call })?;
        self.call = call.outer;
        Ok(Some(call.back))
    }

    /// Remembers that a search has come by. False when one has before, and has failed.
    #[inline]
    pub(super) fn is_new(&mut self, pc: u32, pos: usize) -> bool {
        let bit = match self.program.bits.get(pc as usize) {
            Some(bit) if *bit != NO_BIT => usize::from(*bit),
            _ => return true,
        };
        let index = pos * self.program.bit_count + bit;
        match self.scratch.bits.get_mut(index / 64) {
            Some(word) => {
                let mask = 1 << (index % 64);
                let is_new = *word & mask == 0;
                *word |= mask;
                is_new
            }
            None => true,
        }
    }

    /// Takes a run at a place: where to go on, or `None` when that is nowhere.
    pub(super) fn repeat(&mut self, pc: u32, pos: usize) -> Result<Option<(u32, usize)>, MatchError> {
        let Some(run) = self.run(pc) else { return Ok(None) };
        let mut at = pos;
        for taken in 0..run.min {
            let length = self.takes(run, at);
            if length == 0 {
                self.spend(u64::try_from(taken / 4).unwrap_or(u64::MAX))?;
                return Ok(None);
            }
            at += length;
        }
        let least = at;
        let mut left = run.max - run.min;
        if run.greed == Greed::Lazy {
            let program = self.program;
            let then = program.sets.get(usize::from(run.then)).filter(|_| run.then != ANY);
            if then.is_some_and(|then| !self.text.get(at).is_some_and(|byte| then.has(*byte))) {
                return self.more(pc, at, left);
            }
            if left > 0 {
                self.push(Frame::More { pc, pos: at, left })?;
            }
            return Ok(Some((pc + 1, at)));
        }
        let marks = self.remembers && run.max == usize::MAX;
        let mut last = None;
        if marks {
            while self.is_new(pc, at) {
                last = Some(at);
                match self.takes(run, at) {
                    0 => break,
                    length => at += length,
                }
            }
        } else {
            if run.chars {
                while left > 0 {
                    match self.takes(run, at) {
                        0 => break,
                        length => at += length,
                    }
                    left -= 1;
                }
            } else if let Some(set) = self.program.sets.get(run.set as usize) {
                let rest = self.text.get(at..).unwrap_or_default();
                let rest = rest.get(..left).unwrap_or(rest);
                at += set.span(rest);
            }
            last = Some(at);
        }
        // A code point is looked up in a table.
        let share = if run.chars { 1 } else { 4 };
        self.spend(u64::try_from((at - pos) / share).unwrap_or(u64::MAX))?;
        let Some(last) = last else { return Ok(None) };
        if run.greed == Greed::Possessive {
            // Where others have come by, they have been to the end of it.
            return Ok((last == at).then_some((pc + 1, at)));
        }
        if last == least {
            return Ok(Some((pc + 1, last)));
        }
        self.give(pc, least, last)
    }
}
