//! A pattern as instructions for the [machine](super::machine).

use aho_corasick::packed;
use memchr::memmem;

use super::ast::{Assertion, Case, Greed, Newline, Verb};
use super::set::{ByteSet, CharSet};

/// A place in the program.
pub type Pc = u32;

/// One instruction. Unless it says otherwise, the next one follows.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// This byte.
    Byte(u8),
    /// These bytes.
    Literal(u32, u32),
    /// These bytes in lower case, in any case of ASCII.
    Folded(u32, u32),
    /// A byte of a set.
    Set(u32),
    /// A code point of a set.
    Char(u32),
    /// A repeated byte or code point.
    Run(u32),
    /// A condition on the place.
    Assert(Assertion),
    /// Remembers where a group begins.
    Mark(u32),
    /// A group has matched since its mark: the group, and the register of the mark.
    Close(u32, u32),
    /// Goes on there.
    Jump(Pc),
    /// Either of two ways.
    Split(Split),
    /// One of many ways, by the next byte.
    Switch(u32),
    /// A counted loop begins.
    Counter(u32),
    /// The head of a counted loop.
    Loop(u32),
    /// An iteration of a counted loop begins.
    Iterate(u32),
    /// Remembers where an iteration begins.
    Here(u32),
    /// Leaves the loop when the iteration since that register took nothing.
    Empty(u32, Pc),
    /// Something begins that will not be tried in another way: keeps the height of the stack and the place.
    Fence(u32),
    /// It has matched: ways back into it are forgotten.
    Cut(u32),
    /// Like `Cut`, and goes back to the place of the fence.
    CutBack(u32),
    /// Goes back to the place of the fence, and forgets nothing.
    Back(u32),
    /// Like `Fence`; when what follows does not match, goes on there.
    FenceElse(u32, Pc),
    /// What stands behind a `FenceElse` has matched: all of it is undone, and the program goes on there.
    Undo(u32, Pc),
    /// What stands behind a `FenceElse` has matched, and should not have.
    UndoFail(u32),
    /// Goes back by so many characters at most and at least.
    Behind(u32, u32),
    /// The place must be that of the fence.
    At(u32),
    /// What a group has matched.
    Reference(u32, Case),
    /// A subroutine: the group and its place.
    Call(u32, Pc),
    /// The end of a subroutine.
    Return,
    /// Goes on there unless one of these groups has matched.
    Matched(u32, Pc),
    /// Goes on there unless within one of these subroutines, or within any.
    Inside(u32, Pc),
    /// The match begins here.
    Keep,
    /// A verb, when the search comes back to it: the register of the `FenceElse` around it, or [`NO_FENCE`].
    Verb(Verb, u32),
    /// No match.
    Fail,
    /// The end of the pattern.
    Match,
}

/// Two ways. A set says which bytes a way can begin with; [`ANY`] says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// The way that does not follow.
    pub other: Pc,
    /// The other one is tried first.
    pub swapped: bool,
    /// What the way that follows begins with.
    pub next_set: u16,
    /// What the other begins with.
    pub other_set: u16,
}

/// No assertion around a verb.
pub const NO_FENCE: u32 = u32::MAX;

/// No set: any byte, or none.
pub const ANY: u16 = u16::MAX;

/// A repeated byte or code point.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which; an index into the sets or, for code points, the character sets.
    pub set: u32,
    /// It is code points.
    pub chars: bool,
    /// At least.
    pub min: usize,
    /// At most; `usize::MAX` without end.
    pub max: usize,
    /// What is tried first.
    pub greed: Greed,
    /// What follows begins with one of these; [`ANY`] if that is not known.
    pub then: u16,
}

/// Ways by the next byte.
#[derive(Debug)]
pub struct Switch {
    /// For each byte, which of the lists.
    pub by_byte: Box<[u16; 256]>,
    /// The list at the end of the text.
    pub at_end: u16,
    /// Ways, in the order in which they are tried.
    pub lists: Vec<Box<[Pc]>>,
}

/// A counted loop.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// The register that counts; the next one has the place where the iteration began.
    pub register: u32,
    /// At least.
    pub min: usize,
    /// At most.
    pub max: usize,
    /// As few as possible.
    pub lazy: bool,
    /// Where an iteration begins.
    pub enter: Pc,
    /// Where it goes on behind the loop.
    pub exit: Pc,
}

/// Where a match can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Anywhere.
    Anywhere,
    /// At the beginning of the text.
    AtStart,
    /// At the beginning of a line.
    AtLine,
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Program {
    /// The instructions.
    pub ops: Box<[Op]>,
    /// What `Literal` and `Folded` are about.
    pub literals: Box<[u8]>,
    /// Sets of bytes.
    pub sets: Box<[ByteSet]>,
    /// Sets of code points.
    pub chars: Box<[CharSet]>,
    /// See [`Run`].
    pub runs: Box<[Run]>,
    /// See [`Switch`].
    pub switches: Box<[Switch]>,
    /// See [`Counted`].
    pub loops: Box<[Counted]>,
    /// Lists of groups that references and conditions are about.
    pub lists: Box<[Box<[u32]>]>,
    /// Groups, the whole match included.
    pub groups: usize,
    /// Registers, those of the groups included: the first two of each.
    pub registers: usize,
    /// Places are remembered at these instructions once a search takes long: which bit, or [`NO_BIT`].
    pub bits: Box<[u16]>,
    /// How many of them there are; 0 when nothing may be remembered.
    pub bit_count: usize,
    /// The text is UTF-8.
    pub utf: bool,
    /// What ends a line.
    pub newline: Newline,
    /// An empty match is none.
    pub not_empty: bool,
    /// An empty match at the beginning is none.
    pub not_empty_at_start: bool,
    /// The pattern names a carriage return or line feed.
    pub names_newline: bool,
    /// Where a match can begin.
    pub begins: Begins,
    /// What a match begins with.
    pub hint: Hint,
    /// What a text must contain.
    pub contains: Option<memmem::Finder<'static>>,
    /// That is looked for before anything is tried, not only once a search takes long.
    pub contains_first: bool,
    /// Strings in lower case, one of which a text must contain in any case.
    pub needs: Option<Box<[Vec<u8>]>>,
    /// It is no more than a comparison.
    pub simple: Option<Simple>,
}

/// A string at the beginning or at the end.
#[derive(Debug)]
pub struct Simple {
    /// `^`
    pub at_start: bool,
    /// The string.
    pub text: Box<[u8]>,
    /// `\z` or `$`
    pub end: Option<Assertion>,
}

impl Simple {
    /// True when a text has it there.
    pub fn is_in(&self, text: &[u8]) -> bool {
        let fits = |text: &[u8]| match (self.at_start, self.end) {
            (true, Some(_)) => text == &*self.text,
            (true, None) => text.starts_with(&self.text),
            (false, _) => text.ends_with(&self.text),
        };
        let line = text.strip_suffix(b"\n").filter(|_| self.end == Some(Assertion::LastLineEnd));
        fits(text) || line.is_some_and(fits)
    }
}

/// What a match begins with, in the form in which it is found fastest.
#[derive(Debug)]
pub enum Hint {
    /// That is not known, or nothing.
    Any,
    /// One of up to three bytes.
    Bytes([u8; 3], usize),
    /// A byte of a set.
    Set(ByteSet),
    /// These bytes.
    Literal(Box<memmem::Finder<'static>>),
    /// One of several strings.
    Beginnings(Box<packed::Searcher>),
}

/// No bit.
pub const NO_BIT: u16 = u16::MAX;
