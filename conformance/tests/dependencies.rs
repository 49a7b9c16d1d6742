//! The directions of the architecture hold; and every rule here is shown to be able to fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tidegate_conformance::binary::workspace;
use tidegate_conformance::dependencies::{
    Graph, MAY_BE_UNSAFE, MAY_IMPORT, files_of_tests, forbidden_names, protocol_words, rust_files, unsafe_code,
};

const NONE: &[String] = &[];

#[test]
fn crates_import_only_what_lies_below_them() {
    assert_eq!(Graph::of_workspace(workspace()).complaints(), NONE);
}

#[test]
fn the_table_names_every_crate_of_the_workspace() {
    let members = Graph::of_workspace(workspace()).members;
    let table = MAY_IMPORT.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(members, table);
}

#[test]
fn wire_crates_name_no_socket_no_file_and_no_clock() {
    let sources = ["core/wire/src", "http/wire/src", "mail/wire/src"].map(|folder| rust_files(workspace(), folder));
    assert!(sources.iter().all(|files| !files.is_empty()), "a wire crate has moved");
    let of_tests: BTreeSet<String> = sources.iter().flat_map(|files| files_of_tests(files)).collect();
    let built = sources.iter().flatten().filter(|(path, _)| !of_tests.contains(path));
    let complaints = built.flat_map(|(path, source)| forbidden_names(path, source));
    assert_eq!(complaints.collect::<Vec<_>>(), NONE);
}

#[test]
fn only_what_is_declared_for_tests_counts_as_such() {
    let file = |path: &str, source: &str| (path.to_owned(), source.to_owned());
    let files = [
        file("a/src/lib.rs", "#[cfg(test)]\nmod tests;\nmod tests_of_others;"),
        file("a/src/b.rs", "mod c;\n    #[cfg(test)]\n    mod d;\n#[cfg(unix)]\nmod e;"),
        file("a/src/f/mod.rs", "#[cfg(test)]\nmod g;\n#[cfg(test)]\nmod h {\n}"),
    ];
    let expected = ["a/src/tests", "a/src/b/d", "a/src/f/g"]
        .iter()
        .flat_map(|module| [format!("{module}.rs"), format!("{module}/mod.rs")]);
    assert_eq!(files_of_tests(&files), expected.collect());
}

#[test]
fn unsafe_code_is_in_the_listed_files_only() {
    let files = rust_files(workspace(), "");
    assert!(files.iter().any(|(path, _)| path == "conformance/tests/dependencies.rs"), "no files are looked at");
    let complaints = files.iter().flat_map(|(path, source)| unsafe_code(path, source));
    assert_eq!(complaints.collect::<Vec<_>>(), NONE);
}

#[test]
fn the_core_does_not_speak_of_protocols() {
    let files = rust_files(workspace(), "core/src");
    assert!(!files.is_empty(), "the core has moved");
    let complaints = files.iter().flat_map(|(path, source)| protocol_words(path, source));
    assert_eq!(complaints.collect::<Vec<_>>(), NONE);
}

#[test]
fn a_broken_direction_is_found() {
    let complaints = made_up_workspace(&[
        ("tidegate-http", &["tidegate-stream"]),
        ("tidegate-stream", &[]),
        ("tidegate-core-wire", &["innocent"]),
        ("innocent", &["tokio"]),
        ("tokio", &[]),
    ]);
    assert!(complaints.contains(&"tidegate-http may not import tidegate-stream".to_owned()), "{complaints:?}");
    let way_out = "tidegate-core-wire must do no I/O, but: tidegate-core-wire -> innocent -> tokio".to_owned();
    assert!(complaints.contains(&way_out), "{complaints:?}");
}

#[test]
fn a_crate_outside_the_table_is_found() {
    let complaints = made_up_workspace(&[("tidegate-util", &[])]);
    assert_eq!(complaints, ["tidegate-util is not in the table of who may import whom"]);
}

#[test]
fn allowed_directions_pass() {
    let complaints = made_up_workspace(&[("tidegate-core", &["tidegate-core-wire"]), ("tidegate-core-wire", &[])]);
    assert_eq!(complaints, NONE);
}

#[test]
fn forbidden_names_are_found_however_they_are_imported() {
    let found = |source: &str| !forbidden_names("made/up.rs", source).is_empty();
    assert!(found("use std::net::TcpStream;"));
    assert!(found("use std::net::{IpAddr, TcpStream};"));
    assert!(found("let stream = net::TcpStream::connect(address);"));
    assert!(found("use std::net::*;"));
    assert!(found("let all = name.to_socket_addrs();"));
    assert!(!found("use std::net::{IpAddr, SocketAddr};"));
    assert!(found("use std::{io, fs};"));
    assert!(found("use std::time::{Duration, SystemTime};"));
    assert!(found("let now = std::time::Instant::now();"));
    assert!(!found("use std::time::{Duration, Instant};"));
    assert!(!found("// std::fs is not for us"));
    assert!(!found("#[cfg(test)]\nmod tests { fn f() { std::time::Instant::now(); } }"));
}

#[test]
fn unsafe_code_is_found_and_its_mention_is_not() {
    assert_eq!(
        unsafe_code("made/up.rs", "fn f() {\n    unsafe { g() }\n}"),
        ["made/up.rs:2: unsafe code outside the list"]
    );
    assert_eq!(unsafe_code("made/up.rs", "#![deny(unsafe_code)]\n// unsafe\nlet a = \"unsafe\";"), NONE);
    assert_eq!(unsafe_code(MAY_BE_UNSAFE[0].0, "unsafe { g() }"), NONE);
}

#[test]
fn protocol_words_are_found_in_names_and_comments() {
    let found = |source: &str| !protocol_words("core/src/made_up.rs", source).is_empty();
    assert!(found("struct RequestLine;"));
    assert!(found("let header_size = 4;"));
    assert!(found("// the user's mailbox"));
    assert!(!found("// the zone header holds a magic number"));
    assert!(!found("let requested = 1;"));
}

/// What is wrong with a workspace of these crates, each with the crates it depends on.
fn made_up_workspace(crates: &[(&str, &[&str])]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let members: Vec<&str> = crates.iter().map(|(name, _)| *name).collect();
    fs::write(folder.path().join("Cargo.toml"), format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n"))
        .unwrap();
    for (name, dependencies) in crates {
        write_crate(&folder.path().join(name), name, dependencies);
    }
    Graph::of_workspace(folder.path()).complaints()
}

fn write_crate(folder: &Path, name: &str, dependencies: &[&str]) {
    let lines: String = dependencies.iter().map(|name| format!("{name} = {{ path = \"../{name}\" }}\n")).collect();
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/lib.rs"), "").unwrap();
    let manifest =
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{lines}");
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
}
