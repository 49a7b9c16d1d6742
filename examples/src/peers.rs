//! Work in every worker, and what others have made: `watch_peers 5s;` in the http block says in the error log which servers of
//! any upstream, http's or another protocol's, have ceased or begun to accept connections; `peers_status;` in a location
//! answers with how they all stand.
//!
//! 1. A [`Chore`] that a module leaves in [`Install::chores`] when the block of the protocol is defined. Each worker begins it
//!    when it begins to serve, and drops it where it waits when the worker accepts no more, after a reload for instance.
//!    Nothing has to look whether it should end, and what it holds is let go by its destructors.
//! 2. The [`Registry`]: things by kind, protocol and name. It is looked into while the worker serves: while one block is being
//!    loaded, those behind it have made nothing yet.
//! 3. A [`Content`] that answers at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use futures_core::future::LocalBoxFuture;
use tidegate_balancer::{Condition, Group};
use tidegate_core::build::{Chore, Registry};
use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Set, Setting};
use tidegate_core::module::{Install, Module};
use tidegate_core::net::{Address, Timer};
use tidegate_core::{inherit, log, slot};
use tidegate_http::answer::{Answer, Body};
use tidegate_http::content::{Content, Produce};
use tidegate_http::exchange::Exchange;
use tidegate_http::plan::Plan;
use tokio::net::{TcpStream, UnixStream};

/// The settings of one block.
#[derive(Default)]
pub struct PeersConf {
    every: Setting<Duration>,
    status: bool,
}

inherit!(PeersConf {} own { every, status });

/// `watch_peers` and `peers_status`
pub struct Peers;

impl Feature for Peers {
    type Conf = PeersConf;
    const NAME: &'static str = "peers";
    const DIRECTIVES: &'static [Directive<PeersConf>] = &[
        Directive {
            name: "watch_peers",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Time(|conf| &mut conf.every),
            doc: "How often the servers of all upstreams are connected to.",
        },
        Directive {
            name: "peers_status",
            levels: Levels::LOCATION,
            arity: Arity::Exactly(0),
            set: Set::With(|conf, _| {
                conf.status = true;
                Ok(())
            }),
            doc: "Answers with the servers of all upstreams and how they stand.",
        },
    ];
}

impl Module<Exchange> for Peers {
    fn define(conf: &PeersConf, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if let Some(every) = conf.every.get() {
            let every = (*every).max(Duration::from_millis(1));
            env.chores.add(Rc::new(Watch { every, registry: env.registry.clone(), closed: RefCell::default() }));
        }
        Ok(())
    }

    fn install(conf: &PeersConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.status {
            plan.content = Some(Rc::new(Status(env.registry.clone())));
        }
        Ok(())
    }
}

struct Status(Registry);

impl Content for Status {
    fn answer<'a>(&'a self, _exchange: &'a Exchange) -> Produce<'a> {
        Produce::Now(Answer::typed(200, b"text/plain", Body::Bytes(text(&self.0).into())).into())
    }
}

/// A line for each server: protocol, upstream, server, how it stands.
fn text(registry: &Registry) -> String {
    let mut text = String::new();
    for group in registry.all::<Group>() {
        for Condition { peer, connections, fails, rests } in group.thing.conditions() {
            let state = match (peer.down, rests) {
                (true, _) => "down",
                (_, true) => "rests",
                _ => "up",
            };
            let _ = writeln!(
                text,
                "{} {} {} {state}, {connections} connections, {fails} failures",
                group.owner,
                group.thing.name(),
                peer.name
            );
        }
    }
    text
}

struct Watch {
    every: Duration,
    registry: Registry,
    /// What was closed when it was last looked at.
    closed: RefCell<BTreeMap<String, bool>>,
}

impl Chore for Watch {
    fn name(&self) -> &'static str {
        "watching peers"
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            // Once for all workers.
            while slot::index() == 0 {
                tokio::time::sleep(self.every).await;
                for change in self.look().await {
                    log::error::of_process(|log| tidegate_core::log!(log, Warn, "{change}"));
                }
            }
        })
    }
}

impl Watch {
    /// Looks at all servers, one after the other; what has changed.
    async fn look(&self) -> Vec<String> {
        let mut changes = Vec::new();
        for group in self.registry.all::<Group>() {
            for peer in group.thing.peers() {
                let server = format!("{} of {} upstream \"{}\"", peer.name, group.owner, group.thing.name());
                let is_closed = !accepts(&peer.address, self.every).await;
                let was_closed = self.closed.borrow_mut().insert(server.clone(), is_closed).unwrap_or(false);
                if is_closed != was_closed {
                    changes.push(format!("{server} {}", if is_closed { "is closed" } else { "is open" }));
                }
            }
        }
        changes
    }
}

async fn accepts(address: &Address, limit: Duration) -> bool {
    let connected = async {
        match address {
            Address::Inet(address) => TcpStream::connect(address).await.is_ok(),
            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
        }
    };
    Timer::default().limit(limit, connected).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask_of, build};
    use std::net::TcpListener;
    use tidegate_core::build::Made;
    use tidegate_core::modules::limits::Limit;
    use tidegate_http::Http;
    use tidegate_stream::Stream;
    use tokio::runtime::{Builder, LocalOptions};

    fn http() -> Http {
        Http::with(|modules| _ = modules.add::<Peers>())
    }

    const HTTP: &str = "http { watch_peers 1s; upstream a { server 127.0.0.1:1; server 127.0.0.2:2 down; }
         limit_req_zone $arg_k zone=z:64k rate=1r/s; limit_req zone=z;
         server { listen 127.0.0.1:80; location / { peers_status; } } }";

    #[test]
    fn the_groups_of_all_protocols_are_found() {
        let made = Made::default();
        let protocol = build(&http(), HTTP, &made).unwrap();
        let before = ask_of(protocol.clone(), "GET / HTTP/1.0\r\n\r\n");
        assert!(!before.contains("stream"), "{before}");
        let stream = "stream { upstream a { server unix:/b; } server { listen 127.0.0.1:81; proxy_pass a; } }";
        build(&Stream, stream, &made).unwrap();
        let answer = ask_of(protocol.clone(), "GET / HTTP/1.0\r\n\r\n");
        assert!(
            answer.ends_with(
                "http a 127.0.0.1:1 up, 0 connections, 0 failures\n\
                 http a 127.0.0.2:2 down, 0 connections, 0 failures\n\
                 stream a unix:/b up, 0 connections, 0 failures\n"
            ),
            "{answer}"
        );
        let limit = made.registry.find::<Limit>("http", "z").unwrap();
        assert_eq!((limit.module.as_str(), limit.table.with(|view| Ok(view.len()))), ("limit_req", Some(0)));
        assert!(made.registry.find::<Limit>("stream", "z").is_none());
        let names: Vec<&str> = made.chores.all().iter().map(|chore| chore.name()).collect();
        let own = names.iter().filter(|name| **name == "watching peers").count();
        assert_eq!(own, 1, "one, however many servers and locations there are: {names:?}");
    }

    #[test]
    fn what_has_changed_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let made = Made::default();
        build(
            &http(),
            &HTTP.replace("127.0.0.2:2 down", "unix:/nowhere").replace("127.0.0.1:1;", &format!("{server};")),
            &made,
        )
        .unwrap();
        let watch =
            Watch { every: Duration::from_secs(5), registry: made.registry.clone(), closed: RefCell::default() };
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let look = || runtime.block_on(watch.look());
        assert_eq!(look(), ["unix:/nowhere of http upstream \"a\" is closed"]);
        assert_eq!(look(), Vec::<String>::new());
        drop(listener);
        assert_eq!(look(), [format!("{server} of http upstream \"a\" is closed")]);
        let _again = TcpListener::bind(server).unwrap();
        assert_eq!(look(), [format!("{server} of http upstream \"a\" is open")]);
    }
}
