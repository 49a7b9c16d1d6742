//! The record: what the rows came to when they were last recorded.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

const HEADER: &str = "\
# Instructions of one run of each path, counted by callgrind in the release profile. Made and checked by
#     cargo run --release -p tidegate-benches
# They depend neither on the load nor on the speed of the machine, and hash seeds and addresses move them by less than one
# in ten thousand. They do depend on the compiler, on the C library, and on what valgrind's processor has: memchr and memcpy
# choose by that, and without AVX2, which this is with, an exchange costs 2 % more. Valgrind shows no vDSO: a clock is read
# by a system call there, whose instructions do not count.
";

/// The counts of the last record.
pub struct Record {
    made_by: String,
    rows: Vec<(String, u64)>,
}

impl Record {
    /// Reads a file; nothing is recorded where there is none.
    pub fn read(file: &Path) -> Record {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let made_by = text.lines().find_map(|line| line.strip_prefix("# made by ")).unwrap_or_default().to_owned();
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let rows = rows.filter_map(|line| line.split_once('\t')?.1.parse().ok().map(|count| (name_of(line), count)));
        Record { made_by, rows: rows.collect() }
    }

    /// The count of a row.
    pub fn of(&self, name: &str) -> Option<u64> {
        self.rows.iter().find(|(row, _)| row == name).map(|(_, count)| *count)
    }

    /// A word on it where the record was made by another compiler, or on another system.
    pub fn made_elsewhere(&self) -> Option<String> {
        let here = here();
        (self.made_by != here)
            .then(|| format!("recorded by {}, this is {here}: differences may come from there", self.made_by))
    }

    /// Writes the record anew.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn write(file: &Path, rows: &[(&str, u64)]) -> io::Result<()> {
        let mut text = format!("{HEADER}# made by {}\n", here());
        for (name, count) in rows {
            let _ = writeln!(text, "{name}\t{count}");
        }
        std::fs::write(file, text)
    }
}

fn name_of(line: &str) -> String {
    line.split('\t').next().unwrap_or_default().to_owned()
}

/// The compiler and the C library.
fn here() -> String {
    let first_line = |command: &mut Command| {
        let output = command.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
    };
    let compiler = first_line(Command::new("rustc").arg("--version"));
    let library = first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    format!("{compiler}, {library}")
}
