//! Where the lines of a log go, for error logs and access logs alike; and all targets of a generation.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::Level;
use super::bell;
use super::error::ErrorLog;
use super::file::{LogFile, Opening};
use super::memory::Memory;
use super::syslog::{self, Reader, Syslog};
use crate::conf::{ConfigError, Place};

/// How often it is looked after files that are flushed by time, and after lost lines, while there are any.
const TICK: Duration = Duration::from_secs(1);
/// The shortest `flush=` that is kept to.
const SHORTEST_TICK: Duration = Duration::from_millis(5);

/// Where lines go.
#[derive(Clone)]
pub enum Target {
    /// A file, or the standard error stream.
    File(Rc<LogFile>),
    /// Datagrams to a reader of syslog messages.
    Syslog(Syslog),
    /// Memory that is shared and never written out.
    Memory(Memory),
}

impl Target {
    /// The standard error stream.
    pub fn stderr() -> Target {
        Target::File(Rc::new(LogFile::stderr()))
    }

    /// Logs a line of an access log, which must include its line end.
    pub fn line(&self, line: &[u8]) {
        match self {
            Target::File(file) => file.line(line),
            Target::Syslog(syslog) => {
                let _ = syslog.send(None, line);
            }
            Target::Memory(memory) => memory.line(line),
        }
    }

    /// Logs a line of an error log, which must include its line end: never collected, and with its own severity. False
    /// when it is lost.
    pub fn error(&self, level: Level, line: &[u8]) -> bool {
        match self {
            Target::File(file) => file.line_at_once(line),
            Target::Syslog(syslog) => syslog.send(Some(level), line),
            Target::Memory(memory) => {
                memory.line(line);
                false
            }
        }
    }
}

/// All files and readers of a generation; the same path or address is the same one, whoever names it.
#[derive(Default)]
pub struct Logs {
    files: RefCell<Vec<Rc<LogFile>>>,
    /// Where files are named first.
    places: RefCell<Vec<(Rc<LogFile>, Place)>>,
    readers: RefCell<Vec<Rc<Reader>>>,
}

impl Logs {
    /// The log file of this path, not yet opened; the standard error stream without one.
    pub fn file(&self, path: Option<&Path>) -> Rc<LogFile> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.iter().find(|file| file.path() == path) {
            return file.clone();
        }
        let new = path.map_or_else(LogFile::stderr, |path| LogFile::new(Some(path.to_owned())));
        let file = Rc::new(new);
        files.push(file.clone());
        file
    }

    /// The log file of this path, which is named there.
    pub fn file_at(&self, path: &Path, at: &Place) -> Rc<LogFile> {
        let file = self.file(Some(path));
        let mut places = self.places.borrow_mut();
        if !places.iter().any(|(known, _)| Rc::ptr_eq(known, &file)) {
            places.push((file.clone(), at.clone()));
        }
        file
    }

    /// Opens every file for the first time; returns what failed, and where it is named.
    pub fn open_first(&self) -> Vec<ConfigError> {
        let failed = |file: &Rc<LogFile>| {
            let message = file.open(Opening::Create).err()?;
            let places = self.places.borrow();
            let place = places.iter().find(|(named, _)| Rc::ptr_eq(named, file)).map(|(_, at)| at);
            Some(place.map_or_else(|| ConfigError::general(&message), |at| ConfigError::new(at, &message)))
        };
        self.readers.borrow().iter().for_each(|reader| reader.forget_connection());
        self.files.borrow().iter().filter_map(failed).collect()
    }

    /// The standard error stream is another one now.
    pub fn stderr_has_changed(&self) {
        self.files.borrow().iter().for_each(|file| file.stderr_has_changed());
    }

    /// Messages to a reader.
    pub fn syslog(&self, parameters: &syslog::Parameters) -> Syslog {
        let mut readers = self.readers.borrow_mut();
        let known = readers.iter().find(|reader| reader.address() == parameters.server()).cloned();
        let reader = known.unwrap_or_else(|| {
            let reader = Rc::new(Reader::new(parameters.server().clone()));
            readers.push(reader.clone());
            reader
        });
        Syslog::new(reader, parameters)
    }

    /// Opens, or reopens, every file, and connects anew to readers; returns what failed, worded as nginx does.
    pub fn open_all(&self, how: Opening) -> Vec<String> {
        self.readers.borrow().iter().for_each(|reader| reader.forget_connection());
        self.files.borrow().iter().filter_map(|file| file.open(how).err()).collect()
    }

    /// Looks after the logs without end: writes out what has waited long enough, and tells in `log` of lines that were
    /// lost. While there is nothing to look after, this sleeps.
    pub async fn look_after(&self, log: &ErrorLog) {
        loop {
            let files = self.files.borrow().iter().filter_map(|file| file.due()).min();
            let readers = self.readers.borrow().iter().filter_map(|reader| reader.due()).min();
            match files.into_iter().chain(readers).min() {
                None => bell::rung().await,
                Some(due) => {
                    tokio::time::sleep(due.clamp(SHORTEST_TICK, TICK)).await;
                    self.files.borrow().iter().for_each(|file| file.tick());
                    self.tell_losses(log, false);
                }
            }
        }
    }

    /// Writes out everything, and tells in `log` of lines that were lost: this is the end.
    pub fn finish(&self, log: &ErrorLog) {
        self.files.borrow().iter().for_each(|file| file.flush());
        self.tell_losses(log, true);
    }

    fn tell_losses(&self, log: &ErrorLog, now: bool) {
        self.files.borrow().iter().for_each(|file| file.tell_losses(log, now));
        self.readers.borrow().iter().for_each(|reader| reader.tell_losses(log, now));
    }
}
