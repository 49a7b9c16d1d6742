//! The mail proxy.

use tidegate_core::conf::Node;
use tidegate_core::conf::apply::Row;
use tidegate_core::process::{Build, Domain};

/// The `mail` block.
pub struct Mail;

impl Domain for Mail {
    fn name(&self) -> &'static str {
        "mail"
    }

    fn rows(&self) -> Vec<Row> {
        Vec::new()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    fn load(&self, _block: &Node, _build: &mut Build<'_>) {}
}
