//! Log files: opened by the master, appended to by everyone, opened again under their names on USR1.
//!
//! No write waits. A line that a full disk has cut short is taken back, so that what every process finds at the end of the
//! file is a line end: a process that begins its next line with one could not do that for the others that write there.
//! What cannot be written is dropped and counted.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{EACCES, EBADF, EDQUOT, EFBIG, ENOSPC, O_NOCTTY, O_NONBLOCK, PIPE_BUF};

use super::bell;
use super::error::ErrorLog;
use super::level::Level;
use super::losses::Losses;
use crate::clock;

/// nginx: a log belongs to its user, and others may read it.
const MODE: u32 = 0o644;
/// What a log's owner must be allowed to do, for the workers are to open it by name: read and write.
const OWNER: u32 = 0o600;

/// How the file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Made if it is missing.
    Create,
    /// Made if it is missing, and given to this user, whom the workers run as.
    CreateFor(u32),
    /// Only if it is there: for a worker, which may not make in its own name what the master will give to it. That it is
    /// missing, or not given yet, is no error: the master will tell.
    Follow,
}

/// One file that lines are appended to; every line is one write, so workers never tear each other's lines.
pub struct LogFile {
    path: Option<PathBuf>,
    sink: RefCell<Option<Sink>>,
    buffer: RefCell<Vec<u8>>,
    buffering: Cell<Option<Buffering>>,
    oldest: Cell<Option<u64>>,
    /// The second in which the disk was full: nothing more is tried in it.
    full_at: Cell<Option<i64>>,
    losses: Losses,
}

/// `buffer=`, `flush=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// The most bytes that are collected.
    pub capacity: usize,
    /// The longest time that a line waits; `None` is until the buffer is full.
    pub flush: Option<Duration>,
}

impl LogFile {
    /// A file that is not open yet; the standard error stream is [`stderr`](LogFile::stderr).
    pub fn new(path: Option<PathBuf>) -> Self {
        LogFile {
            path,
            sink: RefCell::new(None),
            buffer: RefCell::default(),
            buffering: Cell::new(None),
            oldest: Cell::new(None),
            full_at: Cell::new(None),
            losses: Losses::default(),
        }
    }

    /// The standard error stream.
    pub fn stderr() -> Self {
        let log = LogFile::new(None);
        *log.sink.borrow_mut() = Sink::stderr().ok();
        log
    }

    /// Lets go of what was the standard error stream, for what it is now.
    pub fn stderr_has_changed(&self) {
        if self.path.is_none() {
            *self.sink.borrow_mut() = Sink::stderr().ok();
        }
    }

    /// The file's path; `None` for the standard error stream.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the file, or opens it again under its name: what was renamed away is let go, with all lines that belong to
    /// it written. A symbolic link is followed.
    ///
    /// # Errors
    /// What failed and why, worded as nginx does; the file open so far stays in use.
    pub fn open(&self, how: Opening) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        self.flush();
        let mut sink = self.sink.borrow_mut();
        let opened = match if how == Opening::Follow { Sink::follow(path) } else { Sink::open(path, true).map(Some) } {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            // A terminal or a pipe that was opened by root: nobody moves those away.
            Err(_) if how == Opening::Follow && sink.as_ref().is_some_and(|sink| sink.kind != Kind::Regular) => {
                return Ok(());
            }
            Err(error) => return Err(format!("open() \"{}\" failed ({})", path.display(), super::os_error(&error))),
        };
        if let Opening::CreateFor(user) = how {
            opened.give_to(user).map_err(|(call, error)| {
                format!("{call} \"{}\" failed ({})", path.display(), super::os_error(&error))
            })?;
        }
        *sink = Some(opened);
        self.full_at.set(None);
        Ok(())
    }

    /// Collects lines before writing. False when the file has been given another buffer before.
    pub fn buffered(&self, buffering: Buffering) -> bool {
        let before = self.buffering.replace(Some(buffering));
        before.is_none_or(|before| before == buffering)
    }

    /// Appends a line, which must include its line end, by way of the buffer if there is one.
    pub fn line(&self, line: &[u8]) {
        let Some(Buffering { capacity, .. }) = self.buffering.get() else {
            self.line_at_once(line);
            return;
        };
        if self.buffer.borrow().len() + line.len() > capacity {
            self.flush();
        }
        if line.len() > capacity {
            self.line_at_once(line);
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            self.oldest.set(Some(clock::monotonic()));
            bell::ring();
        }
        buffer.extend_from_slice(line);
    }

    /// Appends a line, which must include its line end, before anything that is still collected. False when it is lost.
    pub fn line_at_once(&self, line: &[u8]) -> bool {
        !self.losses.is_muted() && self.write(line)
    }

    /// Writes out what is collected.
    pub fn flush(&self) {
        let lines = std::mem::take(&mut *self.buffer.borrow_mut());
        if !lines.is_empty() {
            self.write(&lines);
        }
    }

    /// How long until something has to be written out, or told of; `None` when there is nothing.
    pub fn due(&self) -> Option<Duration> {
        self.due_for_writing().into_iter().chain(self.losses.due()).min()
    }

    /// Writes out what has been collected for longer than allowed.
    pub fn tick(&self) {
        if self.due_for_writing().is_some_and(|left| left.is_zero()) {
            self.flush();
        }
    }

    fn due_for_writing(&self) -> Option<Duration> {
        let limit = self.buffering.get()?.flush?;
        let oldest = self.oldest.get().filter(|_| !self.buffer.borrow().is_empty())?;
        Some(limit.saturating_sub(Duration::from_millis(clock::monotonic().saturating_sub(oldest))))
    }

    /// Tells of lines that are lost; see [`Losses::tell`].
    pub fn tell_losses(&self, log: &ErrorLog, now: bool) {
        let path = self.path.as_deref().unwrap_or(Path::new("stderr")).display();
        self.losses.tell(Level::Alert, format_args!("write() to \"{path}\""), format_args!(""), log, now);
    }

    /// Writes whole lines. False when some of them are lost.
    fn write(&self, lines: &[u8]) -> bool {
        let lost = |from: usize, why: io::Error| {
            let rest = lines.get(from..).unwrap_or_default();
            let count = memchr::memchr_iter(b'\n', rest).count();
            self.losses.add(u64::try_from(count).unwrap_or(u64::MAX), &why);
            false
        };
        if self.full_at.get().is_some_and(|second| second == clock::seconds()) {
            return lost(0, io::Error::from_raw_os_error(ENOSPC));
        }
        let mut sink = self.sink.borrow_mut();
        let Some(sink) = sink.as_mut() else { return lost(0, io::Error::from_raw_os_error(EBADF)) };
        match sink.write(lines) {
            Ok(()) => true,
            Err((written, why)) => {
                if matches!(why.raw_os_error(), Some(ENOSPC | EDQUOT | EFBIG)) {
                    self.full_at.set(Some(clock::seconds()));
                }
                lost(written, why)
            }
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What can be expected of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It succeeds at once or fails: a file on a disk.
    Regular,
    /// It fails when the reader is slow: a pipe or a device, opened so.
    Stream,
    /// The same, but that has to be said each time, for others use the socket too.
    Socket,
}

/// An open file.
struct Sink {
    file: File,
    kind: Kind,
    /// The last line was cut short and could not be taken back: a line end comes before the next.
    torn: bool,
}

impl Sink {
    /// Opens a path for appending. A named pipe is opened for reading too: that takes no reader to succeed, and lines wait
    /// in the pipe while a reader starts again. A file is, so that a line cut short can be taken back.
    fn open(path: &Path, create: bool) -> io::Result<Sink> {
        let mut options = OpenOptions::new();
        options.append(true).create(create).mode(MODE).custom_flags(O_NONBLOCK | O_NOCTTY);
        let file = match options.clone().read(true).open(path) {
            // We may be allowed to write only.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => options.open(path)?,
            opened => opened?,
        };
        Sink::of(file)
    }

    /// Opens what the master has made. `None` when it is missing, or not given to us: it has been moved away again since
    /// the master made it, or the master is just about to give it. There is another signal on its way.
    fn follow(path: &Path) -> io::Result<Option<Sink>> {
        /// The file may be given to us, and moved away, between our looks at it.
        const LOOKS: usize = 5;
        let own = nix::unistd::geteuid().as_raw();
        for _ in 0..LOOKS {
            match Sink::open(path, false) {
                Ok(sink) => return Ok(Some(sink)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
            match std::fs::metadata(path) {
                Ok(file) if file.uid() != own => return Ok(None),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Err(io::Error::from_raw_os_error(EACCES))
    }

    /// The standard error stream. It is shared with others, who may want to wait where we do not: so a pipe or terminal
    /// is opened once more.
    fn stderr() -> io::Result<Sink> {
        let file = File::from(std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned()?);
        let sink = Sink::of(file)?;
        match sink.kind {
            Kind::Stream => Ok(Sink::open(Path::new("/proc/self/fd/2"), false).unwrap_or(sink)),
            Kind::Regular | Kind::Socket => Ok(sink),
        }
    }

    fn of(file: File) -> io::Result<Sink> {
        let what = file.metadata()?.file_type();
        let kind = match what {
            _ if what.is_file() => Kind::Regular,
            _ if what.is_socket() => Kind::Socket,
            _ => Kind::Stream,
        };
        Ok(Sink { file, kind, torn: false })
    }

    /// Gives a file to the user who is to open it again by name. A terminal or a pipe is not ours to give.
    fn give_to(&self, user: u32) -> Result<(), (&'static str, io::Error)> {
        let known = self.file.metadata().map_err(|error| ("fstat()", error))?;
        if self.kind != Kind::Regular {
            return Ok(());
        }
        if known.uid() != user {
            std::os::unix::fs::fchown(&self.file, Some(user), None).map_err(|error| ("chown()", error))?;
        }
        let mut mode = known.permissions();
        if mode.mode() & OWNER != OWNER {
            mode.set_mode(mode.mode() | OWNER);
            self.file.set_permissions(mode).map_err(|error| ("chmod()", error))?;
        }
        Ok(())
    }

    /// Writes whole lines, or tells how many bytes of whole lines are written and what went wrong then.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            // What a pipe takes at once it takes whole, or not at all.
            let piece = if self.kind == Kind::Regular { rest } else { whole_lines(rest, PIPE_BUF) };
            match self.write_once(piece) {
                Ok(count) if count == piece.len() => done += count,
                Ok(count) => {
                    let (whole, fragment) = split_behind_last_line(piece.get(..count).unwrap_or_default());
                    self.torn = !fragment.is_empty() && !self.take_back(fragment);
                    let why = if self.kind == Kind::Regular {
                        io::Error::from_raw_os_error(ENOSPC)
                    } else {
                        ErrorKind::WouldBlock.into()
                    };
                    return Err((done + whole.len(), why));
                }
                Err(error) => return Err((done, error)),
            }
        }
        Ok(())
    }

    /// One write; how much of `bytes` was taken.
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before: &[u8] = if self.torn { b"\n" } else { b"" };
        let pieces = [IoSlice::new(before), IoSlice::new(bytes)];
        let count = loop {
            let written = match self.kind {
                Kind::Regular | Kind::Stream => self.file.write_vectored(&pieces),
                Kind::Socket => socket2::SockRef::from(&self.file)
                    .send_vectored_with_flags(&pieces, nix::libc::MSG_DONTWAIT | nix::libc::MSG_NOSIGNAL),
            };
            match written {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        self.torn &= count == 0;
        Ok(count.saturating_sub(before.len()))
    }

    /// Removes the beginning of a line from the end of a regular file. False when it is not at the end any more, which
    /// takes another process that has written since, to a disk that was full a moment ago; or when we may not read.
    ///
    /// What is removed is never the end of another process's line, for that has a line end and a fragment has none.
    fn take_back(&self, fragment: &[u8]) -> bool {
        let attempt = || -> io::Result<bool> {
            let size = self.file.metadata()?.len();
            let length = u64::try_from(fragment.len()).unwrap_or(u64::MAX);
            let Some(start) = size.checked_sub(length).filter(|_| self.kind == Kind::Regular) else { return Ok(false) };
            let mut last = vec![0; fragment.len()];
            self.file.read_exact_at(&mut last, start)?;
            if last != fragment {
                return Ok(false);
            }
            self.file.set_len(start)?;
            Ok(true)
        };
        attempt().unwrap_or(false)
    }
}

/// As many whole lines as fit into `most` bytes; one, if even that does not fit.
fn whole_lines(lines: &[u8], most: usize) -> &[u8] {
    if lines.len() <= most {
        return lines;
    }
    let fitting = lines.get(..most).and_then(|part| memchr::memrchr(b'\n', part));
    let end = fitting.or_else(|| memchr::memchr(b'\n', lines)).map_or(lines.len(), |at| at + 1);
    lines.get(..end).unwrap_or(lines)
}

/// Whole lines, and the beginning of one that is none.
fn split_behind_last_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at_checked(memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1)).unwrap_or((bytes, b""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tidegate-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn log(&self, name: &str) -> LogFile {
            let log = LogFile::new(Some(self.0.join(name)));
            log.open(Opening::Create).unwrap();
            log
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_are_collected_and_written_whole() {
        let folder = Folder::new("buffer");
        let log = folder.log("a");
        assert!(log.buffered(Buffering { capacity: 10, flush: Some(Duration::ZERO) }));
        assert!(!log.buffered(Buffering { capacity: 11, flush: None }));
        log.buffered(Buffering { capacity: 10, flush: Some(Duration::ZERO) });
        log.line(b"1234\n");
        log.line(b"5678\n");
        assert_eq!(folder.read("a"), "");
        assert!(log.line_at_once(b"now\n"));
        log.line(b"9\n");
        assert_eq!(folder.read("a"), "now\n1234\n5678\n");
        log.line(b"longer than the buffer\n");
        assert_eq!(folder.read("a"), "now\n1234\n5678\n9\nlonger than the buffer\n");
        log.line(b"x\n");
        assert_eq!(log.due(), Some(Duration::ZERO));
        log.tick();
        assert_eq!(log.due(), None);
        assert!(folder.read("a").ends_with("buffer\nx\n"));
        log.line(b"y\n");
        std::fs::rename(folder.0.join("a"), folder.0.join("b")).unwrap();
        log.open(Opening::Create).unwrap();
        log.line(b"z\n");
        drop(log);
        assert!(folder.read("b").ends_with("x\ny\n"));
        assert_eq!(folder.read("a"), "z\n");
    }

    #[test]
    fn a_fragment_is_taken_back_unless_somebody_has_written_behind_it() {
        let folder = Folder::new("fragment");
        let path = folder.0.join("a");
        std::fs::write(&path, "whole\nfrag").unwrap();
        let sink = Sink::open(&path, false).unwrap();
        assert!(!sink.take_back(b"ragx"));
        assert!(!sink.take_back(b"far longer than the file"));
        assert!(sink.take_back(b"frag"));
        assert_eq!(folder.read("a"), "whole\n");
    }

    #[test]
    fn a_line_end_comes_before_the_line_after_a_torn_one() {
        let folder = Folder::new("torn");
        let path = folder.0.join("a");
        std::fs::write(&path, "frag").unwrap();
        let mut sink = Sink { torn: true, ..Sink::open(&path, false).unwrap() };
        sink.write(b"one\n").unwrap();
        sink.write(b"two\n").unwrap();
        assert_eq!(folder.read("a"), "frag\none\ntwo\n");
    }

    #[test]
    fn a_pipe_without_reader_keeps_lines_and_drops_what_it_cannot_hold() {
        let folder = Folder::new("pipe");
        let path = folder.0.join("p");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let log = LogFile::new(Some(path.clone()));
        log.open(Opening::Create).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        let mut taken = 0;
        while log.line_at_once(line.as_bytes()) {
            taken += 1;
        }
        assert!(taken > 100, "{taken}");
        assert!(!log.line_at_once(line.as_bytes()));
        log.buffered(Buffering { capacity: 64 << 10, flush: None });
        (0..50).for_each(|_| log.line(line.as_bytes()));
        let mut reader = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
        let mut text = vec![0; 4096];
        reader.read_exact(&mut text).unwrap();
        // There is room for some of the collected lines now, and only whole ones are written.
        log.flush();
        drop(log);
        let _ = reader.read_to_end(&mut text);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count() * 100, text.len());
        assert!(text.ends_with(b"x\n"));
    }

    #[test]
    fn a_full_disk_is_left_alone_for_a_second() {
        let log = LogFile::new(Some("/dev/full".into()));
        log.open(Opening::Create).unwrap();
        let before = counters_of_this_thread();
        assert!(!log.line_at_once(b"one\ntwo\n"));
        assert!(log.full_at.get().is_some());
        assert!(!log.line_at_once(b"three\n"));
        assert_eq!(counters_of_this_thread() - before, 3);
    }

    fn counters_of_this_thread() -> u64 {
        crate::zone::counters::of_worker().total(crate::zone::counters::Total::LogDrops)
    }

    #[test]
    fn whole_lines_that_fit() {
        for (most, expected) in [(2, "ab\n"), (3, "ab\n"), (5, "ab\n"), (6, "ab\ncd\n"), (9, "ab\ncd\nef\n")] {
            assert_eq!(whole_lines(b"ab\ncd\nef\n", most), expected.as_bytes(), "{most}");
        }
        assert_eq!(split_behind_last_line(b"ab\nc"), (&b"ab\n"[..], &b"c"[..]));
        assert_eq!(split_behind_last_line(b"c"), (&b""[..], &b"c"[..]));
    }

    #[test]
    fn a_worker_makes_no_file() {
        let folder = Folder::new("follow");
        let log = folder.log("a");
        std::fs::rename(folder.0.join("a"), folder.0.join("b")).unwrap();
        log.open(Opening::Follow).unwrap();
        assert!(!folder.0.join("a").exists());
        log.line(b"still\n");
        assert_eq!(folder.read("b"), "still\n");
    }
}
