//! `server { }`, `listen`, `server_name`: from blocks to the addresses that are served and the plan of each server.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_balancer::Groups;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Block, Check, ConfigError, Errors, Line, Node, Refusal, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::module::{Install, Module, Modules};
use tidegate_core::modules::builtin;
use tidegate_core::net::listen::{Endpoint, Listen, Takes};
use tidegate_core::process::Build;
use tidegate_core::script::names::{self, BadName};
use tidegate_core::script::{Names, Regex};
use tidegate_core::tls::{ClientCertificates, Tls};

use crate::plan::Plan;
use crate::run::Listener;
use crate::session::Session;

/// The settings of one block.
#[derive(Default)]
pub struct ServerConf {
    listens: Vec<Listen>,
    names: Vec<Word>,
    nodelay: Setting<bool>,
    alpn: Vec<Word>,
}

inherit!(ServerConf { nodelay, alpn } own { listens, names });

/// `server` and what makes one
pub struct Servers;

const OUTER: Levels = Levels::PROTOCOL;
const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

const fn accepted(name: &'static str, levels: Levels, doc: &'static str) -> Directive<ServerConf> {
    Directive { name, levels, arity: Arity::Exactly(1), set: Set::Checked(Check::TableSize), doc }
}

impl Feature for Servers {
    type Conf = ServerConf;
    const NAME: &'static str = "server";
    const DIRECTIVES: &'static [Directive<ServerConf>] = &[
        Directive {
            name: "server",
            levels: OUTER,
            arity: Arity::Exactly(0),
            set: Set::Block(Levels::SERVER),
            doc: "What happens to the connections of some addresses.",
        },
        Directive {
            name: "listen",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                let takes = Takes { default_server: true, tuning: true, default_port: None };
                conf.listens.extend(Listen::read(line, takes)?);
                Ok(())
            }),
            doc: "An address with a port to accept connections on.",
        },
        Directive {
            name: "server_name",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::With(server_name),
            doc: "The names that clients ask for in the TLS handshake to reach this server.",
        },
        Directive {
            name: "tcp_nodelay",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.nodelay),
            doc: "Whether small pieces are sent at once, to clients and to upstreams.",
        },
        Directive {
            name: "ssl_alpn",
            levels: ANYWHERE,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                if let Some(long) = line.args().iter().find(|word| word.bytes().len() > 255) {
                    return Err(format!("protocol too long: \"{long}\"").into());
                }
                conf.alpn.extend_from_slice(line.args());
                Ok(())
            }),
            doc: "The application protocols offered by ALPN.",
        },
        accepted("server_names_hash_max_size", OUTER, "Tables size themselves."),
        accepted("server_names_hash_bucket_size", OUTER, "Tables size themselves."),
    ];
}

fn server_name(conf: &mut ServerConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    names::judge(line)?;
    conf.names.extend(line.args().iter().cloned());
    Ok(())
}

impl Module<Session> for Servers {}

/// Applies and installs the `stream` block.
pub fn load(modules: &Modules<Session>, node: &Node, build: &mut Build<'_>) {
    let mut variables = modules.fresh_variables();
    let block = modules.read(node, &mut variables, build);
    let groups = Rc::new(RefCell::new(Groups::load(&block, None, build)));
    let outer_log = build.error_log;
    let mut env = Install::new(&mut variables, build, block.at().clone());
    let mut addresses = Addresses::default();
    for server in block.children_named("server") {
        let error_log = server.confs.with::<ErrorLogs, _>(|conf| conf.build(env.setup, env.logs, env.zones));
        let error_log = env.errors.keep(error_log).flatten();
        let plan = Plan::new(error_log.unwrap_or_else(|| outer_log.clone()), groups.clone());
        if let Some(server) = install(modules, server, plan, &mut env) {
            addresses.add(&server, env.errors);
        }
    }
    variables.finish(build.errors);
    build.endpoints.extend(addresses.endpoints(build.errors));
}

/// A server block, ready to be put on its addresses.
struct Server {
    plan: Rc<Plan>,
    listens: Vec<Listen>,
    names: Vec<(Word, Name)>,
}

#[derive(Clone)]
enum Name {
    Exact(Vec<u8>),
    Pattern(Rc<Regex>),
}

/// Installs everything into the plan of a server block. `None` when it says nowhere to listen.
fn install(
    modules: &Modules<Session>,
    block: &Block,
    mut plan: Plan,
    env: &mut Install<'_, Session>,
) -> Option<Server> {
    modules.install(block, &mut plan, env);
    let (listens, words, nodelay, alpn) = block.confs.with::<Servers, _>(|conf| {
        (conf.listens.clone(), conf.names.clone(), conf.nodelay.or(true), conf.alpn.clone())
    });
    let alpn: Vec<&[u8]> = alpn.iter().map(Word::bytes).collect();
    let clients = block.confs.with::<ClientCertificates, _>(|conf| conf.policy(env.setup));
    let clients = env.errors.keep(clients).flatten();
    let tls = block.confs.with::<Tls, _>(|conf| conf.build_with(env.setup, &alpn, clients));
    let lost_tls = tls.is_err() || block.had("ssl_certificate") || block.had("ssl_certificate_key");
    plan.tls = env.errors.keep(tls).flatten().or_else(|| lost_tls.then(tidegate_core::tls::ServerTls::reject_all));
    plan.nodelay = nodelay;
    plan.server_name = words.first().map(first_name).unwrap_or_default();
    if listens.is_empty() {
        if !block.had("listen") {
            env.errors.push(ConfigError::new(block.at(), "no \"listen\" is defined for server"));
        }
        return None;
    }
    let mut names = Vec::new();
    for word in words {
        let name = name(&word, env);
        if let Some(name) = env.errors.keep(name) {
            names.push((word, name));
        }
    }
    Some(Server { plan: Rc::new(plan), listens, names })
}

/// `$server_name`: the first name, without the dot that stands for a wildcard.
fn first_name(word: &Word) -> Vec<u8> {
    let bytes = resolved(word);
    bytes.strip_prefix(b".").unwrap_or(&bytes).to_vec()
}

/// A name as it is meant: `$hostname` is the machine's.
fn resolved(word: &Word) -> Vec<u8> {
    if word.bytes().eq_ignore_ascii_case(b"$hostname") {
        return builtin::hostname().into_bytes();
    }
    if word.bytes().starts_with(b"~") { word.bytes().to_vec() } else { word.bytes().to_ascii_lowercase() }
}

fn name(word: &Word, env: &mut Install<'_, Session>) -> Result<Name, ConfigError> {
    let Some(pattern) = word.after("~") else { return Ok(Name::Exact(resolved(word))) };
    // nginx: names are asked for in lower case, so a pattern with capitals can only be meant to ignore case.
    let ignore_case = pattern.bytes().iter().any(u8::is_ascii_uppercase);
    Ok(Name::Pattern(Rc::new(env.regex(pattern.bytes(), ignore_case, word.at())?)))
}

/// The addresses of all servers.
#[derive(Default)]
struct Addresses(Vec<Served>);

/// An address and its servers, in order.
struct Served {
    listen: Listen,
    default: Rc<Plan>,
    names: Names<Rc<Plan>>,
    patterns: Vec<(Rc<Regex>, Rc<Plan>)>,
    last: Rc<Plan>,
}

impl Addresses {
    /// Puts a server on its addresses.
    fn add(&mut self, server: &Server, errors: &mut Errors) {
        for listen in &server.listens {
            let refuse = |what: &str| ConfigError::new(&listen.at, format!("{what} {}", listen.address));
            let known = self.0.iter().position(|served| served.listen.address == listen.address);
            let Some(served) = known.and_then(|index| self.0.get_mut(index)) else {
                let mut served = Served::new(listen.clone(), server.plan.clone());
                served.name(server, errors);
                self.0.push(served);
                continue;
            };
            if Rc::ptr_eq(&served.last, &server.plan) {
                errors.push(refuse("a duplicate listen"));
                continue;
            }
            if listen.options.bind {
                if served.listen.options.bind {
                    errors.push(refuse("duplicate listen options for"));
                }
                served.listen.options = listen.options.clone();
            }
            if listen.default_server {
                if served.listen.default_server {
                    errors.push(refuse("a duplicate default server for"));
                }
                served.listen.default_server = true;
                served.default = server.plan.clone();
            }
            served.listen.tls |= listen.tls;
            served.last = server.plan.clone();
            served.name(server, errors);
        }
    }

    /// What is to be served.
    fn endpoints(self, errors: &mut Errors) -> Vec<Endpoint> {
        let endpoint = |served: Served| {
            let Served { listen, default, names, patterns, .. } = served;
            if listen.tls && default.tls.is_none() {
                let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
                errors.push(ConfigError::new(&listen.at, message));
            }
            let address = listen.address.clone();
            let listener =
                Listener { address, tls: listen.tls, default, names, patterns: patterns.into_iter().collect() };
            Endpoint { address: listen.address, options: listen.options, protocol: Rc::new(listener), at: listen.at }
        };
        self.0.into_iter().map(endpoint).collect()
    }
}

impl Served {
    fn new(listen: Listen, plan: Rc<Plan>) -> Self {
        Served { listen, default: plan.clone(), names: Names::default(), patterns: Vec::new(), last: plan }
    }

    /// Adds the names of a server.
    fn name(&mut self, server: &Server, errors: &mut Errors) {
        for (word, name) in &server.names {
            let added = match name {
                Name::Exact(name) => self.names.add(name, server.plan.clone()),
                Name::Pattern(pattern) => {
                    self.patterns.push((pattern.clone(), server.plan.clone()));
                    Ok(())
                }
            };
            match added {
                Ok(()) => {}
                Err(BadName::Invalid) => {
                    errors.push(ConfigError::new(word.at(), format!("server name \"{word}\" is invalid")));
                }
                Err(BadName::Conflict) => {
                    let message = format!("conflicting server name \"{word}\" on {}, ignored", self.listen.address);
                    errors.warn(ConfigError::new(word.at(), message));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::build::Made;
    use tidegate_core::conf::Tree;
    use tidegate_core::conf::apply::Setup;
    use tidegate_core::conf::known::Known;
    use tidegate_core::log::{ErrorLog, Level};

    /// Loads the body of a stream block that begins in line 1 of the file `f`: the addresses served, the mistakes and
    /// the warnings.
    fn load(body: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let file = std::env::temp_dir().join(format!("tidegate-stream-{}-{:p}", std::process::id(), body));
        std::fs::write(&file, format!("stream {{ {body} }}")).unwrap();
        let (mut errors, made) = (Errors::default(), Made::default());
        let tree = Tree::read(&file, None, &mut errors);
        std::fs::remove_file(&file).unwrap();
        let known = Known::parse("stream\tproxy_upload_rate");
        let setup = Setup { prefix: "/".into(), conf_dir: "/".into(), known };
        let error_log = ErrorLog::stderr(Level::Error);
        let mut build = Build::new(&setup, &made, &mut errors, &error_log);
        super::load(&crate::modules(), &tree.nodes[0], &mut build);
        let served = build.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        let place = |text: &ConfigError| text.to_string().replace(&*file.to_string_lossy(), "f");
        (served, errors.iter().map(place).collect(), errors.warnings().map(place).collect())
    }

    #[test]
    fn what_is_accepted() {
        for body in [
            "server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; }",
            "server { listen 127.0.0.1:1; proxy_pass unix:/tmp/a; }",
            "upstream u { server 127.0.0.1:2; } server { listen 127.0.0.1:1; proxy_pass U; }",
            "server { listen 127.0.0.1:1; proxy_pass $remote_addr:80; }",
            "server { listen 127.0.0.1:1; return $protocol:$server_name:$session_time; }",
            "server { listen 127.0.0.1:1; return $upstream_session_time,$upstream_first_byte_time,$upstream_addr; }",
            "proxy_connect_timeout 1s; proxy_timeout 1h; proxy_next_upstream off; proxy_next_upstream_tries 2; \
             proxy_next_upstream_timeout 3s; proxy_buffer_size 4k; proxy_half_close on; proxy_socket_keepalive on; \
             tcp_nodelay off; server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; proxy_timeout 2h; }",
            "map 0 $a { default b; } server { listen 127.0.0.1:1; set $a c; set $d $a; return $d; }",
            "log_format f $status; server { listen 127.0.0.1:1; access_log /tmp/a f; allow 127.0.0.1; deny all; }",
            "ssl_alpn a b; server_names_hash_bucket_size 64; \
             server { listen 127.0.0.1:1 default_server; server_name a *.b c.* ~^d .e $hostname \"\"; } \
             server { listen 127.0.0.1:1; server_name f; }",
        ] {
            assert_eq!(load(body), (vec!["127.0.0.1:1".to_owned()], vec![], vec![]), "{body}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (body, expected) in [
            ("server { }", "no \"listen\" is defined for server in f:1"),
            ("server { listen 127.0.0.1; }", "no port in \"127.0.0.1\" of the \"listen\" directive in f:1"),
            ("server { listen 127.0.0.1:1; listen 127.0.0.1:1; }", "a duplicate listen 127.0.0.1:1 in f:1"),
            (
                "server { listen 127.0.0.1:1 default_server; } server { listen 127.0.0.1:1 default_server; }",
                "a duplicate default server for 127.0.0.1:1 in f:1",
            ),
            (
                "server { listen 127.0.0.1:1 backlog=5; } server { listen 127.0.0.1:1 backlog=5; }",
                "duplicate listen options for 127.0.0.1:1 in f:1",
            ),
            (
                "server { listen 127.0.0.1:1 ssl; }",
                "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive in f:1",
            ),
            ("server { listen 127.0.0.1:1; server_name a.*.b; }", "server name \"a.*.b\" is invalid in f:1"),
            ("server { listen 127.0.0.1:1; server_name ~; }", "empty regex in server name \"~\" in f:1"),
            ("server { listen 127.0.0.1:1; proxy_pass 127.0.0.1; }", "no port in upstream \"127.0.0.1\" in f:1"),
            ("upstream u { server 127.0.0.1; }", "no port in upstream \"127.0.0.1\" in f:1"),
            ("proxy_pass 127.0.0.1:1;", "\"proxy_pass\" directive is not allowed here, its place is server in f:1"),
            ("return a;", "\"return\" directive is not allowed here, its place is server in f:1"),
            (
                "server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; proxy_pass 127.0.0.1:2; }",
                "\"proxy_pass\" directive is duplicate in f:1",
            ),
            ("server { listen 127.0.0.1:1; return $nobody; }", "unknown \"nobody\" variable in f:1"),
            ("server { listen 127.0.0.1:1; access_log /tmp/a; }", "log format is not specified in f:1"),
            (
                "proxy_upload_rate 1k;",
                "directive \"proxy_upload_rate\" is known to nginx, but not supported yet in f:1",
            ),
        ] {
            assert_eq!(load(body).1.first().map(String::as_str), Some(expected), "{body}");
        }
    }

    #[test]
    fn the_first_of_two_servers_keeps_a_name() {
        let (_, errors, warnings) =
            load("server { listen 127.0.0.1:1; server_name a; } server { listen 127.0.0.1:1; server_name A; }");
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(warnings, ["conflicting server name \"A\" on 127.0.0.1:1, ignored in f:1"]);
    }
}
