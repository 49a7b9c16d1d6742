//! `limit_rate`: how fast an answer may leave.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Setting, Word, value};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::variable::Get;
use tidegate_core::script::{Template, Variable};
use tidegate_core::subject::{State, Subject};

use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct LimitRateConf {
    rate: Setting<Word>,
    after: Setting<Word>,
}

inherit!(LimitRateConf { rate, after });

const LEVELS: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF);

/// `limit_rate`
pub struct LimitRate;

impl Feature for LimitRate {
    type Conf = LimitRateConf;
    const NAME: &'static str = "limit_rate";
    const DIRECTIVES: &'static [Directive<LimitRateConf>] = &[
        Directive {
            name: "limit_rate",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| conf.rate.set(line.arg(0)?.clone())),
            doc: "Bytes a second that an answer may leave with; 0 for as fast as the client takes it.",
        },
        Directive {
            name: "limit_rate_after",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| conf.after.set(line.arg(0)?.clone())),
            doc: "Bytes of an answer that leave before its rate is limited.",
        },
    ];
}

impl Module<Exchange> for LimitRate {
    const VARIABLES: &'static [Variable<Exchange>] = &[Variable {
        name: "limit_rate",
        get: Get::Assigned(
            |exchange, out| {
                let rate = exchange.known_state::<Rate>().and_then(|rate| rate.0.get()).unwrap_or(0);
                out.extend_from_slice(itoa::Buffer::new().format(rate).as_bytes());
                true
            },
            |exchange, value| match value::size_in(value) {
                Some(rate) => exchange.state::<Rate>().0.set(Some(rate)),
                None => log!(exchange.logger(), Error, "invalid $limit_rate \"{}\"", value.escape_ascii()),
            },
        ),
        doc: "Bytes a second that the answer may leave with; may be set.",
    }];

    fn install(conf: &LimitRateConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let size = |word: &Setting<Word>, env: &mut Install<'_, Exchange>| {
            word.get().map_or(Ok(Size::Fixed(0)), |word| Size::compile(word, env))
        };
        let limit = RateLimit { rate: size(&conf.rate, env)?, after: size(&conf.after, env)? };
        if conf.rate.get().is_some() || conf.after.get().is_some() {
            plan.parts.put(limit);
        }
        Ok(())
    }
}

/// `$limit_rate`, where something has decided it: bytes a second, 0 for no limit.
#[derive(Default)]
pub struct Rate(pub Cell<Option<u64>>);

impl State for Rate {}

/// A location's `limit_rate` and `limit_rate_after`.
struct RateLimit {
    rate: Size,
    after: Size,
}

/// How fast the answer to an exchange may leave, decided when it begins to.
pub fn of(exchange: &Exchange, plan: &Plan) -> Option<Pace> {
    // The client gets it as a part of another answer, if at all.
    if exchange.is_subrequest() {
        return None;
    }
    let limit = plan.parts.get::<RateLimit>();
    let decided = exchange.known_state::<Rate>().and_then(|rate| rate.0.get());
    let rate = decided.or_else(|| limit.map(|limit| limit.rate.of(exchange)))?;
    exchange.state::<Rate>().0.set(Some(rate));
    if rate == 0 { None } else { Pace::new(rate, limit.map_or(0, |limit| limit.after.of(exchange)), exchange.started) }
}

/// A number of bytes, written out or made of variables.
pub enum Size {
    /// Written out.
    Fixed(u64),
    /// Made of variables.
    Varying(Template<Exchange>),
}

impl Size {
    /// Reads it.
    ///
    /// # Errors
    /// It is no size.
    pub fn compile(word: &Word, env: &Install<'_, Exchange>) -> Result<Size, ConfigError> {
        let template = env.template(word)?;
        match template.constant() {
            None => Ok(Size::Varying(template)),
            Some(text) => match value::size_in(text) {
                Some(size) => Ok(Size::Fixed(size)),
                None => Err(ConfigError::new(word.at(), format!("invalid size \"{word}\""))),
            },
        }
    }

    /// nginx: what is no size is none at all, and logged.
    pub fn of(&self, exchange: &Exchange) -> u64 {
        match self {
            Size::Fixed(size) => *size,
            Size::Varying(template) => {
                let text = template.value(exchange);
                value::size_in(&text).unwrap_or_else(|| {
                    log!(exchange.logger(), Error, "invalid size \"{}\"", text.escape_ascii());
                    0
                })
            }
        }
    }
}

/// Bytes a second, from when on, and how many leave before that as fast as they can.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: u64,
    after: u64,
    since: Instant,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// So many bytes may go.
    Go(usize),
    /// None, until then.
    Wait(Instant),
}

/// In one go leaves at least what is due in this part of a second, so that a slow pace does not mean tiny pieces.
const PARTS: u64 = 10;

impl Pace {
    /// A pace that is kept from `since` on. `None`: as fast as it goes.
    pub fn new(rate: u64, after: u64, since: Instant) -> Option<Pace> {
        (rate > 0).then_some(Pace { rate, after, since })
    }

    /// What may be done when `sent` bytes have gone. nginx: what is due in the first second goes at its beginning.
    pub fn may(&self, sent: u64, now: Instant) -> May {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        let due = self.rate.saturating_mul(millis.saturating_add(1000)) / 1000;
        let allowed = due.saturating_add(self.after);
        let least = (self.rate / PARTS).max(1);
        match allowed.checked_sub(sent).filter(|left| *left >= least) {
            Some(left) => May::Go(usize::try_from(left).unwrap_or(usize::MAX)),
            None => {
                let missing = sent.saturating_add(least).saturating_sub(allowed);
                May::Wait(
                    now + Duration::from_millis(missing.saturating_mul(1000).div_ceil(self.rate).clamp(1, 60_000)),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_leave_when() {
        let since = Instant::now();
        let at = |millis: u64| since + Duration::from_millis(millis);
        for (name, rate, after, sent, millis, expected) in [
            ("the first second's worth at once", 1000, 0, 0, 0, May::Go(1000)),
            ("then what time brings", 1000, 0, 1000, 500, May::Go(500)),
            ("not in tiny pieces", 1000, 0, 1000, 10, May::Wait(at(100))),
            ("nothing ahead of time", 1000, 0, 5000, 0, May::Wait(at(4100))),
            ("free at first", 1000, 10_000, 0, 0, May::Go(11_000)),
            ("free at first, later not", 1000, 10_000, 11_000, 0, May::Wait(at(100))),
            ("slower than a byte at a time", 1, 0, 1, 0, May::Wait(at(1000))),
            ("never longer than a minute", 1, 0, 1000, 0, May::Wait(at(60_000))),
        ] {
            let pace = Pace::new(rate, after, since).unwrap();
            assert_eq!(pace.may(sent, at(millis)), expected, "{name}");
        }
        assert!(Pace::new(0, 5, since).is_none());
    }

    #[test]
    fn nothing_overflows() {
        let since = Instant::now();
        let pace = Pace::new(u64::MAX, u64::MAX, since).unwrap();
        assert_eq!(pace.may(0, since + Duration::from_secs(u32::MAX.into())), May::Go(usize::MAX));
        assert!(matches!(pace.may(u64::MAX, since), May::Wait(_)));
    }
}
