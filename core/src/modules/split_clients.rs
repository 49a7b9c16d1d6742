//! `split_clients`: a variable that has each of some values for a share of all clients.

use super::block::WrittenBlock;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Line, Node, Refusal, Word};
use crate::inherit;
use crate::module::{Install, Module};
use crate::script::{Source, Template};
use crate::subject::Subject;

/// The settings of one block.
#[derive(Default)]
pub struct SplitConf {
    blocks: Vec<WrittenBlock>,
}

inherit!(SplitConf {} own { blocks });

/// `split_clients`
pub struct SplitClients;

impl Feature for SplitClients {
    type Conf = SplitConf;
    const NAME: &'static str = "split_clients";
    const DIRECTIVES: &'static [Directive<SplitConf>] = &[Directive {
        name: "split_clients",
        levels: Levels::PROTOCOL,
        arity: Arity::Exactly(2),
        set: Set::Body(split_clients),
        doc: "Makes a variable that has each of some values for a share of all values of a text, in the same way as nginx.",
    }];
}

fn split_clients(conf: &mut SplitConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    conf.blocks.push(WrittenBlock::parse(line)?);
    Ok(())
}

impl<S: Subject> Module<S> for SplitClients {
    fn define(conf: &SplitConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for written in &conf.blocks {
            let source = written.key(env);
            let shares = Shares::build(&written.lines, written.variable.at());
            let (Some(source), Some(shares)) = (env.errors.keep(source), env.errors.keep(shares)) else {
                // A line that uses the variable is right all the same.
                env.errors.excuse_name(&[b"$", written.variable.bytes()].concat());
                continue;
            };
            let slot = env.variables.slot();
            let compute = move |subject: &S, out: &mut Vec<u8>| shares.write(&source, subject, out);
            let source = Source::Once(slot, Box::new(compute));
            let defined = env.variables.define(&written.variable.text(), written.variable.at(), source);
            env.errors.keep(defined);
        }
        Ok(())
    }
}

/// Values, each with the first hash that is not its own any more; `None` for the rest.
struct Shares(Vec<(Option<u32>, Box<[u8]>)>);

/// A hundredth of a percent is one of these.
const WHOLE: u32 = 10_000;

impl Shares {
    fn build(lines: &[Node], at: &crate::conf::Place) -> Result<Shares, ConfigError> {
        let (mut sum, mut end) = (0u32, 0u32);
        let mut shares = Vec::new();
        for line in lines {
            let refuse = |message: String| ConfigError::new(line.name.at(), message);
            let [value] = &*line.args else {
                return Err(refuse("invalid number of the split_clients parameters".into()));
            };
            let share = if line.name.is("*") {
                None
            } else {
                Some(share(&line.name).ok_or_else(|| refuse(format!("invalid percent value \"{}\"", line.name)))?)
            };
            sum = share.map_or(WHOLE, |share| sum.saturating_add(share));
            if sum > WHOLE {
                return Err(ConfigError::new(at, "percent total is greater than 100%"));
            }
            let until = share.filter(|_| sum < WHOLE).map(|share| {
                let width = u64::from(share) * u64::from(u32::MAX) / u64::from(WHOLE);
                end = end.saturating_add(u32::try_from(width).unwrap_or(u32::MAX));
                end
            });
            shares.push((until, value.bytes().into()));
        }
        Ok(Shares(shares))
    }

    fn get(&self, text: &[u8]) -> Option<&[u8]> {
        let hash = murmur2(text);
        let found = self.0.iter().find(|(until, _)| until.is_none_or(|until| hash < until));
        found.map(|(_, value)| &**value)
    }

    fn write<S: Subject>(&self, source: &Template<S>, subject: &S, out: &mut Vec<u8>) -> bool {
        if let Some(value) = self.get(&source.value(subject)) {
            out.extend_from_slice(value);
        }
        true
    }
}

/// `12.34%`, in hundredths of a percent.
fn share(word: &Word) -> Option<u32> {
    let text = std::str::from_utf8(word.bytes().strip_suffix(b"%")?).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && part.is_empty() || part.len() > 2 || !is_number(whole) || !is_number(part) {
        return None;
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let share = whole.checked_mul(100)?.checked_add(format!("{part:0<2}").parse().ok()?)?;
    Some(share).filter(|share| *share > 0)
}

/// MurmurHash2 with a seed of 0, as nginx has it: by it clients keep their shares when they come from there.
fn murmur2(text: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut chunks = text.chunks_exact(4);
    for chunk in chunks.by_ref() {
        let mut word = <[u8; 4]>::try_from(chunk).map_or(0, u32::from_le_bytes).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

    #[test]
    fn hashes_are_those_of_murmur2() {
        // Of the reference implementation, seed 0.
        for (text, hash) in
            [("", 0), ("a", 0x9268_5f5e), ("abc", 0x1357_7c9b), ("abcd", 0x2687_3021), ("hello", 0xe561_29cb)]
        {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn shares_are_hundredths_of_a_percent() {
        let word = |text: &str| Word::new(text.as_bytes(), Place { file: "f".into(), line: 1, column: 1 });
        for (text, expected) in [
            ("50%", Some(5000)),
            ("0.01%", Some(1)),
            (".5%", Some(50)),
            ("51.2%", Some(5120)),
            ("100%", Some(10_000)),
            ("0%", None),
            ("0.001%", None),
            ("50", None),
            ("%", None),
            (".%", None),
            ("a%", None),
            ("1.2.3%", None),
            ("-1%", None),
            ("99999999999%", None),
        ] {
            assert_eq!(share(&word(text)), expected, "{text}");
        }
    }
}
