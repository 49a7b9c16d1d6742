//! Files that are opened, asked about and read while connections are served, without holding up the worker.
//!
//! Each operation is tried at once, from the kernel's caches only: openat2(2) with `RESOLVE_CACHED`, statx(2) of what is
//! open, preadv2(2) with `RWF_NOWAIT`. What is not cached, or cannot be had that way, a thread of the [`pool`] does. So who
//! asks for what is cached gets [`Asked::Now`] for the same system calls as ever, and a device or a server that hangs holds
//! up nobody but those who wait for it.

pub mod folder;
pub mod mounts;
pub mod pool;
pub mod temp;
mod warm;

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use mounts::Kind;
use pool::Pending;
use warm::Identity;

/// How far apart the bytes are whose pages are looked for: the kernel's usual window of read-ahead, which is how pages
/// come into the cache.
const WINDOW: u64 = 128 << 10;
/// Pieces in which a thread reads what is only to be cached.
const SCRATCH: usize = 64 << 10;

/// Begins to watch the mounts, and sets how much may wait for a thread. Once in a worker, before it serves.
pub fn start(limits: pool::Limits) {
    pool::install(limits);
    tokio::task::spawn_local(mounts::watch());
}

/// An answer that is there, or one that a thread is going to give.
pub enum Asked<T> {
    /// At once.
    Now(io::Result<T>),
    /// From a thread.
    Later(Pending<T>),
}

impl<T: Send + 'static> Asked<T> {
    fn of_pool(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Asked<T> {
        pool::run(work).map_or_else(|error| Asked::Now(Err(error)), Asked::Later)
    }

    /// The answer, however long it takes.
    ///
    /// # Errors
    /// Those of the operation; `Other` when too much waits for the threads already.
    pub async fn wait(self) -> io::Result<T> {
        match self {
            Asked::Now(answer) => answer,
            Asked::Later(pending) => pending.await,
        }
    }
}

/// What stat(2) says of a file.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The type and the permissions, as in `st_mode`.
    mode: u32,
    /// The length in bytes.
    pub length: u64,
    /// The time of the last change of the content, in seconds since 1970.
    pub modified: i64,
    identity: Identity,
}

impl About {
    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// True when somebody may execute it.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }

    fn ask(folder: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> io::Result<About> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = statx(folder, path, flags, wanted)?;
        let has_mount = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Ok(About {
            mode: found.stx_mode.into(),
            length: found.stx_size,
            modified: found.stx_mtime.tv_sec,
            identity: Identity { mount: if has_mount { found.stx_mnt_id } else { u64::MAX }, inode: found.stx_ino },
        })
    }

    /// About what is open. `flags` says whether a server may be asked.
    fn of(open: BorrowedFd<'_>, flags: AtFlags) -> io::Result<About> {
        About::ask(open, Path::new(""), flags | AtFlags::EMPTY_PATH)
    }
}

/// Opens what the caches lead to. `None` when they do not, or when the kernel (before 5.12) cannot look only there.
fn open_cached(path: &Path, flags: OFlags) -> Option<io::Result<File>> {
    match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED) {
        Ok(fd) => Some(Ok(fd.into())),
        Err(Errno::AGAIN | Errno::NOSYS | Errno::INVAL | Errno::PERM) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// Finds what the caches lead to without opening it, which takes nothing but the right to go there.
fn about_cached(path: &Path) -> Option<io::Result<About>> {
    let found = match open_cached(path, OFlags::PATH)? {
        Ok(found) => found,
        Err(error) => return Some(Err(error)),
    };
    let about = About::of(found.as_fd(), AtFlags::STATX_DONT_SYNC);
    let is_sure =
        about.as_ref().is_ok_and(|about| mounts::look(|table| table.kind(about.identity.mount)) != Kind::Remote);
    is_sure.then_some(about)
}

/// Whether an error of a look at a path means that no file is there. After any other it may be there all the same.
pub fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename)
}

/// Asks about the file that a path leads to, as stat(2).
///
/// # Errors
/// Those of openat2(2) and statx(2); `Other` when too much waits for the threads already.
pub fn about(path: &Path) -> Asked<About> {
    if let Some(answer) = about_cached(path) {
        return Asked::Now(answer);
    }
    let path = path.to_owned();
    Asked::of_pool(move || About::ask(CWD, &path, AtFlags::empty()))
}

/// How one question about files follows from the answer to another.
pub enum Next<T> {
    /// What is about this path?
    Ask(PathBuf),
    /// No more questions.
    Done(T),
}

/// Where a row of questions has come to.
pub enum Search<T, F> {
    /// Everything was cached.
    Now(T),
    /// A thread is asked; [`search_on`] goes on with it.
    Later(Pending<About>, F),
}

/// Asks about one file after the other. `next` gets the answer to its last question, the first time `None`.
pub fn search<T, F: FnMut(Option<io::Result<About>>) -> Next<T>>(mut next: F) -> Search<T, F> {
    let mut answer = None;
    loop {
        match next(answer) {
            Next::Done(found) => return Search::Now(found),
            Next::Ask(path) => match about(&path) {
                Asked::Now(about) => answer = Some(about),
                Asked::Later(pending) => return Search::Later(pending, next),
            },
        }
    }
}

/// Goes on with a search that has to wait.
pub async fn search_on<T, F: FnMut(Option<io::Result<About>>) -> Next<T>>(pending: Pending<About>, mut next: F) -> T {
    let mut answer = pending.await;
    loop {
        match next(Some(answer)) {
            Next::Done(found) => return found,
            Next::Ask(path) => answer = about(&path).wait().await,
        }
    }
}

/// An open file and how it can be read. Clones of the [`Arc`] are the threads'.
#[derive(Debug)]
pub struct OpenFile {
    /// There until the end.
    file: Option<File>,
    kind: Kind,
    identity: Identity,
    /// Closing it may free what lies on the disk.
    is_temporary: bool,
}

/// A file as it was when it was opened.
pub type Opened = (Arc<OpenFile>, About);

/// Opens a file for reading. What is not a regular file is opened all the same, without waiting for anybody.
///
/// # Errors
/// Those of openat2(2) and statx(2); `Other` when too much waits for the threads already.
pub fn open(path: &Path) -> Asked<Opened> {
    if let Some(answer) = open_now(path) {
        return Asked::Now(answer);
    }
    let (path, table) = (path.to_owned(), mounts::current());
    Asked::of_pool(move || {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, &path, flags, Mode::empty())?);
        // A server that hangs is waited for here, and not where the file is closed.
        let mut opened = OpenFile {
            file: Some(file),
            kind: Kind::Remote,
            identity: Identity { mount: 0, inode: 0 },
            is_temporary: false,
        };
        let about = About::of(opened.as_fd()?, AtFlags::empty())?;
        (opened.kind, opened.identity) = (table.kind(about.identity.mount), about.identity);
        Ok((Arc::new(opened), about))
    })
}

fn open_now(path: &Path) -> Option<io::Result<Opened>> {
    // Where there is a server to ask, opening asks it: so find out first what would be opened.
    if !mounts::look(mounts::Table::is_all_local)
        && let Err(error) = about_cached(path)?
    {
        return Some(Err(error));
    }
    let file = match open_cached(path, OFlags::RDONLY | OFlags::NONBLOCK)? {
        Ok(file) => file,
        Err(error) => return Some(Err(error)),
    };
    let about = match About::of(file.as_fd(), AtFlags::STATX_DONT_SYNC) {
        Ok(about) => about,
        Err(error) => return Some(Err(error)),
    };
    let kind = mounts::look(|table| table.kind(about.identity.mount));
    Some(Ok((Arc::new(OpenFile { file: Some(file), kind, identity: about.identity, is_temporary: false }), about)))
}

impl OpenFile {
    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The descriptor, for system calls that do not wait.
    ///
    /// # Errors
    /// None while the file is open, which it is.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.file().map(AsFd::as_fd)
    }

    /// True when nothing but its pages has to be waited for, so that the kernel can send it once they are cached.
    pub fn is_local(&self) -> bool {
        self.kind != Kind::Remote
    }

    /// Reads at `at` what is cached there. `None` when the first byte is not, or when that cannot be told.
    pub fn read_cached(&self, buffer: &mut [u8], at: u64) -> Option<io::Result<usize>> {
        let file = match self.file() {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        match self.kind {
            Kind::Memory => Some(file.read_at(buffer, at)),
            Kind::Remote => None,
            Kind::Local => match preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT) {
                Ok(count) => Some(Ok(count)),
                // The file system cannot tell (overlay), but it may be known all the same.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.is_warm(buffer.len(), at) => {
                    Some(file.read_at(buffer, at))
                }
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => None,
                Err(error) => Some(Err(error.into())),
            },
        }
    }

    fn is_warm(&self, length: usize, at: u64) -> bool {
        windows(at, u64::try_from(length).unwrap_or(u64::MAX)).all(|window| self.identity.is_warm(window))
    }

    /// Reads in a thread, and notes it for those that can read the same without one.
    fn read_and_note(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let count = self.file()?.read_at(buffer, at)?;
        if self.kind == Kind::Local {
            let all = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
            windows(at, all).for_each(|window| self.identity.note(window));
        }
        Ok(count)
    }

    /// True when all of a part is cached, as far as can be seen from one byte in each window of read-ahead.
    pub fn is_cached(&self, at: u64, length: u64) -> bool {
        let end = at.saturating_add(length);
        let mut probe = at;
        while self.kind != Kind::Memory && probe < end {
            if !matches!(self.read_cached(&mut [0], probe), Some(Ok(_))) {
                return false;
            }
            probe = (probe / WINDOW + 1).saturating_mul(WINDOW);
        }
        true
    }

    /// Reads up to `length` bytes at `at`; fewer at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2); `Other` when too much waits for the threads already.
    pub fn read(self: &Arc<Self>, length: usize, at: u64) -> Asked<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self.read_cached(&mut bytes, at) {
            Some(count) => Asked::Now(count.map(|count| {
                bytes.truncate(count);
                bytes
            })),
            None => {
                let file = self.clone();
                Asked::of_pool(move || {
                    let count = file.read_and_note(&mut bytes, at)?;
                    bytes.truncate(count);
                    Ok(bytes)
                })
            }
        }
    }

    /// Has a thread bring a part into the cache. Ends early where the file ends.
    ///
    /// # Errors
    /// Those of pread(2); `Other` when too much waits for the threads already.
    pub fn cache(self: &Arc<Self>, at: u64, length: u64) -> Asked<()> {
        let file = self.clone();
        Asked::of_pool(move || {
            let (mut at, end) = (at, at.saturating_add(length));
            let mut scratch = vec![0; SCRATCH];
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(SCRATCH).min(SCRATCH);
                let count = file.read_and_note(scratch.get_mut(..wanted).unwrap_or_default(), at)?;
                if count == 0 {
                    break;
                }
                at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Ok(())
        })
    }
}

/// The windows of read-ahead that a part lies in.
fn windows(at: u64, length: u64) -> impl Iterator<Item = u64> {
    at / WINDOW..=at.saturating_add(length.saturating_sub(1)) / WINDOW
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Closing asks some servers, too.
        if (self.is_temporary || self.kind == Kind::Remote)
            && let Some(file) = self.file.take()
        {
            pool::discard(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    /// Runs a test with a folder of its own, before anything is known of the mounts and after.
    fn unknown_and_known<F: Future<Output = ()>>(name: &str, test: impl Fn(PathBuf) -> F) {
        let folder = std::env::temp_dir().join(format!("tidegate-file-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            test(folder.clone()).await;
            start(pool::Limits::default());
            tokio::task::yield_now().await;
            test(folder.clone()).await;
        });
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_written_is_read() {
        unknown_and_known("read", |folder| async move {
            let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_ne_bytes).collect();
            fs::write(folder.join("a"), &content).unwrap();
            let (file, about) = open(&folder.join("a")).wait().await.unwrap();
            assert!(about.is_file() && !about.is_dir() && !about.is_executable());
            assert_eq!(about.length, 1_200_000);
            file.cache(0, about.length).wait().await.unwrap();
            let mut read = Vec::new();
            while read.len() < content.len() {
                let piece = file.read(100_000, u64::try_from(read.len()).unwrap()).wait().await.unwrap();
                assert!(!piece.is_empty());
                read.extend_from_slice(&piece);
            }
            assert!(read == content);
            assert_eq!(file.read(100, about.length).wait().await.unwrap(), b"");
            // Beyond the end there is nothing to bring.
            file.cache(about.length, 1 << 40).wait().await.unwrap();
        });
    }

    #[test]
    fn what_is_missing_is_missing() {
        unknown_and_known("missing", |folder| async move {
            assert!(about(&folder).wait().await.unwrap().is_dir());
            assert_eq!(about(&folder.join("b")).wait().await.unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(open(&folder.join("b")).wait().await.unwrap_err().kind(), io::ErrorKind::NotFound);
            let below_a_file = Path::new("/proc/self/stat/none");
            assert_eq!(open(below_a_file).wait().await.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        });
    }

    #[test]
    fn a_search_ends_with_its_answer() {
        unknown_and_known("search", |folder| async move {
            fs::write(folder.join("2"), "").unwrap();
            let mut number = 0;
            let next = move |answer: Option<io::Result<About>>| {
                if answer.is_some_and(|about| about.is_ok()) {
                    return Next::Done(number);
                }
                number += 1;
                Next::Ask(folder.join(number.to_string()))
            };
            let found = match search(next) {
                Search::Now(found) => found,
                Search::Later(pending, next) => search_on(pending, next).await,
            };
            assert_eq!(found, 2);
        });
    }

    #[test]
    fn what_is_memory_is_always_there() {
        let file = File::open("/proc/self/stat").unwrap();
        let file = OpenFile {
            file: Some(file),
            kind: Kind::Memory,
            identity: Identity { mount: 0, inode: 0 },
            is_temporary: false,
        };
        assert!(file.is_cached(0, u64::MAX));
        assert!(file.read_cached(&mut [0], 0).unwrap().is_ok());
    }

    #[test]
    fn nothing_is_asked_of_a_server_at_once() {
        let file = OpenFile {
            is_temporary: false,
            file: Some(File::open("/proc/self/stat").unwrap()),
            kind: Kind::Remote,
            identity: Identity { mount: 0, inode: 0 },
        };
        assert!(!file.is_cached(0, 1));
        assert!(file.read_cached(&mut [0], 0).is_none());
        assert!(!file.is_local());
    }
}
