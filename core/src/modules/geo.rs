//! `geo`: a variable whose value depends on an address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::block::{WrittenBlock, variable};
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Errors, Line, Node, Refusal, Word};
use crate::inherit;
use crate::module::{Install, Module};
use crate::net::Address;
use crate::net::forwarded::client_behind;
use crate::net::network::Network;
use crate::net::ranges::{Added, Ranges, Table};
use crate::script::variable::Compute;
use crate::script::{Source, Template};
use crate::subject::Subject;

/// The settings of one block.
#[derive(Default)]
pub struct GeoConf {
    blocks: Vec<WrittenBlock>,
}

inherit!(GeoConf {} own { blocks });

/// `geo`
pub struct Geo;

impl Feature for Geo {
    type Conf = GeoConf;
    const NAME: &'static str = "geo";
    const DIRECTIVES: &'static [Directive<GeoConf>] = &[Directive {
        name: "geo",
        levels: Levels::PROTOCOL,
        arity: Arity::Between(1, 2),
        set: Set::Body(geo),
        doc: "Makes a variable whose value is looked up by the client's address, or by that in a variable: by networks or ranges.",
    }];
}

fn geo(conf: &mut GeoConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let written = WrittenBlock::parse(line)?;
    written.source.as_ref().map(variable).transpose()?;
    conf.blocks.push(written);
    Ok(())
}

impl<S: Subject> Module<S> for Geo {
    fn define(conf: &GeoConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for written in &conf.blocks {
            let source = written.source.as_ref().map(|word| env.template(word)).transpose();
            let (Some(source), Some(places)) = (env.errors.keep(source), Places::build(written, env.errors)) else {
                // A line that uses the variable is right all the same.
                env.errors.excuse_name(&[b"$", written.variable.bytes()].concat());
                continue;
            };
            let is_volatile = written.says("volatile");
            let compute: Compute<S> = Box::new(move |subject, out| places.look_up(subject, source.as_ref(), out));
            let source =
                if is_volatile { Source::Always(compute) } else { Source::Once(env.variables.slot(), compute) };
            let defined = env.variables.define(&written.variable.text(), written.variable.at(), source);
            env.errors.keep(defined);
        }
        Ok(())
    }
}

/// Values are kept once, however many places have them.
type Value = Rc<[u8]>;

/// The values of a block.
#[derive(Default)]
struct Places {
    v4: Table<u32, Value>,
    /// Ranges are of IPv4 only.
    v6: Table<u128, Value>,
    default: Option<Value>,
    by_ranges: bool,
    /// `proxy`
    proxies: Vec<Network>,
    /// `proxy_recursive`
    recursive: bool,
}

/// nginx: what has no address, or none that a range can be of, is looked up like this one.
const NOWHERE: Ipv4Addr = Ipv4Addr::BROADCAST;

impl Places {
    /// Reads the lines of a block; `None` when one of them is wrong.
    fn build(written: &WrittenBlock, errors: &mut Errors) -> Option<Places> {
        let mut reading = Reading::default();
        let mut is_right = true;
        for line in &*written.lines {
            if let Err(Refusal(message)) = reading.line(line, errors) {
                errors.push(ConfigError::new(line.name.at(), message));
                is_right = false;
            }
        }
        is_right.then(|| reading.finish())
    }

    fn look_up<S: Subject>(&self, subject: &S, source: Option<&Template<S>>, out: &mut Vec<u8>) -> bool {
        let mut ip = match source {
            None => subject.client().ip(),
            Some(source) => std::str::from_utf8(&source.value(subject)).ok().and_then(|text| text.parse().ok()),
        };
        if let Some(peer) = ip.filter(|_| !self.proxies.is_empty()) {
            let peer = Address::Inet(SocketAddr::new(peer, 0));
            let behind = client_behind(&peer, &subject.forwarded_for(), &self.proxies, self.recursive);
            ip = behind.map(|client| client.ip()).or(ip);
        }
        if let Some(value) = self.get(ip) {
            out.extend_from_slice(value);
        }
        true
    }

    fn get(&self, ip: Option<IpAddr>) -> Option<&Value> {
        let found = match ip.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => self.v4.get(ip.to_bits()),
            Some(IpAddr::V6(ip)) if !self.by_ranges => self.v6.get(ip.to_bits()),
            _ => self.v4.get(NOWHERE.to_bits()),
        };
        found.or(self.default.as_ref())
    }
}

/// The lines of a block so far.
#[derive(Default)]
struct Reading {
    places: Places,
    v4: HashMap<(u32, u32), Value>,
    v6: HashMap<(u128, u128), Value>,
    ranges: Ranges<u32, Value>,
    values: HashMap<Box<[u8]>, Value>,
}

impl Reading {
    fn line(&mut self, line: &Node, errors: &mut Errors) -> Result<(), Refusal> {
        let key = &line.name;
        match &*line.args {
            [] if key.is("ranges") => {
                if !self.v4.is_empty()
                    || !self.v6.is_empty()
                    || (self.places.default.is_some() && !self.places.by_ranges)
                {
                    return Err("the \"ranges\" directive must be the first directive inside \"geo\" block".into());
                }
                self.places.by_ranges = true;
            }
            [] if key.is("proxy_recursive") => self.places.recursive = true,
            [] if key.is("volatile") => {}
            [proxy] if key.is("proxy") => {
                let network = self::network(proxy, errors)?;
                self.places.proxies.push(network);
            }
            [value] if key.is("default") => {
                let value = self.value(value);
                if let Some(old) = self.places.default.replace(value) {
                    let message = format!("duplicate \"default\", old value: \"{}\"", old.escape_ascii());
                    errors.warn(ConfigError::new(key.at(), message));
                }
            }
            [range] if key.is("delete") => {
                if !self.delete(range, errors)? {
                    let kind = if self.places.by_ranges { "address range" } else { "network" };
                    errors.warn(ConfigError::new(range.at(), format!("no {kind} \"{range}\" to delete")));
                }
            }
            [value] => {
                let value = self.value(value);
                let old =
                    if self.places.by_ranges { self.range(key, value)? } else { self.network(key, value, errors)? };
                if let Some(old) = old {
                    let kind = if self.places.by_ranges { "range" } else { "network" };
                    let message = format!("duplicate {kind} \"{key}\", old value: \"{}\"", old.escape_ascii());
                    errors.warn(ConfigError::new(key.at(), message));
                }
            }
            _ => return Err("invalid number of the geo parameters".into()),
        }
        Ok(())
    }

    fn value(&mut self, word: &Word) -> Value {
        match self.values.entry(word.bytes().into()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(free) => free.insert(word.bytes().into()).clone(),
        }
    }

    /// Adds a range; the value that it had.
    fn range(&mut self, word: &Word, value: Value) -> Result<Option<Value>, Refusal> {
        let (first, last) = ends(word)?;
        match self.ranges.add(first, last, value) {
            Added::Fresh => Ok(None),
            Added::Replaced(old) => Ok(Some(old)),
            Added::Overlaps(first, last) => {
                let (first, last) = (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
                Err(format!("range \"{word}\" overlaps \"{first}-{last}\"").into())
            }
        }
    }

    /// Adds a network; the value that it had.
    fn network(&mut self, word: &Word, value: Value, errors: &mut Errors) -> Result<Option<Value>, Refusal> {
        Ok(match span(network(word, errors)?) {
            Some(Span::V4(span)) => self.v4.insert(span, value),
            Some(Span::V6(span)) => self.v6.insert(span, value),
            None => return Err(format!("invalid network \"{word}\"").into()),
        })
    }

    /// Removes a network or range; false when there is none.
    fn delete(&mut self, word: &Word, errors: &mut Errors) -> Result<bool, Refusal> {
        if self.places.by_ranges {
            let (first, last) = ends(word)?;
            // nginx: a range over several networks of sixteen bits may be taken apart between these.
            return Ok(self.ranges.remove(first, last, |at| at % 0x1_0000 == 0));
        }
        Ok(match span(network(word, errors)?) {
            Some(Span::V4(span)) => self.v4.remove(&span).is_some(),
            Some(Span::V6(span)) => self.v6.remove(&span).is_some(),
            None => false,
        })
    }

    fn finish(self) -> Places {
        let Reading { mut places, v4, v6, ranges, .. } = self;
        places.v4 = if places.by_ranges {
            ranges.into_table()
        } else {
            Table::of_networks(v4.into_iter().map(|((first, last), value)| (first, last, value)).collect())
        };
        places.v6 = Table::of_networks(v6.into_iter().map(|((first, last), value)| (first, last, value)).collect());
        places
    }
}

/// The first and the last address of a network.
enum Span {
    V4((u32, u32)),
    V6((u128, u128)),
}

fn span(network: Network) -> Option<Span> {
    match network {
        Network::Inet(IpAddr::V4(ip), bits) => {
            let rest = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            Some(Span::V4((ip.to_bits() & !rest, ip.to_bits() | rest)))
        }
        Network::Inet(IpAddr::V6(ip), bits) => {
            let rest = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            Some(Span::V6((ip.to_bits() & !rest, ip.to_bits() | rest)))
        }
        Network::All | Network::Local => None,
    }
}

fn network(word: &Word, errors: &mut Errors) -> Result<Network, Refusal> {
    let network = Network::parse(&word.text()).filter(|network| matches!(network, Network::Inet(..)));
    let network = network.ok_or_else(|| format!("invalid network \"{word}\""))?;
    if network.has_meaningless_bits() {
        errors.warn(ConfigError::new(word.at(), format!("low address bits of {word} are meaningless")));
    }
    Ok(network)
}

/// `FIRST-LAST`. nginx: the last of all addresses can be in no range.
fn ends(word: &Word) -> Result<(u32, u32), Refusal> {
    let text = word.text();
    let parse = |text: &str| text.parse().ok().filter(|ip| *ip != NOWHERE).map(Ipv4Addr::to_bits);
    let ends = text.split_once('-').and_then(|(first, last)| Some((parse(first)?, parse(last)?)));
    ends.filter(|(first, last)| first <= last).ok_or_else(|| format!("invalid range \"{word}\"").into())
}
