//! The pid file: written, moved and removed, and never writable for others.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::log::Logger;

/// Everybody may read it. Whoever could write it could have any process of root's signalled.
const MODE: u32 = 0o644;

/// Writes this process's pid. A file that is there already keeps its name and its owner, but not the right of others to
/// write to it.
///
/// # Errors
/// Those of open(2) and write(2).
pub fn write(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let known = file.metadata()?;
    let mode = known.permissions().mode() & 0o7777;
    if known.is_file() && mode & !MODE != 0 {
        // It may be another user's; then it is as it was made.
        let _ = file.set_permissions(Permissions::from_mode(mode & MODE));
    }
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// Finds out whether the file could be written. Nothing is made, which would be in the way of a server that starts
/// just now.
///
/// # Errors
/// Those of open(2), and of access(2) for the directory of a file that is not there.
pub fn try_out(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_be_made(path),
        opened => opened.map(drop),
    }
}

/// Finds out whether a file could be made there.
///
/// # Errors
/// Those of access(2) for its directory.
pub fn can_be_made(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !std::fs::metadata(directory)?.is_dir() {
        return Err(nix::errno::Errno::ENOTDIR.into());
    }
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Writes the pid where the configuration says so now; where that is not possible it stays where it was.
pub fn move_to(old: &Path, new: &mut PathBuf, log: &Logger<'_>) {
    if old == new {
        return;
    }
    match write(new) {
        Ok(()) => remove(old),
        Err(error) => {
            let (new_path, old_path, error) = (new.display(), old.display(), crate::log::os_error(&error));
            crate::log!(log, Alert, "open() \"{new_path}\" failed ({error}), the pid stays in \"{old_path}\"");
            *new = old.to_owned();
        }
    }
}

/// Removes the pid file unless another master has written its own number there meanwhile.
pub fn remove(path: &Path) {
    let own = std::process::id().to_string();
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == own) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_never_write_to_it() {
        let path = std::env::temp_dir().join(format!("tidegate-pid-{}", std::process::id()));
        for (before, after) in [(0o666, 0o644), (0o600, 0o600), (0o777, 0o644), (0o640, 0o640), (0o4755, 0o644)] {
            std::fs::write(&path, "1").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            write(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, after, "{before:o}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        }
        remove(&path);
        assert!(!path.exists());
        // What is no file is written to, and stays what it is.
        write(Path::new("/dev/null")).unwrap();
    }
}
