//! What limits by key share: the zone they count in, and what they leave in the subject.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::conf::{ConfigError, Line, Refusal, Word, value};
use crate::log::Level;
use crate::module::Install;
use crate::script::Template;
use crate::subject::{State, Subject};
use crate::zone::table::{LONGEST_KEY, Shape, Table};

/// A subject that can be limited.
pub trait HasLimits: Subject {
    /// The protocol's name: its zones are not those of another.
    const PROTOCOL: &'static str;
}

/// What limits have noted in a subject. They decide once, however often it is redirected, and its subrequests are not
/// limited again.
#[derive(Default)]
pub struct Limited {
    /// `$limit_conn_status`
    pub connections: Cell<Option<&'static str>>,
    /// What a limit of their rate has decided.
    pub rate: Cell<Option<&'static str>>,
}

/// What limits do to a subject. It is its own, even where others know of the decision: they may go on for longer.
#[derive(Default)]
pub struct UnderLimit {
    /// It has to wait: a client that leaves meanwhile need not be served.
    pub delayed: Cell<bool>,
    held: RefCell<Vec<Box<dyn Any>>>,
}

impl State for UnderLimit {}

impl State for Limited {
    const SHARED: bool = true;
}

impl UnderLimit {
    /// Keeps something until the subject ends.
    pub fn hold(&self, guard: impl Any) {
        self.held.borrow_mut().push(Box::new(guard));
    }
}

/// Appends what a limit has decided.
pub fn decision<S: Subject>(
    subject: &S,
    decided: fn(&Limited) -> &Cell<Option<&'static str>>,
    out: &mut Vec<u8>,
) -> bool {
    let decided = subject.known_state::<Limited>().and_then(|limited| decided(&limited).get());
    decided.map(|text| out.extend_from_slice(text.as_bytes())).is_some()
}

/// A zone as it is written: `KEY zone=NAME:SIZE`.
pub struct WrittenZone {
    /// What is counted by.
    pub key: Word,
    /// The zone's name.
    pub name: Word,
    size: u64,
    /// Thousandths of a subject a second; for limits of a rate.
    pub rate: u64,
}

impl WrittenZone {
    /// Reads the line of a zone. `other` reads what is not the zone, such as the rate.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn parse(
        line: &Line<'_>,
        mut other: impl FnMut(&Word) -> Result<Option<u64>, Refusal>,
    ) -> Result<WrittenZone, Refusal> {
        let (mut zone, mut rate) = (None, 1000);
        for word in line.args().iter().skip(1) {
            match word.after("zone=") {
                Some(written) => zone = Some(name_and_size(word, &written)?),
                None => rate = other(word)?.ok_or_else(|| format!("invalid parameter \"{word}\""))?,
            }
        }
        let (name, size) = zone.ok_or_else(|| format!("\"{}\" must have \"zone\" parameter", line.name()))?;
        Ok(WrittenZone { key: line.arg(0)?.clone(), name, size, rate })
    }
}

fn name_and_size(word: &Word, written: &Word) -> Result<(Word, u64), Refusal> {
    let invalid = || Refusal(format!("invalid zone size \"{word}\""));
    let colon = written.bytes().iter().position(|byte| *byte == b':').ok_or_else(invalid)?;
    let (name, size) = written.bytes().split_at_checked(colon).ok_or_else(invalid)?;
    let size = value::size(&Word::new(size.get(1..).unwrap_or_default(), word.at().clone())).ok_or_else(invalid)?;
    if size < crate::zone::SMALLEST {
        return Err(format!("zone \"{word}\" is too small").into());
    }
    if name.is_empty() {
        return Err(invalid());
    }
    Ok((Word::new(name, word.at().clone()), size))
}

/// Adds a zone to those of a block.
///
/// # Errors
/// The block has another of that name.
pub fn add_zone(zones: &mut Vec<Rc<WrittenZone>>, zone: WrittenZone, line: &Line<'_>) -> Result<(), Refusal> {
    if let Some(other) = zones.iter().find(|other| other.name.bytes() == zone.name.bytes()) {
        return Err(format!("{} \"{}\" is already bound to key \"{}\"", line.name(), zone.name, other.key).into());
    }
    zones.push(Rc::new(zone));
    Ok(())
}

/// Looks at zones, whether or not a limit counts in them: their keys, and that nothing else has their names.
pub fn judge_zones<S: HasLimits>(zones: &[Rc<WrittenZone>], module: &str, env: &mut Install<'_, S>) {
    for zone in zones {
        let claimed = env.zones.claim(&zone.name.text(), &format!("{module} of {}", S::PROTOCOL), zone.name.at());
        env.errors.keep(claimed);
        let key = env.template(&zone.key);
        env.errors.keep(key);
    }
}

/// A zone in use as the registry has it, by its name.
pub struct Limit {
    /// Whose it is: `limit_req`, `limit_conn`.
    pub module: String,
    /// Where is counted.
    pub table: Rc<Table>,
}

/// A zone in use: what is counted by, and where.
pub struct KeyedZone<S: 'static> {
    /// What is counted by.
    pub key: Template<S>,
    /// Where.
    pub table: Rc<Table>,
    /// The zone's name.
    pub name: String,
}

impl<S: HasLimits> KeyedZone<S> {
    /// The zone called `name` among those written, whose entries have this many values; `module` tells its use apart.
    ///
    /// # Errors
    /// It is not written, or in other use.
    pub fn build(
        zones: &[Rc<WrittenZone>],
        name: &Word,
        module: &str,
        values: usize,
        env: &mut Install<'_, S>,
    ) -> Result<(KeyedZone<S>, u64), ConfigError> {
        let refuse = |message: String| ConfigError::new(name.at(), message);
        let written = zones.iter().find(|zone| zone.name.bytes() == name.bytes()).ok_or_else(|| {
            let message = format!("zero size shared memory zone \"{name}\"");
            ConfigError::missing(name.at(), message, name.bytes())
        })?;
        let zone = env.zones.declare(&name.text(), Some(written.size), written.name.at())?;
        // The usual key is an address; then there is room for many more entries.
        let is_address = written.key.is("$binary_remote_addr") || written.key.is("${binary_remote_addr}");
        let shape = Shape { key: if is_address { 16 } else { LONGEST_KEY }, values };
        let purpose = format!("{module} of {} by \"{}\"", S::PROTOCOL, written.key);
        let table = Table::in_zone(&zone, &purpose, shape).map_err(refuse)?;
        let (key, table) = (env.template(&written.key)?, Rc::new(table));
        if env.registry.find::<Limit>(S::PROTOCOL, name.bytes()).is_none() {
            let limit = Limit { module: module.to_owned(), table: table.clone() };
            env.registry.add(S::PROTOCOL, name.bytes(), Rc::new(limit));
        }
        Ok((KeyedZone { key, table, name: name.to_string() }, written.rate))
    }
}

/// The levels that limits may be told to log on.
pub const LOG_LEVELS: [(&str, Level); 4] =
    [("info", Level::Info), ("notice", Level::Notice), ("warn", Level::Warn), ("error", Level::Error)];

/// A status that a limit may be told to answer with.
///
/// # Errors
/// It is no error status.
pub fn status(line: &Line<'_>) -> Result<u16, Refusal> {
    let word = line.arg(0)?;
    let status = value::number(word).ok_or_else(|| format!("invalid number \"{word}\""))?;
    u16::try_from(status)
        .ok()
        .filter(|status| (400..=599).contains(status))
        .ok_or_else(|| "value must be between 400 and 599".into())
}
