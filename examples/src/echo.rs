//! A protocol: `echo { listen 127.0.0.1:7; }` sends back whatever comes.
//!
//! 1. The block is a [`Feature`]: settings, and a table of what the user can write in it.
//! 2. It is a [`Domain`]: applies its lines, and leaves an [`Endpoint`] for each address.
//! 3. What an endpoint hosts is a [`Protocol`]: one future a connection, run by the worker that accepted it. A protocol
//!    with states keeps them in a machine without I/O, as those of mail are (`mail/wire`), and only reads and writes here.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_core::conf::{Arity, Directive, Feature, Levels, Node, Set, Tables, apply::Row};
use tidegate_core::inherit;
use tidegate_core::net::listen::{Endpoint, Listen, Takes};
use tidegate_core::net::{Connection, Lifetime, Protocol};
use tidegate_core::process::{Build, Domain};

/// The settings of the block.
#[derive(Default)]
pub struct EchoConf {
    listens: Vec<Listen>,
}

inherit!(EchoConf {} own { listens });

/// The `echo` block.
pub struct Echo;

impl Feature for Echo {
    type Conf = EchoConf;
    const NAME: &'static str = "echo";
    const DIRECTIVES: &'static [Directive<EchoConf>] = &[Directive {
        name: "listen",
        levels: Levels::PROTOCOL,
        arity: Arity::AtLeast(1),
        set: Set::With(|conf, line| {
            conf.listens.extend(Listen::parse(line.args(), line.at(), Takes::default())?);
            Ok(())
        }),
        doc: "An address with a port to accept connections on.",
    }];
}

impl Domain for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn rows(&self) -> Vec<Row> {
        tables().rows().collect()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    fn load(&self, node: &Node, build: &mut Build<'_>) {
        let lines = node.body.as_deref().unwrap_or_default();
        let block = tables().apply(&node.name, &node.args, Levels::PROTOCOL, lines, build.setup, build.errors);
        let listens = block.confs.with::<Echo, _>(|conf| conf.listens.clone());
        for Listen { address, options, at, .. } in listens {
            build.endpoints.push(Endpoint { address, options, protocol: Rc::new(Session), at });
        }
    }
}

fn tables() -> Tables {
    let mut tables = Tables::new("echo");
    tables.add::<Echo>();
    tables
}

struct Session;

/// Longest time that a client may be silent, or take nothing.
const LIMIT: Duration = Duration::from_secs(60);

impl Protocol for Session {
    fn serve(self: Rc<Self>, connection: Connection, life: Lifetime) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { life.connections().unless_cut(Box::pin(echo(connection))).await.unwrap_or_default() })
    }
}

async fn echo(mut connection: Connection) {
    let mut buffer = BytesMut::with_capacity(4096);
    while let Ok(1..) = connection.read(&mut buffer, LIMIT).await {
        if connection.write(&buffer, LIMIT).await.is_err() {
            return;
        }
        buffer.clear();
    }
}

#[test]
fn what_is_sent_comes_back() {
    let text = "hello\n".repeat(10_000);
    assert_eq!(crate::testing::ask(&Echo, "echo { listen 127.0.0.1:7; }", &text), text);
}
