//! Reads a pattern. The rules are those of PCRE2 10.46: what it refuses is refused, and what it accepts is given its
//! meaning or refused by name; `../tests/constructs.rs` has a row for every construct.

mod class;
mod escape;
mod group;
mod numbers;
mod resolve;
mod start;

use std::fmt;
use std::rc::Rc;

use super::ast::{Assertion, Greed, Look, Newline, Node, Pattern, Times, Verb};
use super::set::CharSet;
use super::unicode;

/// How deep groups may be nested.
const DEPTH: usize = 250;

/// Why a pattern cannot be used, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// What is wrong.
    pub message: String,
    /// The byte of the pattern.
    pub offset: usize,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.message, self.offset)
    }
}

/// Options that a pattern can set from within.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// `i`
    caseless: bool,
    /// `m`
    multiline: bool,
    /// `s`
    dot_all: bool,
    /// `x`
    extended: bool,
    /// `xx`
    extended_more: bool,
    /// `n`
    no_auto_capture: bool,
    /// `J`
    duplicate_names: bool,
    /// `U`
    ungreedy: bool,
    /// `r`
    restrict_case: bool,
    /// `aD`, `aS`, `aW`, `aP`, `aT`: ASCII alone, even with `(*UCP)`.
    ascii: [bool; 5],
}

/// `\R` by default: any line break of Unicode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineBreaks {
    Unicode,
    AnyCrLf,
}

struct Parser<'p> {
    pattern: &'p [u8],
    at: usize,
    options: Options,
    utf: bool,
    ucp: bool,
    newline: Newline,
    line_breaks: LineBreaks,
    not_empty: bool,
    not_empty_at_start: bool,
    optimize: bool,
    accepts: bool,
    /// A verb other than `(*FAIL)` is in the pattern.
    steers: bool,
    names_newline: bool,
    /// The number of the last group so far.
    groups: u32,
    /// The highest number so far; branches that reset the count may have gone back.
    most_groups: u32,
    names: Vec<(Vec<u8>, u32)>,
    depth: usize,
    /// Within `\Q..\E`.
    quoting: bool,
    /// Within an assertion.
    looking: bool,
    /// Within one that looks back.
    looking_back: bool,
    /// Within one that may be tried again.
    retrying: bool,
}

type Parsed<T> = Result<T, PatternError>;

/// Reads a pattern.
///
/// # Errors
/// What is wrong with it, or what it asks that is not offered.
pub fn parse(pattern: &[u8], caseless: bool) -> Parsed<Pattern> {
    let mut parser = Parser {
        pattern,
        at: 0,
        options: Options { caseless, ..Options::default() },
        utf: false,
        ucp: false,
        newline: Newline::Lf,
        line_breaks: LineBreaks::Unicode,
        not_empty: false,
        not_empty_at_start: false,
        optimize: true,
        accepts: false,
        steers: false,
        names_newline: false,
        groups: 0,
        most_groups: 0,
        names: Vec::new(),
        depth: 0,
        quoting: false,
        looking: false,
        looking_back: false,
        retrying: false,
    };
    parser.start_verbs()?;
    if parser.utf
        && let Err(error) = std::str::from_utf8(pattern)
    {
        return Err(PatternError { message: "the pattern is not valid UTF-8".to_owned(), offset: error.valid_up_to() });
    }
    let mut root = parser.branches(None)?;
    if parser.at < pattern.len() {
        return parser.refuse("unmatched closing parenthesis");
    }
    parser.resolve(&mut root)?;
    Ok(Pattern {
        root,
        groups: parser.most_groups,
        names: parser.names,
        utf: parser.utf,
        newline: parser.newline,
        not_empty: parser.not_empty,
        not_empty_at_start: parser.not_empty_at_start,
        names_newline: parser.names_newline,
        accepts: parser.accepts,
        optimize: parser.optimize,
    })
}

impl Parser<'_> {
    fn refuse<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.refuse_at(self.at, message)
    }

    fn refuse_at<T>(&self, offset: usize, message: impl Into<String>) -> Parsed<T> {
        Err(PatternError { message: message.into(), offset: offset.min(self.pattern.len()) })
    }

    fn rest(&self) -> &[u8] {
        self.pattern.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn take(&mut self, text: &[u8]) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// The next character: a byte, or a code point of a pattern in UTF-8.
    fn next_char(&mut self) -> Option<u32> {
        let first = self.peek()?;
        if !self.utf || first < 0x80 {
            self.at += 1;
            return Some(u32::from(first));
        }
        let length = match first {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        let found = self.rest().get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let one = found.and_then(|text| text.chars().next())?;
        self.at += length;
        Some(u32::from(one))
    }

    /// Everything up to the end of the group around, or of the pattern. `reset` is the count that every branch of
    /// `(?|` begins with.
    fn branches(&mut self, reset: Option<u32>) -> Parsed<Node> {
        let mut branches = self.branch_list(reset)?;
        if branches.len() > 1 {
            return Ok(Node::Alt(branches));
        }
        // Branches of a group within are not the branches of what is around it: an assertion that looks back tells.
        Ok(match branches.pop().unwrap_or(Node::Empty) {
            inner @ Node::Alt(_) => Node::Concat(vec![inner]),
            only => only,
        })
    }

    fn branch_list(&mut self, reset: Option<u32>) -> Parsed<Vec<Node>> {
        let mut most = self.groups;
        let mut branches = vec![self.sequence()?];
        while self.peek() == Some(b'|') && !self.quoting {
            self.at += 1;
            most = most.max(self.groups);
            if let Some(reset) = reset {
                self.groups = reset;
            }
            branches.push(self.sequence()?);
        }
        self.groups = most.max(self.groups);
        Ok(branches)
    }

    /// Skips what means nothing by itself: `\Q`, `\E`, comments, and blanks with `x`. True within a quotation.
    fn skip_ignored(&mut self) -> Parsed<bool> {
        loop {
            if self.quoting {
                if !self.take(b"\\E") {
                    return Ok(self.at < self.pattern.len());
                }
                self.quoting = false;
            } else if self.take(b"\\Q") {
                self.quoting = true;
            } else if self.take(b"\\E") {
            } else if self.rest().starts_with(b"(?#") {
                let from = self.at;
                match self.rest().iter().position(|byte| *byte == b')') {
                    Some(end) => self.at += end + 1,
                    None => return self.refuse_at(from, "missing ) after (?# comment"),
                }
            } else if !self.options.extended || !self.skip_blank() {
                return Ok(false);
            }
        }
    }

    /// Skips a blank or a comment of the option `x`.
    fn skip_blank(&mut self) -> bool {
        match self.rest() {
            [9..=13 | b' ', ..] => self.at += 1,
            [0x85, ..] if !self.utf => self.at += 1,
            [0xc2, 0x85, ..] if self.utf => self.at += 2,
            [0xe2, 0x80, 0x8e | 0x8f | 0xa8 | 0xa9, ..] if self.utf => self.at += 3,
            [b'#', ..] => {
                while self.at < self.pattern.len() {
                    match newline_at(self.newline, self.pattern, self.at, self.utf) {
                        0 => self.at += 1,
                        length => {
                            self.at += length;
                            break;
                        }
                    }
                }
            }
            _ => return false,
        }
        true
    }

    fn sequence(&mut self) -> Parsed<Node> {
        let mut items: Vec<Node> = Vec::new();
        let mut repeatable = false;
        let mut repeated = false;
        loop {
            if self.skip_ignored()? {
                let Some(character) = self.next_char() else { break };
                items.push(self.literal(character));
                (repeatable, repeated) = (true, false);
                continue;
            }
            let Some(byte) = self.peek() else { break };
            if matches!(byte, b'|' | b')') {
                break;
            }
            if repeated && matches!(byte, b'?' | b'+') {
                self.at += 1;
                if let Some(Node::Repeat(_, times)) = items.last_mut() {
                    times.greed = match (byte, self.options.ungreedy) {
                        (b'+', _) => Greed::Possessive,
                        (_, false) => Greed::Lazy,
                        (_, true) => Greed::Greedy,
                    };
                }
                repeated = false;
                continue;
            }
            let from = self.at;
            if let Some((min, max)) = self.quantifier()? {
                if !repeatable {
                    return self.refuse_at(from, "quantifier does not follow a repeatable item");
                }
                let greed = if self.options.ungreedy { Greed::Lazy } else { Greed::Greedy };
                let item = items.pop().unwrap_or(Node::Empty);
                repeated = true;
                items.push(repeat(item, min, max, greed));
                repeatable = false;
                continue;
            }
            let (node, may_repeat) = self.item(byte)?;
            (repeatable, repeated) = (may_repeat, false);
            items.extend(node);
        }
        items.iter_mut().for_each(settle);
        Ok(match items.len() {
            0 => Node::Empty,
            1 => items.pop().unwrap_or(Node::Empty),
            _ => Node::Concat(items),
        })
    }

    /// One item, and whether a quantifier may follow it.
    fn item(&mut self, byte: u8) -> Parsed<(Option<Node>, bool)> {
        Ok(match byte {
            b'^' => {
                self.at += 1;
                let assertion = if self.options.multiline { Assertion::LineStart } else { Assertion::Start };
                (Some(Node::Assert(assertion)), false)
            }
            b'$' => {
                self.at += 1;
                let assertion = if self.options.multiline { Assertion::LineEnd } else { Assertion::LastLineEnd };
                (Some(Node::Assert(assertion)), false)
            }
            b'.' => {
                self.at += 1;
                (Some(self.dot(self.options.dot_all)), true)
            }
            b'[' => {
                let (class, may_repeat) = self.class()?;
                (Some(class), may_repeat)
            }
            b'(' => self.parenthesis()?,
            b'\\' => self.escape()?,
            _ => match self.next_char() {
                Some(character) => (Some(self.literal(character)), true),
                None => return self.refuse("the pattern is not valid UTF-8"),
            },
        })
    }

    /// A character that stands for itself.
    fn literal(&mut self, character: u32) -> Node {
        self.names_newline |= matches!(character, 10 | 13);
        if !self.options.caseless {
            return Node::Char(character);
        }
        let set = self.caseless(character, character);
        match u8::try_from(character) {
            Ok(byte) if byte.is_ascii_alphabetic() && set.is_ascii() => Node::Letter(byte.to_ascii_lowercase()),
            _ if set == CharSet::range(character, character) => Node::Char(character),
            _ => Node::Set(Rc::new(set)),
        }
    }

    /// A range in either case.
    fn caseless(&self, first: u32, last: u32) -> CharSet {
        let ascii = || {
            let mut set = CharSet::range(first, last);
            for byte in (first..=last.min(127)).filter_map(|byte| u8::try_from(byte).ok()) {
                set.add(u32::from(byte.to_ascii_lowercase()));
                set.add(u32::from(byte.to_ascii_uppercase()));
            }
            set
        };
        match (self.utf, self.ucp) {
            (true, _) if self.options.restrict_case => {
                // ASCII letters are not mixed with others.
                let mut set = if first < 128 { CharSet::range(first, last.min(127)) } else { CharSet::default() };
                for byte in (first..=last.min(127)).filter_map(|byte| u8::try_from(byte).ok()) {
                    set.add(u32::from(byte.to_ascii_lowercase()));
                    set.add(u32::from(byte.to_ascii_uppercase()));
                }
                if last > 127 {
                    let mut ascii = CharSet::range(0, 127);
                    let folded = unicode::folded(first.max(128), last);
                    ascii = ascii.negated(true);
                    set.add_all(&intersection(&folded, &ascii));
                }
                set
            }
            (true, _) => unicode::folded(first, last),
            (false, true) => unicode::folded(first, last).bytes_only(),
            (false, false) => ascii(),
        }
    }

    /// Any character, or any but those that end a line.
    fn dot(&self, all: bool) -> Node {
        let any = || Node::Set(Rc::new(CharSet::all(self.utf)));
        let but = |ends: &[u32]| Node::Set(Rc::new(CharSet::of(ends.iter().copied()).negated(self.utf)));
        if all {
            return any();
        }
        match self.newline {
            Newline::Lf => but(&[10]),
            Newline::Cr => but(&[13]),
            Newline::Nul => but(&[0]),
            Newline::AnyCrLf => but(&[10, 13]),
            Newline::Any => but(&[10, 11, 12, 13, 0x85, 0x2028, 0x2029]),
            Newline::CrLf => {
                let look = Look { behind: false, negative: true, retried: false, at: self.at };
                let line_break = Node::Concat(vec![Node::Char(13), Node::Char(10)]);
                Node::Concat(vec![Node::Look(look, Box::new(line_break)), any()])
            }
        }
    }
}

/// The characters in both sets.
fn intersection(one: &CharSet, other: &CharSet) -> CharSet {
    let mut outside = one.negated(true);
    outside.add_all(&other.negated(true));
    outside.negated(true)
}

/// An item that is repeated. Repeating what takes no text, or is never reached, means less than it says.
fn repeat(item: Node, min: u32, max: Option<u32>, greed: Greed) -> Node {
    let max = match &item {
        Node::Look(..) => max.or(min.checked_add(1)),
        Node::If(condition, ..) if matches!(**condition, super::ast::Condition::Known(false)) => Some(1),
        _ => max,
    };
    let min = min.min(max.unwrap_or(min));
    Node::Repeat(Box::new(item), Times { min, max, greed })
}

/// Possessive repetitions become atomic groups, except of single characters, which the machine repeats by itself.
fn settle(item: &mut Node) {
    let Node::Repeat(inner, times) = item else { return };
    if times.greed == Greed::Possessive && !matches!(**inner, Node::Char(_) | Node::Letter(_) | Node::Set(_)) {
        times.greed = Greed::Greedy;
        *item = Node::Atomic(Box::new(std::mem::replace(item, Node::Empty)));
    } else if matches!(times, Times { min: 1, max: Some(1), greed } if *greed != Greed::Possessive)
        && !matches!(**inner, Node::Verb(Verb::Accept))
    {
        *item = std::mem::replace(&mut **inner, Node::Empty);
    }
}

/// The length of the line break at a place; 0 without one.
pub fn newline_at(newline: Newline, text: &[u8], at: usize, utf: bool) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    match (newline, rest) {
        (Newline::Lf, [b'\n', ..]) | (Newline::Cr, [b'\r', ..]) | (Newline::Nul, [0, ..]) => 1,
        (Newline::CrLf | Newline::AnyCrLf | Newline::Any, [b'\r', b'\n', ..]) => 2,
        (Newline::AnyCrLf | Newline::Any, [b'\r' | b'\n', ..]) | (Newline::Any, [11 | 12, ..]) => 1,
        (Newline::Any, [0x85, ..]) if !utf => 1,
        (Newline::Any, [0xc2, 0x85, ..]) if utf => 2,
        (Newline::Any, [0xe2, 0x80, 0xa8 | 0xa9, ..]) if utf => 3,
        _ => 0,
    }
}

/// True when a line break ends at a place.
pub fn newline_before(newline: Newline, text: &[u8], at: usize, utf: bool) -> bool {
    match (newline, text.get(..at).unwrap_or_default()) {
        (Newline::Lf, [.., b'\n']) | (Newline::Cr, [.., b'\r']) | (Newline::Nul, [.., 0]) => true,
        (Newline::CrLf, [.., b'\r', b'\n']) => true,
        (Newline::AnyCrLf | Newline::Any, [.., b'\r' | b'\n']) | (Newline::Any, [.., 11 | 12]) => true,
        (Newline::Any, [.., 0x85]) if !utf => true,
        (Newline::Any, [.., 0xc2, 0x85] | [.., 0xe2, 0x80, 0xa8 | 0xa9]) if utf => true,
        _ => false,
    }
}
