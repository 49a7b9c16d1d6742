//! Processes: the command line, the master that owns the sockets and never serves, and the workers that serve.

pub mod accept;
pub mod brake;
pub mod children;
pub mod cli;
pub mod generation;
pub mod housekeeping;
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

pub use crate::build::{Build, Domain, Helper};
use crate::conf::known::Known;

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
