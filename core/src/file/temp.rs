//! Temporary files: what does not fit into memory for as long as it is needed. Threads make and write them.
//!
//! One that nobody has to find by its name has none, so that nothing is left of it whatever becomes of the process. One
//! that has a name and is not to be kept is locked as long as it is in use: what is not locked was left behind, and is
//! removed when a worker starts ([`super::folder`]). docs/decisions/0011-temporary-files.md has the reasons.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, linkat, openat, unlinkat};
use rustix::io::Errno;

use super::folder::Folder;
use super::mounts::Table;
use super::pool::{self, Pending};
use super::{About, OpenFile, mounts};
use crate::log::os_error;

/// Names that are tried until one is free.
const TRIES: usize = 100;

/// What name a file has, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// None.
    Nameless,
    /// One that is gone when the file is no longer used.
    Named,
    /// One that stays.
    Kept,
}

/// A system call that failed, and on what.
#[derive(Debug)]
pub struct TempError {
    call: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for TempError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\" failed ({})", self.call, self.path.display(), os_error(&self.error))
    }
}

/// A temporary file.
#[derive(Debug)]
pub struct TempFile {
    open: Arc<OpenFile>,
    path: PathBuf,
    naming: Naming,
}

impl TempFile {
    /// Where it is. A file without a name is called as the kernel calls it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for reading.
    pub fn open(&self) -> &Arc<OpenFile> {
        &self.open
    }

    fn make(folder: &Folder, naming: Naming, table: &Table) -> Result<TempFile, TempError> {
        let (file, path) = match naming {
            Naming::Nameless => nameless(folder)?,
            Naming::Named | Naming::Kept => named(folder, naming)?,
        };
        let about = About::of(file.as_fd(), AtFlags::empty()).map_err(|error| TempError {
            call: "statx()",
            path: folder.path().to_owned(),
            error,
        })?;
        let path = path.unwrap_or_else(|| folder.path().join(format!("#{}", about.identity.inode)));
        let kind = table.kind(about.identity.mount);
        let open = OpenFile { file: Some(file.into()), kind, identity: about.identity, is_temporary: true };
        Ok(TempFile { open: Arc::new(open), path, naming })
    }

    fn write(&self, pieces: &[Bytes], mut at: u64) -> Result<(), TempError> {
        let failed = |error| TempError { call: "pwrite()", path: self.path.clone(), error };
        let file = self.open.file().map_err(failed)?;
        for piece in pieces {
            file.write_all_at(piece, at).map_err(failed)?;
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.naming == Naming::Named {
            pool::discard(Name(std::mem::take(&mut self.path)));
        }
    }
}

/// A name that is removed when it is dropped.
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)
}

/// A file without a name, or one that has had a name for no longer than it took to remove it.
fn nameless(folder: &Folder) -> Result<(OwnedFd, Option<PathBuf>), TempError> {
    if let Ok(file) = open(folder.path(), OFlags::TMPFILE) {
        return Ok((file, None));
    }
    let (file, path) = created(folder, false)?;
    let removed = unlinkat(CWD, &path, AtFlags::empty());
    removed.map_err(|error| TempError { call: "unlink()", path: path.clone(), error: error.into() })?;
    Ok((file, Some(path)))
}

/// A file that is locked before others can see it, where that can be had.
fn named(folder: &Folder, naming: Naming) -> Result<(OwnedFd, Option<PathBuf>), TempError> {
    let kept = naming == Naming::Kept;
    let lock = |file: &OwnedFd| flock(file, FlockOperation::NonBlockingLockExclusive);
    if let Ok(file) = open(folder.path(), OFlags::TMPFILE)
        && (kept || lock(&file).is_ok())
    {
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = with_free_name(folder, kept, |path| linkat(CWD, own.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW));
        match linked {
            Ok(((), path)) => return Ok((file, Some(path))),
            // Without /proc, or where a file without a name can have none: what is wrong with the folder comes up again.
            Err(error) if is_short_of_room(&error.error) => return Err(error),
            Err(_) => {}
        }
    }
    for _ in 0..TRIES {
        let (file, path) = created(folder, kept)?;
        // One that was just being looked at by who removes what is left behind may be gone.
        let is_there = || fstat(&file).is_ok_and(|about| about.st_nlink > 0);
        if kept || (lock(&file).is_ok() && is_there()) {
            return Ok((file, Some(path)));
        }
    }
    let error = io::ErrorKind::AlreadyExists.into();
    Err(TempError { call: "flock()", path: folder.path().to_owned(), error })
}

fn is_short_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn created(folder: &Folder, kept: bool) -> Result<(OwnedFd, PathBuf), TempError> {
    with_free_name(folder, kept, |path| open(path, OFlags::CREATE | OFlags::EXCL))
}

/// Tries names until `make` finds one that is free, and makes the folders that it is in.
fn with_free_name<T>(
    folder: &Folder,
    kept: bool,
    make: impl Fn(&Path) -> rustix::io::Result<T>,
) -> Result<(T, PathBuf), TempError> {
    let mut taken = false;
    let mut path = PathBuf::new();
    for _ in 0..TRIES {
        path = folder.next_name(taken, kept);
        let mut made = make(&path);
        if matches!(made, Err(Errno::NOENT)) {
            folder.make_levels(&path).map_err(|error| TempError { call: "mkdir()", path: path.clone(), error })?;
            made = make(&path);
        }
        match made {
            Ok(made) => return Ok((made, path)),
            Err(Errno::EXIST) => taken = true,
            Err(error) => return Err(TempError { call: "open()", path, error: error.into() }),
        }
    }
    Err(TempError { call: "open()", path, error: Errno::EXIST.into() })
}

/// A temporary file that is written from its beginning to its end, and made when there is something to write.
#[derive(Debug)]
pub struct Spool {
    folder: Arc<Folder>,
    naming: Naming,
    file: Option<Arc<TempFile>>,
    length: u64,
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    count: u64,
    done: Pending<Done>,
}

/// What a thread gives back. The pieces come along: what one thread has allocated another does well not to free.
type Done = (Result<Arc<TempFile>, TempError>, Vec<Bytes>);

/// What became of something that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    There,
    /// It is there, and it was the first that the file was made for.
    First,
}

impl Spool {
    /// Nothing yet.
    pub fn new(folder: Arc<Folder>, naming: Naming) -> Spool {
        Spool { folder, naming, file: None, length: 0, writing: None }
    }

    /// The file, once there is one.
    pub fn file(&self) -> Option<&Arc<TempFile>> {
        self.file.as_ref()
    }

    /// How much can be read of it.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Nothing can be read of it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How much is being written behind that.
    pub fn being_written(&self) -> u64 {
        self.writing.as_ref().map_or(0, |writing| writing.count)
    }

    /// Something is being written.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Has a thread write pieces behind what is there. Nothing else may be being written.
    ///
    /// # Errors
    /// Too much waits for the threads already.
    pub fn write(&mut self, pieces: Vec<Bytes>) -> Result<(), TempError> {
        let count = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()));
        let (folder, naming, file, at) = (self.folder.clone(), self.naming, self.file.clone(), self.length);
        let table = mounts::current();
        let done = pool::run(move || {
            let file = match file {
                Some(file) => Ok(file),
                None => TempFile::make(&folder, naming, &table).map(Arc::new),
            };
            let written = file.and_then(|file| {
                file.write(&pieces, at)?;
                Ok(file)
            });
            Ok((written, pieces))
        });
        let done = done.map_err(|error| self.failed(error))?;
        self.writing = Some(Writing { count: u64::try_from(count).unwrap_or(u64::MAX), done });
        Ok(())
    }

    /// Waits until what was to be written is there.
    ///
    /// # Errors
    /// It is not, and nothing more can be written.
    pub fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<Written, TempError>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(Written::There)) };
        let done = ready!(Pin::new(&mut writing.done).poll(cx));
        let count = writing.count;
        self.writing = None;
        let (written, _) = done.map_err(|error| self.failed(error))?;
        let file = written?;
        self.length = self.length.saturating_add(count);
        let is_first = self.file.is_none();
        self.file = Some(file);
        Poll::Ready(Ok(if is_first { Written::First } else { Written::There }))
    }

    fn failed(&self, error: io::Error) -> TempError {
        let path = self.file.as_ref().map_or(self.folder.path(), |file| file.path()).to_owned();
        TempError { call: "pwrite()", path, error }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::poll_fn;
    use std::os::unix::fs::PermissionsExt;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    /// Runs a test with a folder of its own.
    fn in_folder<F: Future<Output = ()>>(name: &str, test: impl FnOnce(PathBuf) -> F) {
        let folder = std::env::temp_dir().join(format!("tidegate-temp-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(test(folder.clone()));
        drop(runtime);
        fs::remove_dir_all(&folder).unwrap();
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                found.extend(files(&entry.path()));
            } else {
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    async fn write(spool: &mut Spool, pieces: &[&'static [u8]]) -> Result<Written, TempError> {
        spool.write(pieces.iter().map(|piece| Bytes::from_static(piece)).collect())?;
        assert!(spool.is_writing());
        poll_fn(|cx| spool.poll_written(cx)).await
    }

    #[test]
    fn what_is_written_is_read_and_then_gone_unless_it_is_kept() {
        for (naming, levels, while_used, afterwards) in [
            (Naming::Nameless, [0, 0, 0], 0, 0),
            (Naming::Nameless, [1, 2, 0], 0, 0),
            (Naming::Named, [0, 0, 0], 1, 0),
            (Naming::Named, [1, 2, 0], 1, 0),
            (Naming::Kept, [0, 0, 0], 1, 1),
            (Naming::Kept, [2, 1, 1], 1, 1),
        ] {
            in_folder("life", |path| async move {
                let folder = Arc::new(Folder::new(&path, levels));
                let mut spool = Spool::new(folder.clone(), naming);
                assert!(spool.file().is_none() && files(&path).is_empty());
                assert_eq!(write(&mut spool, &[b"one ", b"", b"two "]).await.unwrap(), Written::First);
                assert_eq!(write(&mut spool, &[b"three"]).await.unwrap(), Written::There);
                assert_eq!(spool.len(), 13);
                let file = spool.file().unwrap().clone();
                assert_eq!(file.open().read(100, 0).wait().await.unwrap(), b"one two three");
                let seen = files(&path);
                assert_eq!(seen.len(), while_used, "{naming:?}");
                if naming != Naming::Nameless {
                    assert_eq!(seen[0], file.path());
                    assert_eq!(fs::metadata(&seen[0]).unwrap().permissions().mode() & 0o777, 0o600);
                }
                // What is in use is not taken for left behind.
                folder.sweep();
                assert_eq!(files(&path).len(), while_used);
                drop((spool, file));
                // The thread that removes the name ends with the runtime at the latest.
                for _ in 0..1000 {
                    if files(&path).len() == afterwards {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                assert_eq!(files(&path).len(), afterwards, "{naming:?}");
            });
        }
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        in_folder("sweep", |path| async move {
            fs::create_dir_all(path.join("1/02")).unwrap();
            for name in ["1/02/0000000021.unkept", "1/02/0000000021", "1/02/other", "0000000001.unkept"] {
                fs::write(path.join(name), "x").unwrap();
            }
            Folder::new(&path, [1, 2, 0]).sweep();
            let left = ["0000000001.unkept", "1/02/0000000021", "1/02/other"].map(|name| path.join(name));
            assert_eq!(files(&path), left);
            Folder::new(&path, [0, 0, 0]).sweep();
            assert_eq!(files(&path), left[1..]);
        });
    }

    #[test]
    fn names_that_are_taken_are_not_taken_again() {
        in_folder("names", |path| async move {
            for number in 1..=3 {
                fs::write(path.join(format!("{number:010}")), "old").unwrap();
            }
            let folder = Arc::new(Folder::new(&path, [0, 0, 0]));
            let mut spools = Vec::new();
            for _ in 0..5 {
                let mut spool = Spool::new(folder.clone(), Naming::Kept);
                write(&mut spool, &[b"new"]).await.unwrap();
                spools.push(spool);
            }
            assert_eq!(files(&path).len(), 8);
            assert_eq!(files(&path).iter().filter(|file| fs::read(file).unwrap() == b"old").count(), 3);
        });
    }

    #[test]
    fn an_error_names_the_call_and_the_file() {
        in_folder("error", |path| async move {
            let missing = Arc::new(Folder::new(&path.join("missing/below"), [0, 0, 0]));
            for naming in [Naming::Nameless, Naming::Named, Naming::Kept] {
                let mut spool = Spool::new(missing.clone(), naming);
                let text = write(&mut spool, &[b"x"]).await.unwrap_err().to_string();
                assert!(
                    text.contains("missing/below") && text.ends_with("failed (2: No such file or directory)"),
                    "{text}"
                );
            }
        });
    }
}
