//! Runs a checkout of nginx's own test suite against the binary under test.
//!
//! The suite expects an ordinary user, so a run started by root becomes `nobody`, with copies that `nobody` may read.
//! Where the kernel lets us, each file has a network of its own that ends at the loopback: some files connect to
//! addresses that nobody has, which must stay silent and must not be asked for outside, and ports cannot collide.
//! Files run in parallel, and some measure time, so what is listed and fails is tried once more, alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, chown, geteuid};
use tempfile::TempDir;

use crate::binary;
use crate::pattern::Pattern;
use crate::processes;
use crate::wait::poll_for;

use super::expected::Expected;
use super::tap::{Verdict, judge};

const NOBODY: u32 = 65_534;

/// Runs its arguments as `nobody` in a network that swallows whatever is not for this machine.
const ISOLATED: &str = "ip link set lo up && ip route add default dev lo && \
    exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

/// What to run, and how.
#[derive(Debug)]
pub struct Options {
    /// The checkout.
    pub suite: PathBuf,
    /// Only files whose names match.
    pub matching: Option<Pattern>,
    /// How many files at a time.
    pub jobs: usize,
    /// How long one file may take.
    pub limit: Duration,
    /// The list of what passes.
    pub expected: PathBuf,
    /// Rewrite the list instead of comparing with it.
    pub update: bool,
    /// Print what failing files say.
    pub verbose: bool,
}

/// Runs the suite and prints what it came to; says whether all is as the list has it.
pub fn run(options: &Options) -> io::Result<bool> {
    let mut expected = Expected::read(&options.expected)?;
    let names = test_files(options)?;
    let stage = Stage::prepare(&options.suite, options.limit)?;
    let mut results = run_all(&stage, &names, options.jobs);
    for result in results.iter_mut().filter(|result| options.is_surprise(result, &expected)) {
        *result = stage.run(&result.name);
    }
    results.sort_by(|a, b| a.name.cmp(&b.name));
    print_failures(&results, options.verbose);
    let surprises = if options.update {
        expected.update(results.iter().map(|result| (result.name.as_str(), result.verdict == Verdict::Pass)));
        expected.write(&options.expected)?;
        0
    } else {
        print_surprises(&results, &expected) + print_missing(options, &names, &expected)
    };
    println!("{}", summary(&results));
    Ok(surprises == 0)
}

impl Options {
    /// Whether a result is worth a second look: it fails although it is listed, or would be dropped from the list.
    fn is_surprise(&self, result: &FileResult, expected: &Expected) -> bool {
        matches!(result.verdict, Verdict::Fail(_)) && expected.names.contains(&result.name)
    }
}

/// What one file came to.
#[derive(Debug)]
struct FileResult {
    name: String,
    verdict: Verdict,
    output: String,
    time: Duration,
}

fn test_files(options: &Options) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(&options.suite)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let wanted = options.matching.as_ref().is_none_or(|pattern| pattern.is_match(&name));
        if name.ends_with(".t") && wanted {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Where files run: the suite and the binary as the user who runs them may read them, and a folder to write in.
#[derive(Debug)]
struct Stage {
    folder: TempDir,
    suite: PathBuf,
    binary: PathBuf,
    limit: Duration,
    isolated: bool,
}

impl Stage {
    fn prepare(suite: &Path, limit: Duration) -> io::Result<Stage> {
        processes::adopt_orphans();
        // A short name: the suite makes unix sockets below it.
        let folder = tempfile::Builder::new().prefix("tg-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (mut suite, mut binary) = (suite.canonicalize()?, binary::path().to_owned());
        fs::create_dir(folder.path().join("tmp"))?;
        if geteuid().is_root() {
            suite = copy_for_everybody(&suite, &folder.path().join("suite"))?;
            binary = copy_for_everybody(&binary, &folder.path().join("nginx"))?;
            chown(&folder.path().join("tmp"), Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))?;
        }
        let isolated = can_isolate();
        if !isolated {
            println!(
                "no network namespaces here: files that connect to unused addresses may reach the network, and fail"
            );
        }
        Ok(Stage { folder, suite, binary, limit, isolated })
    }

    fn run(&self, name: &str) -> FileResult {
        let start = Instant::now();
        let (verdict, output) =
            self.try_run(name).unwrap_or_else(|error| (Verdict::Fail(error.to_string()), String::new()));
        FileResult { name: name.to_owned(), verdict, output, time: start.elapsed() }
    }

    /// Output goes to files: a daemon left behind would keep a pipe open, and us reading it.
    fn try_run(&self, name: &str) -> io::Result<(Verdict, String)> {
        let stdout = self.folder.path().join(format!("{name}.out"));
        let stderr = self.folder.path().join(format!("{name}.err"));
        let mut child = self.command(name).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?).spawn()?;
        let status = poll_for(self.limit, || child.try_wait().ok().flatten());
        processes::end_family(&mut child);
        let output = String::from_utf8_lossy(&fs::read(&stdout)?).into_owned();
        let complaints = String::from_utf8_lossy(&fs::read(&stderr)?).into_owned();
        let verdict = match status {
            Some(status) => judge(&output, status.success()),
            None => Verdict::Fail(format!("took longer than {} s", self.limit.as_secs())),
        };
        Ok((verdict, format!("{output}{complaints}")))
    }

    fn command(&self, name: &str) -> Command {
        let mut perl = if self.isolated { isolated("perl") } else { Command::new("perl") };
        perl.arg(name).current_dir(&self.suite).stdin(Stdio::null()).process_group(0);
        perl.env("TEST_NGINX_BINARY", &self.binary).env("TMPDIR", self.folder.path().join("tmp"));
        // Some files ask for this because they bind addresses or signal processes that others might use, too. Here each
        // has a network of its own where that can be had, and the folder is its own anyway.
        perl.env("TEST_NGINX_UNSAFE", "1");
        perl.env("HOME", self.folder.path().join("tmp")).env_remove("PERL5LIB");
        if geteuid().is_root() && !self.isolated {
            perl.uid(NOBODY).gid(NOBODY);
        }
        perl
    }
}

/// A command in a network of its own, without rights.
fn isolated(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", ISOLATED, "sh", program]);
    command
}

fn can_isolate() -> bool {
    let status = isolated("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    geteuid().is_root() && status.is_ok_and(|status| status.success())
}

fn copy_for_everybody(from: &Path, to: &Path) -> io::Result<PathBuf> {
    if from.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_name() != ".git" {
                copy_for_everybody(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
    } else {
        fs::copy(from, to)?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(to.to_owned())
}

fn run_all(stage: &Stage, names: &[String], jobs: usize) -> Vec<FileResult> {
    let next = AtomicUsize::new(0);
    let (results, received) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = results.send(stage.run(name));
                }
            });
        }
        drop(results);
        received.into_iter().inspect(print_progress).collect()
    })
}

fn print_progress(result: &FileResult) {
    let FileResult { name, verdict, time, .. } = result;
    let seconds = time.as_secs_f32();
    match verdict {
        Verdict::Pass => println!("pass     {name} ({seconds:.1} s)"),
        Verdict::Skipped(reason) => println!("skipped  {name} ({reason})"),
        Verdict::Fail(reason) => println!("fail     {name} ({seconds:.1} s): {reason}"),
    }
}

fn print_failures(results: &[FileResult], verbose: bool) {
    for result in results.iter().filter(|result| verbose && matches!(result.verdict, Verdict::Fail(_))) {
        println!("--- {}\n{}", result.name, result.output);
    }
}

/// Prints what differs from the list, and how often that was.
fn print_surprises(results: &[FileResult], expected: &Expected) -> usize {
    let mut surprises = 0;
    for FileResult { name, verdict, .. } in results {
        match (verdict, expected.names.contains(name)) {
            (Verdict::Pass, false) => println!("UNLISTED {name} passes: add it with --update"),
            (Verdict::Fail(reason) | Verdict::Skipped(reason), true) => {
                println!("LISTED   {name} does not pass: {reason}")
            }
            _ => continue,
        }
        surprises += 1;
    }
    surprises
}

/// Prints what is listed and not in the suite, unless only a part of it was asked for.
fn print_missing(options: &Options, names: &[String], expected: &Expected) -> usize {
    let missing = expected.names.iter().filter(|name| options.matching.is_none() && !names.contains(name));
    missing.inspect(|name| println!("LISTED   {name} is not in the suite")).count()
}

fn summary(results: &[FileResult]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| results.iter().filter(|result| wanted(&result.verdict)).count();
    let passed = count(|verdict| matches!(verdict, Verdict::Pass));
    let failed = count(|verdict| matches!(verdict, Verdict::Fail(_)));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}
