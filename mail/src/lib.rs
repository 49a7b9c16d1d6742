//! The mail proxy: lets a client log in by the word of an authentication server, and connects it with its backend.
//!
//! `run.rs` tells a session's story; `blocks.rs` makes servers of `mail { server { ... } }`. IMAP is spoken; what of it
//! needs no socket is in `tidegate-mail-wire`.

mod auth_http;
mod backend;
mod blocks;
mod client;
mod imap;
mod run;
mod salt;
mod server;
mod session;
mod starttls;
mod variables;

pub use server::Plan;
pub use session::Session;

use tidegate_core::conf::Node;
use tidegate_core::conf::apply::Row;
use tidegate_core::log::access::AccessLogs;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::module::Modules;
use tidegate_core::modules::{Access, BuiltIn, Map};
use tidegate_core::process::{Build, Domain};
use tidegate_core::tls::{ClientCertificates, Tls};

/// The `mail` block.
pub struct Mail;

/// Everything that can be written in the block.
fn modules() -> Modules<Session> {
    let mut modules = Modules::new("mail");
    modules.add::<BuiltIn>().add::<variables::SessionVariables>().add::<Map>().add::<Access>().add::<AccessLogs>();
    let tables = &mut modules.tables;
    tables.add::<blocks::Servers>();
    tables.add::<imap::Imap>();
    tables.add::<auth_http::AuthHttp>();
    tables.add::<backend::Proxy>();
    tables.add::<starttls::Starting>();
    tables.add::<ErrorLogs>();
    tables.add::<Tls>();
    tables.add::<ClientCertificates>();
    modules
}

impl Domain for Mail {
    fn name(&self) -> &'static str {
        "mail"
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
