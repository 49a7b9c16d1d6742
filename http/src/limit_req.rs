//! `limit_req`: how fast subjects with the same key may follow each other, in all workers together.
//!
//! A leaky bucket: each request adds one to the excess of its key, and the excess drains at the rate of the zone. What
//! exceeds the burst is refused, what exceeds the delay has to wait. Numbers are thousandths of a request, as in nginx.

use std::rc::Rc;
use std::time::Duration;

use tidegate_core::clock;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Setting, Word, value};
use tidegate_core::inherit;
use tidegate_core::log::Level;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Plan;
use tidegate_core::zone::table::{Damaged, Entry, View};

use tidegate_core::modules::limits::{self, HasLimits, KeyedZone, LOG_LEVELS, Limited, UnderLimit, WrittenZone};

/// Values of an entry: the excess, and when it was computed.
const EXCESS: usize = 0;
const LAST: usize = 1;
const VALUES: usize = 2;
/// Milliseconds for which an entry is kept in any case.
const KEPT: u64 = 60_000;

/// One `limit_req`, in thousandths.
#[derive(Clone)]
struct Limit {
    zone: Word,
    burst: u64,
    delay: u64,
}

/// The settings of one block.
#[derive(Default)]
pub struct LimitReqConf {
    zones: Vec<Rc<WrittenZone>>,
    limits: Vec<Limit>,
    status: Setting<u16>,
    level: Setting<Level>,
    dry_run: Setting<bool>,
}

inherit!(LimitReqConf { zones, limits, status, level, dry_run });

const LEVELS: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

/// `limit_req`
pub struct LimitReq;

impl Feature for LimitReq {
    type Conf = LimitReqConf;
    const NAME: &'static str = "limit_req";
    const DIRECTIVES: &'static [Directive<LimitReqConf>] = &[
        Directive {
            name: "limit_req_zone",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(3),
            set: Set::With(|conf, line| {
                let zone = WrittenZone::parse(line, rate)?;
                limits::add_zone(&mut conf.zones, zone, line)
            }),
            doc: "A key, the shared memory in which requests are counted by it, and their rate.",
        },
        Directive {
            name: "limit_req",
            levels: LEVELS,
            arity: Arity::Between(1, 3),
            set: Set::With(limit),
            doc: "Limits the rate of requests for each key of a zone, with a burst, of which some need not wait.",
        },
        Directive {
            name: "limit_req_log_level",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| conf.level.set(line.choice(&LOG_LEVELS)?)),
            doc: "The level on which refusals are logged; delays are logged one level below.",
        },
        Directive {
            name: "limit_req_status",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| conf.status.set(limits::status(line)?)),
            doc: "The status of what is refused.",
        },
        Directive {
            name: "limit_req_dry_run",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.dry_run),
            doc: "Counts and logs, but refuses and delays nobody.",
        },
    ];
}

/// `rate=10r/s` in thousandths a second.
fn rate(word: &Word) -> Result<Option<u64>, Refusal> {
    let Some(written) = word.after("rate=") else { return Ok(None) };
    let bytes = written.bytes();
    let (digits, scale) = match (bytes.strip_suffix(b"r/s"), bytes.strip_suffix(b"r/m")) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 60),
        (None, None) => (bytes, 1),
    };
    let number = value::number(&Word::new(digits, word.at().clone())).filter(|number| *number > 0);
    let rate = number.and_then(|number| number.checked_mul(1000));
    Ok(Some(rate.ok_or_else(|| format!("invalid rate \"{word}\""))? / scale))
}

fn limit(conf: &mut LimitReqConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let (mut zone, mut burst, mut delay) = (None, 0, 0);
    for word in line.args() {
        let positive = |written: &Word, what: &str| {
            value::number(written)
                .filter(|number| *number > 0)
                .and_then(|number| number.checked_mul(1000))
                .ok_or_else(|| format!("invalid {what} value \"{word}\""))
        };
        if let Some(name) = word.after("zone=") {
            zone = Some(name);
        } else if let Some(written) = word.after("burst=") {
            burst = positive(&written, "burst")?;
        } else if let Some(written) = word.after("delay=") {
            delay = positive(&written, "delay")?;
        } else if word.is("nodelay") {
            delay = u64::MAX;
        } else {
            return Err(format!("invalid parameter \"{word}\"").into());
        }
    }
    let zone = zone.ok_or_else(|| format!("\"{}\" must have \"zone\" parameter", line.name()))?;
    if conf.limits.iter().any(|limit| limit.zone.bytes() == zone.bytes()) {
        return Err("is duplicate".into());
    }
    conf.limits.push(Limit { zone, burst, delay });
    Ok(())
}

impl<S: HasLimits> Module<S> for LimitReq {
    const VARIABLES: &'static [Variable<S>] = &[Variable {
        name: "limit_req_status",
        get: Get::Value(|subject: &S, out| limits::decision(subject, |limited| &limited.rate, out)),
        doc: "PASSED, DELAYED, REJECTED, DELAYED_DRY_RUN or REJECTED_DRY_RUN.",
    }];

    fn define(conf: &LimitReqConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        limits::judge_zones(&conf.zones, "limit_req", env);
        Ok(())
    }

    fn install(conf: &LimitReqConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        let mut list = Vec::new();
        for limit in &conf.limits {
            let (zone, rate) = KeyedZone::build(&conf.zones, &limit.zone, "limit_req", VALUES, env)?;
            list.push(Bucket { zone, rate, burst: limit.burst, delay: limit.delay });
        }
        if !list.is_empty() {
            let level = conf.level.or(Level::Error);
            plan.gate(
                Phase::PreAccess,
                Box::new(Limits {
                    list,
                    status: conf.status.or(503),
                    level,
                    delay_level: below(level),
                    dry_run: conf.dry_run.or(false),
                }),
            );
        }
        Ok(())
    }
}

fn below(level: Level) -> Level {
    match level {
        Level::Error => Level::Warn,
        Level::Warn => Level::Notice,
        _ => Level::Info,
    }
}

struct Bucket<S: 'static> {
    zone: KeyedZone<S>,
    rate: u64,
    burst: u64,
    delay: u64,
}

struct Limits<S: 'static> {
    list: Vec<Bucket<S>>,
    status: u16,
    level: Level,
    delay_level: Level,
    dry_run: bool,
}

impl<S: HasLimits> Gate<S> for Limits<S> {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        let limited = subject.state::<Limited>();
        if limited.rate.get().is_some() {
            return Step::Now(Verdict::Continue);
        }
        let (dry, log) = (if self.dry_run { ", dry run" } else { "" }, subject.logger());
        let (noted, step) = match self.decide(subject) {
            Decision::NoKey => return Step::Now(Verdict::Continue),
            Decision::Pass => ("PASSED", Step::Now(Verdict::Continue)),
            Decision::Delay { by, excess, zone } => {
                let (whole, rest) = (excess / 1000, excess % 1000);
                log.write(
                    self.delay_level,
                    format_args!("delaying request{dry}, excess: {whole}.{rest:03}, by zone \"{zone}\""),
                );
                if self.dry_run {
                    ("DELAYED_DRY_RUN", Step::Now(Verdict::Continue))
                } else {
                    ("DELAYED", Step::Later(Box::pin(wait(subject, by))))
                }
            }
            Decision::Refuse { excess, zone } => {
                let (whole, rest) = (excess / 1000, excess % 1000);
                log.write(
                    self.level,
                    format_args!("limiting requests{dry}, excess: {whole}.{rest:03} by zone \"{zone}\""),
                );
                if self.dry_run {
                    ("REJECTED_DRY_RUN", Step::Now(Verdict::Continue))
                } else {
                    ("REJECTED", Step::Now(Verdict::Refuse(self.status)))
                }
            }
        };
        limited.rate.set(Some(noted));
        step
    }
}

async fn wait<S: HasLimits>(subject: &S, by: Duration) -> Verdict {
    let limited = subject.state::<UnderLimit>();
    limited.delayed.set(true);
    tokio::time::sleep(by).await;
    limited.delayed.set(false);
    Verdict::Continue
}

enum Decision<'a> {
    /// Every key was empty: nothing is limited, and nothing is noted.
    NoKey,
    Pass,
    Delay {
        by: Duration,
        excess: u64,
        zone: &'a str,
    },
    Refuse {
        excess: u64,
        zone: &'a str,
    },
}

impl<S: HasLimits> Limits<S> {
    /// Asks every limit before any of them counts the request: one that another refuses is not counted.
    fn decide(&self, subject: &S) -> Decision<'_> {
        let now = clock::monotonic();
        let mut asked: smallvec::SmallVec<[(&Bucket<S>, Vec<u8>); 2]> = smallvec::SmallVec::new();
        let mut last = None;
        for (index, bucket) in self.list.iter().enumerate() {
            let key = bucket.zone.key.value(subject);
            if key.is_empty() {
                continue;
            }
            let key = bucket.zone.table.fit(&key).into_owned();
            let is_last = index + 1 == self.list.len();
            let found = bucket.zone.table.with(|view| look_up(view, &key, now, bucket.rate, bucket.burst, is_last));
            match found {
                // A zone that cannot be repaired limits nobody.
                None => {}
                Some(Found::TooFast(excess)) => return Decision::Refuse { excess, zone: &bucket.zone.name },
                Some(Found::Within(excess)) if is_last => last = Some((bucket, excess)),
                Some(Found::Within(_)) => asked.push((bucket, key)),
            }
        }
        if asked.is_empty() && last.is_none() {
            return Decision::NoKey;
        }
        let counted = asked.iter().rev().filter_map(|(bucket, key)| {
            let excess = bucket.zone.table.with(|view| account(view, key, now, bucket.rate))?;
            Some((*bucket, excess))
        });
        // nginx: of equal delays that of the later limit is told.
        let mut longest: Option<(u64, u64, &Bucket<S>)> = None;
        for (bucket, excess) in last.into_iter().chain(counted) {
            let by = delay(excess, bucket.delay, bucket.rate);
            if by > longest.map_or(0, |(by, ..)| by) {
                longest = Some((by, excess, bucket));
            }
        }
        match longest {
            None => Decision::Pass,
            Some((by, excess, bucket)) => {
                Decision::Delay { by: Duration::from_millis(by), excess, zone: &bucket.zone.name }
            }
        }
    }
}

/// Milliseconds that a request with this excess has to wait.
fn delay(excess: u64, free: u64, rate: u64) -> u64 {
    excess.saturating_sub(free).saturating_mul(1000) / rate.max(1)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Within(u64),
    TooFast(u64),
}

/// The excess with one request more, and the milliseconds since it was last computed.
fn drained(view: &View<'_>, entry: Entry, now: u64, rate: u64) -> (u64, u64) {
    let (excess, last) = (view.value(entry, EXCESS), view.value(entry, LAST));
    // nginx: another worker's clock may be ahead by a little; if by much, the clock has been set.
    let passed = match now.checked_sub(last) {
        Some(passed) => passed,
        None if last.saturating_sub(now) > KEPT => 1,
        None => 0,
    };
    (excess.saturating_add(1000).saturating_sub(rate.saturating_mul(passed) / 1000), passed)
}

/// Finds or makes the entry of a key. The request is counted at once if `count` says so and the burst allows it.
fn look_up(view: &View<'_>, key: &[u8], now: u64, rate: u64, burst: u64, count: bool) -> Result<Found, Damaged> {
    if let Some(entry) = view.find(key)? {
        view.touch(entry)?;
        let (excess, passed) = drained(view, entry, now, rate);
        if excess > burst {
            return Ok(Found::TooFast(excess));
        }
        if count {
            settle(view, entry, excess, passed, now);
        }
        return Ok(Found::Within(excess));
    }
    expire(view, now, rate, false)?;
    let entry = match view.insert(key)? {
        Some(entry) => Some(entry),
        None => {
            expire(view, now, rate, true)?;
            view.insert(key)?
        }
    };
    if let Some(entry) = entry.filter(|_| count) {
        view.set_value(entry, LAST, now);
    }
    Ok(Found::Within(0))
}

/// Counts a request that no limit has refused. An entry that has gone meanwhile is as good as a fresh one.
fn account(view: &View<'_>, key: &[u8], now: u64, rate: u64) -> Result<u64, Damaged> {
    let Some(entry) = view.find(key)? else { return Ok(0) };
    let (excess, passed) = drained(view, entry, now, rate);
    settle(view, entry, excess, passed, now);
    Ok(excess)
}

fn settle(view: &View<'_>, entry: Entry, excess: u64, passed: u64, now: u64) {
    view.set_value(entry, EXCESS, excess);
    if passed > 0 {
        view.set_value(entry, LAST, now);
    }
}

/// Removes up to two of the oldest entries that limit nobody any more; with `force`, the oldest whatever it is before.
fn expire(view: &View<'_>, now: u64, rate: u64, force: bool) -> Result<(), Damaged> {
    if force && let Some(oldest) = view.oldest()? {
        view.remove(oldest)?;
    }
    for _ in 0..2 {
        let Some(oldest) = view.oldest()? else { return Ok(()) };
        let passed = now.abs_diff(view.value(oldest, LAST));
        if passed < KEPT || view.value(oldest, EXCESS) > rate.saturating_mul(passed) / 1000 {
            return Ok(());
        }
        view.remove(oldest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::conf::Place;
    use tidegate_core::zone::Zones;
    use tidegate_core::zone::kill::{alone, at_every_store};
    use tidegate_core::zone::table::{Shape, Table};

    fn table(entries: usize) -> Table {
        Table::private(8 + entries * 8, Shape { key: 16, values: VALUES })
    }

    fn ask(table: &Table, key: &[u8], now: u64) -> Found {
        table.with(|view| look_up(view, key, now, 2000, 1000, true)).unwrap()
    }

    #[test]
    fn the_excess_grows_with_requests_and_drains_with_time() {
        let table = table(4);
        for (now, expected) in [
            (1000, Found::Within(0)),
            (1000, Found::Within(1000)),
            (1000, Found::TooFast(2000)),
            (1250, Found::TooFast(1500)),
            (1500, Found::Within(1000)),
            // A clock that is a little behind.
            (1499, Found::TooFast(2000)),
            (9000, Found::Within(0)),
        ] {
            assert_eq!(ask(&table, b"a", now), expected, "{now}");
        }
        assert_eq!(ask(&table, b"b", 9000), Found::Within(0));
    }

    #[test]
    fn entries_that_limit_nobody_make_room_and_otherwise_the_oldest_does() {
        let table = table(3);
        for key in [b"a", b"b", b"c"] {
            ask(&table, key, 1000);
        }
        ask(&table, b"a", 1000);
        ask(&table, b"d", 1001);
        let keys = |keys: [&[u8]; 4]| keys.map(|key| table.with(|view| view.find(key)).unwrap().is_some());
        assert_eq!(keys([b"a", b"b", b"c", b"d"]), [true, false, true, true]);
        // After a minute two go at a time.
        ask(&table, b"e", 70_000);
        assert_eq!(table.with(|view| Ok(view.len())), Some(2));
        assert_eq!(keys([b"a", b"c", b"d", b"e"]), [false, false, true, true]);
    }

    #[test]
    fn delays_are_what_is_above_the_free_part_at_the_rate() {
        for (excess, free, rate, expected) in [
            (1000, 0, 500, 2000),
            (1000, 1000, 500, 0),
            (2000, 1000, 2000, 500),
            (999, u64::MAX, 1, 0),
            (5, 0, 0, 5000),
        ] {
            assert_eq!(delay(excess, free, rate), expected);
        }
    }

    #[test]
    fn rates() {
        let at = tidegate_core::conf::Place { file: "f".into(), line: 1, column: 1 };
        let parse = |text: &str| rate(&Word::new(text.as_bytes(), at.clone()));
        assert_eq!(
            (parse("rate=2r/s"), parse("rate=30r/m"), parse("rate=1")),
            (Ok(Some(2000)), Ok(Some(500)), Ok(Some(1000)))
        );
        assert_eq!(parse("other"), Ok(None));
        for wrong in ["rate=", "rate=r/s", "rate=0r/s", "rate=-1r/s", "rate=1r/h"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn death_in_the_middle_of_counting_delays_nobody_and_leaves_a_sound_table() {
        if !alone("limit_req::tests::death_in_the_middle_of_counting_delays_nobody_and_leaves_a_sound_table") {
            return;
        }
        let zones = Zones::default();
        let zone = zones.declare("z", Some(32 << 10), &Place { file: "f".into(), line: 1, column: 1 }).unwrap();
        let table = Table::in_zone(&zone, "limit_req", Shape { key: 16, values: VALUES }).unwrap();
        let capacity = table.with(|view| Ok(view.capacity())).unwrap();
        for key in 0..capacity {
            ask(&table, &key.to_be_bytes(), 1000);
        }
        let deaths = at_every_store(
            &zone,
            || assert!(matches!(ask(&table, b"known", 1000), Found::Within(_) | Found::TooFast(_))),
            || {
                ask(&table, b"known", 1001);
                // The table is full: the oldest makes room, and old ones go.
                ask(&table, b"new", 1002);
                ask(&table, b"another", 90_000);
            },
            || {
                table.with(|view| view.verify()).unwrap();
                assert!(matches!(ask(&table, b"known", 1003), Found::Within(_) | Found::TooFast(_)));
            },
        );
        assert!(deaths.count > 100, "{deaths:?}");
    }
}
