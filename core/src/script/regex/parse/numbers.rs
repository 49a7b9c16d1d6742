//! Numbers, names and quantifiers.

use super::{Parsed, Parser};

/// The highest number of a group.
pub const MOST_GROUPS: u32 = 65_535;
/// The most repetitions that can be asked for.
const MOST_REPEATS: u32 = 65_535;
/// The longest name of a group.
const LONGEST_NAME: usize = 128;

impl Parser<'_> {
    pub(super) fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// A number up to `most`; `None` without a digit.
    pub(super) fn number(&mut self, most: u32, too_big: &str) -> Parsed<Option<u32>> {
        let mut number: Option<u32> = None;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            let next = number.unwrap_or(0).saturating_mul(10).saturating_add(u32::from(digit - b'0'));
            if next > most {
                return self.refuse(too_big);
            }
            number = Some(next);
            self.at += 1;
        }
        Ok(number)
    }

    /// The number of a group, which may be said relative to the last one: `+1` is the next.
    pub(super) fn group_number(&mut self) -> Parsed<Option<u32>> {
        let (from, sign) = (self.at, self.peek().filter(|byte| matches!(byte, b'+' | b'-')));
        if sign.is_some() {
            self.at += 1;
        }
        let Some(number) = self.number(MOST_GROUPS, "group number is too big")? else {
            self.at = from;
            return Ok(None);
        };
        Ok(Some(match sign {
            None => number,
            Some(_) if number == 0 => {
                return self.refuse_at(from, "a relative value of zero is not allowed");
            }
            Some(b'+') => number.saturating_add(self.groups),
            Some(_) => match self.groups.checked_sub(number - 1).filter(|number| *number > 0) {
                Some(number) => number,
                None => return self.refuse_at(from, "reference to non-existent group"),
            },
        }))
    }

    /// A quantifier: how often at least and at most.
    pub(super) fn quantifier(&mut self) -> Parsed<Option<(u32, Option<u32>)>> {
        let found = match self.peek() {
            Some(b'*') => (0, None),
            Some(b'+') => (1, None),
            Some(b'?') => (0, Some(1)),
            Some(b'{') => return self.braces(),
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(found))
    }

    /// `{n}`, `{n,}`, `{n,m}`, `{,m}`, with blanks where they do not matter; anything else is no quantifier.
    fn braces(&mut self) -> Parsed<Option<(u32, Option<u32>)>> {
        let Some((least, most, length)) = braces(self.rest()) else { return Ok(None) };
        let number = |digits: &[u8]| {
            digits
                .iter()
                .try_fold(0_u32, |sum, digit| Some(sum * 10 + u32::from(digit - b'0')).filter(|n| *n <= MOST_REPEATS))
        };
        let too_big = "number too big in {} quantifier";
        let Some(min) = number(least) else { return self.refuse(too_big) };
        let max = match most {
            None => Some(min),
            Some([]) => None,
            Some(digits) => match number(digits) {
                Some(max) if max < min => return self.refuse("numbers out of order in {} quantifier"),
                Some(max) => Some(max),
                None => return self.refuse(too_big),
            },
        };
        self.at += length;
        Ok(Some((min, max)))
    }

    /// The name of a group and what ends it.
    pub(super) fn name(&mut self, end: u8) -> Parsed<Vec<u8>> {
        if end == b'}' {
            self.skip_spaces();
        }
        let from = self.at;
        if self.utf && self.peek().is_some_and(|byte| byte >= 0x80) {
            return self.refuse("a group's name beyond ASCII is not supported");
        }
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.refuse("group name must start with a non-digit");
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.at += 1;
        }
        let name = self.pattern.get(from..self.at).unwrap_or_default().to_vec();
        if name.is_empty() {
            return self.refuse("group name expected");
        }
        if name.len() > LONGEST_NAME {
            return self.refuse("group name is too long");
        }
        if end == b'}' {
            self.skip_spaces();
        }
        if !self.take(&[end]) {
            return self.refuse("syntax error in group name (missing terminator?)");
        }
        Ok(name)
    }
}

/// A quantifier in braces: its digits, the second `None` without a comma, and its length.
type Braces<'p> = (&'p [u8], Option<&'p [u8]>, usize);

fn braces(text: &[u8]) -> Option<Braces<'_>> {
    let skip = |at: usize| {
        at + text.get(at..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
    };
    let digits = |at: usize| {
        let rest = text.get(at..).unwrap_or_default();
        rest.get(..rest.iter().take_while(|byte| byte.is_ascii_digit()).count()).unwrap_or_default()
    };
    let start = skip(1);
    let least = digits(start);
    let after = skip(start + least.len());
    match text.get(after)? {
        b'}' if !least.is_empty() => Some((least, None, after + 1)),
        b',' => {
            let start = skip(after + 1);
            let most = digits(start);
            let end = skip(start + most.len());
            let is_one = text.get(end) == Some(&b'}') && (!least.is_empty() || !most.is_empty());
            is_one.then_some((least, Some(most), end + 1))
        }
        _ => None,
    }
}
