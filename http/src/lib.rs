//! The HTTP server and proxy: an exchange runs through the phases of its location's plan and is answered.

pub mod answer;
pub mod auth_request;
pub mod blocks;
pub mod carrier;
pub mod content;
pub mod error_page;
pub mod exchange;
pub mod filters;
pub mod held;
pub mod held_body;
pub mod later;
pub mod limit_except;
pub mod limit_rate;
pub mod limit_req;
pub mod mirror;
pub mod output;
mod placed;
pub mod plan;
pub mod presence;
pub mod real_ip;
pub mod request_body;
pub mod rewrite;
pub mod route;
pub mod run;
pub mod server;
pub mod settings;
pub mod site;
pub mod subrequest;
pub mod upstream;
pub mod variables;

use tidegate_balancer::Upstreams;
use tidegate_balancer::algorithm::ip_hash::ByIp;
use tidegate_core::conf::Node;
use tidegate_core::conf::apply::Row;
use tidegate_core::log::access::AccessLogs;
use tidegate_core::log::error::ErrorLogs;
use tidegate_core::module::Modules;
use tidegate_core::modules::{Access, BuiltIn, Geo, LimitConnWithStatus, Map, SplitClients};
use tidegate_core::process::{Build, Domain};
use tidegate_core::tls::{ClientCertificates, Tls};

use exchange::Exchange;

/// The `http` block.
pub struct Http {
    more: fn(&mut Modules<Exchange>),
}

impl Http {
    /// The block with the modules of this crate.
    pub fn new() -> Self {
        Http::with(|_| {})
    }

    /// The block with more modules, which `more` adds behind those of this crate: their handlers run last within a phase,
    /// and their filters are the last to see an answer.
    pub fn with(more: fn(&mut Modules<Exchange>)) -> Self {
        Http { more }
    }

    fn modules(&self) -> Modules<Exchange> {
        let mut modules = modules();
        (self.more)(&mut modules);
        modules
    }
}

impl Default for Http {
    fn default() -> Self {
        Http::new()
    }
}

/// Everything an http block can contain. The order is the order of handlers within a phase, and of filters.
pub fn modules() -> Modules<Exchange> {
    let mut modules = Modules::new("http");
    modules.tables.add::<ErrorLogs>();
    modules.tables.add::<Tls>();
    modules.tables.add::<ClientCertificates>();
    modules
        .add::<BuiltIn>()
        .add::<variables::Variables>()
        .add::<settings::directives::Core>()
        .add::<blocks::Servers>()
        .add::<server::h2::module::Http2>()
        .add::<Upstreams>()
        .add::<ByIp>()
        .add::<Map>()
        .add::<Geo>()
        .add::<SplitClients>()
        .add::<real_ip::RealIp>()
        .add::<rewrite::Rewrite>()
        .add::<limit_except::LimitExcept>()
        .add::<held_body::BodyFiles>()
        .add::<limit_rate::LimitRate>()
        .add::<limit_req::LimitReq>()
        .add::<LimitConnWithStatus>()
        .add::<Access>()
        .add::<auth_request::AuthRequest>()
        .add::<error_page::ErrorPage>()
        .add::<content::files::StaticFiles>()
        .add::<content::index::Index>()
        .add::<content::try_files::TryFiles>()
        .add::<mirror::Mirror>()
        .add::<content::stub_status::StubStatus>()
        .add::<upstream::module::Proxy>()
        .add::<filters::conditional::NotModified>()
        .add::<filters::expires::Expires>()
        .add::<filters::headers::AddHeader>()
        .add::<filters::trailers::AddTrailer>()
        .add::<filters::range::RangeFilter>()
        .add::<later::Later>()
        .add::<AccessLogs>();
    modules
}

impl Domain for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn rows(&self) -> Vec<Row> {
        self.modules().tables.rows().collect()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        self.modules().described_variables()
    }

    fn load(&self, block: &Node, build: &mut Build<'_>) {
        blocks::load(&self.modules(), block, build);
    }
}
