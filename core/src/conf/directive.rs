//! What a directive is: its name, where it may stand, how many arguments it takes, and what it sets.

use std::time::Duration;

use super::apply::Line;
use super::check::Check;
use super::error::Refusal;
use super::setting::{Inherit, Setting};
use super::tree::Word;

/// The kinds of block a directive may stand in; a set, combined with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels(u16);

impl Levels {
    /// Outside of every block.
    pub const MAIN: Levels = Levels(1);
    /// `events { }`
    pub const EVENTS: Levels = Levels(1 << 1);
    /// A protocol's own block: `http { }`, `stream { }`, `mail { }`.
    pub const PROTOCOL: Levels = Levels(1 << 2);
    /// `server { }`
    pub const SERVER: Levels = Levels(1 << 3);
    /// `location { }`
    pub const LOCATION: Levels = Levels(1 << 4);
    /// `if { }` in a server
    pub const SERVER_IF: Levels = Levels(1 << 5);
    /// `if { }` in a location
    pub const LOCATION_IF: Levels = Levels(1 << 6);
    /// `limit_except { }`
    pub const LIMIT_EXCEPT: Levels = Levels(1 << 7);
    /// `upstream { }`
    pub const UPSTREAM: Levels = Levels(1 << 8);

    const NAMES: [(Levels, &'static str); 9] = [
        (Levels::MAIN, "main"),
        (Levels::EVENTS, "events"),
        (Levels::PROTOCOL, "protocol"),
        (Levels::SERVER, "server"),
        (Levels::LOCATION, "location"),
        (Levels::SERVER_IF, "if in server"),
        (Levels::LOCATION_IF, "if in location"),
        (Levels::LIMIT_EXCEPT, "limit_except"),
        (Levels::UPSTREAM, "upstream"),
    ];

    /// The union of two sets, usable in a `const` table.
    pub const fn or(self, other: Levels) -> Levels {
        Levels(self.0 | other.0)
    }

    /// True when the two sets share a level.
    pub const fn allows(self, level: Levels) -> bool {
        self.0 & level.0 != 0
    }

    /// The names of the levels in the set; a protocol's own block is called `protocol`.
    pub fn names(self, protocol: &str) -> Vec<String> {
        let name = |name: &str| if name == "protocol" { protocol.to_owned() } else { name.to_owned() };
        Self::NAMES.iter().filter(|(level, _)| self.allows(*level)).map(|(_, text)| name(text)).collect()
    }
}

/// How many arguments a directive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly this many.
    Exactly(usize),
    /// From the first to the second, both included.
    Between(usize, usize),
    /// This many or more.
    AtLeast(usize),
}

impl Arity {
    /// True when `count` arguments are right.
    pub fn accepts(self, count: usize) -> bool {
        match self {
            Arity::Exactly(n) => count == n,
            Arity::Between(least, most) => (least..=most).contains(&count),
            Arity::AtLeast(least) => count >= least,
        }
    }
}

impl std::fmt::Display for Arity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Arity::Exactly(n) => write!(f, "{n}"),
            Arity::Between(least, most) => write!(f, "{least}-{most}"),
            Arity::AtLeast(n) => write!(f, "{n}+"),
        }
    }
}

/// What a directive does to its feature's settings when it is read.
pub enum Set<C: 'static> {
    /// `on` or `off`.
    Flag(fn(&mut C) -> &mut Setting<bool>),
    /// A decimal number.
    Number(fn(&mut C) -> &mut Setting<u64>),
    /// A size in bytes that memory can have, with `k`, `m`.
    Size(fn(&mut C) -> &mut Setting<u64>),
    /// A size in bytes that a file can have, with `k`, `m`, `g`.
    Offset(fn(&mut C) -> &mut Setting<u64>),
    /// A time.
    Time(fn(&mut C) -> &mut Setting<Duration>),
    /// One word, kept as it is: a path or a name.
    Word(fn(&mut C) -> &mut Setting<Word>),
    /// One word with variables that must be there, which install compiles.
    Template(fn(&mut C) -> &mut Setting<Word>),
    /// Anything else.
    With(fn(&mut C, &mut Line<'_>) -> Result<(), Refusal>),
    /// A block of directives of the given level, kept as a child block.
    Block(Levels),
    /// A block of directives of the given level, whose place among the feature's settings matters (its child index).
    BlockWith(Levels, fn(&mut C, usize, &mut Line<'_>) -> Result<(), Refusal>),
    /// A block whose lines are data, not directives (`map`, `types`).
    Body(fn(&mut C, &mut Line<'_>) -> Result<(), Refusal>),
    /// Read and without effect here; the documentation line says why. Nothing is said of its arguments.
    Accepted,
    /// The same, with arguments that are as nginx wants them.
    Checked(Check),
    /// Without effect here but for what other directives may say beside it: this looks at the arguments and notes them.
    Noted(fn(&mut C, &mut Line<'_>) -> Result<(), Refusal>),
    /// Read, checked and not obeyed, where that is not what was asked for: a warning says so, once in each file.
    Unheeded(Check),
    /// Read, checked and not supported yet, where that costs speed and nothing else: a warning says so.
    Later(Check),
}

impl<C> Set<C> {
    /// True when the directive has a body in braces.
    pub fn is_block(&self) -> bool {
        matches!(self, Set::Block(_) | Set::BlockWith(..) | Set::Body(_))
    }

    /// True when the directive is read and has no effect.
    pub fn is_without_effect(&self) -> bool {
        matches!(self, Set::Accepted | Set::Checked(_) | Set::Noted(_) | Set::Unheeded(_))
    }
}

/// One row of a feature's table.
pub struct Directive<C: 'static> {
    /// What the user writes.
    pub name: &'static str,
    /// Where it may stand.
    pub levels: Levels,
    /// How many arguments it takes.
    pub arity: Arity,
    /// What it sets.
    pub set: Set<C>,
    /// One line of documentation.
    pub doc: &'static str,
}

/// A feature as the configuration sees it: its settings and the directives that set them.
pub trait Feature: 'static {
    /// The settings of one block.
    type Conf: Default + Inherit + 'static;
    /// The feature's name in generated documentation.
    const NAME: &'static str;
    /// What the user can write.
    const DIRECTIVES: &'static [Directive<Self::Conf>];
}
