//! `stand_ins { loader once; manager stays; other panics; }`: processes beside the workers that have nothing to do.

use std::future::pending;
use std::rc::Rc;

use futures_core::future::LocalBoxFuture;
use tidegate_core::conf::apply::Row;
use tidegate_core::conf::{ConfigError, Node};
use tidegate_core::log;
use tidegate_core::process::{Build, Domain, Helper};

/// The block.
pub struct StandIns;

/// What a helper does.
#[derive(Clone, Copy)]
enum Way {
    Once,
    Stays,
    Panics,
}

struct StandIn {
    name: &'static str,
    way: Way,
}

impl Domain for StandIns {
    fn name(&self) -> &'static str {
        "stand_ins"
    }

    fn rows(&self) -> Vec<Row> {
        Vec::new()
    }

    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    fn load(&self, block: &Node, build: &mut Build<'_>) {
        for node in block.body.iter().flatten() {
            let name = match &*node.name.text() {
                "loader" => "loader process",
                "manager" => "manager process",
                _ => "other process",
            };
            let way = match node.args.first().map(|word| word.text().into_owned()).as_deref() {
                Some("once") => Way::Once,
                Some("stays") => Way::Stays,
                Some("panics") => Way::Panics,
                _ => {
                    build.errors.push(ConfigError::new(node.name.at(), "it must be once, stays or panics"));
                    continue;
                }
            };
            build.helpers.push(Rc::new(StandIn { name, way }));
        }
    }
}

impl Helper for StandIn {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            log::error::of_process(|log| tidegate_core::log!(log, Notice, "the {} works", self.name));
            match self.way {
                Way::Once => {}
                Way::Stays => pending().await,
                #[expect(clippy::panic, reason = "that is what it is for")]
                Way::Panics => panic!("a helper's fault"),
            }
        })
    }
}
