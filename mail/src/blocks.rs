//! `server`, `listen` and what concerns every protocol: from blocks to endpoints.

use std::rc::Rc;
use std::time::Duration;

use tidegate_balancer::Directory;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Block, ConfigError, Line, Node, Place, Refusal, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::module::{Install, Modules};
use tidegate_core::modules::builtin::hostname;
use tidegate_core::net::listen::{Endpoint, Listen, Takes};
use tidegate_core::process::Build;
use tidegate_core::tls::{ClientCertificates, ServerTls, Tls};
use tidegate_mail_wire::dialogue::{Protocol, StartTls};

use crate::auth_http::{AuthHttp, Written};
use crate::backend::Proxy;
use crate::imap::Imap;
use crate::run::Entry;
use crate::server::{Plan, Server};
use crate::session::Session;
use crate::starttls::Starting;

/// The settings of one block.
#[derive(Default)]
pub struct ServersConf {
    /// Whether `listen` is written at all: a mistake in it is not reported twice.
    listening: bool,
    listens: Vec<Listen>,
    protocol: Setting<(Protocol, Place)>,
    server_name: Setting<Word>,
    timeout: Setting<Duration>,
    max_errors: Setting<u64>,
}

inherit!(ServersConf { server_name, timeout, max_errors } own { listening, listens, protocol });

/// `server` and its neighbours
pub struct Servers;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

impl Feature for Servers {
    type Conf = ServersConf;
    const NAME: &'static str = "mail";
    const DIRECTIVES: &'static [Directive<ServersConf>] = &[
        Directive {
            name: "server",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(0),
            set: Set::Block(Levels::SERVER),
            doc: "A server: addresses, a protocol, and who decides about its logins.",
        },
        Directive {
            name: "listen",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                conf.listening = true;
                conf.listens.extend(Listen::read(line, Takes::default())?);
                Ok(())
            }),
            doc: "An address to serve, and how its socket is opened; ssl for TLS from the first byte on.",
        },
        Directive {
            name: "protocol",
            levels: Levels::SERVER,
            arity: Arity::Exactly(1),
            set: Set::With(protocol),
            doc: "The protocol: imap. Without it the port decides.",
        },
        Directive {
            name: "server_name",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Word(|conf| &mut conf.server_name),
            doc: "The name that the server gives itself in challenges; the machine's name by default.",
        },
        Directive {
            name: "timeout",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Time(|conf| &mut conf.timeout),
            doc: "The time that a client has to log in, and then a backend to accept the login.",
        },
        Directive {
            name: "max_errors",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Number(|conf| &mut conf.max_errors),
            doc: "The invalid command that ends a session.",
        },
    ];
}

fn protocol(conf: &mut ServersConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let named = |protocol: &Protocol| word.is(protocol.name());
    let protocol = [Protocol::Imap, Protocol::Pop3, Protocol::Smtp].into_iter().find(named);
    let protocol = protocol.ok_or_else(|| format!("unknown protocol \"{word}\""))?;
    conf.protocol.set((protocol, line.at().clone()))
}

/// The protocol that a port is known for.
fn protocol_of_port(port: u16) -> Option<Protocol> {
    match port {
        143 | 993 => Some(Protocol::Imap),
        110 | 995 => Some(Protocol::Pop3),
        25 | 465 | 587 => Some(Protocol::Smtp),
        _ => None,
    }
}

impl ServersConf {
    /// The protocol as written, or as the first telling port says; and what says so.
    fn protocol(&self) -> Option<(Protocol, Place)> {
        let of = |listen: &Listen| Some((protocol_of_port(listen.address.port()?)?, listen.at.clone()));
        self.protocol.get().cloned().or_else(|| self.listens.iter().find_map(of))
    }

    fn name(&self) -> String {
        match self.server_name.get().filter(|name| !name.bytes().is_empty()) {
            Some(name) => name.to_string(),
            None => hostname(),
        }
    }

    fn max_errors(&self) -> u32 {
        u32::try_from(self.max_errors.or(5)).unwrap_or(u32::MAX)
    }
}

/// Makes endpoints of a `mail` block.
pub fn load(modules: &Modules<Session>, node: &Node, build: &mut Build<'_>) {
    let mut variables = modules.fresh_variables();
    let mail = modules.read(node, &mut variables, build);
    let outer_log = build.error_log;
    let mut env = Install::new(&mut variables, build, mail.at().clone());
    let directory = Rc::new(Directory::default());
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for block in mail.children_named("server") {
        let mut plan = Plan::default();
        modules.install(block, &mut plan, &mut env);
        let listens = block.confs.with::<Servers, _>(|conf| conf.listens.clone());
        for listen in &listens {
            if endpoints.iter().any(|taken| taken.address == listen.address) {
                let message = format!("duplicate \"{}\" address and port pair", listen.address);
                env.errors.push(ConfigError::new(&listen.at, message));
            }
        }
        let tls = env.errors.keep(tls(block, &listens, env.setup)).flatten();
        let built = server(block, plan, tls, directory.clone(), outer_log, &mut env);
        let Some(server) = env.errors.keep(built).flatten() else { continue };
        endpoints.extend(listens.into_iter().map(|listen| endpoint(&server, listen)));
    }
    variables.finish(build.errors);
    build.endpoints.extend(endpoints);
}

fn endpoint(server: &Rc<Server>, listen: Listen) -> Endpoint {
    let tls = server.tls.clone().filter(|_| listen.tls);
    let entry = Entry { server: server.clone(), address: listen.address.to_string(), tls };
    Endpoint { address: listen.address, options: listen.options, protocol: Rc::new(entry), at: listen.at }
}

/// The run-time form of a server block; `None` if what is wrong with it is known already.
fn server(
    block: &Block,
    plan: Plan,
    tls: Option<ServerTls>,
    directory: Rc<Directory>,
    outer_log: &tidegate_core::log::ErrorLog,
    env: &mut Install<'_, Session>,
) -> Result<Option<Rc<Server>>, ConfigError> {
    let fail = |message: &str| ConfigError::new(block.at(), message);
    block.confs.with::<Servers, _>(|conf| {
        if block.had("listen") || (block.had("protocol") && conf.protocol().is_none()) {
            return Ok(None);
        }
        if !conf.listening {
            return Err(fail("no \"listen\" is defined for server"));
        }
        match conf.protocol() {
            None if conf.listens.is_empty() => {}
            None => return Err(fail("unknown mail protocol for server")),
            Some((Protocol::Imap, _)) => {}
            Some((later, at)) => {
                let message = format!("protocol \"{}\" is not supported yet, it must be \"imap\"", later.name());
                return Err(ConfigError::new(&at, message));
            }
        }
        let starttls = block.confs.with::<Starting, _>(|starting| starting.mode());
        let authority = match block.confs.with::<AuthHttp, _>(|conf| conf.authority()) {
            Written::Well(authority) => authority,
            Written::Badly => return Ok(None),
            Written::Nowhere if block.had("auth_http") => return Ok(None),
            Written::Nowhere => return Err(fail("no \"auth_http\" is defined for server")),
        };
        Ok(Some(Rc::new(Server {
            name: conf.name(),
            timeout: conf.timeout.or(Duration::from_secs(60)),
            dialogue: Rc::new(block.confs.with::<Imap, _>(|imap| imap.dialogue(starttls, conf.max_errors()))),
            authority,
            proxy: block.confs.with::<Proxy, _>(|proxy| proxy.settings()),
            tls,
            error_log: block
                .confs
                .with::<ErrorLogs, _>(|conf| conf.build(env.setup, env.logs, env.zones))?
                .unwrap_or_else(|| outer_log.clone()),
            directory,
            plan,
        })))
    })
}

/// The TLS that the block's addresses or its `starttls` need. As nginx: if nothing needs it, nothing is loaded.
fn tls(
    block: &Block,
    listens: &[Listen],
    setup: &tidegate_core::conf::apply::Setup,
) -> Result<Option<ServerTls>, ConfigError> {
    let starting = block.confs.with::<Starting, _>(|starting| (starting.mode(), starting.at().cloned()));
    let (user, at): (&str, Place) = match (listens.iter().find(|listen| listen.tls), starting) {
        (Some(listen), _) => ("listen ... ssl", listen.at.clone()),
        (None, (StartTls::On | StartTls::Only, at)) => ("starttls", at.unwrap_or_else(|| block.at().clone())),
        (None, (StartTls::Off, _)) => return Ok(None),
    };
    let clients = block.confs.with::<ClientCertificates, _>(|conf| conf.policy(setup))?;
    let names = [Protocol::Imap.name().as_bytes()];
    let tls = block.confs.with::<Tls, _>(|conf| conf.build_with(setup, &names, clients))?;
    match tls {
        Some(tls) => Ok(Some(tls)),
        None if block.had("ssl_certificate") || block.had("ssl_certificate_key") => Ok(None),
        None => Err(ConfigError::new(&at, format!("no \"ssl_certificate\" is defined for the \"{user}\" directive"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_has_its_ports() {
        for (port, protocol) in [
            (143, Some(Protocol::Imap)),
            (993, Some(Protocol::Imap)),
            (110, Some(Protocol::Pop3)),
            (995, Some(Protocol::Pop3)),
            (25, Some(Protocol::Smtp)),
            (465, Some(Protocol::Smtp)),
            (587, Some(Protocol::Smtp)),
            (8143, None),
        ] {
            assert_eq!(protocol_of_port(port), protocol, "{port}");
        }
    }
}
