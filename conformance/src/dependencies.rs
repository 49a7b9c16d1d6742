//! The rings of the architecture: who may import whom, and what the crates without I/O may not name.
//!
//! Everything here is a function from manifests or source text to a list of complaints, so that a test can show that
//! each rule is able to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each crate may import; every crate of the workspace must be here.
pub const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tidegate-core-wire", &[]),
    ("tidegate-http-wire", &["tidegate-core-wire"]),
    ("tidegate-mail-wire", &["tidegate-core-wire"]),
    ("tidegate-core", &["tidegate-core-wire"]),
    ("tidegate-balancer", &["tidegate-core"]),
    ("tidegate-cache", &["tidegate-core"]),
    (
        "tidegate-http",
        &["tidegate-core", "tidegate-core-wire", "tidegate-balancer", "tidegate-cache", "tidegate-http-wire"],
    ),
    ("tidegate-stream", &["tidegate-core", "tidegate-core-wire", "tidegate-balancer"]),
    (
        "tidegate-mail",
        &["tidegate-core", "tidegate-core-wire", "tidegate-balancer", "tidegate-mail-wire", "tidegate-http-wire"],
    ),
    ("tidegate-conformance", &["tidegate-core-wire", "tidegate-http-wire", "tidegate-mail-wire"]),
    ("tidegate", ALL),
    ("tidegate-examples", ALL),
    ("tidegate-benches", ALL),
    ("tidegate-faulty", ALL),
];

const ALL: &[&str] = &[
    "tidegate-core-wire",
    "tidegate-http-wire",
    "tidegate-mail-wire",
    "tidegate-core",
    "tidegate-balancer",
    "tidegate-cache",
    "tidegate-http",
    "tidegate-stream",
    "tidegate-mail",
];

/// The crates that turn bytes into values and back, and nothing else.
pub const WIRE: &[&str] = &["tidegate-core-wire", "tidegate-http-wire", "tidegate-mail-wire"];

/// Crates that reach the outside world: no wire crate may depend on one, however indirectly.
pub const OUTSIDE_WORLD: &[&str] =
    &["tokio", "mio", "nix", "rustix", "socket2", "memmap2", "tokio-rustls", "async-io", "polling", "signal-hook"];

/// What no wire crate may name outside its tests.
///
/// Addresses are values, so `std::net::IpAddr` and the like may be named; whatever opens or looks up something may not.
pub const FORBIDDEN_NAMES: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "ToSocketAddrs",
    "to_socket_addrs",
    "lookup_host",
    "std::net::*",
    "std::fs",
    "std::os::fd",
    "std::os::unix",
    "std::process",
    "std::env",
    "std::thread",
    "SystemTime",
    "Instant::now",
];

/// Files that may contain the `unsafe` keyword, and what for.
pub const MAY_BE_UNSAFE: &[(&str, &str)] = &[
    ("core/src/process/identity.rs", "fork: the child is another process with the same memory"),
    ("core/src/zone/memory.rs", "memory that other processes change"),
    ("core/src/net/adopt.rs", "descriptors inherited by number"),
];

/// Words of the protocols, which the core must not speak.
pub const PROTOCOL_WORDS: &[&str] = &["request", "requests", "header", "headers", "mailbox", "mailboxes"];

/// Where such a word means something else: a line that contains the phrase is let pass.
pub const OTHER_MEANINGS: &[&str] =
    &["zone header", "Zone header", "ZoneHeader", "PROXY protocol header", "on request"];

/// The crates of a workspace, and on which they depend.
#[derive(Debug, Default)]
pub struct Graph {
    /// Crates of the workspace.
    pub members: BTreeSet<String>,
    /// What a crate names in its manifest, for its tests included.
    pub direct: BTreeMap<String, BTreeSet<String>>,
    /// What a crate is built with, leaving out what only tests need.
    pub built_with: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Asks cargo about the workspace in a folder, without using the network.
    pub fn of_workspace(folder: &Path) -> Graph {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &host()])
            .current_dir(folder);
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        Graph::from_metadata(&serde_json::from_slice(&output.stdout).expect("cargo writes JSON"))
    }

    fn from_metadata(metadata: &Value) -> Graph {
        let mut graph = Graph::default();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
        }
        let name = |id: &Value| names.get(&text(id)).cloned().unwrap_or_default();
        graph.members = list(&metadata["workspace_members"]).iter().map(name).collect();
        for node in list(&metadata["resolve"]["nodes"]) {
            for dependency in list(&node["deps"]) {
                let (from, to) = (name(&node["id"]), name(&dependency["pkg"]));
                let for_tests_only = list(&dependency["dep_kinds"]).iter().all(|kind| kind["kind"] == "dev");
                if !for_tests_only {
                    graph.built_with.entry(from.clone()).or_default().insert(to.clone());
                }
                graph.direct.entry(from).or_default().insert(to);
            }
        }
        graph
    }

    /// Every direction that is broken.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for member in &self.members {
            match MAY_IMPORT.iter().find(|(name, _)| name == member) {
                Some((_, allowed)) => complaints.extend(self.wrong_imports(member, allowed)),
                None => complaints.push(format!("{member} is not in the table of who may import whom")),
            }
        }
        for member in WIRE.iter().filter(|&&wire| self.members.contains(wire)) {
            complaints.extend(self.ways_out(member));
        }
        complaints
    }

    fn wrong_imports(&self, member: &str, allowed: &[&str]) -> Vec<String> {
        let imports = self.direct.get(member).into_iter().flatten().filter(|name| self.members.contains(*name));
        let wrong = imports.filter(|name| !allowed.contains(&name.as_str()));
        wrong.map(|name| format!("{member} may not import {name}")).collect()
    }

    /// How a crate reaches the outside world.
    fn ways_out(&self, member: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut paths = vec![vec![member.to_owned()]];
        let mut found = Vec::new();
        while let Some(path) = paths.pop() {
            for next in path.last().and_then(|last| self.built_with.get(last)).into_iter().flatten() {
                let path: Vec<String> = path.iter().chain([next]).cloned().collect();
                if OUTSIDE_WORLD.contains(&next.as_str()) {
                    found.push(format!("{member} must do no I/O, but: {}", path.join(" -> ")));
                } else if seen.insert(next.clone()) {
                    paths.push(path);
                }
            }
        }
        found
    }
}

/// The files that only tests are built of: those of modules that are declared behind `#[cfg(test)]`.
pub fn files_of_tests(files: &[(String, String)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, source) in files {
        let folder = match path.rsplit_once('/') {
            Some((folder, "lib.rs" | "mod.rs" | "main.rs")) => folder,
            _ => path.strip_suffix(".rs").unwrap_or(path),
        };
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            if let ["#[cfg(test)]", declared] = pair
                && let Some(name) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                found.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]);
            }
        }
    }
    found
}

/// The Rust files below a folder of the workspace, in order, with their paths relative to the workspace.
pub fn rust_files(workspace: &Path, below: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&workspace.join(below), &mut files);
    files.sort();
    let relative = |path: PathBuf| {
        let name = path.strip_prefix(workspace).unwrap_or(&path).display().to_string();
        (name, fs::read_to_string(&path).unwrap_or_default())
    };
    files.into_iter().map(relative).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

/// Where a file of a wire crate names sockets, files or a clock. Its tests may.
pub fn forbidden_names(path: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in code_lines(source).iter().enumerate() {
        for &name in FORBIDDEN_NAMES.iter().filter(|name| names(line, name)) {
            complaints.push(format!("{path}:{}: a wire crate may not name {name}", number + 1));
        }
    }
    complaints
}

/// Whether a line of code names something, alone or in a group: `std::net` or `use std::{io, net}`.
fn names(line: &str, name: &str) -> bool {
    let (root, module) = name.split_once("::").unwrap_or(("", name));
    let grouped =
        line.split_once(&format!("{root}::{{")).is_some_and(|(_, group)| words(group).any(|word| word == module));
    contains_path(line, name) || (root == "std" && grouped)
}

/// As `contains`, but `std::net` is not in `std::network`.
fn contains_path(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let part_of_a_name =
            |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        !part_of_a_name(before) && !part_of_a_name(after)
    })
}

/// Where a file that is not on the list says `unsafe`.
pub fn unsafe_code(path: &str, source: &str) -> Vec<String> {
    if MAY_BE_UNSAFE.iter().any(|(allowed, _)| *allowed == path) {
        return Vec::new();
    }
    let lines = source.lines().map(strip_line).enumerate();
    let found = lines.filter(|(_, line)| contains_path(line, "unsafe"));
    found.map(|(number, _)| format!("{path}:{}: unsafe code outside the list", number + 1)).collect()
}

/// Where a file of the core speaks of what only protocols know, in code or in comments.
pub fn protocol_words(path: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in source.lines().enumerate() {
        if OTHER_MEANINGS.iter().any(|phrase| line.contains(phrase)) {
            continue;
        }
        for word in words(line).flat_map(humps).filter(|word| PROTOCOL_WORDS.contains(&word.as_str())) {
            complaints.push(format!("{path}:{}: the core must not speak of a {word}", number + 1));
        }
    }
    complaints
}

/// The lines of a file without comments and string literals, up to its tests.
fn code_lines(source: &str) -> Vec<String> {
    source.lines().take_while(|line| line.trim() != "#[cfg(test)]").map(strip_line).collect()
}

/// A line without its comment and without the inside of its string literals.
fn strip_line(line: &str) -> String {
    let mut code = String::new();
    let mut letters = line.chars().peekable();
    let mut in_string = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if in_string => drop(letters.next()),
            '"' => in_string = !in_string,
            '\'' if letters.peek() == Some(&'"') => drop(letters.next()),
            '/' if !in_string && letters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(letter),
        }
    }
    code
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// `RequestLine` is `request` and `line`; `REQUEST` is one word.
fn humps(word: &str) -> Vec<String> {
    let mut humps = vec![String::new()];
    let mut after_small = false;
    for letter in word.chars() {
        if letter.is_uppercase() && after_small {
            humps.push(String::new());
        }
        after_small = letter.is_lowercase();
        humps.last_mut().expect("one at least").extend(letter.to_lowercase());
    }
    humps
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

/// The platform we run on: dependencies of others may not have been fetched.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}
