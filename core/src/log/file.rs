//! Log files: opened by the master, appended to by everyone, reopened by name on USR1.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// One file that lines are appended to; every line is one write, so workers never tear each other's lines.
pub struct LogFile {
    path: Option<PathBuf>,
    file: RefCell<Option<File>>,
    buffer: RefCell<Vec<u8>>,
    capacity: Cell<usize>,
    flush_after: Cell<Option<Duration>>,
    oldest: Cell<Option<Duration>>,
    dropped: Cell<u64>,
}

impl LogFile {
    fn new(path: Option<PathBuf>) -> Self {
        LogFile {
            path,
            file: RefCell::new(None),
            buffer: RefCell::default(),
            capacity: Cell::new(0),
            flush_after: Cell::new(None),
            oldest: Cell::new(None),
            dropped: Cell::new(0),
        }
    }

    /// The standard error stream.
    pub fn stderr() -> Rc<LogFile> {
        let log = LogFile::new(None);
        *log.file.borrow_mut() = std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned().ok().map(File::from);
        Rc::new(log)
    }

    /// The file's path; `None` for the standard error stream.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the file, or opens it again under its name: what was renamed away is let go.
    ///
    /// # Errors
    /// Those of open(2); the file open so far stays in use.
    pub fn open(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        self.flush();
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        *self.file.borrow_mut() = Some(file);
        Ok(())
    }

    /// Gives the file to `uid`, so that a worker can open it again by name. Only regular files change hands: a terminal
    /// or a pipe is not ours to give.
    pub fn give_to(&self, uid: u32) {
        if let Some(path) = self.path.as_ref().filter(|path| path.is_file()) {
            let _ = std::os::unix::fs::chown(path, Some(uid), None);
        }
    }

    /// Collects up to `capacity` bytes before writing, for no longer than `flush_after`.
    pub fn buffered(&self, capacity: usize, flush_after: Option<Duration>) {
        self.capacity.set(capacity);
        self.flush_after.set(flush_after);
    }

    /// Appends one line, which must include its line end. A line that cannot be written is dropped and counted.
    pub fn line(&self, line: &[u8]) {
        if self.capacity.get() == 0 {
            return self.write(line);
        }
        if self.buffer.borrow().len() + line.len() > self.capacity.get() {
            self.flush();
        }
        if line.len() > self.capacity.get() {
            return self.write(line);
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            self.oldest.set(Some(crate::clock::wall()));
        }
        buffer.extend_from_slice(line);
    }

    /// Writes out what is collected.
    pub fn flush(&self) {
        let lines = std::mem::take(&mut *self.buffer.borrow_mut());
        if !lines.is_empty() {
            self.write(&lines);
        }
    }

    /// Writes out what has been collected for longer than allowed. Called once a second.
    pub fn tick(&self) {
        let Some(limit) = self.flush_after.get() else { return };
        if self.oldest.get().is_some_and(|oldest| crate::clock::wall().saturating_sub(oldest) >= limit) {
            self.flush();
        }
    }

    /// Lines that could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    fn write(&self, bytes: &[u8]) {
        let written = self.file.borrow_mut().as_mut().is_some_and(|file| file.write_all(bytes).is_ok());
        if !written {
            self.dropped.set(self.dropped.get() + 1);
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.flush();
    }
}

/// All log files of a generation; the same path is the same file, whoever names it.
#[derive(Default)]
pub struct Logs {
    files: RefCell<Vec<Rc<LogFile>>>,
}

impl Logs {
    /// The log file of this path, not yet opened.
    pub fn file(&self, path: &Path) -> Rc<LogFile> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.iter().find(|file| file.path() == Some(path)) {
            return file.clone();
        }
        let file = Rc::new(LogFile::new(Some(path.to_owned())));
        files.push(file.clone());
        file
    }

    /// Opens, or reopens, every file; returns what failed, worded as nginx does.
    pub fn open_all(&self) -> Vec<String> {
        let failed = |file: &Rc<LogFile>| {
            let error = file.open().err()?;
            Some(format!("open() \"{}\" failed ({})", file.path()?.display(), super::os_error(&error)))
        };
        self.files.borrow().iter().filter_map(failed).collect()
    }

    /// Gives every file to `uid`.
    pub fn give_all_to(&self, uid: u32) {
        self.files.borrow().iter().for_each(|file| file.give_to(uid));
    }

    /// Writes out what has waited long enough. Called once a second.
    pub fn tick(&self) {
        self.files.borrow().iter().for_each(|file| file.tick());
    }

    /// Writes out everything.
    pub fn flush_all(&self) {
        self.files.borrow().iter().for_each(|file| file.flush());
    }
}
