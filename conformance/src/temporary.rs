//! The temporary files that a server has, with names and without.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Server;

/// The folders of the server's own in which tests let it keep bodies of requests, and replies.
pub const FOLDERS: [&str; 2] = ["body", "reply"];

/// What says so in a configuration.
pub const PATHS: &str = "client_body_temp_path body 1 2; proxy_temp_path reply 1 2;";

/// The files in a folder and those beneath it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// How many there are: files with a name, and those that workers hold open.
pub fn temporary(server: &Server) -> usize {
    let open = |pid: i32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let folders = FOLDERS.map(|name| server.folder().join(name));
        targets.filter(|target| folders.iter().any(|folder| target.starts_with(folder))).count()
    };
    let named = FOLDERS.map(|name| files(&server.folder().join(name)).len());
    named.iter().sum::<usize>() + server.workers().into_iter().map(open).sum::<usize>()
}
