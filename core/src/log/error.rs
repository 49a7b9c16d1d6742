//! The error log: levels, targets and nginx's line format.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::file::{LogFile, Logs};
use crate::conf::Word;
use crate::conf::apply::Setup;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};

crate::inherit!(ErrorLogConf { targets });

/// Severity, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Cannot start.
    Emerg,
    /// Needs attention at once.
    Alert,
    /// Critical.
    Crit,
    /// An exchange failed.
    Error,
    /// Suspicious.
    Warn,
    /// Normal but notable.
    Notice,
    /// For information.
    Info,
    /// For debugging.
    Debug,
}

impl Level {
    const NAMES: [(&'static str, Level); 8] = [
        ("emerg", Level::Emerg),
        ("alert", Level::Alert),
        ("crit", Level::Crit),
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("notice", Level::Notice),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];

    /// The level of this name.
    pub fn named(name: &[u8]) -> Option<Level> {
        Self::NAMES.iter().find(|(text, _)| text.as_bytes() == name).map(|(_, level)| *level)
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("error", |(name, _)| name)
    }
}

/// Where one `error_log` line sends what.
#[derive(Clone)]
pub struct Target {
    path: Option<Word>,
    level: Level,
}

/// The settings of one block.
#[derive(Default)]
pub struct ErrorLogConf {
    targets: Vec<Target>,
}

/// `error_log`
pub struct ErrorLogs;

impl Feature for ErrorLogs {
    type Conf = ErrorLogConf;
    const NAME: &'static str = "error_log";
    const DIRECTIVES: &'static [Directive<ErrorLogConf>] = &[Directive {
        name: "error_log",
        levels: Levels::MAIN.or(Levels::PROTOCOL).or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::Between(1, 2),
        set: Set::With(|conf, line| {
            let path = line.arg(0)?;
            if path.bytes().starts_with(b"syslog:") || path.bytes().starts_with(b"memory:") {
                return Err(format!("\"{path}\": syslog and memory logs are not supported yet").into());
            }
            let level = match line.args().get(1) {
                None => Level::Error,
                Some(word) => Level::named(word.bytes()).ok_or_else(|| format!("invalid log level \"{word}\""))?,
            };
            let path = (!path.is("stderr")).then(|| path.clone());
            conf.targets.push(Target { path, level });
            Ok(())
        }),
        doc: "Where errors are logged, and from which level on.",
    }];
}

impl ErrorLogConf {
    /// The log these settings ask for; `None` when neither this block nor an outer one says so.
    pub fn build(&self, setup: &Setup, logs: &Logs) -> Option<ErrorLog> {
        let target = |target: &Target| {
            (target.level, target.path.as_ref().map_or_else(LogFile::stderr, |path| logs.file(&setup.path(path))))
        };
        (!self.targets.is_empty()).then(|| ErrorLog::new(self.targets.iter().map(target).collect()))
    }
}

/// An error log: files and the least severe level that each takes.
#[derive(Clone)]
pub struct ErrorLog {
    targets: Rc<[(Level, Rc<LogFile>)]>,
    most: Level,
}

impl ErrorLog {
    /// A log to these targets.
    pub fn new(targets: Vec<(Level, Rc<LogFile>)>) -> Self {
        let most = targets.iter().map(|(level, _)| *level).max().unwrap_or(Level::Emerg);
        ErrorLog { targets: targets.into(), most }
    }

    /// A log to the standard error stream.
    pub fn stderr(level: Level) -> Self {
        ErrorLog::new(vec![(level, LogFile::stderr())])
    }

    /// True when some target takes this level: ask before formatting.
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.most
    }

    /// Writes one line: time, level, pid, connection number if any, message. Control characters are escaped.
    pub fn write(&self, level: Level, connection: Option<u64>, message: fmt::Arguments<'_>) {
        use std::io::Write;
        if !self.enabled(level) {
            return;
        }
        let mut line = Vec::with_capacity(160);
        crate::clock::error_log_time(&mut line);
        let pid = std::process::id();
        let _ = write!(line, " [{}] {pid}#{pid}: ", level.name());
        if let Some(number) = connection {
            let _ = write!(line, "*{number} ");
        }
        let start = line.len();
        let _ = line.write_fmt(message);
        escape_controls(&mut line, start);
        line.push(b'\n');
        for (_, file) in self.targets.iter().filter(|(most, _)| level <= *most) {
            file.line(&line);
        }
    }
}

/// What peers send may not begin a line of its own in the log.
fn escape_controls(line: &mut Vec<u8>, start: usize) {
    let is_control = |byte: &u8| *byte < 0x20 || *byte == 0x7f;
    if !line.iter().skip(start).any(is_control) {
        return;
    }
    let message = line.split_off(start);
    for byte in message {
        if is_control(&byte) { line.extend_from_slice(format!("\\x{byte:02X}").as_bytes()) } else { line.push(byte) }
    }
}

/// An error log together with what is added to each line: the connection's number and what was going on.
#[derive(Clone)]
pub struct Logger<'a> {
    log: ErrorLog,
    connection: Option<u64>,
    context: Option<&'a dyn fmt::Display>,
}

impl<'a> Logger<'a> {
    /// A logger without context.
    pub fn new(log: &ErrorLog, connection: Option<u64>) -> Self {
        Logger { log: log.clone(), connection, context: None }
    }

    /// The same, with what is appended to each message (`, client: ..., server: ...`).
    pub fn with(self, context: &'a dyn fmt::Display) -> Self {
        Logger { context: Some(context), ..self }
    }

    /// True when the level is logged.
    pub fn enabled(&self, level: Level) -> bool {
        self.log.enabled(level)
    }

    /// Writes a line.
    pub fn write(&self, level: Level, message: fmt::Arguments<'_>) {
        match self.context {
            Some(context) if self.enabled(level) => {
                self.log.write(level, self.connection, format_args!("{message}{context}"))
            }
            _ => self.log.write(level, self.connection, message),
        }
    }
}

thread_local! {
    static PROCESS: RefCell<Option<ErrorLog>> = const { RefCell::new(None) };
}

/// Makes this the log of what belongs to no connection and to no block.
pub fn install(log: ErrorLog) {
    PROCESS.set(Some(log));
}

/// Logs to the log of the process, where one was installed.
pub fn of_process(write: impl FnOnce(&Logger<'_>)) {
    if let Some(log) = PROCESS.with_borrow(Clone::clone) {
        write(&Logger::new(&log, None));
    }
}

/// Logs through a [`Logger`] or anything with `write(Level, Arguments)`; arguments are not evaluated unless logged.
#[macro_export]
macro_rules! log {
    ($logger:expr, $level:ident, $($arg:tt)+) => {{
        let logger = &$logger;
        if logger.enabled($crate::log::Level::$level) {
            logger.write($crate::log::Level::$level, format_args!($($arg)+));
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_and_named() {
        assert!(Level::Emerg < Level::Debug);
        assert_eq!(Level::named(b"warn"), Some(Level::Warn));
        assert_eq!(Level::named(b"loud"), None);
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let dir = std::env::temp_dir().join(format!("tidegate-log-{}", std::process::id()));
        let logs = Logs::default();
        let file = logs.file(&dir);
        file.open().unwrap();
        let log = ErrorLog::new(vec![(Level::Error, file)]);
        log.write(Level::Error, Some(7), format_args!("bad \"a\nb\x1b\""));
        log.write(Level::Info, None, format_args!("too chatty"));
        let text = std::fs::read_to_string(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert!(text.ends_with("*7 bad \"a\\x0Ab\\x1B\"\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
