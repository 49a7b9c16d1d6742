//! Counts the instructions of the hot paths under valgrind, and compares them with those in `recorded.tsv`.
//!
//! ```text
//! cargo run --release -p tidegate-benches                 fails where a row costs over 5 % more than recorded
//! cargo run --release -p tidegate-benches -- --update     records the counts
//! cargo run --release -p tidegate-benches -- --only NAME  rows whose names contain NAME
//! cargo run --release -p tidegate-benches -- --load FILE  loads the binary FILE with everyday work, for `benches/pgo`
//! ```
//!
//! The binary runs itself once for each row. Callgrind counts only what is done inside of `count::counted`, so neither the
//! setting up nor the peers of a connection are in the figures. An instruction is an instruction whatever else the machine
//! does; what can change the counts is said on top of the record.

mod connection;
mod count;
mod exchange;
mod load;
mod parts;
mod record;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use count::Meter;
use record::Record;

// As in the server: what is allocated is part of the figures.
use mimalloc as _;

/// A path through the code: its name, how often it is run, and what runs it.
type Row = (&'static str, u64, fn(&Meter));

const ROWS: &[Row] = &[
    ("request head parsed", 400, parts::request_head),
    ("reply head parsed", 400, parts::reply_head),
    ("request head written", 400, exchange::request_head),
    ("answer head written", 400, exchange::answer_head),
    ("template evaluated", 400, exchange::template),
    ("gates of a plan run", 400, exchange::gates),
    ("peer picked, round robin", 400, parts::round_robin),
    ("peer picked, least_conn", 400, parts::least_conn),
    ("exchange, return", 400, connection::answered),
    ("exchange, proxied", 400, connection::proxied),
    ("stream, there and back", 400, connection::streamed),
];

/// A row that costs so much more than recorded is a failure.
const MOST: f64 = 1.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--row", name] => run(name),
        [] => compare(""),
        ["--only", part] => compare(part),
        ["--update"] => update(),
        ["--load", binary] => match load::load(Path::new(binary)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{binary}: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: tidegate-benches [--update | --only NAME | --load BINARY]");
            ExitCode::from(2)
        }
    }
}

/// Runs one row in this process, which callgrind watches.
fn run(name: &str) -> ExitCode {
    let Some((_, times, row)) = ROWS.iter().find(|(row, ..)| *row == name) else { return ExitCode::from(2) };
    row(&Meter::new(*times));
    ExitCode::SUCCESS
}

fn compare(part: &str) -> ExitCode {
    if !has_valgrind() {
        println!("skipped: needs valgrind");
        return ExitCode::SUCCESS;
    }
    let record = Record::read(&record_file());
    if let Some(other) = record.made_elsewhere() {
        println!("{other}");
    }
    println!("{:<28}{:>10}{:>10}{:>8}   instructions", "path", "now", "recorded", "ratio");
    let mut failed = false;
    for (name, times, _) in ROWS.iter().filter(|(name, ..)| name.contains(part)) {
        let Some(now) = measure(name, *times) else {
            println!("{name:<28}{:>10}", "failed");
            failed = true;
            continue;
        };
        let Some(then) = record.of(name) else {
            println!("{name:<28}{now:>10}{:>10}", "none");
            failed = true;
            continue;
        };
        let ratio = now as f64 / then as f64;
        let is_more = ratio > MOST;
        println!("{name:<28}{now:>10}{then:>10}{ratio:>8.2}{}", if is_more { "   more than recorded" } else { "" });
        failed |= is_more;
    }
    if failed {
        println!("If this is meant, record it: cargo run --release -p tidegate-benches -- --update");
    }
    ExitCode::from(u8::from(failed))
}

fn update() -> ExitCode {
    if !has_valgrind() {
        eprintln!("nothing is recorded: needs valgrind");
        return ExitCode::from(2);
    }
    let counts: Option<Vec<_>> =
        ROWS.iter().map(|(name, times, _)| measure(name, *times).map(|count| (*name, count))).collect();
    let Some(counts) = counts else {
        eprintln!("nothing is recorded: a row failed");
        return ExitCode::FAILURE;
    };
    match Record::write(&record_file(), &counts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", record_file().display());
            ExitCode::FAILURE
        }
    }
}

fn record_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded.tsv")
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The instructions of one run of a row.
fn measure(name: &str, times: u64) -> Option<u64> {
    let folder = tempfile::tempdir().ok()?;
    let counts = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*count*counted*"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(std::env::current_exe().ok()?)
        .args(["--row", name])
        // Without the caller's, whose length moves the stack.
        .env_clear()
        .output()
        .ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let text = std::fs::read_to_string(counts).ok()?;
    let total: u64 = text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()?;
    Some((total + times / 2) / times)
}
