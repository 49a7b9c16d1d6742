//! `server` and `location`: from blocks of the configuration to sites that can be served.

use std::cell::OnceCell;
use std::rc::Rc;

use tidegate_balancer::Groups;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Block, ConfigError, Line, Node, Refusal, Word};
use tidegate_core::inherit;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::log::{ErrorLog, Shown};
use tidegate_core::module::{Install, Module, Modules};
use tidegate_core::net::Address;
use tidegate_core::net::listen::{Endpoint, Listen, Takes};
use tidegate_core::phase::Gates;
use tidegate_core::process::Build;
use tidegate_core::script::names::{self, BadName};
use tidegate_core::tls::{ClientCertificateConf, ClientCertificates, ServerTls, Tls, TlsConf};

use crate::exchange::Exchange;
use crate::limit_except;
use crate::plan::{Kind, Parts, Plan};
use crate::route::location::{Locations, glued};
use crate::route::server_name::ServerNames;
use crate::server::h2::module as http2;
use crate::settings::directives::SettingsConf;
use crate::site::{Server, Site};
use crate::upstream::variables::Asked;
use crate::upstream::{Shared, Sweeping};

/// The settings of one server or location block.
#[derive(Default)]
pub struct ServersConf {
    listens: Vec<Listen>,
    names: Vec<Word>,
    internal: bool,
}

inherit!(ServersConf {} own { listens, names, internal });

/// `server`, `location`, `listen`, `server_name`, `internal`
pub struct Servers;

impl Feature for Servers {
    type Conf = ServersConf;
    const NAME: &'static str = "server";
    const DIRECTIVES: &'static [Directive<ServersConf>] = &[
        Directive {
            name: "server",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(0),
            set: Set::Block(Levels::SERVER),
            doc: "A virtual server.",
        },
        Directive {
            name: "location",
            levels: Levels::SERVER.or(Levels::LOCATION),
            arity: Arity::Between(1, 2),
            set: Set::Block(Levels::LOCATION),
            doc: "Settings for paths: = exact, prefix, ^~ prefix without patterns, ~ and ~* patterns, @name.",
        },
        Directive {
            name: "listen",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::With(listen),
            doc: "An address the server is reached at, and how its socket is opened.",
        },
        Directive {
            name: "server_name",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                names::judge(line)?;
                conf.names.extend(line.args().iter().cloned());
                Ok(())
            }),
            doc: "The names of the server: exact, *.suffix, prefix.* or ~pattern.",
        },
        Directive {
            name: "internal",
            levels: Levels::LOCATION,
            arity: Arity::Exactly(0),
            set: Set::With(|conf, line| {
                if line.repeats() {
                    return Err("is duplicate".into());
                }
                conf.internal = true;
                Ok(())
            }),
            doc: "The location can only be reached by internal redirects.",
        },
    ];
}

fn listen(conf: &mut ServersConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let found = Listen::read(line, Takes { default_server: true, tuning: true, default_port: Some(80) })?;
    if found.iter().any(|listen| listen.http2) {
        line.warn("the \"listen ... http2\" directive is deprecated, use the \"http2\" directive instead");
    }
    if let Some(twice) = found.iter().find(|new| conf.listens.iter().any(|old| old.address == new.address)) {
        return Err(format!("a duplicate listen {}", twice.address).into());
    }
    conf.listens.extend(found);
    Ok(())
}

impl Module<Exchange> for Servers {
    fn install(conf: &ServersConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        plan.internal = conf.internal;
        Ok(())
    }
}

/// Applies and installs an http block.
pub fn load(modules: &Modules<Exchange>, node: &Node, build: &mut Build<'_>) {
    let mut variables = modules.fresh_variables();
    variables.reserve(crate::variables::RESERVED);
    let http = modules.read(node, &mut variables, build);
    let groups = Groups::load(&http, Some(80), build);
    let outer_log = build.error_log.clone();
    let shared = Rc::new(Shared::new(groups));
    build.chores.add(Rc::new(Sweeping(shared.clone())));
    let env = Install::new(&mut variables, build, node.name.at().clone());
    let mut loader = Loader { modules, env, outer_log, shared: shared.clone(), http2: http2_addresses(&http) };
    // What every server says otherwise is checked all the same, and what no server is there for.
    drop(loader.plan(&http, b"", Kind::Server));
    let servers: Vec<(Rc<Server>, &Block)> =
        http.children_named("server").map(|block| (loader.server(block), block)).collect();
    shared.asked.set(Asked::by(&variables));
    variables.finish(build.errors);
    endpoints(&servers, build);
}

struct Loader<'a> {
    modules: &'a Modules<Exchange>,
    env: Install<'a, Exchange>,
    outer_log: ErrorLog,
    shared: Rc<Shared>,
    /// Where HTTP/2 is spoken whatever the servers there say.
    http2: Vec<Address>,
}

impl Loader<'_> {
    fn plan(&mut self, block: &Block, name: &[u8], kind: Kind) -> Plan {
        let error_log =
            block.confs.with::<ErrorLogs, _>(|conf| conf.build(self.env.setup, self.env.logs, self.env.zones));
        let error_log = self.env.errors.keep(error_log).flatten().unwrap_or_else(|| self.outer_log.clone());
        let mut plan = Plan {
            name: name.into(),
            kind,
            gates: Gates::default(),
            filters: Vec::new(),
            sinks: Vec::new(),
            content: None,
            around: OnceCell::new(),
            limit: None,
            settings: Rc::new(SettingsConf::default().build()),
            internal: false,
            auto_redirect: false,
            error_log,
            conditions: Vec::new(),
            parts: Parts::default(),
        };
        plan.parts.put(self.shared.clone());
        // Handlers refer to the plans of `if` blocks by their place among the children.
        for child in block.children_named("if") {
            let inner = self.plan(child, name, Kind::If);
            plan.conditions.push(Rc::new(inner));
        }
        if let Some(child) = block.children_named("limit_except").last() {
            let methods = self.env.errors.keep(limit_except::methods(child)).unwrap_or_default();
            plan.limit = Some((methods, Rc::new(self.plan(child, name, Kind::LimitExcept))));
        }
        self.modules.install(block, &mut plan, &mut self.env);
        if let Some(content) = &plan.content {
            for inner in plan.conditions.iter().chain(plan.limit.as_ref().map(|(_, other)| other)) {
                let _ = inner.around.set(content.clone());
            }
        }
        plan
    }

    fn server(&mut self, block: &Block) -> Rc<Server> {
        let is_listened_for = block
            .confs
            .with::<Servers, _>(|conf| conf.listens.iter().any(|listen| self.http2.contains(&listen.address)));
        let http2 = block.confs.with::<http2::Http2, _>(|conf| conf.build(is_listened_for));
        let tls = self.tls(block, http2.is_some());
        let lost_tls = tls.is_err() || block.had("ssl_certificate") || block.had("ssl_certificate_key");
        let tls = self.env.errors.keep(tls).flatten();
        let name =
            block.confs.with::<Servers, _>(|conf| conf.names.first().map(ToString::to_string)).unwrap_or_default();
        let name = name.strip_prefix('.').map_or(name.clone(), str::to_owned);
        let name = if name.starts_with('~') { name } else { name.to_ascii_lowercase() };
        let mut patterns = Vec::new();
        for word in block.confs.with::<Servers, _>(|conf| conf.names.clone()) {
            if let Some(pattern) = word.after("~") {
                let regex = self.env.regex(pattern.bytes(), true, word.at());
                patterns.extend(self.env.errors.keep(regex).map(|regex| (word, Rc::new(regex))));
            }
        }
        let plan = Rc::new(self.plan(block, b"", Kind::Server));
        let locations = self.locations(block);
        let asks_clients = block.confs.with::<ClientCertificates, _>(ClientCertificateConf::asks);
        Rc::new(Server { name, plan, locations, tls, lost_tls, http2, asks_clients, patterns })
    }

    /// What a server offers in a handshake; without a certificate it has nothing to offer, or to demand.
    fn tls(&self, block: &Block, http2: bool) -> Result<Option<ServerTls>, ConfigError> {
        const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];
        let protocols = if http2 { PROTOCOLS } else { PROTOCOLS.get(1..).unwrap_or_default() };
        let setup = self.env.setup;
        let has_certificate = block.confs.with::<Tls, _>(TlsConf::has_certificate);
        let clients =
            if has_certificate { block.confs.with::<ClientCertificates, _>(|conf| conf.policy(setup))? } else { None };
        block.confs.with::<Tls, _>(|conf| conf.build_with(setup, protocols, clients))
    }

    fn locations(&mut self, block: &Block) -> Locations<Rc<Plan>> {
        let mut locations = Locations::default();
        for child in block.children_named("location") {
            if let Err(error) = self.location(child, block, &mut locations) {
                self.env.errors.push(error);
            }
        }
        locations.prepare();
        locations
    }

    fn location(
        &mut self,
        block: &Block,
        outer: &Block,
        locations: &mut Locations<Rc<Plan>>,
    ) -> Result<(), ConfigError> {
        let refuse = |message: String| Err(ConfigError::new(block.at(), message));
        let (modifier, name) = match &*block.args {
            [modifier, name] => (modifier.text().into_owned(), name.clone()),
            [name] => glued(name),
            _ => return Ok(()),
        };
        let kind = match &*modifier {
            "=" => Kind::Exact,
            "^~" => Kind::Prefix(true),
            "~" | "~*" => Kind::Regex(Rc::new(self.env.regex(name.bytes(), modifier == "~*", name.at())?)),
            "" if name.bytes().starts_with(b"@") => Kind::Named,
            "" => Kind::Prefix(false),
            other => return refuse(format!("invalid location modifier \"{other}\"")),
        };
        if outer.level == Levels::LOCATION {
            let around = outer.args.last().map(Word::bytes).unwrap_or_default();
            let modifier = if outer.args.len() == 2 {
                outer.args.first().map(|word| word.text().into_owned()).unwrap_or_default()
            } else {
                String::new()
            };
            let around_text = Shown(around);
            match (&*modifier, &kind) {
                ("=", _) => {
                    return refuse(format!(
                        "location \"{name}\" cannot be inside the exact location \"{around_text}\""
                    ));
                }
                (_, Kind::Named) => {
                    return refuse(format!("named location \"{name}\" can be on the server level only"));
                }
                _ if around.starts_with(b"@") => {
                    return refuse(format!(
                        "location \"{name}\" cannot be inside the named location \"{around_text}\""
                    ));
                }
                // nginx: of a pattern the text is looked at all the same.
                (_, Kind::Exact | Kind::Prefix(_)) if !name.bytes().starts_with(around) => {
                    return refuse(format!("location \"{name}\" is outside location \"{around_text}\""));
                }
                _ => {}
            }
        }
        let plan = Rc::new(self.plan(block, name.bytes(), kind.clone()));
        let nested = self.locations(block);
        let duplicate = || ConfigError::new(block.at(), format!("duplicate location \"{name}\""));
        let added = match kind {
            Kind::Exact => locations.add_exact(name.bytes(), plan),
            Kind::Prefix(no_regex) => locations.add_prefix(
                name.bytes(),
                no_regex,
                plan.auto_redirect && name.bytes().ends_with(b"/"),
                plan,
                nested,
            ),
            Kind::Regex(regex) => {
                locations.add_regex(regex, plan, nested);
                true
            }
            _ => {
                if !locations.add_named(name.bytes(), plan) {
                    let message = format!("location \"{name}\" is there already and is the one used, this one is not");
                    self.env.errors.warn(ConfigError::new(block.at(), message));
                }
                true
            }
        };
        if added { Ok(()) } else { Err(duplicate()) }
    }
}

/// The addresses that HTTP/2 is spoken on whatever the servers there say: `listen .. http2`.
fn http2_addresses(http: &Block) -> Vec<Address> {
    let of = |block: &Block| block.confs.with::<Servers, _>(|conf| conf.listens.clone());
    let listens = http.children_named("server").flat_map(of);
    listens.filter(|listen| listen.http2).map(|listen| listen.address).collect()
}

/// One address while its servers are collected.
struct Place<'a> {
    listen: Listen,
    default: Option<Listen>,
    servers: Vec<(Rc<Server>, &'a Block)>,
    tls: bool,
}

impl Place<'_> {
    /// nginx: the default server has to have a certificate, since it stands in for those that have none; if it rejects
    /// handshakes, all others have to.
    fn has_certificates(&self) -> bool {
        if self.servers.iter().any(|(server, _)| server.lost_tls) {
            return true;
        }
        match self.servers.first().and_then(|(default, _)| default.tls.as_ref()) {
            None => false,
            Some(tls) if tls.rejects() => self.servers.iter().all(|(server, _)| server.tls.is_some()),
            Some(_) => true,
        }
    }
}

fn endpoints(servers: &[(Rc<Server>, &Block)], build: &mut Build<'_>) {
    let mut places: Vec<Place<'_>> = Vec::new();
    for (server, block) in servers {
        let mut listens = block.confs.with::<Servers, _>(|conf| conf.listens.clone());
        if listens.is_empty() {
            // nginx: port 80 for root, 8000 for everybody else.
            let port = if nix::unistd::Uid::effective().is_root() { 80 } else { 8000 };
            listens = Listen::parse(
                &[Word::new(format!("*:{port}").into_bytes(), block.at().clone())],
                block.at(),
                Takes::default(),
            )
            .unwrap_or_default();
            listens.iter_mut().for_each(|listen| listen.options.bind = false);
        }
        for listen in listens {
            if let Err(error) = enter(&mut places, &listen, server, block) {
                build.errors.push(error);
            }
        }
    }
    for place in places {
        if place.tls && !place.has_certificates() {
            let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
            build.errors.push(ConfigError::new(&place.listen.at, message));
        }
        let Some(site) = site(&place, build) else { continue };
        let protocol = Rc::new(crate::server::h1::Listener { site: Rc::new(site) });
        build.endpoints.push(Endpoint {
            address: place.listen.address,
            options: place.listen.options,
            protocol,
            at: place.listen.at,
        });
    }
}

fn enter<'a>(
    places: &mut Vec<Place<'a>>,
    listen: &Listen,
    server: &Rc<Server>,
    block: &'a Block,
) -> Result<(), ConfigError> {
    let default = listen.default_server.then(|| listen.clone());
    let Some(place) = places.iter_mut().find(|place| place.listen.address == listen.address) else {
        places.push(Place { listen: listen.clone(), default, servers: vec![(server.clone(), block)], tls: listen.tls });
        return Ok(());
    };
    if listen.options.bind && place.listen.options.bind && listen.options != place.listen.options {
        return Err(ConfigError::new(&listen.at, format!("duplicate listen options for {}", listen.address)));
    }
    if listen.options.bind {
        place.listen.options = listen.options.clone();
    }
    place.tls |= listen.tls;
    if let Some(default) = default {
        if place.default.is_some() {
            return Err(ConfigError::new(&listen.at, format!("a duplicate default server for {}", listen.address)));
        }
        place.default = Some(default);
        place.servers.insert(0, (server.clone(), block));
    } else {
        place.servers.push((server.clone(), block));
    }
    Ok(())
}

/// The servers of one address; `None` only if there were none.
fn site(place: &Place<'_>, build: &mut Build<'_>) -> Option<Site> {
    let (default, _) = place.servers.first()?;
    let mut names = ServerNames::new(default.clone());
    for (server, block) in &place.servers {
        let written = block.confs.with::<Servers, _>(|conf| conf.names.clone());
        if written.is_empty() {
            let _ = names.add(b"", server.clone());
        }
        for name in written {
            match name.after("~") {
                Some(_) => {
                    if let Some((_, regex)) = server.patterns.iter().find(|(word, _)| *word == name) {
                        names.add_regex(regex.clone(), server.clone());
                    }
                }
                None if name.is("$hostname") => {
                    let _ = names.add(tidegate_core::modules::builtin::hostname().as_bytes(), server.clone());
                }
                None => {
                    if let Err(why) = names.add(name.bytes(), server.clone()) {
                        object(why, &name, place, build);
                    }
                }
            }
        }
    }
    names.prepare();
    Some(Site { servers: names, tls: place.tls })
}

/// Tells of a name that is another server's, or none.
fn object(why: BadName, name: &Word, place: &Place<'_>, build: &mut Build<'_>) {
    let address = &place.listen.address;
    let warning = match why {
        BadName::Conflict => format!("conflicting server name \"{name}\" on {address}, ignored"),
        // nginx: the names of a server that has no other beside it are not looked at.
        BadName::Invalid if place.servers.len() == 1 => {
            format!("invalid server name or wildcard \"{name}\" on {address}, ignored")
        }
        BadName::Invalid => {
            let message = format!("invalid server name or wildcard \"{name}\" on {address}");
            return build.errors.push(ConfigError::new(name.at(), message));
        }
    };
    build.errors.warn(ConfigError::new(name.at(), warning));
}
