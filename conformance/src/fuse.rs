//! A file system that hangs: the kernel asks this process for every file, and for some it waits in vain.
//!
//! It speaks the protocol of /dev/fuse (linux/fuse.h) as far as reading files takes. What a name begins with says which
//! question about it is not answered: `lookup`, `open`, `read` or `flush` (which close(2) asks); any other name is that of
//! a file which works. All of them hold [`CONTENT`].
//!
//! It is mounted in a namespace that only one thread of the test, and the processes it starts, can see: that thread's end
//! and theirs is the end of the mount, whatever happens.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// What every file holds.
pub const CONTENT: &[u8] = b"from afar\n";

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
/// More than one question about a folder at a time.
const PARALLEL: u32 = 1 << 18;
/// For how many seconds the kernel may believe an answer.
const VALID: u64 = 3600;

/// Runs a test in a thread with mounts of its own. `None`, saying so, where that is not possible.
pub fn with_own_mounts<T: Send>(test: impl FnOnce() -> T + Send) -> Option<T> {
    let is_possible = nix::unistd::geteuid().is_root() && OpenOptions::new().read(true).open("/dev/fuse").is_ok();
    let separate = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    };
    let ran = is_possible.then(|| {
        let in_thread = || separate().is_ok().then(test);
        thread::scope(|scope| match scope.spawn(in_thread).join() {
            Ok(ran) => ran,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    let ran = ran.flatten();
    if ran.is_none() {
        println!("skipped: needs /dev/fuse and root");
    }
    ran
}

/// The mounted file system. Dropping it ends every question that hangs with an error, and unmounts it.
#[derive(Debug)]
pub struct Fuse {
    at: PathBuf,
    held: Arc<Mutex<HashSet<u64>>>,
    /// Its end tells the thread to end.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts it on a folder; to be called within [`with_own_mounts`].
    pub fn mount(at: &Path) -> Fuse {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("open /dev/fuse");
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("hanging"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("mount");
        let held = Arc::<Mutex<HashSet<u64>>>::default();
        let (stopped, stop) = io::pipe().expect("a pipe");
        let server = FileSystem { device, names: HashMap::new(), held: held.clone() };
        let thread = thread::spawn(move || server.serve(&stopped));
        let fuse = Fuse { at: at.to_owned(), held, stop: Some(stop), thread: Some(thread) };
        // Before both sides have agreed on it, the kernel asks about one name at a time.
        std::fs::metadata(at.join("file")).expect("the file system answers");
        fuse
    }

    /// How many questions hang.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Gives up: whoever waits, and whoever asks from now on, gets an error.
    pub fn abort(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.abort();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// The side that answers. The connection ends with the device that it holds.
struct FileSystem {
    device: File,
    /// By number, from 2.
    names: HashMap<u64, String>,
    held: Arc<Mutex<HashSet<u64>>>,
}

/// A question of the kernel: `struct fuse_in_header` and what follows.
struct Question<'a> {
    what: u32,
    unique: u64,
    node: u64,
    rest: &'a [u8],
}

impl<'a> Question<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Question<'a>> {
        let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let what = u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
        Some(Question { what, unique: number(8)?, node: number(16)?, rest: bytes.get(40..)? })
    }
}

impl FileSystem {
    fn serve(mut self, stopped: &io::PipeReader) {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let mut ready =
                [PollFd::new(self.device.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::NONE).is_err() || ready[1].any() == Some(true) {
                return;
            }
            match self.device.read(&mut buffer) {
                Ok(count) => {
                    if let Some(question) = Question::parse(&buffer[..count]) {
                        self.answer(&question);
                    }
                }
                // It was interrupted before we have seen it.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                Err(_) => return,
            }
        }
    }

    fn answer(&mut self, question: &Question<'_>) {
        let name = match question.what {
            LOOKUP => String::from_utf8_lossy(question.rest.strip_suffix(&[0]).unwrap_or_default()).into_owned(),
            _ => self.names.get(&question.node).cloned().unwrap_or_default(),
        };
        let hangs = match question.what {
            LOOKUP => name.starts_with("lookup"),
            OPEN => name.starts_with("open"),
            READ => name.starts_with("read"),
            FLUSH => name.starts_with("flush"),
            _ => false,
        };
        if hangs {
            self.hold(question.unique);
            return;
        }
        match question.what {
            FORGET | BATCH_FORGET => {}
            INTERRUPT => self.interrupt(question),
            INIT => self.reply(question.unique, 0, &init()),
            LOOKUP => {
                let node = self.number(name);
                let entry = [node, 0, VALID, VALID, 0].map(u64::to_ne_bytes).concat();
                self.reply(question.unique, 0, &[entry, attributes(node)].concat());
            }
            GETATTR => {
                let valid = [VALID, 0].map(u64::to_ne_bytes).concat();
                self.reply(question.unique, 0, &[valid, attributes(question.node)].concat());
            }
            OPEN => self.reply(question.unique, 0, &[0; 16]),
            READ => {
                let at = question.rest.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
                let rest = usize::try_from(at).ok().and_then(|at| CONTENT.get(at..)).unwrap_or_default();
                self.reply(question.unique, 0, rest);
            }
            RELEASE | FLUSH => self.reply(question.unique, 0, &[]),
            _ => self.reply(question.unique, nix::libc::ENOSYS, &[]),
        }
    }

    fn number(&mut self, name: String) -> u64 {
        if let Some((number, _)) = self.names.iter().find(|(_, other)| **other == name) {
            return *number;
        }
        let number = ROOT + 1 + self.names.len() as u64;
        self.names.insert(number, name);
        number
    }

    fn hold(&self, unique: u64) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(unique);
    }

    /// Whoever waits is being killed: as a good file system does, let it go.
    fn interrupt(&mut self, question: &Question<'_>) {
        let Some(unique) = question.rest.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes)
        else {
            return;
        };
        if self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&unique) {
            self.reply(unique, nix::libc::EINTR, &[]);
        }
    }

    fn reply(&mut self, unique: u64, error: i32, body: &[u8]) {
        let length = (16 + body.len()) as u32;
        let head = [&length.to_ne_bytes()[..], &(-error).to_ne_bytes(), &unique.to_ne_bytes()].concat();
        // Nobody may want it any longer.
        let _ = self.device.write_all(&[&head, body].concat());
    }
}

/// `struct fuse_init_out`: version 7.31.
fn init() -> Vec<u8> {
    let mut words = [0u32; 16];
    words[0] = 7;
    words[1] = 31;
    words[2] = 128 << 10;
    words[3] = PARALLEL;
    words[4] = 64 | 48 << 16;
    words[5] = 128 << 10;
    words[6] = 1;
    words.map(u32::to_ne_bytes).concat()
}

/// `struct fuse_attr` of the root, or of a file.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, length) = if node == ROOT { (0o40755, 0) } else { (0o100644, CONTENT.len() as u64) };
    let long = [node, length, 1, 1_000_000_000, 1_000_000_000, 1_000_000_000].map(u64::to_ne_bytes).concat();
    let short = [0u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes).concat();
    [long, short].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_until;

    #[test]
    fn a_file_is_read_or_waited_for_until_the_end() {
        with_own_mounts(|| {
            let folder = tempfile::tempdir().unwrap();
            let mut fuse = Fuse::mount(folder.path());
            assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), CONTENT);
            assert_eq!(fuse.held(), 0);
            let path = folder.path().join("lookup");
            let file = File::open(folder.path()).unwrap();
            let waiting = thread::spawn(move || std::fs::metadata(path).is_ok());
            wait_until("a question hangs", || (fuse.held() == 1).then_some(()));
            fuse.abort();
            assert!(!waiting.join().unwrap());
            drop(file);
        });
    }
}
