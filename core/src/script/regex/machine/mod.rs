//! Matches by trying: one way after the other, with a stack of what is left to be tried.
//!
//! Every instruction, every byte that a repetition takes and every entry of the stack is work, and work and memory are
//! limited. Nothing that a text contains makes this code recur. Where what becomes of a place depends on the place
//! alone, a search that takes long remembers the places that have failed and is done in linear time.

mod search;
mod stack;
mod step;

use std::cell::RefCell;
use std::fmt;

pub use search::{Groups, search};

use super::program::Program;

/// Instructions and bytes that one search may take. As many take less than 100 ms.
pub const MOST_WORK: u64 = 8_000_000;
/// What a search may take before it begins to remember places, beside a share for each byte of the text.
const QUICK_WORK: u64 = 10_000;
/// Places times instructions that a search can remember: two megabytes.
const MOST_BITS: usize = 16 << 20;
/// Entries of the stack: twelve megabytes.
const MOST_FRAMES: usize = 512 << 10;
/// Registers that subroutines can set aside: eight megabytes.
const MOST_SAVED: usize = 1 << 20;
/// Entries that are kept for the next search.
const KEPT: usize = 4 << 10;

/// Why a search has not come to an end. It says nothing about whether the pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchError {
    /// It has taken too much work.
    Work,
    /// It has taken too much memory.
    Memory,
    /// A subroutine has called itself without taking anything.
    Recursion,
    /// The pattern is about UTF-8, and the text is not.
    Utf8,
}

impl fmt::Display for MatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MatchError::Work => "match limit exceeded",
            MatchError::Memory => "matching takes too much memory",
            MatchError::Recursion => "recursion loop",
            MatchError::Utf8 => "the subject is not valid UTF-8",
        })
    }
}

/// A register without a value.
const UNSET: usize = usize::MAX;
/// Not within a subroutine.
const NO_CALL: u32 = u32::MAX;

/// Something to go back to, or to undo on the way.
#[derive(Clone, Copy, Debug)]
enum Frame {
    /// Another way.
    Way { pc: u32, pos: usize },
    /// A run may give back: down to the least place, at most to the next.
    Give { pc: u32, least: usize, next: usize },
    /// A run may take more.
    More { pc: u32, pos: usize, left: usize },
    /// More ways of a switch: the list and the next one in it.
    Ways { switch: u32, list: u16, next: u16, pos: usize },
    /// An assertion may look back less far.
    Nearer { pc: u32, pos: usize, left: u32 },
    /// A register had another value.
    Register { index: u32, old: usize },
    /// A subroutine has been entered.
    Entered { outer: u32, saved: usize },
    /// A subroutine has been left.
    Left { inner: u32 },
    /// A verb has been passed.
    Verb { pc: u32, pos: usize, height: usize, inner: bool },
}

/// A subroutine that has been called.
#[derive(Clone, Copy, Debug)]
struct Call {
    outer: u32,
    group: u32,
    back: u32,
    pos: usize,
    /// Where its registers have been set aside.
    saved: usize,
    /// The height of the stack when it began.
    height: usize,
}

/// Memory that searches use one after the other.
struct Scratch {
    registers: Vec<usize>,
    stack: Vec<Frame>,
    calls: Vec<Call>,
    saved: Vec<usize>,
    bits: Vec<u64>,
}

impl Scratch {
    const fn new() -> Scratch {
        Scratch { registers: Vec::new(), stack: Vec::new(), calls: Vec::new(), saved: Vec::new(), bits: Vec::new() }
    }

    /// Searches for which the stack stayed small have not filled the rest either, but for remembered places.
    fn is_large(&self) -> bool {
        self.stack.capacity() > KEPT || self.bits.capacity() > 0
    }

    /// Gives back what an ordinary search does not need.
    fn trim(&mut self) {
        fn trim<T>(memory: &mut Vec<T>) {
            if memory.capacity() > KEPT {
                memory.clear();
                memory.shrink_to(KEPT);
            }
        }
        trim(&mut self.registers);
        trim(&mut self.stack);
        trim(&mut self.calls);
        trim(&mut self.saved);
        trim(&mut self.bits);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// A search under way.
struct Machine<'a> {
    program: &'a Program,
    text: &'a [u8],
    scratch: &'a mut Scratch,
    call: u32,
    work: u64,
    /// Places are remembered.
    remembers: bool,
    /// Where the match begins according to `\K`.
    keep: usize,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Matched(usize),
    Failed,
    /// `(*COMMIT)`
    Committed,
    /// `(*SKIP)`
    Skipped(usize),
}
