//! Runs test suites made by others against the binary under test, and prints what idle sessions cost.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};
use tidegate_conformance::outside::nginx_tests::{self, Options};
use tidegate_conformance::pattern::Pattern;
use tidegate_conformance::{binary, idle};

const USAGE: &str = "\
usage: tidegate-conformance nginx-tests --suite DIR [options]
       tidegate-conformance idle [--beside BINARY] [--sessions N] [--only TEXT]

Runs a checkout of nginx's own test suite against TIDEGATE_BINARY, or else the workspace's own binary, and compares
what passes with a list. Needs perl; as root it runs the tests as nobody.

  --suite DIR        the checkout
  --match RE         only files whose names match
  --jobs N           so many files at a time (default: one a core)
  --time-limit S     seconds one file may take (default: 120)
  --expected FILE    the list (default: conformance/nginx-tests.expected)
  --update           write the list instead of comparing with it
  --verbose          print what failing files say

idle prints what sessions cost that only wait, and how often workers wake: of TIDEGATE_BINARY, or else the workspace's own
binary, which should be a release build, and of another, such as an nginx, in the same run.

  --beside BINARY    the other
  --sessions N       sessions at once (default: 2000)
  --only TEXT        only figures whose names contain this
";

fn main() -> ExitCode {
    let options = match arguments() {
        Ok(Some(Task::Suite(options))) => options,
        Ok(Some(Task::Idle(options))) => {
            idle::run(&options);
            return ExitCode::SUCCESS;
        }
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match nginx_tests::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be done.
enum Task {
    Suite(Options),
    Idle(idle::Options),
}

/// The options, or nothing when help was asked for.
fn arguments() -> Result<Option<Task>, lexopt::Error> {
    let mut options = Options {
        suite: PathBuf::new(),
        matching: None,
        jobs: thread::available_parallelism().map_or(1, usize::from),
        limit: Duration::from_secs(120),
        expected: binary::workspace().join("conformance/nginx-tests.expected"),
        update: false,
        verbose: false,
    };
    let mut idle = idle::Options { sessions: 2000, beside: None, only: None };
    let mut suite_name = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) if suite_name.is_none() => suite_name = Some(name.string()?),
            Long("suite") => options.suite = parser.value()?.into(),
            Long("match") => options.matching = Some(Pattern::try_new(&parser.value()?.string()?)?),
            Long("jobs") => options.jobs = parser.value()?.parse()?,
            Long("time-limit") => options.limit = Duration::from_secs(parser.value()?.parse()?),
            Long("expected") => options.expected = parser.value()?.into(),
            Long("update") => options.update = true,
            Long("beside") => idle.beside = Some(PathBuf::from(parser.value()?)),
            Long("sessions") => idle.sessions = parser.value()?.parse()?,
            Long("only") => idle.only = Some(parser.value()?.string()?),
            Long("verbose") => options.verbose = true,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    match suite_name.as_deref() {
        Some("idle") => Ok(Some(Task::Idle(idle))),
        Some("nginx-tests") if !options.suite.as_os_str().is_empty() => Ok(Some(Task::Suite(options))),
        Some("nginx-tests") => Err("--suite is missing".into()),
        Some(other) => Err(format!("there is no suite {other}").into()),
        None => Err("name a suite".into()),
    }
}
