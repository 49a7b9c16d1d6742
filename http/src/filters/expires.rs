//! `expires`: how long an answer may be kept, as `Expires` and `Cache-Control`.

use tidegate_core::clock;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Place, Refusal, Setting, Word, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_http_wire::{Known, date};

use super::headers::is_usual;
use super::{Filter, Filtered, value as seen};
use crate::answer::Answer;
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block: the time as it is written, and whether it counts from the last change.
#[derive(Default)]
pub struct ExpiresConf {
    time: Setting<(Word, bool)>,
}

inherit!(ExpiresConf { time });

/// `expires`
pub struct Expires;

impl Feature for Expires {
    type Conf = ExpiresConf;
    const NAME: &'static str = "expires";
    const DIRECTIVES: &'static [Directive<ExpiresConf>] = &[Directive {
        name: "expires",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF),
        arity: Arity::Between(1, 2),
        set: Set::With(expires),
        doc: "Expires and Cache-Control: a time, one since the last change (modified), one of the day (@), epoch, max or off.",
    }];
}

fn expires(conf: &mut ExpiresConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let modified = line.args().len() == 2;
    if modified && !line.arg(0)?.is("modified") {
        return Err("invalid value".into());
    }
    let word = line.arg(usize::from(modified))?;
    if !word.bytes().contains(&b'$') {
        Kept::parse(word, modified)?;
    }
    conf.time.set((word.clone(), modified))
}

impl Module<Exchange> for Expires {
    fn install(conf: &ExpiresConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let Some((word, modified)) = conf.time.get() else { return Ok(()) };
        let kept = match Kept::parse(word, *modified) {
            Ok(Kept::Off) => return Ok(()),
            Ok(kept) => When::Fixed(kept),
            Err(_) => When::Variable(env.template(word)?, *modified, word.at().clone()),
        };
        plan.filters.push(Box::new(kept));
        Ok(())
    }
}

enum When {
    Fixed(Kept),
    Variable(Template<Exchange>, bool, Place),
}

/// How long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Off,
    Epoch,
    Max,
    /// So many seconds from now; negative for not at all.
    For(i64),
    /// So many seconds from the last change.
    SinceChange(i64),
    /// Until this second of the local day.
    Until(i64),
}

impl Kept {
    fn parse(word: &Word, modified: bool) -> Result<Kept, &'static str> {
        let seconds = |word: Option<Word>| {
            word.and_then(|word| value::seconds(&word)).and_then(|time| i64::try_from(time).ok()).ok_or("invalid value")
        };
        match word.bytes() {
            b"off" if !modified => Ok(Kept::Off),
            b"epoch" if !modified => Ok(Kept::Epoch),
            b"max" if !modified => Ok(Kept::Max),
            [b'@', ..] if modified => Err("daily time cannot be used with \"modified\" parameter"),
            [b'@', ..] => match seconds(word.after("@"))? {
                0..=86_400 => seconds(word.after("@")).map(Kept::Until),
                _ => Err("daily time value must be less than 24 hours"),
            },
            _ => {
                let time = match word.bytes() {
                    [b'-', ..] => -seconds(word.after("-"))?,
                    [b'+', ..] => seconds(word.after("+"))?,
                    _ => seconds(Some(word.clone()))?,
                };
                Ok(if modified { Kept::SinceChange(time) } else { Kept::For(time) })
            }
        }
    }

    /// When the answer expires, and what `Cache-Control` says, both in seconds; `now` and the start of the local day
    /// are seconds since 1970.
    fn at(self, now: i64, day: i64, last_modified: Option<i64>) -> Option<(i64, Option<i64>)> {
        let (expires, lasts) = match (self, last_modified) {
            (Kept::Off, _) => return None,
            (Kept::Epoch, _) => return Some((1, None)),
            // nginx: the last second but some of 2037, and ten years.
            (Kept::Max, _) => return Some((2_145_916_555, Some(315_360_000))),
            (Kept::For(0), _) | (Kept::SinceChange(0), _) => return Some((now, Some(0))),
            (Kept::For(time), _) | (Kept::SinceChange(time), None) => (now.saturating_add(time), time),
            (Kept::SinceChange(time), Some(modified)) => {
                let expires = modified.saturating_add(time);
                (expires, if time < 0 { time } else { expires.saturating_sub(now) })
            }
            (Kept::Until(second), _) => {
                let today = day.saturating_add(second);
                let next = if today > now { today } else { today.saturating_add(86_400) };
                (next, next.saturating_sub(now))
            }
        };
        Some((expires, (lasts >= 0).then_some(lasts)))
    }
}

impl Filter for When {
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered {
        if !is_usual(answer.status) {
            return Filtered::Pass;
        }
        let kept = match self {
            When::Fixed(kept) => *kept,
            When::Variable(template, modified, at) => {
                let word = Word::new(seen(template, exchange, answer), at.clone());
                match Kept::parse(&word, *modified) {
                    Ok(kept) => kept,
                    Err(_) => return Filtered::Pass,
                }
            }
        };
        let now = clock::seconds();
        let day = if matches!(kept, Kept::Until(_)) { now - clock::second_of_day() } else { now };
        let Some((expires, lasts)) = kept.at(now, day, answer.last_modified) else { return Filtered::Pass };
        answer.fields.set(Known::Expires, &date::format(expires));
        let control = lasts.map_or_else(|| "no-cache".to_owned(), |seconds| format!("max-age={seconds}"));
        answer.fields.set(Known::CacheControl, control.as_bytes());
        Filtered::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_fields() {
        let place = Place { file: "f".into(), line: 1, column: 1 };
        for (text, modified, expected) in [
            ("off", false, None),
            ("epoch", false, Some((1, None))),
            ("0", false, Some((1000, Some(0)))),
            ("10", false, Some((1010, Some(10)))),
            ("-10", false, Some((990, None))),
            ("10", true, Some((910, None))),
            ("+24h", true, Some((87_300, Some(86_300)))),
            ("-1d", true, Some((-85_500, None))),
            ("+1d", false, Some((87_400, Some(86_400)))),
            ("1y", false, Some((31_537_000, Some(31_536_000)))),
            ("1h 30m", false, Some((6400, Some(5400)))),
            ("200", true, Some((1100, Some(100)))),
            ("@5s", false, Some((87_305, Some(86_305)))),
            ("@200s", false, Some((1100, Some(100)))),
        ] {
            let kept = Kept::parse(&Word::new(text.as_bytes(), place.clone()), modified).unwrap();
            assert_eq!(kept.at(1000, 900, Some(900)), expected, "{text}");
        }
        for (text, modified, why) in [
            ("", false, "invalid value"),
            ("bad", false, "invalid value"),
            ("epoch", true, "invalid value"),
            ("@25h", false, "daily time value must be less than 24 hours"),
            ("@1h", true, "daily time cannot be used with \"modified\" parameter"),
            ("@-1h", false, "invalid value"),
            ("--1", false, "invalid value"),
            ("+-1", false, "invalid value"),
            ("+", false, "invalid value"),
            ("10ms", false, "invalid value"),
        ] {
            assert_eq!(Kept::parse(&Word::new(text.as_bytes(), place.clone()), modified), Err(why), "{text}");
        }
    }
}
