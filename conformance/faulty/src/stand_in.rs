//! `stand_ins { loader once; manager stays; other panics; }`: processes beside the workers that have nothing to do.
//! `stand_ins { keeper waits; broken breaks; watcher watches; }`: chores of each worker that have nothing to do either.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;

use futures_core::future::LocalBoxFuture;
use tidegate_core::build::{Build, Chore, Domain, Helper, Lasts};
use tidegate_core::conf::apply::Row;
use tidegate_core::conf::{ConfigError, Node};
use tidegate_core::log;

/// The block.
pub struct StandIns;

/// What a helper or a chore does.
#[derive(Clone, Copy)]
enum Way {
    Once,
    Stays,
    Panics,
    /// In each worker, while it accepts.
    Waits,
    /// In each worker, to the end.
    Watches,
    /// In each worker, until the first panic.
    Breaks,
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
                Some("waits") => Way::Waits,
                Some("watches") => Way::Watches,
                Some("breaks") => Way::Breaks,
                _ => {
                    build.errors.push(ConfigError::new(
                        node.name.at(),
                        "it must be once, stays, panics, waits, watches or breaks",
                    ));
                    continue;
                }
            };
            match way {
                Way::Once | Way::Stays | Way::Panics => build.helpers.push(Rc::new(StandIn { name, way })),
                Way::Waits => build.chores.add(Rc::new(Idler { name: "waiting", way, broken: Cell::default() })),
                Way::Watches => build.chores.add(Rc::new(Idler { name: "watching", way, broken: Cell::default() })),
                Way::Breaks => build.chores.add(Rc::new(Idler { name: "breaking", way, broken: Cell::default() })),
            }
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
                Way::Stays | Way::Waits | Way::Watches | Way::Breaks => pending().await,
                #[expect(clippy::panic, reason = "that is what it is for")]
                Way::Panics => panic!("a helper's fault"),
            }
        })
    }
}

struct Idler {
    name: &'static str,
    way: Way,
    broken: Cell<bool>,
}

/// Tells when it ends.
struct Ends(&'static str);

impl Drop for Ends {
    fn drop(&mut self) {
        log::error::of_process(|log| tidegate_core::log!(log, Notice, "{} ends", self.0));
    }
}

impl Chore for Idler {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lasts(&self) -> Lasts {
        if matches!(self.way, Way::Watches) { Lasts::ToTheEnd } else { Lasts::WhileAccepting }
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            log::error::of_process(|log| tidegate_core::log!(log, Notice, "{} begins", self.name));
            let _ends = Ends(self.name);
            let breaks = matches!(self.way, Way::Breaks) && !self.broken.replace(true);
            #[expect(clippy::panic, reason = "that is what it is for")]
            if breaks {
                panic!("a chore's fault");
            }
            pending().await
        })
    }
}
