//! Processes: the command line, the master that owns the sockets and never serves, and the workers that serve.

pub mod accept;
pub mod brake;
pub mod children;
pub mod cli;
pub mod generation;
pub mod helper;
pub mod identity;
pub mod master;
pub mod pid_file;
pub mod readiness;
pub mod row;
pub mod settings;
pub mod signals;
pub mod stall;
pub mod tidy;
pub mod turn;
pub mod upgrade;
pub mod worker;

use std::process::ExitCode;
use std::rc::Rc;

use crate::conf::apply::Setup;
use crate::conf::known::Known;
use crate::conf::{Errors, Node};
use crate::file::folder::Folders;
use crate::log::{ErrorLog, Logs};
use crate::net::listen::Endpoint;
use crate::zone::Zones;
pub use helper::Helper;

/// What the binary is made of.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The version of nginx whose configuration it reads.
    pub nginx_version: &'static str,
    /// What is built in, in the form of nginx's `configure arguments`.
    pub arguments: &'static str,
    /// The protocols it hosts.
    pub protocols: Vec<Box<dyn Domain>>,
    /// `area<TAB>name` of every directive of nginx.
    pub known_directives: &'static str,
}

/// A protocol as the loader sees it: a top-level block of the configuration.
pub trait Domain {
    /// The block's name.
    fn name(&self) -> &'static str;
    /// Its directives, for documentation.
    fn rows(&self) -> Vec<crate::conf::apply::Row>;
    /// Its variables as `(name, documentation)`, for documentation.
    fn variables(&self) -> Vec<(&'static str, &'static str)>;
    /// Applies and installs the block. Mistakes go to the build's errors.
    fn load(&self, block: &Node, build: &mut Build<'_>);
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
    /// Mistakes.
    pub errors: &'a mut Errors,
    /// The outermost error log.
    pub error_log: &'a ErrorLog,
    /// The addresses to serve.
    pub endpoints: Vec<Endpoint>,
    /// The processes to run beside the workers.
    pub helpers: Vec<Rc<dyn Helper>>,
}

/// Runs the program with the process's arguments.
pub fn run(program: Program) -> ExitCode {
    let options = match cli::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{}: {message}", program.name);
            return ExitCode::from(1);
        }
    };
    if options.help || options.version || options.version_in_full {
        cli::describe(&program, &options);
        return ExitCode::SUCCESS;
    }
    let known = Known::parse(program.known_directives);
    let loader = generation::Loader::new(program, options, known);
    match &loader.options.signal {
        Some(signal) => signals::send(&loader, *signal),
        None => master::start(loader),
    }
}
