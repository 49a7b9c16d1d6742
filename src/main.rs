//! The `tidegate` binary: names the protocols it hosts.

use std::process::ExitCode;

use tidegate_core::modules::builtin::NGINX_VERSION;
use tidegate_core::process::{Program, run};

mod arguments;

// Per-exchange state is allocated and freed at once; this allocator does both without searching. It stands in for that of
// the C library, which Rust's own asks: declared as the global one, it would be asked for an alignment every time.
use mimalloc as _;

fn main() -> ExitCode {
    run(Program {
        name: "tidegate",
        version: env!("CARGO_PKG_VERSION"),
        nginx_version: NGINX_VERSION,
        arguments: arguments::CONFIGURE,
        protocols: vec![
            Box::new(tidegate_http::Http::new()),
            Box::new(tidegate_stream::Stream),
            Box::new(tidegate_mail::Mail),
        ],
        known_directives: include_str!("known_directives.tsv"),
    })
}
