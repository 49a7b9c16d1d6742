//! `limit_conn`: how many subjects with the same key may be under way at once, in all workers together.
//!
//! An entry counts for each worker apart, so that the master can take back what a killed worker had.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Line, Refusal, Setting, Word, value};
use crate::inherit;
use crate::log::Level;
use crate::module::{Install, Module};
use crate::phase::{Gate, Phase, Step, Verdict};
use crate::script::Variable;
use crate::script::variable::Get;
use crate::slot::{SLOTS, slot};
use crate::subject::Plan;
use crate::zone::table::{Damaged, Entry, Table, View};

use super::limits::{self, HasLimits, KeyedZone, LOG_LEVELS, Limited, UnderLimit, WrittenZone};

/// Counts that share a word.
const PER_WORD: usize = 4;
const BITS: usize = 16;

/// The settings of one block.
#[derive(Default)]
pub struct LimitConnConf {
    zones: Vec<Rc<WrittenZone>>,
    limits: Vec<(Word, u64)>,
    status: Setting<u16>,
    level: Setting<Level>,
    dry_run: Setting<bool>,
}

inherit!(LimitConnConf { zones, limits, status, level, dry_run });

const LEVELS: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

const ZONE: Directive<LimitConnConf> = Directive {
    name: "limit_conn_zone",
    levels: Levels::PROTOCOL,
    arity: Arity::Exactly(2),
    set: Set::With(|conf, line| {
        let zone = WrittenZone::parse(line, |_| Ok(None))?;
        limits::add_zone(&mut conf.zones, zone, line)
    }),
    doc: "A key, and the shared memory in which connections are counted by it.",
};
const LIMIT: Directive<LimitConnConf> = Directive {
    name: "limit_conn",
    levels: LEVELS,
    arity: Arity::Exactly(2),
    set: Set::With(limit),
    doc: "The most connections at once for each key of a zone; several limits may apply.",
};
const LOG_LEVEL: Directive<LimitConnConf> = Directive {
    name: "limit_conn_log_level",
    levels: LEVELS,
    arity: Arity::Exactly(1),
    set: Set::With(|conf, line| conf.level.set(line.choice(&LOG_LEVELS)?)),
    doc: "The level on which refusals are logged.",
};
const DRY_RUN: Directive<LimitConnConf> = Directive {
    name: "limit_conn_dry_run",
    levels: LEVELS,
    arity: Arity::Exactly(1),
    set: Set::Flag(|conf| &mut conf.dry_run),
    doc: "Counts and logs, but refuses nobody.",
};

/// `limit_conn` for protocols without statuses
pub struct LimitConn;

impl Feature for LimitConn {
    type Conf = LimitConnConf;
    const NAME: &'static str = "limit_conn";
    const DIRECTIVES: &'static [Directive<LimitConnConf>] = &[ZONE, LIMIT, LOG_LEVEL, DRY_RUN];
}

/// `limit_conn` for protocols whose clients are told a status
pub struct LimitConnWithStatus;

impl Feature for LimitConnWithStatus {
    type Conf = LimitConnConf;
    const NAME: &'static str = "limit_conn";
    const DIRECTIVES: &'static [Directive<LimitConnConf>] = &[
        ZONE,
        LIMIT,
        LOG_LEVEL,
        DRY_RUN,
        Directive {
            name: "limit_conn_status",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| conf.status.set(limits::status(line)?)),
            doc: "The status of what is refused.",
        },
    ];
}

fn limit(conf: &mut LimitConnConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let (name, most) = (line.arg(0)?, line.arg(1)?);
    if conf.limits.iter().any(|(other, _)| other.bytes() == name.bytes()) {
        return Err("is duplicate".into());
    }
    let number = value::number(most).filter(|number| *number > 0);
    let number = number.ok_or_else(|| format!("invalid number of connections \"{most}\""))?;
    if number > 65535 {
        return Err("connection limit must be less 65536".into());
    }
    conf.limits.push((name.clone(), number));
    Ok(())
}

const fn variables<S: HasLimits>() -> [Variable<S>; 1] {
    [Variable {
        name: "limit_conn_status",
        get: Get::Value(|subject: &S, out| limits::decision(subject, |limited| &limited.connections, out)),
        doc: "PASSED, REJECTED or REJECTED_DRY_RUN.",
    }]
}

impl<S: HasLimits> Module<S> for LimitConn {
    const VARIABLES: &'static [Variable<S>] = &variables::<S>();

    fn define(conf: &LimitConnConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        limits::judge_zones(&conf.zones, "limit_conn", env);
        Ok(())
    }

    fn install(conf: &LimitConnConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        install(conf, plan, env)
    }
}

impl<S: HasLimits> Module<S> for LimitConnWithStatus {
    const VARIABLES: &'static [Variable<S>] = &variables::<S>();

    fn define(conf: &LimitConnConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        limits::judge_zones(&conf.zones, "limit_conn", env);
        Ok(())
    }

    fn install(conf: &LimitConnConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        install(conf, plan, env)
    }
}

fn install<S: HasLimits>(
    conf: &LimitConnConf,
    plan: &mut S::Plan,
    env: &mut Install<'_, S>,
) -> Result<(), ConfigError> {
    let mut list = Vec::new();
    for (name, most) in &conf.limits {
        let (zone, _) = KeyedZone::build(&conf.zones, name, "limit_conn", SLOTS / PER_WORD, env)?;
        zone.table.when_a_worker_ends(forget);
        list.push((zone, *most));
    }
    if !list.is_empty() {
        plan.gate(
            Phase::PreAccess,
            Box::new(Limits {
                list,
                status: conf.status.or(503),
                level: conf.level.or(Level::Error),
                dry_run: conf.dry_run.or(false),
            }),
        );
    }
    Ok(())
}

struct Limits<S: 'static> {
    list: Vec<(KeyedZone<S>, u64)>,
    status: u16,
    level: Level,
    dry_run: bool,
}

impl<S: HasLimits> Gate<S> for Limits<S> {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        Step::Now(self.decide(subject))
    }
}

impl<S: HasLimits> Limits<S> {
    fn decide(&self, subject: &S) -> Verdict {
        let limited = subject.state::<Limited>();
        if limited.connections.get().is_some() {
            return Verdict::Continue;
        }
        let mut taken = smallvec::SmallVec::<[Taken; 2]>::new();
        for (zone, most) in &self.list {
            let key = zone.key.value(subject);
            if key.is_empty() {
                continue;
            }
            limited.connections.set(Some("PASSED"));
            let key = zone.table.fit(&key).into_owned();
            match zone.table.with(|view| take(view, &key, *most)) {
                // nginx: what cannot be counted is refused; a zone that cannot be repaired refuses nobody.
                Some(Decision::Taken) => taken.push(Taken { table: zone.table.clone(), key }),
                None => {}
                Some(decision) => {
                    drop(taken);
                    return self.refuse(subject, zone, decision);
                }
            }
        }
        if !taken.is_empty() {
            subject.state::<UnderLimit>().hold(taken);
        }
        Verdict::Continue
    }

    fn refuse(&self, subject: &S, zone: &KeyedZone<S>, decision: Decision) -> Verdict {
        let log = subject.logger();
        if log.enabled(self.level) {
            let (dry, name) = (if self.dry_run { ", dry run," } else { "" }, &zone.name);
            let why = if decision == Decision::NoRoom { ", it is full" } else { "" };
            log.write(self.level, format_args!("limiting connections{dry} by zone \"{name}\"{why}"));
        }
        let limited = subject.state::<Limited>();
        if self.dry_run {
            limited.connections.set(Some("REJECTED_DRY_RUN"));
            return Verdict::Continue;
        }
        limited.connections.set(Some("REJECTED"));
        Verdict::Refuse(self.status)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Taken,
    TooMany,
    NoRoom,
}

/// One of a key's connections; given back when dropped.
struct Taken {
    table: Rc<Table>,
    key: Vec<u8>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.table.with(|view| give_back(view, &self.key));
    }
}

fn take(view: &View<'_>, key: &[u8], most: u64) -> Result<Decision, Damaged> {
    let entry = match view.find(key)? {
        Some(entry) if total(view, entry) >= most => return Ok(Decision::TooMany),
        Some(entry) => entry,
        None => match view.insert(key)? {
            Some(entry) => entry,
            None => return Ok(Decision::NoRoom),
        },
    };
    set_count(view, entry, slot(), count(view, entry, slot()).saturating_add(1));
    Ok(Decision::Taken)
}

/// What is not there is not missed: the zone may have been reset.
fn give_back(view: &View<'_>, key: &[u8]) -> Result<(), Damaged> {
    let Some(entry) = view.find(key)? else { return Ok(()) };
    set_count(view, entry, slot(), count(view, entry, slot()).saturating_sub(1));
    if total(view, entry) == 0 { view.remove(entry) } else { Ok(()) }
}

/// Takes back what the worker of this slot had.
fn forget(words: &[AtomicU64], slot: usize) {
    let Ok(view) = View::stored(words) else { return };
    let mut at = view.oldest();
    // What is damaged is found by the next who uses it.
    for _ in 0..=view.capacity() {
        let Ok(Some(entry)) = at else { return };
        at = view.newer(entry);
        set_count(&view, entry, slot, 0);
        if total(&view, entry) == 0 && view.remove(entry).is_err() {
            return;
        }
    }
}

fn total(view: &View<'_>, entry: Entry) -> u64 {
    (0..SLOTS).map(|slot| u64::from(count(view, entry, slot))).sum()
}

fn count(view: &View<'_>, entry: Entry, slot: usize) -> u16 {
    let word = view.value(entry, slot / PER_WORD) >> (slot % PER_WORD * BITS);
    u16::try_from(word & u64::from(u16::MAX)).unwrap_or(0)
}

fn set_count(view: &View<'_>, entry: Entry, slot: usize, count: u16) {
    let shift = slot % PER_WORD * BITS;
    let others = view.value(entry, slot / PER_WORD) & !(u64::from(u16::MAX) << shift);
    view.set_value(entry, slot / PER_WORD, others | u64::from(count) << shift);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;
    use crate::zone::Zones;
    use crate::zone::kill::{alone, at_every_store};
    use crate::zone::table::Shape;

    #[test]
    fn counts_are_limited_given_back_and_forgotten_with_their_worker() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &Place { file: "f".into(), line: 1, column: 1 }).unwrap();
        let table = Rc::new(Table::in_zone(&zone, "test", Shape { key: 16, values: SLOTS / PER_WORD }).unwrap());
        table.when_a_worker_ends(forget);
        let take = |most| table.with(|view| take(view, b"a", most)).unwrap();
        assert_eq!([take(2), take(2), take(2)], [Decision::Taken, Decision::Taken, Decision::TooMany]);
        drop(Taken { table: table.clone(), key: b"a".to_vec() });
        assert_eq!(take(2), Decision::Taken);
        // A worker of another slot dies, with a count of a key that nobody else has, and of one that we have.
        table
            .with(|view| {
                let (a, b) = (view.find(b"a")?.ok_or(Damaged)?, view.insert(b"b")?.ok_or(Damaged)?);
                set_count(view, a, 5, 7);
                set_count(view, b, 5, u16::MAX);
                Ok(())
            })
            .unwrap();
        let totals = || {
            table
                .with(|view| Ok([&b"a"[..], b"b"].map(|key| view.find(key).unwrap().map(|entry| total(view, entry)))))
                .unwrap()
        };
        assert_eq!(totals(), [Some(9), Some(65535)]);
        zone.forget(5);
        assert_eq!(totals(), [Some(2), None]);
        for _ in 0..3 {
            drop(Taken { table: table.clone(), key: b"a".to_vec() });
        }
        assert_eq!(totals(), [None, None]);
    }

    #[test]
    fn death_in_the_middle_of_counting_leaves_nothing_behind() {
        if !alone("modules::limit_conn::tests::death_in_the_middle_of_counting_leaves_nothing_behind") {
            return;
        }
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &Place { file: "f".into(), line: 1, column: 1 }).unwrap();
        let table = Rc::new(Table::in_zone(&zone, "test", Shape { key: 16, values: SLOTS / PER_WORD }).unwrap());
        table.when_a_worker_ends(forget);
        // The worker that dies has slot 0, another has one of `a` all the time.
        let of_other = |view: &View<'_>| {
            let entry = match view.find(b"a")? {
                Some(entry) => entry,
                None => view.insert(b"a")?.ok_or(Damaged)?,
            };
            set_count(view, entry, 5, 1);
            Ok(total(view, entry))
        };
        let mut kept = 0;
        for key in [b"a", b"b"] {
            let deaths = at_every_store(
                &zone,
                || assert_eq!(table.with(of_other), Some(1)),
                || {
                    table.with(|view| take(view, key, 3));
                    table.with(|view| give_back(view, key));
                },
                || {
                    zone.forget(0);
                    table.with(|view| view.verify()).unwrap();
                    let left = table.with(|view| Ok(view.len())).unwrap();
                    assert!(left <= 1, "{left}");
                    kept += left;
                    assert_eq!(table.with(of_other), Some(1));
                },
            );
            assert!(deaths.count > 40, "{deaths:?}");
        }
        assert!(kept > 20, "{kept}");
    }
}
