//! `upstream { }`: the directives of a group, and the groups of a protocol.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tidegate_core::build::Build;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Block, ConfigError, Errors, Line, Refusal, Setting, Word, value};
use tidegate_core::inherit;
use tidegate_core::log::Shown;
use tidegate_core::module::Module;
use tidegate_core::net::Address;
use tidegate_core::net::address::{AddressError, Named};
use tidegate_core::script::Variable;
use tidegate_core::zone::{Need, Zones};

use crate::algorithm::Balancer;
use crate::algorithm::least_conn::LeastConn;
use crate::algorithm::round_robin::RoundRobin;
use crate::attempts::{self, HasAttempts};
use crate::group::Group;
use crate::idle::Limits;
use crate::peer::Peer;

/// How a method's directive makes it for the peers of a group.
pub type MakeMethod = fn(&[Peer]) -> Box<dyn Balancer>;

/// The settings of one group.
#[derive(Default)]
pub struct UpstreamConf {
    servers: Vec<(Peer, Word)>,
    zone: Option<(Word, Option<u64>)>,
    method: Setting<MakeMethod>,
    /// The method knows no backup servers.
    without_backup: bool,
    keepalive: Setting<usize>,
    keepalive_requests: Setting<u64>,
    keepalive_time: Setting<Duration>,
    keepalive_timeout: Setting<Duration>,
}

inherit!(UpstreamConf {} own { servers, zone, method, without_backup, keepalive, keepalive_requests, keepalive_time, keepalive_timeout });

impl UpstreamConf {
    /// Chooses the balancing method: what a method's directive does. nginx: the last one counts, with a warning.
    ///
    /// # Errors
    /// None so far.
    pub fn choose(&mut self, line: &mut Line<'_>, method: MakeMethod) -> Result<(), Refusal> {
        if self.method.is_set() {
            line.warn("load balancing method redefined");
        }
        self.method = Setting::of(method);
        Ok(())
    }

    /// Refuses `backup` from here on: the method has no use for it.
    pub fn refuse_backup(&mut self) {
        self.without_backup = true;
    }
}

/// `upstream` and what stands in it
pub struct Upstreams;

const fn row(name: &'static str, arity: Arity, set: Set<UpstreamConf>, doc: &'static str) -> Directive<UpstreamConf> {
    Directive { name, levels: Levels::UPSTREAM, arity, set, doc }
}

impl Feature for Upstreams {
    type Conf = UpstreamConf;
    const NAME: &'static str = "upstream";
    const DIRECTIVES: &'static [Directive<UpstreamConf>] = &[
        Directive {
            name: "upstream",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Block(Levels::UPSTREAM),
            doc: "A group of servers that do the same work.",
        },
        row(
            "server",
            Arity::AtLeast(1),
            Set::With(server),
            "A server of the group: address, weight, max_fails, fail_timeout, max_conns, backup, down.",
        ),
        row("zone", Arity::Between(1, 2), Set::With(zone), "Shares the group's state between the workers."),
        row(
            "least_conn",
            Arity::Exactly(0),
            Set::With(|conf, line| conf.choose(line, |_| Box::new(LeastConn))),
            "Chooses the server with the fewest connections in proportion to its weight.",
        ),
        row("keepalive", Arity::Between(1, 2), Set::With(keepalive), "Idle connections kept per worker; 0 keeps none."),
        row(
            "keepalive_requests",
            Arity::Exactly(1),
            Set::Number(|conf| &mut conf.keepalive_requests),
            "Uses of one kept connection.",
        ),
        row(
            "keepalive_time",
            Arity::Exactly(1),
            Set::Time(|conf| &mut conf.keepalive_time),
            "Longest life of a kept connection.",
        ),
        row(
            "keepalive_timeout",
            Arity::Exactly(1),
            Set::Time(|conf| &mut conf.keepalive_timeout),
            "Longest time a kept connection stays idle.",
        ),
    ];
}

impl<S: HasAttempts> Module<S> for Upstreams {
    const VARIABLES: &'static [Variable<S>] = &attempts::variables::<S>();
}

fn server(conf: &mut UpstreamConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let mut settings = Peer::new(Address::Unix("".into()));
    for parameter in line.args().iter().skip(1) {
        let invalid = || Refusal(format!("invalid parameter \"{parameter}\""));
        let number = |value: Option<Word>| {
            value.map(|value| value::number(&value).and_then(|n| u32::try_from(n).ok()).ok_or_else(invalid)).transpose()
        };
        if let Some(weight) = number(parameter.after("weight="))? {
            settings.weight = if weight == 0 { return Err(invalid()) } else { weight };
        } else if let Some(fails) = number(parameter.after("max_fails="))? {
            settings.max_fails = fails;
        } else if let Some(connections) = number(parameter.after("max_conns="))? {
            settings.max_conns = connections;
        } else if let Some(time) = parameter.after("fail_timeout=") {
            settings.fail_timeout = value::time(&time).ok_or_else(invalid)?;
        } else if parameter.is("backup") {
            if conf.without_backup {
                return Err("balancing method does not support parameter \"backup\"".into());
            }
            settings.backup = true;
        } else if parameter.is("down") {
            settings.down = true;
        } else if parameter.is("resolve")
            || parameter.after("service=").is_some()
            || parameter.after("route=").is_some()
            || parameter.is("drain")
        {
            return Err(format!("the \"{parameter}\" parameter is not supported yet").into());
        } else {
            return Err(invalid());
        }
    }
    // What the name stands for is known when the group is built, by a protocol that has a default port or has none.
    conf.servers.push((settings, word.clone()));
    Ok(())
}

fn zone(conf: &mut UpstreamConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let size = line
        .args()
        .get(1)
        .map(|word| value::size(word).ok_or_else(|| Refusal(format!("invalid zone size \"{word}\""))))
        .transpose()?;
    let name = line.arg(0)?.clone();
    // nginx: each makes its zone, and the last one is used.
    if let Some((earlier, known)) = conf.zone.take() {
        line.warn(format!("zone \"{name}\" takes the place of zone \"{earlier}\""));
        let is_same = earlier.bytes() == name.bytes();
        if let (true, Some(size), Some(known)) = (is_same, size, known)
            && size != known
        {
            return Err(format!(
                "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {known}"
            )
            .into());
        }
        conf.zone = Some((name, size.or(known.filter(|_| is_same))));
        return Ok(());
    }
    conf.zone = Some((name, size));
    Ok(())
}

fn keepalive(conf: &mut UpstreamConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    if let Some(extra) = line.args().get(1)
        && !extra.is("local")
    {
        return Err(format!("invalid parameter \"{extra}\"").into());
    }
    let kept = value::number(word)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| format!("invalid value \"{word}\" in \"keepalive\" directive"))?;
    conf.keepalive.set(kept)
}

/// The groups of one protocol, by name: hosts and names without case, paths as they are.
#[derive(Default)]
pub struct Groups {
    by_name: HashMap<Vec<u8>, Rc<Group>>,
    /// The names of those that stand in the configuration, as opposed to hosts that something names.
    written: HashSet<Vec<u8>>,
}

/// What a group is known by: hosts and names have no case, paths have.
fn key(name: &[u8]) -> Vec<u8> {
    if name.starts_with(b"unix:") { name.to_vec() } else { name.to_ascii_lowercase() }
}

impl Groups {
    /// Builds the groups that stand in a protocol's block, and makes them known to the registry. `default_port` is that of
    /// a server written without one; without it, such a server is refused.
    pub fn load(block: &Block, default_port: Option<u16>, build: &mut Build<'_>) -> Groups {
        let (zones, errors) = (build.zones, &mut *build.errors);
        let (mut groups, mut written) = (Groups::default(), Vec::new());
        for block in block.children_named("upstream") {
            let key = key(block.args.first().map(Word::bytes).unwrap_or_default());
            let name = Shown(&key).to_string();
            if groups.by_name.contains_key(&key) {
                errors.push(ConfigError::new(block.at(), format!("duplicate upstream \"{name}\"")));
                continue;
            }
            groups.written.insert(key.clone());
            // A group that cannot be built has been reported: a directive that names it makes no second mistake.
            if let Ok(nobody) = Group::new(&name, Vec::new(), Box::new(RoundRobin), None) {
                groups.by_name.insert(key.clone(), Rc::new(nobody));
            }
            let peers = block.confs.with::<Upstreams, _>(|conf| peers(&name, block, conf, default_port));
            if let Some(peers) = errors.keep(peers) {
                written.push(Written { key, name, block, peers });
            }
        }
        let refused = share(&written, &format!("upstreams of {}", block.name), zones, errors);
        for upstream in written {
            if upstream.zone().is_some_and(|(zone, _)| refused.contains(&zone.to_string())) {
                continue;
            }
            let key = upstream.key.clone();
            if let Some(group) = errors.keep(built(upstream, zones)).map(Rc::new) {
                build.registry.add(&block.name.text(), &key, group.clone());
                groups.by_name.insert(key, group);
            }
        }
        groups
    }

    /// The group of this name, whatever its case.
    pub fn find(&self, name: &[u8]) -> Option<Rc<Group>> {
        self.by_name.get(&key(name)).cloned()
    }

    /// The group that a `proxy_pass` without variables names: a configured one, or one made of the host's addresses.
    ///
    /// # Errors
    /// nginx's words: `upstream "..." may not have port ..`, `host not found in upstream "..."`, `no port in upstream "..."`.
    pub fn find_or_resolve(&mut self, host: &[u8], default_port: Option<u16>) -> Result<Rc<Group>, String> {
        if let Some((name, port)) = split_port(host)
            && self.written.contains(&key(name))
        {
            return Err(format!("upstream \"{}\" may not have port {}", Shown(name), Shown(port)));
        }
        match self.find(host) {
            Some(group) => Ok(group),
            None => self.resolve(host, default_port),
        }
    }

    fn resolve(&mut self, host: &[u8], default_port: Option<u16>) -> Result<Rc<Group>, String> {
        let peers = addresses(host, default_port)?.into_iter().map(Peer::new).collect();
        let group = Rc::new(Group::new(&Shown(host).to_string(), peers, Box::new(RoundRobin), None)?);
        self.by_name.insert(key(host), group.clone());
        Ok(group)
    }
}

/// A name and what follows its last colon, unless the colon belongs to the path of a local socket.
fn split_port(host: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = host.iter().rposition(|byte| *byte == b':').filter(|_| !host.starts_with(b"unix:"))?;
    Some((host.get(..at)?, host.get(at + 1..)?))
}

/// A group for an address that is written out; nothing is resolved.
///
/// # Errors
/// It is no address, or has no port and there is no default.
pub fn literal(address: &[u8], default_port: Option<u16>) -> Result<Group, String> {
    let shown = Shown(address).to_string();
    let words = |why: AddressError| format!("{why} in \"{shown}\"");
    let named = Named::parse(address).map_err(words)?;
    if matches!(&named, Named::Host(host, _) if host.parse::<std::net::IpAddr>().is_err()) {
        return Err(format!("\"{shown}\" is no address"));
    }
    let peers = named.resolve(default_port).map_err(words)?.into_iter().map(Peer::new).collect();
    Group::new(&shown, peers, Box::new(RoundRobin), None)
}

/// The addresses behind the name of a server.
fn addresses(name: &[u8], default_port: Option<u16>) -> Result<Vec<Address>, String> {
    // nginx: a star is where one listens, and no host; a number is a host, and no port.
    let is_star = name == b"*" || name.starts_with(b"*:");
    let named = match Named::parse(name) {
        _ if is_star => Err(AddressError::NoHost),
        Ok(Named::Any(_)) => Ok(Named::Host(Shown(name).to_string(), None)),
        named => named,
    };
    named.and_then(|named| named.resolve(default_port)).map_err(|why| format!("{why} in upstream \"{}\"", Shown(name)))
}

/// An upstream as it is written, its servers with their addresses.
struct Written<'a> {
    key: Vec<u8>,
    name: String,
    block: &'a Block,
    peers: Vec<Peer>,
}

impl Written<'_> {
    /// The zone's name, and its size if it is here that it is said.
    fn zone(&self) -> Option<(Word, Option<u64>)> {
        self.block.confs.with::<Upstreams, _>(|conf| conf.zone.clone())
    }
}

/// The peers of a group, each server with all its addresses.
fn peers(name: &str, block: &Block, conf: &UpstreamConf, default_port: Option<u16>) -> Result<Vec<Peer>, ConfigError> {
    if conf.servers.iter().all(|(peer, _)| peer.backup) && block.had("server") {
        return Ok(Vec::new());
    }
    if conf.servers.is_empty() {
        return Err(ConfigError::new(block.at(), format!("no servers are inside upstream \"{name}\"")));
    }
    if let Some((_, word)) = conf.servers.iter().find(|_| conf.servers.iter().all(|(peer, _)| peer.backup)) {
        return Err(ConfigError::new(
            word.at(),
            format!("no servers are inside upstream \"{name}\" besides backup servers"),
        ));
    }
    let mut peers = Vec::new();
    for (settings, word) in &conf.servers {
        let found = addresses(word.bytes(), default_port).map_err(|why| ConfigError::new(word.at(), why))?;
        peers.extend(found.into_iter().map(|address| Peer {
            name: address.to_string().into(),
            address,
            ..settings.clone()
        }));
    }
    Ok(peers)
}

/// Declares the zones of all upstreams, each once and for all who share it. Gives the names of those that cannot be had.
fn share(written: &[Written<'_>], kind: &str, zones: &Zones, errors: &mut Errors) -> Vec<String> {
    let mut asked: Vec<(Word, Option<u64>, Vec<Need>)> = Vec::new();
    for upstream in written {
        let Some((zone, size)) = upstream.zone() else { continue };
        let needs = Group::needs(&upstream.name, upstream.peers.len());
        let Some((place, known, sum)) = asked.iter_mut().find(|(other, ..)| other.bytes() == zone.bytes()) else {
            asked.push((zone, size, needs.to_vec()));
            continue;
        };
        sum.extend(needs);
        if known.is_none() && size.is_some() {
            (*place, *known) = (zone, size);
        }
    }
    asked
        .into_iter()
        .filter_map(|(zone, size, needs)| {
            let declared = zones.declare_for(kind, (&zone.text(), size, zone.at()), &needs);
            errors.keep(declared).is_none().then(|| zone.to_string())
        })
        .collect()
}

fn built(Written { name, block, peers, .. }: Written<'_>, zones: &Zones) -> Result<Group, ConfigError> {
    block.confs.with::<Upstreams, _>(|conf| {
        let zone = conf.zone.as_ref().map(|(zone, size)| zones.declare(&zone.text(), *size, zone.at())).transpose()?;
        let method = conf.method.or(|_| Box::new(RoundRobin))(&peers);
        let mut group =
            Group::new(&name, peers, method, zone.as_ref()).map_err(|message| ConfigError::new(block.at(), message))?;
        let default = Limits::default();
        group.keepalive = Limits {
            kept: conf.keepalive.or(default.kept),
            uses: conf.keepalive_requests.or(default.uses),
            age: conf.keepalive_time.or(default.age),
            idle: conf.keepalive_timeout.or(default.idle),
        };
        Ok(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tidegate_core::build::Made;
    use tidegate_core::conf::known::Known;
    use tidegate_core::conf::{Tables, Tree};
    use tidegate_core::log::{ErrorLog, Level};

    fn load(text: impl AsRef<[u8]>, default_port: Option<u16>) -> (Groups, Vec<String>) {
        let text = text.as_ref();
        let file = std::env::temp_dir().join(format!("tidegate-upstream-{}-{}", std::process::id(), text.len()));
        std::fs::write(&file, text).unwrap();
        let mut errors = Errors::default();
        let tree = Tree::read(&file, None, &mut errors);
        std::fs::remove_file(&file).unwrap();
        let setup =
            tidegate_core::conf::apply::Setup { prefix: "/".into(), conf_dir: "/".into(), known: Known::default() };
        let mut tables = Tables::new("stream");
        tables.add::<Upstreams>();
        let name = tree.nodes[0].name.clone();
        let block = tables.apply(&name, &[], Levels::PROTOCOL, &tree.nodes, &setup, &mut errors);
        let (made, error_log) = (Made::default(), ErrorLog::stderr(Level::Crit));
        let groups = Groups::load(&block, default_port, &mut Build::new(&setup, &made, &mut errors, &error_log));
        for found in made.registry.all::<Group>() {
            let known = groups.find(&found.name);
            assert!(known.is_some_and(|known| Rc::ptr_eq(&known, &found.thing)), "{}", found.name.escape_ascii());
        }
        let place = |error: String| error.replace(&*Path::new(&file).to_string_lossy(), "f");
        (groups, errors.iter().map(|error| place(error.to_string())).collect())
    }

    #[test]
    fn a_server_without_a_port_takes_the_protocols_or_is_refused() {
        let text = "upstream u {\n server 127.0.0.1 max_fails=3;\n server 127.0.0.2:81;\n}";
        let (groups, errors) = load(text, Some(80));
        assert_eq!(errors, Vec::<String>::new());
        let group = groups.find(b"U").unwrap();
        let peers: Vec<(&str, u32)> = group.peers().iter().map(|peer| (&*peer.name, peer.max_fails)).collect();
        assert_eq!(peers, [("127.0.0.1:80", 3), ("127.0.0.2:81", 1)]);
        assert_eq!(load(text, None).1, ["no port in upstream \"127.0.0.1\" in f:2"]);
    }

    #[test]
    fn names_are_told_apart_by_their_bytes() {
        let text = b"upstream u\xff {\n server 127.0.0.1:1;\n}\nupstream u\xfe {\n server 127.0.0.1:2;\n}";
        let (mut groups, errors) = load(text, None);
        assert_eq!(errors, Vec::<String>::new());
        for (name, expected) in [
            (&b"u\xff"[..], Some("127.0.0.1:1")),
            (b"U\xfe", Some("127.0.0.1:2")),
            (b"u\xfd", None),
            ("u\u{fffd}".as_bytes(), None),
            (b"u", None),
        ] {
            let found = groups.find(name).map(|group| group.peers()[0].name.to_string());
            assert_eq!(found.as_deref(), expected, "{}", name.escape_ascii());
        }
        for (name, expected) in
            [(&b"unix:/tmp/A"[..], "unix:/tmp/A"), (b"unix:/tmp/a", "unix:/tmp/a"), (b"127.0.0.1:3", "127.0.0.1:3")]
        {
            let group = groups.find_or_resolve(name, None).unwrap();
            assert_eq!(&*group.peers()[0].name, expected);
        }
        for (name, expected) in [
            (&b"u\xff:80"[..], "upstream \"u\\xFF\" may not have port 80"),
            (b"U\xfe:x", "upstream \"U\\xFE\" may not have port x"),
            (b"u\xfd:80", "invalid host in upstream \"u\\xFD:80\""),
        ] {
            assert_eq!(groups.find_or_resolve(name, None).err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_a_group_refuses() {
        for (text, expected) in [
            ("upstream u { }", "no servers are inside upstream \"u\" in f:1"),
            ("upstream u { server 127.0.0.1:0; }", "invalid port in upstream \"127.0.0.1:0\" in f:1"),
            ("upstream u { server 127.0.0.1:1 frob; }", "invalid parameter \"frob\" in f:1"),
        ] {
            assert_eq!(load(text, None).1.first().map(String::as_str), Some(expected), "{text}");
        }
    }
}
