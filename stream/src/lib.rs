//! The TCP proxy: `stream { }`.

pub mod blocks;
pub mod plan;
mod presence;
pub mod proxy;
pub mod reply;
pub mod retry;
pub mod run;
pub mod session;
pub mod variables;

use tidegate_balancer::Upstreams;
use tidegate_core::conf::Node;
use tidegate_core::conf::apply::Row;
use tidegate_core::log::access::AccessLogs;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::module::Modules;
use tidegate_core::modules::{Access, Assign, BuiltIn, Geo, LimitConn, Map, SplitClients};
use tidegate_core::process::{Build, Domain};
use tidegate_core::tls::{ClientCertificates, HandshakeTimeout, Tls};

use blocks::Servers;
use proxy::Proxy;
use reply::Return;
use session::Session;
use variables::Own;

/// The `stream` block.
pub struct Stream;

impl Domain for Stream {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn rows(&self) -> Vec<Row> {
        modules().tables.rows().collect()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        modules().described_variables()
    }

    fn load(&self, block: &Node, build: &mut Build<'_>) {
        blocks::load(&modules(), block, build);
    }
}

/// What streams are made of. Handlers of the same phase run in this order.
fn modules() -> Modules<Session> {
    let mut modules = Modules::new("stream");
    modules
        .add::<BuiltIn>()
        .add::<Own>()
        .add::<Upstreams>()
        .add::<Servers>()
        .add::<Map>()
        .add::<Geo>()
        .add::<SplitClients>()
        .add::<Assign>()
        .add::<LimitConn>()
        .add::<Access>();
    modules.add::<Proxy>().add::<Return>().add::<AccessLogs>();
    modules.tables.add::<ErrorLogs>();
    modules.tables.add::<Tls>();
    modules.tables.add::<HandshakeTimeout>();
    modules.tables.add::<ClientCertificates>();
    modules
}
