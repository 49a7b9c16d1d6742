//! Tidegate with a directive that does harm on purpose, and with helpers that have nothing to do. For tests only; the real
//! binary has none of it.

use std::process::ExitCode;

use tidegate_core::modules::builtin::NGINX_VERSION;
use tidegate_core::process::{Program, run};
use tidegate_http::Http;

mod fault;
mod stand_in;

// As in the real binary, so that its use of memory can be compared.
use mimalloc as _;

fn main() -> ExitCode {
    run(Program {
        name: "tidegate",
        version: env!("CARGO_PKG_VERSION"),
        nginx_version: NGINX_VERSION,
        arguments: "",
        protocols: vec![
            Box::new(Http::with(|modules| _ = modules.add::<fault::Faults>())),
            Box::new(tidegate_stream::Stream),
            Box::new(tidegate_mail::Mail),
            Box::new(stand_in::StandIns),
        ],
        known_directives: include_str!("../../../src/known_directives.tsv"),
    })
}
