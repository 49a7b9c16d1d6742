//! Which binary is under test.
//!
//! Cargo does not build the binary of one package for the tests of another, and a stale one would be tested without a
//! word. So under cargo it is built anew, which is a matter of a moment when nothing has changed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test: `TIDEGATE_BINARY`, else the workspace's own in the profile of this test, built first.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match env::var_os("TIDEGATE_BINARY") {
        Some(path) => PathBuf::from(path).canonicalize().expect("TIDEGATE_BINARY names a file"),
        None => workspace_binary("tidegate"),
    })
}

/// The binary with the directives that do harm; `None` when a binary from elsewhere is under test.
pub fn faulty() -> Option<&'static Path> {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    env::var_os("TIDEGATE_BINARY").is_none().then(|| PATH.get_or_init(|| workspace_binary("tidegate-faulty")).as_path())
}

/// Whether the binary under test is a real nginx: tests of deliberate differences do not apply to it.
pub fn is_nginx() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| !version_text().to_lowercase().contains("tidegate"))
}

/// What the binary prints for `-V`.
pub fn version_text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let output = Command::new(path()).arg("-V").output().expect("the binary runs");
        format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
    })
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a workspace")
}

/// `target/<profile>/<name>`, beside the `deps` folder in which test executables lie.
fn workspace_binary(name: &str) -> PathBuf {
    let this = env::current_exe().expect("the path of this executable");
    let folder = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("a target folder");
    let binary = folder.join(name);
    if let Some(cargo) = env::var_os("CARGO") {
        build(Path::new(&cargo), folder, name);
    }
    assert!(binary.exists(), "{} is missing: run `cargo build` first", binary.display());
    binary
}

fn build(cargo: &Path, folder: &Path, name: &str) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    // The whole workspace is named so that the same features are chosen as for `cargo test --workspace`.
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--workspace", "--bin", name, "--profile", profile]).current_dir(workspace());
    if let Some(target) = folder.parent() {
        build.arg("--target-dir").arg(target);
    }
    let status = build.status().expect("cargo runs");
    assert!(status.success(), "cargo could not build the binary under test");
}
