//! What the arguments of a directive without effect must be: a configuration that nginx refuses is not taken for good
//! because what is wrong in it would be ignored.

use super::apply::Line;
use super::error::Refusal;
use super::tree::Word;
use super::value;

/// The beginning of a parameter, with its `=`, and how its value is read.
pub type Parameter = (&'static str, fn(&Word) -> Option<u64>);

/// What the arguments must be.
#[derive(Clone, Copy)]
pub enum Check {
    /// Anything.
    Anything,
    /// Anything, once in a block.
    Once,
    /// Text with variables, once in a block.
    Template,
    /// Texts with variables.
    Templates,
    /// `on` or `off`.
    Flag,
    /// A number.
    Number,
    /// A number that a table can have for its size. nginx: none is built with 0, if there is anything to put in.
    TableSize,
    /// A number from the first to the second.
    Within(u64, u64),
    /// A size that memory can have.
    Size,
    /// A size that a file can have.
    Offset,
    /// A time to the millisecond.
    Time,
    /// A time in seconds.
    Seconds,
    /// A number of buffers and their size.
    Buffers,
    /// A directory, and the lengths of up to three levels below it.
    Directories,
    /// `off`, or some of these with the values that they take, the first of which must be there.
    Parameters(&'static [Parameter]),
    /// One of these words, whatever its case.
    OneOf(&'static [&'static str]),
    /// Some of these words, whatever their case.
    SomeOf(&'static [&'static str]),
    /// Whatever this function finds.
    With(fn(&Line<'_>) -> Result<(), Refusal>),
}

impl Check {
    /// Looks at the arguments of a line.
    ///
    /// # Errors
    /// What nginx says of them.
    pub fn look(&self, line: &Line<'_>) -> Result<(), Refusal> {
        let scalar = |kind: &str, right: bool| match (right, line.arg(0)?) {
            (true, _) => Ok(()),
            (false, word) => {
                Err(Refusal(format!("\"{}\" directive invalid value: \"{word}\" is not a {kind}", line.name())))
            }
        };
        let is = |parse: fn(&Word) -> Option<u64>| line.arg(0).is_ok_and(|word| parse(word).is_some());
        match self {
            Check::Anything | Check::Once | Check::Template | Check::Templates => Ok(()),
            Check::Flag => flag(line).map(drop),
            Check::Number => scalar("number", is(value::number)),
            Check::TableSize => {
                scalar("number", is(value::number))?;
                let name = line.name().to_string();
                let table = name.trim_end_matches("_max_size").trim_end_matches("_bucket_size");
                match value::number(line.arg(0)?) {
                    Some(0) => Err(Refusal(format!("could not build {table}, you should increase {name}: 0"))),
                    _ => Ok(()),
                }
            }
            Check::Within(least, most) => {
                scalar("number", is(value::number))?;
                match value::number(line.arg(0)?) {
                    Some(number) if (*least..=*most).contains(&number) => Ok(()),
                    _ => Err(Refusal(format!("value must be between {least} and {most}"))),
                }
            }
            Check::Size => scalar("size", is(value::size)),
            Check::Offset => scalar("size", is(value::offset)),
            Check::Time => scalar("time", line.arg(0).is_ok_and(|word| value::time(word).is_some())),
            Check::Seconds => scalar("time", is(value::seconds)),
            Check::Buffers => {
                let right = |word: Option<u64>| word.is_some_and(|value| value > 0);
                let (number, size) = (value::number(line.arg(0)?), value::size(line.arg(1)?));
                if right(number) && right(size) { Ok(()) } else { Err("invalid value".into()) }
            }
            Check::Directories => directories(line),
            Check::Parameters(names) => parameters(line, names),
            Check::OneOf(words) | Check::SomeOf(words) => {
                let is_one = |word: &Word| words.iter().any(|name| word.is_like(name));
                match line.args().iter().find(|word| !is_one(word)) {
                    None => Ok(()),
                    Some(word) => Err(Refusal(format!("invalid value \"{word}\""))),
                }
            }
            Check::With(look) => look(line),
        }
    }

    /// True when nginx takes the directive once in a block.
    pub fn comes_once(&self) -> bool {
        !matches!(self, Check::Anything | Check::Templates | Check::SomeOf(_) | Check::With(_))
    }

    /// True when the arguments have variables that must be there.
    pub fn has_variables(&self) -> bool {
        matches!(self, Check::Template | Check::Templates)
    }
}

/// nginx: the levels of a directory make names of at most so many bytes.
const LONGEST_LEVELS: u64 = 13;

fn directories(line: &Line<'_>) -> Result<(), Refusal> {
    let mut length = 0;
    for word in line.args().iter().skip(1) {
        let level = value::number(word).filter(|level| (1..=LONGEST_LEVELS).contains(level)).ok_or("invalid value")?;
        length += level + 1;
    }
    if length > LONGEST_LEVELS { Err("invalid value".into()) } else { Ok(()) }
}

fn parameters(line: &Line<'_>, names: &[Parameter]) -> Result<(), Refusal> {
    let is_off = line.args().iter().any(|word| word.is("off"));
    for word in line.args().iter().filter(|word| !word.is("off")) {
        let right = names.iter().any(|(name, parse)| word.after(name).and_then(|value| parse(&value)).is_some());
        if !right {
            return Err(format!("invalid \"{}\" parameter \"{word}\"", line.name()).into());
        }
    }
    let Some((first, _)) = names.first() else { return Ok(()) };
    if is_off || line.args().iter().any(|word| word.after(first).is_some()) {
        return Ok(());
    }
    Err(format!("\"{}\" must have the \"{}\" parameter", line.name(), first.trim_end_matches('=')).into())
}

/// The first argument as `on` or `off`.
///
/// # Errors
/// It is neither.
pub fn flag(line: &Line<'_>) -> Result<bool, Refusal> {
    let word = line.arg(0)?;
    value::flag(word).ok_or_else(|| {
        format!("invalid value \"{word}\" in \"{}\" directive, it must be \"on\" or \"off\"", line.name()).into()
    })
}
