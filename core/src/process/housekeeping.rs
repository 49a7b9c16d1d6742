//! What every process that serves a generation does for itself: lines of logs that wait are written, memory is given back
//! after a rush, and what killed processes have left in folders of temporary files is removed.

use std::rc::Rc;

use futures_core::future::LocalBoxFuture;

use super::generation::Generation;
use super::tidy::tidy;
use crate::build::{Chore, Lasts};
use crate::net::Connections;

/// The housekeeping of a process that serves `generation`, and has these connections of it.
pub fn of(generation: &Rc<Generation>, connections: &Rc<Connections>) -> [Rc<dyn Chore>; 3] {
    [Rc::new(Logs(generation.clone())), Rc::new(Memory(connections.clone())), Rc::new(Folders(generation.clone()))]
}

struct Logs(Rc<Generation>);

impl Chore for Logs {
    fn name(&self) -> &'static str {
        "looking after logs"
    }

    fn lasts(&self) -> Lasts {
        Lasts::ToTheEnd
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.0.logs.look_after(&self.0.error_log))
    }
}

struct Memory(Rc<Connections>);

impl Chore for Memory {
    fn name(&self) -> &'static str {
        "giving back memory"
    }

    fn lasts(&self) -> Lasts {
        Lasts::ToTheEnd
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(tidy(&self.0))
    }
}

struct Folders(Rc<Generation>);

impl Chore for Folders {
    fn name(&self) -> &'static str {
        "sweeping temporary files"
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.0.folders.sweep())
    }
}
