//! Tries one beginning after the other.

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};

use super::super::ast::Newline;
use super::super::parse::newline_before;
use super::super::program::{Begins, Hint, Program};
use super::{Ended, MOST_BITS, MOST_WORK, Machine, MatchError, NO_CALL, QUICK_WORK, SCRATCH, Scratch, UNSET};

/// What groups have matched, the whole match first.
pub type Groups = Vec<Option<Range<usize>>>;

/// Looks for a match; the groups if there is one, in `wanted` number at most.
///
/// # Errors
/// A limit was reached: nobody knows.
pub fn search(program: &Program, text: &[u8], wanted: usize) -> Result<Option<Groups>, MatchError> {
    if program.utf && std::str::from_utf8(text).is_err() {
        return Err(MatchError::Utf8);
    }
    if let Some(simple) = program.simple.as_ref().filter(|_| wanted == 0) {
        return Ok(simple.is_in(text).then(Groups::new));
    }
    if program.contains_first && program.contains.as_ref().is_some_and(|wanted| wanted.find(text).is_none()) {
        return Ok(None);
    }
    SCRATCH.with(|shared| match shared.try_borrow_mut() {
        Ok(mut scratch) => {
            let found = with(program, text, wanted, &mut scratch);
            if scratch.is_large() {
                scratch.trim();
            }
            found
        }
        Err(_) => with(program, text, wanted, &mut Scratch::new()),
    })
}

fn with(program: &Program, text: &[u8], wanted: usize, scratch: &mut Scratch) -> Result<Option<Groups>, MatchError> {
    let mut machine = Machine { program, text, scratch, call: NO_CALL, work: MOST_WORK, remembers: false, keep: UNSET };
    let found = machine.search()?;
    Ok(found.map(|(start, end)| if wanted == 0 { Groups::new() } else { machine.groups(start, end, wanted) }))
}

impl Machine<'_> {
    /// Quickly first; if that takes long, again from where it was, with places remembered where that can be.
    fn search(&mut self) -> Result<Option<(usize, usize)>, MatchError> {
        let length = u64::try_from(self.text.len()).unwrap_or(u64::MAX);
        self.work = QUICK_WORK.saturating_add(length.saturating_mul(8)).min(MOST_WORK);
        let mut start = 0;
        match self.search_from(&mut start) {
            Err(MatchError::Work) => {}
            ended => return ended,
        }
        if self.lacks() {
            return Ok(None);
        }
        self.work = MOST_WORK;
        self.remembers =
            self.program.bit_count > 0 && self.program.bit_count.saturating_mul(self.text.len() + 1) <= MOST_BITS;
        if !self.remembers {
            return self.search_from(&mut start);
        }
        let words = (self.program.bit_count * (self.text.len() + 1)).div_ceil(64);
        self.scratch.bits.clear();
        self.scratch.bits.resize(words, 0);
        self.search_from(&mut start)
    }

    /// True when the text lacks what every match contains.
    fn lacks(&self) -> bool {
        const FEW: usize = 4;
        let lacks = self.program.contains.as_ref().is_some_and(|wanted| wanted.find(self.text).is_none());
        let is_in =
            |wanted: &Vec<u8>| self.text.windows(wanted.len().max(1)).any(|text| text.eq_ignore_ascii_case(wanted));
        lacks || self.program.needs.as_ref().is_some_and(|needs| needs.len() <= FEW && !needs.iter().any(is_in))
    }

    fn search_from(&mut self, start: &mut usize) -> Result<Option<(usize, usize)>, MatchError> {
        while let Some(begin) = self.next_start(*start)? {
            *start = begin;
            let next = match self.attempt(begin)? {
                Ended::Matched(end) => {
                    return Ok(Some((if self.keep == UNSET { begin } else { self.keep }, end)));
                }
                Ended::Committed => return Ok(None),
                Ended::Skipped(to) if to > begin => to,
                Ended::Failed | Ended::Skipped(_) => self.after(begin),
            };
            let next = self.whole_line_break(next);
            if next > self.text.len() || self.program.begins == Begins::AtStart {
                return Ok(None);
            }
            *start = next;
        }
        Ok(None)
    }

    /// The beginning that comes after one that has failed.
    fn after(&self, begin: usize) -> usize {
        if !self.program.utf {
            return begin + 1;
        }
        let rest = self.text.get(begin + 1..).unwrap_or_default();
        begin + 1 + rest.iter().take_while(|byte| matches!(byte, 0x80..=0xbf)).count()
    }

    /// A line break of two is not cut apart, unless the pattern names its halves.
    fn whole_line_break(&self, next: usize) -> usize {
        let is_between = next > 0 && matches!(self.text.get(next - 1..=next), Some([b'\r', b'\n']));
        let is_whole = matches!(self.program.newline, Newline::CrLf | Newline::AnyCrLf | Newline::Any);
        if is_between && is_whole && !self.program.names_newline { next + 1 } else { next }
    }

    /// The next place where a match can begin.
    fn next_start(&mut self, from: usize) -> Result<Option<usize>, MatchError> {
        let found = match self.program.begins {
            Begins::AtStart => (from == 0 && self.can_begin(0)).then_some(0),
            Begins::Anywhere => self.hinted(from),
            Begins::AtLine => {
                let mut at = from;
                loop {
                    match self.line_from(at) {
                        Some(line) if self.can_begin(line) => break Some(line),
                        Some(line) if line < self.text.len() => at = line + 1,
                        _ => break None,
                    }
                }
            }
        };
        let passed = found.unwrap_or(self.text.len()).saturating_sub(from) / 16;
        self.spend(u64::try_from(passed).unwrap_or(u64::MAX))?;
        Ok(found)
    }

    fn line_from(&self, from: usize) -> Option<usize> {
        let (text, newline, utf) = (self.text, self.program.newline, self.program.utf);
        if newline == Newline::Lf {
            return match from.checked_sub(1) {
                None => Some(0),
                Some(before) => memchr(b'\n', text.get(before..)?).map(|at| before + at + 1),
            };
        }
        (from..=text.len()).find(|at| *at == 0 || newline_before(newline, text, *at, utf))
    }

    fn can_begin(&self, at: usize) -> bool {
        let rest = self.text.get(at..).unwrap_or_default();
        match (&self.program.hint, rest.first()) {
            (Hint::Any | Hint::Beginnings(_), _) => true,
            (_, None) => false,
            (Hint::Bytes(bytes, _), Some(first)) => bytes.contains(first),
            (Hint::Set(set), Some(first)) => set.has(*first),
            (Hint::Literal(finder), _) => rest.starts_with(finder.needle()),
        }
    }

    fn hinted(&self, from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        let found = match &self.program.hint {
            Hint::Any => return Some(from),
            Hint::Bytes([one, ..], 1) => memchr(*one, rest),
            Hint::Bytes([one, two, _], 2) => memchr2(*one, *two, rest),
            Hint::Bytes([one, two, three], _) => memchr3(*one, *two, *three, rest),
            Hint::Set(set) => rest.iter().position(|byte| set.has(*byte)),
            Hint::Literal(finder) => finder.find(rest),
            Hint::Beginnings(beginnings) => beginnings.find(rest).map(|found| found.start()),
        };
        found.map(|at| from + at)
    }

    fn groups(&self, start: usize, end: usize, wanted: usize) -> Groups {
        let registers = &self.scratch.registers;
        let group = |number: usize| {
            let (from, to) = (*registers.get(number * 2)?, *registers.get(number * 2 + 1)?);
            (from != UNSET && to != UNSET).then_some(from..to)
        };
        let mut groups = Vec::with_capacity(wanted.min(self.program.groups));
        groups.extend(
            (0..wanted.min(self.program.groups)).map(
                |number| {
                    if number == 0 { Some(start..end) } else { group(number) }
                },
            ),
        );
        groups
    }
}
