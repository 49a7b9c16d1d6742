//! Runs test suites made by others against the binary under test, prints what idle sessions cost, and proves what takes
//! too long for a test.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};
use tidegate_conformance::outside::nginx_tests::{self, Options};
use tidegate_conformance::pattern::Pattern;
use tidegate_conformance::proof::{events, exchanges, floods, reloads, slow_clients};
use tidegate_conformance::{binary, idle};

const USAGE: &str = "\
usage: tidegate-conformance nginx-tests --suite DIR [options]
       tidegate-conformance idle [--beside BINARY] [--sessions N] [--only TEXT]
       tidegate-conformance events [--count N] [--rounds N]
       tidegate-conformance exchanges [--count N] [--seed N]
       tidegate-conformance reloads [--count N]
       tidegate-conformance slow-clients [--beside BINARY] [--count N] [--megabytes N] [--large N]
       tidegate-conformance floods [--count N] [--rounds N] [--only TEXT]

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

The others print figures and a verdict, and fail if something is not as it must be. They want a release build, too.

events measures what a proxy adds to the delay of events that a backend sends one by one.

  --count N          so many of each kind (default: 1000)
  --rounds N         tries for a kind whose delay was too long (default: 3)

exchanges sends bodies both ways, on every wire, and compares every byte.

  --count N          exchanges (default: 10000)
  --seed N           what chance begins with (default: another one each time, which is printed)

reloads asks over HTTP/2 while the server is told to reload twenty times.

  --count N          requests (default: 100000)

slow-clients has clients read large replies at 1 KB a second, and sends bodies larger than any buffer.

  --beside BINARY    another server, for comparison
  --count N          clients (default: 200)
  --megabytes N      the length of a reply; all of them together lie on the disk (default: 100)
  --large N          megabytes of the one body each way, which lie on the disk, too (default: 10000; 0: none)

floods has HTTP/2 clients do much without asking for anything, each beside one that must not notice.

  --count N          requests of that one for each figure (default: 3000)
  --rounds N         how often each is measured; the best counts (default: 3)
  --only TEXT        only floods whose names contain this
";

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return misused(&error),
    };
    match arguments.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => misused(&error),
    }
}

fn misused(error: &lexopt::Error) -> ExitCode {
    eprintln!("{error}\n\n{USAGE}");
    ExitCode::from(2)
}

/// What is to be done, and how.
struct Arguments {
    task: String,
    suite: Options,
    beside: Option<PathBuf>,
    sessions: usize,
    only: Option<String>,
    count: Option<usize>,
    seed: Option<u64>,
    megabytes: u64,
    large: u64,
    rounds: usize,
}

impl Arguments {
    /// Those that were given, or nothing when help was asked for.
    fn read() -> Result<Option<Arguments>, lexopt::Error> {
        let suite = Options {
            suite: PathBuf::new(),
            matching: None,
            jobs: thread::available_parallelism().map_or(1, usize::from),
            limit: Duration::from_secs(120),
            expected: binary::workspace().join("conformance/nginx-tests.expected"),
            update: false,
            verbose: false,
        };
        let mut given = Arguments {
            task: String::new(),
            suite,
            beside: None,
            sessions: 2000,
            only: None,
            count: None,
            seed: None,
            megabytes: 100,
            large: 10_000,
            rounds: 3,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Value(name) if given.task.is_empty() => given.task = name.string()?,
                Long("suite") => given.suite.suite = parser.value()?.into(),
                Long("match") => given.suite.matching = Some(Pattern::try_new(&parser.value()?.string()?)?),
                Long("jobs") => given.suite.jobs = parser.value()?.parse()?,
                Long("time-limit") => given.suite.limit = Duration::from_secs(parser.value()?.parse()?),
                Long("expected") => given.suite.expected = parser.value()?.into(),
                Long("update") => given.suite.update = true,
                Long("verbose") => given.suite.verbose = true,
                Long("beside") => given.beside = Some(PathBuf::from(parser.value()?)),
                Long("sessions") => given.sessions = parser.value()?.parse()?,
                Long("only") => given.only = Some(parser.value()?.string()?),
                Long("count") => given.count = Some(parser.value()?.parse()?),
                Long("seed") => given.seed = Some(parser.value()?.parse()?),
                Long("megabytes") => given.megabytes = parser.value()?.parse()?,
                Long("large") => given.large = parser.value()?.parse()?,
                Long("rounds") => given.rounds = parser.value()?.parse()?,
                Short('h') | Long("help") => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(given))
    }

    /// Does it; whether all is as it must be.
    fn run(self) -> Result<bool, lexopt::Error> {
        match self.task.as_str() {
            "idle" => {
                idle::run(&idle::Options { sessions: self.sessions, beside: self.beside, only: self.only });
                Ok(true)
            }
            "nginx-tests" if self.suite.suite.as_os_str().is_empty() => Err("--suite is missing".into()),
            "nginx-tests" => Ok(nginx_tests::run(&self.suite).unwrap_or_else(|error| {
                eprintln!("{error}");
                false
            })),
            "events" => Ok(events::run(&events::Options {
                events: self.count.unwrap_or(1000),
                apart: Duration::from_millis(3),
                most: Duration::from_millis(1),
                rounds: self.rounds,
            })),
            "floods" => Ok(floods::run(&floods::Options {
                requests: self.count.unwrap_or(3000),
                most: 3.0,
                rounds: self.rounds,
                only: self.only,
            })),
            "reloads" => Ok(reloads::run(&reloads::Options {
                requests: self.count.unwrap_or(100_000),
                reloads: 20,
                clients: 8,
                streams: 16,
            })),
            "exchanges" => Ok(exchanges::run(&exchanges::Options {
                count: self.count.map_or(10_000, |count| count as u64),
                seed: self.seed.unwrap_or_else(|| u64::from(std::process::id())),
                clients: 6,
                largest: u64::MAX,
            })),
            "slow-clients" => Ok(slow_clients::run(&slow_clients::Options {
                clients: self.count.unwrap_or(200),
                length: self.megabytes * 1_000_000,
                time: Duration::from_secs(20),
                large: self.large * 1_000_000,
                beside: self.beside,
            })),
            "" => Err("name a suite".into()),
            other => Err(format!("there is no suite {other}").into()),
        }
    }
}
