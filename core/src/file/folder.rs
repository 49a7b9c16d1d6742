//! Folders of temporary files: made before anybody serves, and cleared of what a process that was killed has left in them.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, openat};

use super::pool;
use crate::conf::apply::Setup;
use crate::conf::{ConfigError, Line, Place, Refusal, Word, value};
use crate::log::os_error;

/// nginx: the mode of the folders, and of those below them.
const MODE: u32 = 0o700;
/// Digits of a file's number.
const DIGITS: usize = 10;
/// What names end in of files that are not to be kept. One that nobody has locked has been left behind.
const UNKEPT: &str = ".unkept";
/// Levels below a folder.
const LEVELS: usize = 3;
/// What the levels and their slashes may take of a name, and one more for each level.
const LONGEST_LEVELS: u64 = 10;

/// A folder as it is written: `DIR [level1 [level2 [level3]]]`.
#[derive(Clone, Debug)]
pub struct WrittenFolder {
    path: Word,
    levels: [usize; LEVELS],
}

impl WrittenFolder {
    /// Reads the arguments of a directive.
    ///
    /// # Errors
    /// Levels that nginx would not take.
    pub fn parse(line: &Line<'_>) -> Result<WrittenFolder, Refusal> {
        let (mut levels, mut total, mut count) = ([0; LEVELS], 0, 0);
        for (word, level) in line.args().iter().skip(1).zip(&mut levels) {
            let number = value::number(word).filter(|number| (1..=LONGEST_LEVELS + 3).contains(number));
            let number = number.ok_or("invalid value")?;
            *level = usize::try_from(number).unwrap_or(0);
            total += number + 1;
            count += 1;
        }
        if total > LONGEST_LEVELS + count {
            return Err("invalid value".into());
        }
        Ok(WrittenFolder { path: line.arg(0)?.clone(), levels })
    }
}

/// A folder of temporary files.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    levels: [usize; LEVELS],
    /// Where the one above it is not there either, it is made too: nobody has named it.
    deep: bool,
    next: AtomicU32,
    /// Files with names that are not kept are made in it.
    has_names: AtomicBool,
}

impl Folder {
    /// A folder that is nobody's but the caller's.
    pub fn new(path: &Path, levels: [usize; 3]) -> Folder {
        Folder {
            path: path.to_owned(),
            levels,
            deep: false,
            next: AtomicU32::new(0),
            has_names: AtomicBool::new(false),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that files with names that are not kept will be made in it: they are looked for when a worker starts.
    pub fn expect_names(&self) {
        self.has_names.store(true, Ordering::Relaxed);
    }

    /// Makes it, if it is not there yet, and sees to it that `owner` can use it. nginx: no more than one level.
    fn prepare(&self, owner: Option<u32>) -> Result<(), String> {
        let failed =
            |call: &str, error: &io::Error| format!("{call} \"{}\" failed ({})", self.path.display(), os_error(error));
        if let Some(above) = self.path.parent().filter(|_| self.deep) {
            fs::create_dir_all(above).map_err(|error| failed("mkdir()", &error))?;
        }
        match fs::DirBuilder::new().mode(MODE).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("mkdir()", &error)),
            _ => {}
        }
        let Some(owner) = owner else { return Ok(()) };
        let about = fs::metadata(&self.path).map_err(|error| failed("stat()", &error))?;
        if about.uid() != owner {
            chown(&self.path, Some(owner), None).map_err(|error| failed("chown()", &error))?;
        }
        let mode = about.mode();
        if mode & MODE != MODE {
            let allowed = fs::Permissions::from_mode(mode | MODE);
            fs::set_permissions(&self.path, allowed).map_err(|error| failed("chmod()", &error))?;
        }
        Ok(())
    }

    /// The name of the file with the next number, or one of chance where that is taken.
    pub(super) fn next_name(&self, taken: bool, kept: bool) -> PathBuf {
        if taken && let Ok(number) = crate::chance::number() {
            let [a, b, c, d, ..] = number.to_ne_bytes();
            self.next.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Relaxed);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.name(number, kept)
    }

    /// nginx: the levels are made of the last digits, the last ones first.
    fn name(&self, number: u32, kept: bool) -> PathBuf {
        let digits = format!("{number:0DIGITS$}");
        let (mut path, mut end) = (self.path.clone(), digits.len());
        for level in self.levels.iter().filter(|level| **level > 0) {
            let start = end.saturating_sub(*level);
            path.push(digits.get(start..end).unwrap_or_default());
            end = start;
        }
        path.push(if kept { digits } else { format!("{digits}{UNKEPT}") });
        path
    }

    /// Makes the folders between this one and a file in it.
    pub(super) fn make_levels(&self, file: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> =
            file.ancestors().skip(1).take_while(|above| *above != self.path.as_path()).take(LEVELS).collect();
        missing.reverse();
        for folder in missing {
            match fs::DirBuilder::new().mode(MODE).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what was not to be kept and whose process is no more.
    pub(super) fn sweep(&self) {
        let depth = self.levels.iter().filter(|level| **level > 0).count();
        sweep_below(&self.path, depth);
    }
}

fn sweep_below(folder: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if depth > 0 {
            if kind.is_dir() && entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
                sweep_below(&entry.path(), depth - 1);
            }
        } else if kind.is_file() && is_unkept(entry.file_name().as_bytes()) {
            remove_if_left(&entry.path());
        }
    }
}

fn is_unkept(name: &[u8]) -> bool {
    name.strip_suffix(UNKEPT.as_bytes())
        .is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit))
}

fn remove_if_left(path: &Path) {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(CWD, path, flags, Mode::empty()) else { return };
    let is_file = rustix::fs::fstat(&file)
        .is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::RegularFile && about.st_nlink == 1);
    if is_file && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_file(path);
    }
}

/// The folders of a generation. Several directives may name the same one.
#[derive(Debug, Default)]
pub struct Folders(RefCell<Vec<(Arc<Folder>, Option<Place>)>>);

impl Folders {
    /// The folder that is written, or the one of this name where none is.
    ///
    /// # Errors
    /// It has other levels elsewhere.
    pub fn find(
        &self,
        written: Option<&WrittenFolder>,
        default: &str,
        setup: &Setup,
    ) -> Result<Arc<Folder>, ConfigError> {
        let at = written.map(|written| written.path.at().clone());
        let folder = match written {
            Some(WrittenFolder { path, levels }) => {
                // A slash at its end is not part of its name.
                let path: PathBuf = setup.path(path).components().collect();
                Folder::new(&path, *levels)
            }
            None => {
                let (path, deep) = default_path(&setup.prefix, default);
                Folder { deep, ..Folder::new(&path, [1, 2, 0]) }
            }
        };
        let mut known = self.0.borrow_mut();
        if let Some((same, other)) = known.iter().find(|(known, _)| known.path == folder.path) {
            if same.levels == folder.levels {
                return Ok(same.clone());
            }
            let message =
                format!("the same path name \"{}\" has the different levels elsewhere", folder.path.display());
            return Err(match at.as_ref().or(other.as_ref()) {
                Some(at) => ConfigError::new(at, message),
                None => ConfigError::general(message),
            });
        }
        let folder = Arc::new(folder);
        known.push((folder.clone(), at));
        Ok(folder)
    }

    /// Makes them all; what failed.
    pub fn prepare(&self, owner: Option<u32>) -> Vec<ConfigError> {
        let failed = |(folder, _): &(Arc<Folder>, _)| folder.prepare(owner).err().map(ConfigError::general);
        self.0.borrow().iter().filter_map(failed).collect()
    }

    fn with_names(&self) -> Vec<Arc<Folder>> {
        let has_names = |folder: &&Arc<Folder>| folder.has_names.load(Ordering::Relaxed);
        self.0.borrow().iter().map(|(folder, _)| folder).filter(has_names).cloned().collect()
    }

    /// Has a thread remove what processes that were killed have left in them. Where nothing can have been left none is
    /// started for it.
    pub async fn sweep(&self) {
        let folders = self.with_names();
        if folders.is_empty() {
            return;
        }
        let sweeping = pool::run(move || {
            folders.iter().for_each(|folder| folder.sweep());
            Ok(())
        });
        if let Ok(sweeping) = sweeping {
            let _ = sweeping.await;
        }
    }
}

/// Where a folder is that nobody has named: below the prefix, as nginx's; but not below that of nginx's packages, which have
/// their configuration there and such folders elsewhere.
fn default_path(prefix: &Path, name: &str) -> (PathBuf, bool) {
    if prefix == Path::new("/etc/nginx") {
        return (Path::new("/var/cache/nginx").join(name), true);
    }
    (prefix.join(name), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spread_over_the_levels() {
        for (levels, number, kept, expected) in [
            ([0, 0, 0], 7, true, "/t/0000000007"),
            ([1, 0, 0], 21, true, "/t/1/0000000021"),
            ([1, 2, 0], 12345, true, "/t/5/34/0000012345"),
            ([2, 2, 2], u32::MAX, true, "/t/95/72/96/4294967295"),
            ([3, 1, 0], 4007, false, "/t/007/4/0000004007.unkept"),
        ] {
            assert_eq!(Folder::new(Path::new("/t"), levels).name(number, kept), Path::new(expected));
        }
    }

    #[test]
    fn only_what_is_not_kept_is_taken_for_left_behind() {
        for (name, expected) in [
            ("0000000001.unkept", true),
            ("4294967295.unkept", true),
            ("0000000001", false),
            ("000000001.unkept", false),
            ("000000000a.unkept", false),
            ("00000000001.unkept", false),
            (".unkept", false),
            ("important", false),
        ] {
            assert_eq!(is_unkept(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn folders_of_one_path_are_one() {
        let known = crate::conf::known::Known::default();
        let setup = Setup { prefix: "/p".into(), conf_dir: "/p".into(), known };
        let at = Place { file: "f".into(), line: 1, column: 1 };
        let written = |path: &str, levels| WrittenFolder { path: Word::new(path.as_bytes(), at.clone()), levels };
        let folders = Folders::default();
        let first = folders.find(Some(&written("t", [1, 0, 0])), "x", &setup).unwrap();
        let same = folders.find(Some(&written("/p/t/", [1, 0, 0])), "x", &setup).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(folders.find(Some(&written("t", [2, 0, 0])), "x", &setup).is_err());
        assert_eq!(folders.find(None, "temp", &setup).unwrap().path(), Path::new("/p/temp"));
        let packaged = Setup { prefix: "/etc/nginx".into(), ..setup };
        assert_eq!(folders.find(None, "temp", &packaged).unwrap().path(), Path::new("/var/cache/nginx/temp"));
    }
}
