//! The HTTP server and proxy.

use tidegate_core::conf::Node;
use tidegate_core::conf::apply::Row;
use tidegate_core::process::{Build, Domain};

/// The `http` block.
pub struct Http;

impl Domain for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn rows(&self) -> Vec<Row> {
        Vec::new()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    fn load(&self, _block: &Node, _build: &mut Build<'_>) {}
}
