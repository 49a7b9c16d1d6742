//! Classes in brackets.

use std::rc::Rc;

use super::super::ast::{Assertion, Look, Node};
use super::super::set::CharSet;
use super::super::unicode;
use super::escape::Escaped;
use super::{Parsed, Parser};

/// What the last member of a class allows a hyphen behind it to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    /// A character, which may begin a range; the character.
    MayBegin(u32),
    /// A hyphen that has begun one.
    Begun(u32),
    /// Nothing that could begin a range, as at the beginning or behind a range: a hyphen is a hyphen.
    No,
    /// A set: a hyphen behind it is a hyphen only at the end of the class.
    AfterSet,
    /// Such a hyphen.
    HyphenAfterSet,
}

const BAD_RANGE: &str = "invalid range in character class";

impl Parser<'_> {
    /// A class, and whether it may be repeated.
    pub(super) fn class(&mut self) -> Parsed<(Node, bool)> {
        let from = self.at;
        if let Some(node) = self.word_edge()? {
            return Ok((node, false));
        }
        self.at += 1;
        if posix(self.rest()).is_some() {
            return self.refuse_at(from, "POSIX named classes are supported only within a class");
        }
        let (negated, names_newline) = (self.head_of_class(), self.names_newline);
        let mut set = CharSet::default();
        let mut range = Range::No;
        let mut first = true;
        loop {
            let start = self.at;
            let Some(byte) = self.peek() else {
                return self.refuse("missing terminating ] for character class");
            };
            if self.quoting {
                if self.take(b"\\E") {
                    self.quoting = false;
                    continue;
                }
                range = self.quoted_member(&mut set, range)?;
                first = false;
                continue;
            }
            match byte {
                b']' if !first => {
                    self.at += 1;
                    break;
                }
                b' ' | b'\t' if self.options.extended_more => {
                    self.at += 1;
                    continue;
                }
                b'[' if posix(self.rest().get(1..).unwrap_or_default()).is_some() => {
                    if matches!(range, Range::Begun(_) | Range::HyphenAfterSet) {
                        return self.refuse(BAD_RANGE);
                    }
                    let found = self.posix_class()?;
                    set.add_all(&found);
                    range = Range::AfterSet;
                }
                b'\\' if self.take(b"\\Q") => {
                    self.quoting = true;
                    continue;
                }
                b'\\' if self.take(b"\\E") => continue,
                b'\\' => match self.escaped(true)? {
                    Escaped::Char(character) => range = self.member(&mut set, range, character, start)?,
                    Escaped::Set(found) => {
                        if matches!(range, Range::Begun(_) | Range::HyphenAfterSet) {
                            return self.refuse_at(start, BAD_RANGE);
                        }
                        set.add_all(&found);
                        range = Range::AfterSet;
                    }
                    Escaped::Other(b'N') => {
                        return self.refuse_at(start, "\\N is not supported in a class");
                    }
                    Escaped::Other(_) | Escaped::Back(_) => {
                        return self.refuse_at(start, "escape sequence is invalid in character class");
                    }
                },
                b'-' => match range {
                    Range::MayBegin(character) => {
                        self.at += 1;
                        range = Range::Begun(character);
                    }
                    Range::AfterSet => {
                        self.at += 1;
                        self.add(&mut set, u32::from(b'-'), u32::from(b'-'));
                        range = Range::HyphenAfterSet;
                    }
                    _ => {
                        self.at += 1;
                        range = self.member(&mut set, range, u32::from(b'-'), start)?;
                    }
                },
                _ => match self.next_char() {
                    Some(character) => range = self.member(&mut set, range, character, start)?,
                    None => return self.refuse("the pattern is not valid UTF-8"),
                },
            }
            first = false;
        }
        if let Range::Begun(_) = range {
            self.add(&mut set, u32::from(b'-'), u32::from(b'-'));
        }
        // PCRE: anything but a line break does not name one.
        if negated && [10, 13].into_iter().any(|end| set == CharSet::of([end])) {
            self.names_newline = names_newline;
        }
        Ok((Node::Set(Rc::new(if negated { set.negated(self.utf) } else { set })), true))
    }

    /// `[` and `^`, with what may stand around them without a meaning.
    fn head_of_class(&mut self) -> bool {
        let mut negated = false;
        loop {
            if self.take(b"\\E") || self.take(b"\\Q\\E") {
                continue;
            }
            match self.peek() {
                Some(b' ' | b'\t') if self.options.extended_more => self.at += 1,
                Some(b'^') if !negated => {
                    negated = true;
                    self.at += 1;
                }
                _ => return negated,
            }
        }
    }

    /// A character within `\Q..\E`, where a hyphen is one.
    fn quoted_member(&mut self, set: &mut CharSet, range: Range) -> Parsed<Range> {
        let start = self.at;
        match self.next_char() {
            Some(character) => self.member(set, range, character, start),
            None => self.refuse("the pattern is not valid UTF-8"),
        }
    }

    /// A character of a class: a member, or the end of a range.
    fn member(&mut self, set: &mut CharSet, range: Range, character: u32, start: usize) -> Parsed<Range> {
        self.names_newline |= matches!(character, 10 | 13);
        match range {
            Range::Begun(first) if character < first => self.refuse_at(start, "range out of order in character class"),
            Range::Begun(first) => {
                self.add(set, first, character);
                Ok(Range::No)
            }
            Range::HyphenAfterSet => self.refuse_at(start, BAD_RANGE),
            Range::No | Range::MayBegin(_) | Range::AfterSet => {
                self.add(set, character, character);
                Ok(Range::MayBegin(character))
            }
        }
    }

    fn add(&self, set: &mut CharSet, first: u32, last: u32) {
        if self.options.caseless {
            set.add_all(&self.caseless(first, last));
        } else {
            set.add_range(first, last);
        }
    }

    /// `[[:<:]]` and `[[:>:]]`: the edges of a word.
    fn word_edge(&mut self) -> Parsed<Option<Node>> {
        let behind = if self.take(b"[[:<:]]") {
            false
        } else if self.take(b"[[:>:]]") {
            true
        } else {
            return Ok(None);
        };
        let Some(word) = (if self.ucp { unicode::word() } else { Some(ascii_word()) }) else {
            return self.refuse("this property is not known");
        };
        let word = if self.utf { word } else { word.bytes_only() };
        let look = Look { behind, negative: false, retried: false, at: self.at };
        let looked = Node::Look(look, Box::new(Node::Set(Rc::new(word))));
        Ok(Some(Node::Concat(vec![Node::Assert(Assertion::Word(self.ucp)), looked])))
    }

    /// `[:alpha:]`
    fn posix_class(&mut self) -> Parsed<CharSet> {
        let from = self.at;
        let Some((kind, name)) = posix(self.rest().get(1..).unwrap_or_default()) else {
            return self.refuse("unknown POSIX class name");
        };
        let name = name.to_vec();
        if kind != b':' {
            return self.refuse("POSIX collating elements are not supported");
        }
        self.at += name.len() + 4;
        let (name, negated) = match name.strip_prefix(b"^") {
            Some(name) => (name.to_vec(), true),
            None => (name, false),
        };
        let either = self.options.caseless && matches!(&*name, b"upper" | b"lower");
        let name: &[u8] = if either { b"alpha" } else { &name };
        let by_unicode = self.ucp && !self.options.ascii.get(3).copied().unwrap_or(false);
        let by_unicode = by_unicode
            && !(self.options.ascii.get(4).copied().unwrap_or(false) && matches!(name, b"digit" | b"xdigit"));
        if by_unicode && matches!(name, b"graph" | b"print") {
            return self.refuse_at(from, "[:graph:] and [:print:] are not supported with (*UCP)");
        }
        let found = if by_unicode { unicode_class(name) } else { None };
        let Some(set) = found.or_else(|| ascii_class(name)) else {
            return self.refuse_at(from, "unknown POSIX class name");
        };
        let set = if negated { set.negated(true) } else { set };
        Ok(if self.utf { set } else { set.bytes_only() })
    }
}

/// What stands between `:`, `.` or `=` behind an opening bracket and the same before a closing one.
fn posix(text: &[u8]) -> Option<(u8, &[u8])> {
    let kind = *text.first().filter(|kind| matches!(kind, b':' | b'.' | b'='))?;
    let inner = text.get(1..)?;
    let mut at = 0;
    while at + 1 < inner.len() {
        match (inner.get(at), inner.get(at + 1)) {
            (Some(b'\\'), Some(b']' | b'\\')) => at += 1,
            (Some(b'['), Some(next)) if *next == kind => return None,
            (Some(b']'), _) => return None,
            (Some(end), Some(b']')) if *end == kind => return Some((kind, inner.get(..at)?)),
            _ => {}
        }
        at += 1;
    }
    None
}

fn ascii_word() -> CharSet {
    of(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn of(belongs: impl Fn(u8) -> bool) -> CharSet {
    CharSet::of((0..=127_u8).filter(|byte| belongs(*byte)).map(u32::from))
}

fn ascii_class(name: &[u8]) -> Option<CharSet> {
    Some(match name {
        b"alpha" => of(|byte| byte.is_ascii_alphabetic()),
        b"lower" => of(|byte| byte.is_ascii_lowercase()),
        b"upper" => of(|byte| byte.is_ascii_uppercase()),
        b"alnum" => of(|byte| byte.is_ascii_alphanumeric()),
        b"ascii" => of(|_| true),
        b"blank" => of(|byte| matches!(byte, b' ' | b'\t')),
        b"cntrl" => of(|byte| byte.is_ascii_control()),
        b"digit" => of(|byte| byte.is_ascii_digit()),
        b"graph" => of(|byte| byte.is_ascii_graphic()),
        b"print" => of(|byte| byte.is_ascii_graphic() || byte == b' '),
        b"punct" => of(|byte| byte.is_ascii_punctuation()),
        b"space" => of(|byte| matches!(byte, 9..=13 | b' ')),
        b"word" => ascii_word(),
        b"xdigit" => of(|byte| byte.is_ascii_hexdigit()),
        _ => return None,
    })
}

/// With `(*UCP)`; `None` for those that stay as they are.
fn unicode_class(name: &[u8]) -> Option<CharSet> {
    match name {
        b"alpha" => unicode::property("l"),
        b"lower" => unicode::property("ll"),
        b"upper" => unicode::property("lu"),
        b"alnum" => unicode::property("xan"),
        b"space" => unicode::property("xps"),
        b"word" => unicode::word(),
        b"cntrl" => unicode::property("cc"),
        b"digit" => unicode::property("nd"),
        b"blank" => {
            let mut set = CharSet::of([9, 0x20, 0xa0, 0x1680, 0x180e, 0x202f, 0x205f, 0x3000]);
            set.add_range(0x2000, 0x200a);
            Some(set)
        }
        b"punct" => {
            let mut set = unicode::property("p")?;
            b"$+<=>^`|~".iter().for_each(|symbol| set.add(u32::from(*symbol)));
            Some(set)
        }
        b"xdigit" => {
            let mut set = ascii_class(name)?;
            [(0xff10, 0xff19), (0xff21, 0xff26), (0xff41, 0xff46)]
                .into_iter()
                .for_each(|(first, last)| set.add_range(first, last));
            Some(set)
        }
        _ => None,
    }
}
