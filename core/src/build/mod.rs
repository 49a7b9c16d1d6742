//! Building a generation: what protocols and their modules are given while the configuration is loaded, and where they
//! leave what they have made.

pub mod chores;
mod helper;
pub mod registry;

use std::rc::Rc;

use crate::conf::apply::{Row, Setup};
use crate::conf::{Errors, Node};
use crate::file::folder::Folders;
use crate::log::{ErrorLog, Logs};
use crate::net::listen::Endpoint;
use crate::zone::Zones;
pub use chores::{Chore, Chores, Lasts};
pub use helper::Helper;
pub use registry::Registry;

/// A protocol as the loader sees it: a top-level block of the configuration.
pub trait Domain {
    /// The block's name.
    fn name(&self) -> &'static str;
    /// Its directives, for documentation.
    fn rows(&self) -> Vec<Row>;
    /// Its variables as `(name, documentation)`, for documentation.
    fn variables(&self) -> Vec<(&'static str, &'static str)>;
    /// Applies and installs the block. Mistakes go to the build's errors.
    fn load(&self, block: &Node, build: &mut Build<'_>);
}

/// What features make and others use, each kind in one place for the whole generation.
#[derive(Default)]
pub struct Made {
    /// The log files.
    pub logs: Logs,
    /// The zones.
    pub zones: Zones,
    /// The folders of temporary files.
    pub folders: Folders,
    /// What each worker does beside serving.
    pub chores: Chores,
    /// Whatever else is to be found by name.
    pub registry: Registry,
}

impl Made {
    /// Nothing yet, beside the zones of the generation before.
    pub fn with(zones: Zones) -> Made {
        Made { zones, ..Made::default() }
    }
}

/// What a protocol needs while it loads, and where it leaves its endpoints.
pub struct Build<'a> {
    /// Where names are resolved.
    pub setup: &'a Setup,
    /// The log files.
    pub logs: &'a Logs,
    /// The zones.
    pub zones: &'a Zones,
    /// The folders of temporary files.
    pub folders: &'a Folders,
    /// What each worker does beside serving.
    pub chores: &'a Chores,
    /// Whatever else is to be found by name.
    pub registry: &'a Registry,
    /// Mistakes.
    pub errors: &'a mut Errors,
    /// The outermost error log.
    pub error_log: &'a ErrorLog,
    /// The addresses to serve.
    pub endpoints: Vec<Endpoint>,
    /// The processes to run beside the workers.
    pub helpers: Vec<Rc<dyn Helper>>,
}

impl<'a> Build<'a> {
    /// Nothing is built yet. What features make goes to `made`, their mistakes to `errors`.
    pub fn new(setup: &'a Setup, made: &'a Made, errors: &'a mut Errors, error_log: &'a ErrorLog) -> Self {
        let Made { logs, zones, folders, chores, registry } = made;
        let (endpoints, helpers) = Default::default();
        Build { setup, logs, zones, folders, chores, registry, errors, error_log, endpoints, helpers }
    }
}
