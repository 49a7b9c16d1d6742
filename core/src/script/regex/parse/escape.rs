//! What follows a backslash.

use std::rc::Rc;

use super::super::ast::{Assertion, Case, Node, Target};
use super::super::set::CharSet;
use super::super::unicode;
use super::{LineBreaks, Parsed, Parser};

/// An escape that may stand within a class, too.
pub(super) enum Escaped {
    /// A character.
    Char(u32),
    /// A set of them.
    Set(CharSet),
    /// Something else: the letter.
    Other(u8),
    /// A back-reference by number.
    Back(u32),
}

/// Which characters a letter such as `d` stands for, by the option that keeps it to ASCII.
const DIGITS: usize = 0;
const SPACES: usize = 1;
const WORDS: usize = 2;

impl Parser<'_> {
    /// An escape outside of a class.
    pub(super) fn escape(&mut self) -> Parsed<(Option<Node>, bool)> {
        let from = self.at;
        let set = |set: CharSet| (Some(Node::Set(Rc::new(set))), true);
        let assert = |assertion| (Some(Node::Assert(assertion)), false);
        let letter = match self.escaped(false)? {
            Escaped::Char(character) => return Ok((Some(self.literal(character)), true)),
            Escaped::Set(found) => return Ok(set(found)),
            Escaped::Back(number) => return Ok((Some(self.back(Target::Number(number, from))), true)),
            Escaped::Other(letter) => letter,
        };
        let ucp_words = self.ucp && !self.ascii(WORDS);
        Ok(match letter {
            b'A' | b'G' => assert(Assertion::Start),
            b'Z' => assert(Assertion::LastLineEnd),
            b'z' => assert(Assertion::End),
            b'b' => assert(Assertion::Word(ucp_words)),
            b'B' => assert(Assertion::NotWord(ucp_words)),
            b'K' if self.looking => return self.refuse_at(from, "\\K is not allowed in lookarounds"),
            b'K' => (Some(Node::Keep), false),
            b'N' => (Some(self.dot(false)), true),
            b'C' if self.utf => return self.refuse_at(from, "\\C is not supported with (*UTF)"),
            b'C' => set(CharSet::all(false)),
            b'R' => (Some(self.line_break()), true),
            b'X' if self.utf => return self.refuse_at(from, "\\X is not supported with (*UTF)"),
            b'X' if self.looking_back => return self.refuse_at(from, "\\X is not supported in lookbehind assertion"),
            b'X' => (Some(self.cluster()), true),
            b'k' => {
                let Some(end) = self.opening() else {
                    return self.refuse("\\k is not followed by a braced, angle-bracketed, or quoted name");
                };
                let name = self.name(end)?;
                (Some(self.back(Target::Name(name, from))), true)
            }
            b'g' => (Some(self.group_escape(from)?), true),
            _ => return self.refuse_at(from, format!("\\{} is not supported", char::from(letter))),
        })
    }

    fn ascii(&self, kind: usize) -> bool {
        self.options.ascii.get(kind).copied().unwrap_or(false)
    }

    /// `<`, `'` or `{`: what ends the name behind it.
    fn opening(&mut self) -> Option<u8> {
        let end = match self.peek()? {
            b'<' => b'>',
            b'\'' => b'\'',
            b'{' => b'}',
            _ => return None,
        };
        self.at += 1;
        Some(end)
    }

    pub(super) fn back(&self, target: Target) -> Node {
        let case = match (self.options.caseless, self.utf || self.ucp) {
            (false, _) => Case::Exact,
            (true, false) => Case::Ascii,
            (true, true) => Case::Unicode,
        };
        Node::Back(target, case)
    }

    /// `\g`: a reference, or with `<..>` and `'..'` a subroutine.
    fn group_escape(&mut self, from: usize) -> Parsed<Node> {
        let malformed = "a numbered reference must not be zero, or \\g is not followed by a braced, angle-bracketed, or quoted name/number or by a plain number";
        match self.peek() {
            Some(b'{') => {
                let start = self.at;
                self.at += 1;
                self.skip_spaces();
                let Some(number) = self.group_number()? else {
                    self.at = start + 1;
                    let name = self.name(b'}')?;
                    return Ok(self.back(Target::Name(name, from)));
                };
                self.skip_spaces();
                if !self.take(b"}") || number == 0 {
                    return self.refuse_at(from, malformed);
                }
                Ok(self.back(Target::Number(number, from)))
            }
            Some(open @ (b'<' | b'\'')) => {
                let end = if open == b'<' { b'>' } else { b'\'' };
                self.at += 1;
                let Some(number) = self.group_number()? else {
                    return Ok(Node::Call(Target::Name(self.name(end)?, from)));
                };
                if !self.take(&[end]) {
                    return self.refuse_at(from, malformed);
                }
                Ok(Node::Call(Target::Number(number, from)))
            }
            _ => match self.group_number()? {
                Some(number) if number > 0 => Ok(self.back(Target::Number(number, from))),
                _ => self.refuse_at(from, malformed),
            },
        }
    }

    /// `\R`, which takes both halves of a line break and never gives one back.
    fn line_break(&self) -> Node {
        let mut set = CharSet::range(10, 13);
        match self.line_breaks {
            LineBreaks::AnyCrLf => set = CharSet::of([10, 13]),
            LineBreaks::Unicode => {
                set.add(0x85);
                if self.utf {
                    set.add_range(0x2028, 0x2029);
                }
            }
        }
        let both = Node::Concat(vec![Node::Char(13), Node::Char(10)]);
        Node::Atomic(Box::new(Node::Alt(vec![both, Node::Set(Rc::new(set))])))
    }

    /// `\X` on bytes: there only a carriage return and a line feed belong together.
    fn cluster(&self) -> Node {
        let both = Node::Concat(vec![Node::Char(13), Node::Char(10)]);
        Node::Atomic(Box::new(Node::Alt(vec![both, Node::Set(Rc::new(CharSet::all(self.utf)))])))
    }

    /// Reads an escape.
    pub(super) fn escaped(&mut self, in_class: bool) -> Parsed<Escaped> {
        let from = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else { return self.refuse("\\ at end of pattern") };
        if !letter.is_ascii_alphanumeric() {
            return match self.next_char() {
                Some(character) => Ok(Escaped::Char(character)),
                None => self.refuse("the pattern is not valid UTF-8"),
            };
        }
        self.at += 1;
        let character = |code: u8| Ok(Escaped::Char(u32::from(code)));
        match letter {
            b'a' => character(7),
            b'e' => character(0x1b),
            b'f' => character(0x0c),
            b'n' => character(b'\n'),
            b'r' => character(b'\r'),
            b't' => character(b'\t'),
            b'd' | b'D' | b's' | b'S' | b'w' | b'W' | b'h' | b'H' | b'v' | b'V' => self.kind(letter, from),
            b'p' | b'P' => self.property(letter == b'P', from),
            b'c' => self.control(),
            b'x' => self.hexadecimal(from),
            b'o' => self.octal_braced(from),
            b'0' => Ok(Escaped::Char(self.octal(from)?)),
            b'1'..=b'9' => self.digits(from, in_class),
            b'N' if self.peek() == Some(b'{') => self.named_character(from, in_class),
            b'F' | b'l' | b'L' | b'u' | b'U' => self.refuse_at(
                from,
                format!("PCRE2 does not support \\F, \\L, \\l, \\N{{name}}, \\U, or \\u (\\{})", char::from(letter)),
            ),
            b'g' | b'k' if in_class => character(letter),
            b'b' if in_class => character(8),
            b'A' | b'B' | b'C' | b'G' | b'K' | b'N' | b'R' | b'X' | b'Z' | b'b' | b'g' | b'k' | b'z' => {
                Ok(Escaped::Other(letter))
            }
            _ => self.refuse_at(from, format!("unrecognized character follows \\ (\\{})", char::from(letter))),
        }
    }

    /// `\d`, `\s`, `\w`, `\h`, `\v` and their opposites.
    fn kind(&self, letter: u8, from: usize) -> Parsed<Escaped> {
        let mut set = match letter.to_ascii_lowercase() {
            b'h' => {
                let mut set = CharSet::of([9, 0x20, 0xa0]);
                if self.utf {
                    [0x1680, 0x180e, 0x202f, 0x205f, 0x3000].into_iter().for_each(|code| set.add(code));
                    set.add_range(0x2000, 0x200a);
                }
                set
            }
            b'v' => {
                let mut set = CharSet::range(10, 13);
                set.add(0x85);
                if self.utf {
                    set.add_range(0x2028, 0x2029);
                }
                set
            }
            b'd' => self.class_of(DIGITS, unicode::digit, from, b"0-9")?,
            b's' => self.class_of(SPACES, unicode::space, from, b"\t-\r -  ")?,
            _ => self.class_of(WORDS, unicode::word, from, b"a-zA-Z0-9_-_")?,
        };
        if letter.is_ascii_uppercase() {
            set = set.negated(self.utf);
        }
        Ok(Escaped::Set(set))
    }

    /// A set by Unicode where the pattern asks for that, else by ASCII: ranges of three bytes each.
    fn class_of(&self, kind: usize, unicode: fn() -> Option<CharSet>, from: usize, ascii: &[u8]) -> Parsed<CharSet> {
        if self.ucp && !self.ascii(kind) {
            return match unicode() {
                Some(set) if self.utf => Ok(set),
                Some(set) => Ok(set.bytes_only()),
                None => self.refuse_at(from, "this property is not known"),
            };
        }
        let mut set = CharSet::default();
        for range in ascii.chunks_exact(3) {
            if let [first, _, last] = range {
                set.add_range(u32::from(*first), u32::from(*last));
            }
        }
        Ok(set)
    }

    /// `\p{..}`, `\pL` and their opposites.
    fn property(&mut self, negated: bool, from: usize) -> Parsed<Escaped> {
        let malformed = "malformed \\P or \\p sequence";
        let (name, inverted) = match self.peek() {
            Some(b'{') => {
                let Some(end) = self.rest().iter().position(|byte| *byte == b'}') else {
                    return self.refuse_at(from, malformed);
                };
                let name = self.rest().get(1..end).unwrap_or_default().to_vec();
                self.at += end + 1;
                let blanks = name.iter().take_while(|byte| matches!(byte, b'_' | b'-' | b' ' | 9..=13)).count();
                match name.get(blanks..).and_then(|rest| rest.strip_prefix(b"^")) {
                    Some(rest) => (rest.to_vec(), true),
                    None => (name, false),
                }
            }
            Some(letter) if letter.is_ascii_alphabetic() => {
                self.at += 1;
                (vec![letter], false)
            }
            _ => return self.refuse_at(from, malformed),
        };
        // Where case does not matter, a letter of one case means one of any.
        let mut wanted = unicode::loose(&name);
        if self.options.caseless && matches!(&*wanted, "lu" | "ll" | "lt") {
            "l&".clone_into(&mut wanted);
        }
        let Some(mut set) = unicode::property(&wanted) else {
            let name = String::from_utf8_lossy(&name).into_owned();
            return self.refuse_at(from, format!("unknown property \"{name}\" after \\P or \\p"));
        };
        if negated != inverted {
            set = set.negated(true);
        }
        Ok(Escaped::Set(if self.utf { set } else { set.bytes_only() }))
    }

    /// `\cA`
    fn control(&mut self) -> Parsed<Escaped> {
        let Some(byte @ 32..=126) = self.peek() else {
            return self.refuse("\\c must be followed by a printable ASCII character");
        };
        self.at += 1;
        Ok(Escaped::Char(u32::from(byte.to_ascii_uppercase() ^ 0x40)))
    }

    /// `\x4`, `\x41`, `\x{41}`
    fn hexadecimal(&mut self, from: usize) -> Parsed<Escaped> {
        if self.take(b"{") {
            return self.braced(16, from);
        }
        let mut code = 0;
        let mut digits = 0;
        while let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)).filter(|_| digits < 2) {
            code = code * 16 + digit;
            digits += 1;
            self.at += 1;
        }
        if digits == 0 {
            return self.refuse("digits missing after \\x or in \\x{} or \\o{} or \\N{U+}");
        }
        Ok(Escaped::Char(code))
    }

    /// `\o{101}`
    fn octal_braced(&mut self, from: usize) -> Parsed<Escaped> {
        if !self.take(b"{") {
            return self.refuse("missing opening brace after \\o");
        }
        self.braced(8, from)
    }

    /// The digits between braces.
    fn braced(&mut self, base: u32, from: usize) -> Parsed<Escaped> {
        self.skip_spaces();
        let mut code: Option<u32> = None;
        while let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(base)) {
            let next = code.unwrap_or(0).saturating_mul(base).saturating_add(digit);
            if next > self.last_character() {
                return self.refuse_at(from, "character code point value in \\x{} or \\o{} is too large");
            }
            code = Some(next);
            self.at += 1;
        }
        let Some(code) = code else {
            return self.refuse("digits missing after \\x or in \\x{} or \\o{} or \\N{U+}");
        };
        self.skip_spaces();
        if !self.take(b"}") {
            return self.refuse("a digit that does not belong there, or a missing brace, in \\x{} or \\o{}");
        }
        if self.utf && matches!(code, 0xd800..=0xdfff) {
            return self.refuse_at(from, "disallowed Unicode code point (>= 0xd800 && <= 0xdfff)");
        }
        Ok(Escaped::Char(code))
    }

    fn last_character(&self) -> u32 {
        if self.utf { super::super::set::LAST } else { 255 }
    }

    /// Up to three octal digits, the first of which has been read.
    fn octal(&mut self, from: usize) -> Parsed<u32> {
        self.at -= 1;
        let mut code = 0;
        let mut digits = 0;
        while let Some(digit @ b'0'..=b'7') = self.peek().filter(|_| digits < 3) {
            code = code * 8 + u32::from(digit - b'0');
            digits += 1;
            self.at += 1;
        }
        if code > self.last_character() {
            return self.refuse_at(from, "octal value is greater than \\377 in 8-bit non-UTF-8 mode");
        }
        Ok(code)
    }

    /// `\1` is a reference, `\12` is one if there are so many groups already, and octal otherwise.
    fn digits(&mut self, from: usize, in_class: bool) -> Parsed<Escaped> {
        let first = self.pattern.get(from + 1).copied().unwrap_or_default();
        if !in_class {
            self.at = from + 1;
            let mut number = 0_u32;
            while let Some(digit @ b'0'..=b'9') = self.peek() {
                number = number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
                self.at += 1;
            }
            if number < 10 || first >= b'8' || number <= self.groups {
                if number > super::numbers::MOST_GROUPS {
                    return self.refuse_at(from, "group number is too big");
                }
                return Ok(Escaped::Back(number));
            }
            self.at = from + 2;
        }
        if first >= b'8' {
            return Ok(Escaped::Char(u32::from(first)));
        }
        Ok(Escaped::Char(self.octal(from)?))
    }

    /// `\N{U+41}`; and `\N{2}`, which is `\N` twice.
    fn named_character(&mut self, from: usize, in_class: bool) -> Parsed<Escaped> {
        let start = self.at;
        self.at += 1;
        self.skip_spaces();
        if self.take(b"U+") {
            if !self.utf {
                return self.refuse_at(from, "\\N{U+dddd} is supported only in Unicode (UTF) mode");
            }
            return self.braced(16, from);
        }
        self.at = start;
        if in_class || self.quantifier()?.is_none() {
            return self.refuse_at(from, "PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or \\u (\\N)");
        }
        self.at = start;
        Ok(Escaped::Other(b'N'))
    }
}
