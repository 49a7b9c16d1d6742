//! A pattern as a tree, with everything that PCRE's syntax leaves implicit already decided: the case of letters, what a
//! dot matches, the numbers of groups.

use std::rc::Rc;

use super::set::CharSet;

/// A part of a pattern.
#[derive(Clone, Debug)]
pub enum Node {
    /// Nothing.
    Empty,
    /// One character.
    Char(u32),
    /// An ASCII letter in either case; the small one.
    Letter(u8),
    /// A character out of a set.
    Set(Rc<CharSet>),
    /// A condition on the place.
    Assert(Assertion),
    /// One after the other.
    Concat(Vec<Node>),
    /// The first that leads to a match.
    Alt(Vec<Node>),
    /// A numbered group.
    Group(u32, Box<Node>),
    /// Again and again.
    Repeat(Box<Node>, Times),
    /// Once it has matched, it is not tried in another way.
    Atomic(Box<Node>),
    /// What is around, without taking it.
    Look(Look, Box<Node>),
    /// What a group has matched; the first of them that has.
    Back(Target, Case),
    /// A group as a subroutine; 0 is the whole pattern.
    Call(Target),
    /// A condition, and what holds then, or else.
    If(Box<Condition>, Box<Node>, Box<Node>),
    /// `\K`: the match begins here.
    Keep,
    /// A verb that steers the search.
    Verb(Verb),
}

/// A group that is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its number, and where in the pattern.
    Number(u32, usize),
    /// By its name, and where in the pattern.
    Name(Vec<u8>, usize),
    /// Resolved: one group, or those that share a name.
    Groups(Vec<u32>),
}

/// How a reference compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Exactly.
    Exact,
    /// ASCII letters in either case.
    Ascii,
    /// All letters in either case.
    Unicode,
}

/// A condition on a place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assertion {
    /// The beginning of the text.
    Start,
    /// The beginning of a line.
    LineStart,
    /// The end of the text.
    End,
    /// The end, or before a line break that is the last thing in the text.
    LastLineEnd,
    /// The end of a line.
    LineEnd,
    /// Between a word and something else; `true` with Unicode's words.
    Word(bool),
    /// Not there.
    NotWord(bool),
}

/// How often, and what is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// At least.
    pub min: u32,
    /// At most; `None` is without end.
    pub max: Option<u32>,
    /// What is tried first.
    pub greed: Greed,
}

/// What a repetition tries first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greed {
    /// As many as possible.
    Greedy,
    /// As few as possible.
    Lazy,
    /// As many as possible, and never fewer.
    Possessive,
}

/// What an assertion looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What is before the place instead of what is behind it.
    pub behind: bool,
    /// It must not be there.
    pub negative: bool,
    /// It may be tried in another way when what follows does not match.
    pub retried: bool,
    /// Where in the pattern.
    pub at: usize,
}

/// What a conditional group asks.
#[derive(Clone, Debug)]
pub enum Condition {
    /// A group has matched.
    Matched(Target),
    /// `(?(R)`: within any subroutine; `(?(R1)`: within this one.
    Inside(Option<Target>),
    /// An assertion.
    Look(Look, Node),
    /// Known from the beginning: `DEFINE`, `VERSION`.
    Known(bool),
}

/// A verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The match ends here, and is one.
    Accept,
    /// No match here.
    Fail,
    /// Passed backwards: no match at all.
    Commit,
    /// Passed backwards: no match from this beginning.
    Prune,
    /// Passed backwards: the next beginning is here.
    Skip,
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newline {
    /// A line feed.
    Lf,
    /// A carriage return.
    Cr,
    /// A carriage return and a line feed.
    CrLf,
    /// Either, or both.
    AnyCrLf,
    /// Whatever ends a line in Unicode.
    Any,
    /// A zero.
    Nul,
}

/// A pattern that has been read.
#[derive(Debug)]
pub struct Pattern {
    /// All of it.
    pub root: Node,
    /// The number of the last group.
    pub groups: u32,
    /// Names and their groups, in the order written.
    pub names: Vec<(Vec<u8>, u32)>,
    /// The text is UTF-8, and a character is a code point.
    pub utf: bool,
    /// What ends a line.
    pub newline: Newline,
    /// `(*NOTEMPTY)`: an empty match is none.
    pub not_empty: bool,
    /// `(*NOTEMPTY_ATSTART)`: an empty match at the beginning of the text is none.
    pub not_empty_at_start: bool,
    /// A line break is written in the pattern.
    pub names_newline: bool,
    /// `(*ACCEPT)` is in it: a match may end anywhere.
    pub accepts: bool,
    /// Repetitions may be made possessive where that makes no difference, and searches may skip.
    pub optimize: bool,
}
