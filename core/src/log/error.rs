//! The error log: levels, targets and nginx's line format.

use std::fmt;
use std::rc::Rc;

use super::level::Level;
pub use super::process::of_process;
use super::process::{self, Lines};
use super::target::{Logs, Target};
use super::{memory, syslog};
use crate::conf::apply::Setup;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Refusal, Word};
use crate::net::PeerInfo;
use crate::zone::Zones;

crate::inherit!(ErrorLogConf { targets });

/// A target as `error_log` names it.
#[derive(Clone)]
enum Named {
    Stderr,
    File(Word),
    Syslog(syslog::Parameters),
    Memory(memory::Parameters),
}

/// The settings of one block: where lines go, and from which level on.
#[derive(Default)]
pub struct ErrorLogConf {
    targets: Vec<(Level, Named)>,
}

/// `error_log`
pub struct ErrorLogs;

impl Feature for ErrorLogs {
    type Conf = ErrorLogConf;
    const NAME: &'static str = "error_log";
    const DIRECTIVES: &'static [Directive<ErrorLogConf>] = &[Directive {
        name: "error_log",
        levels: Levels::MAIN.or(Levels::PROTOCOL).or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::AtLeast(1),
        set: Set::With(|conf, line| {
            let target = line.arg(0)?;
            let named = if target.is("stderr") {
                Named::Stderr
            } else if let Some(parameters) = target.after("syslog:") {
                Named::Syslog(syslog::Parameters::parse(&parameters)?)
            } else if let Some(size) = target.after("memory:") {
                Named::Memory(memory::Parameters::parse(&size)?)
            } else {
                Named::File(target.clone())
            };
            conf.targets.push((level(line.args().get(1..).unwrap_or_default())?, named));
            Ok(())
        }),
        doc: "Where errors are logged, a file, stderr, syslog: or memory:, and from which level on.",
    }];
}

/// nginx: one level, or several of the debug log's topics. All debug lines are of one topic here.
fn level(words: &[Word]) -> Result<Level, Refusal> {
    const TOPICS: [&str; 7] =
        ["debug_core", "debug_alloc", "debug_mutex", "debug_event", "debug_http", "debug_mail", "debug_stream"];
    let (mut level, mut topic) = (None, false);
    for word in words {
        match Level::named(word.bytes()) {
            Some(_) if level.is_some() || topic => return Err(format!("duplicate log level \"{word}\"").into()),
            Some(named) => level = Some(named),
            None if level.is_none() && TOPICS.iter().any(|topic| word.is(topic)) => topic = true,
            None => return Err(format!("invalid log level \"{word}\"").into()),
        }
    }
    Ok(level.unwrap_or(if topic { Level::Debug } else { Level::Error }))
}

impl ErrorLogConf {
    /// The log these settings ask for; `None` when neither this block nor an outer one says so.
    ///
    /// # Errors
    /// There is no memory for a log in memory.
    pub fn build(&self, setup: &Setup, logs: &Logs, zones: &Zones) -> Result<Option<ErrorLog>, ConfigError> {
        let target = |named: &Named| {
            Ok(match named {
                // nginx: an empty name is that of the standard error stream, too.
                Named::Stderr => Target::File(logs.file(None)),
                Named::File(path) if path.is("") => Target::File(logs.file(None)),
                Named::File(path) => Target::File(logs.file_at(&setup.path(path), path.at())),
                Named::Syslog(parameters) => Target::Syslog(logs.syslog(parameters)),
                Named::Memory(parameters) => Target::Memory(parameters.open(zones)?),
            })
        };
        let targets = self.targets.iter().map(|(level, named)| Ok((*level, target(named)?)));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        Ok((!targets.is_empty()).then(|| ErrorLog::new(targets)))
    }
}

/// An error log: targets and the least severe level that each takes.
#[derive(Clone)]
pub struct ErrorLog {
    targets: Rc<[(Level, Target)]>,
    most: Level,
}

impl ErrorLog {
    /// A log to these targets.
    pub fn new(targets: Vec<(Level, Target)>) -> Self {
        let most = targets.iter().map(|(level, _)| *level).max().unwrap_or(Level::Emerg);
        ErrorLog { targets: targets.into(), most }
    }

    /// A log to the standard error stream.
    pub fn stderr(level: Level) -> Self {
        ErrorLog::new(vec![(level, Target::stderr())])
    }

    /// The same log and one target more, unless it goes to a file already.
    ///
    /// nginx: where `error_log` names no file in the main block, there is the default one too.
    #[must_use]
    pub fn with_file(self, level: Level, file: impl FnOnce() -> Target) -> Self {
        if self.targets.iter().any(|(_, target)| matches!(target, Target::File(_))) {
            return self;
        }
        ErrorLog::new(self.targets.iter().cloned().chain([(level, file())]).collect())
    }

    /// Writes one line: time, level, pid, connection number if any, message. Control characters are escaped. False when
    /// no target that a person reads has taken it.
    fn line(&self, level: Level, whose: Whose, message: fmt::Arguments<'_>) -> bool {
        use std::io::Write;
        let mut line = Vec::with_capacity(160);
        crate::clock::error_log_time(&mut line);
        let pid = std::process::id();
        let _ = write!(line, " [{}] {pid}#{pid}: ", level.name());
        if let Some(number) = whose.connection {
            let _ = write!(line, "*{number} ");
        }
        let start = line.len();
        let _ = line.write_fmt(message);
        escape_controls(&mut line, start);
        line.push(b'\n');
        let taking = self.targets.iter().filter(|(most, _)| level <= *most || whose.debugged);
        taking.fold(false, |told, (_, target)| target.error(level, &line) || told)
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

/// Whose lines are logged.
#[derive(Clone, Copy, Debug, Default)]
struct Whose {
    /// The connection's number.
    connection: Option<u64>,
    /// `debug_connection`: lines of every level go to every target.
    debugged: bool,
}

/// An error log together with what is added to each line: the connection's number and what was going on.
#[derive(Clone)]
pub struct Logger<'a> {
    log: ErrorLog,
    whose: Whose,
    context: Option<&'a dyn fmt::Display>,
}

impl<'a> Logger<'a> {
    /// A logger of what belongs to no connection.
    pub fn new(log: &ErrorLog) -> Self {
        Logger { log: log.clone(), whose: Whose::default(), context: None }
    }

    /// A logger of a connection.
    pub fn of(log: &ErrorLog, peer: &PeerInfo) -> Self {
        let whose = Whose { connection: Some(peer.number), debugged: peer.debugged };
        Logger { log: log.clone(), whose, context: None }
    }

    /// The same, with what is appended to each message (`, client: ..., server: ...`).
    pub fn with(self, context: &'a dyn fmt::Display) -> Self {
        Logger { context: Some(context), ..self }
    }

    /// True when some target takes this level: ask before formatting.
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.log.most || self.whose.debugged
    }

    /// Writes a line. False when no target that a person reads has taken it.
    pub fn write(&self, level: Level, message: fmt::Arguments<'_>) -> bool {
        match self.context {
            _ if !self.enabled(level) => false,
            // nginx: a debug line is one of many of the same connection, and says nothing about the others.
            Some(context) if level != Level::Debug => {
                self.log.line(level, self.whose, format_args!("{message}{context}"))
            }
            _ => self.log.line(level, self.whose, message),
        }
    }
}

impl Lines for ErrorLog {
    fn enabled(&self, level: Level) -> bool {
        level <= self.most
    }

    fn write(&self, level: Level, message: fmt::Arguments<'_>) -> bool {
        Logger::new(self).write(level, message)
    }
}

/// Makes this the log of what belongs to no connection and to no block.
pub fn install(log: ErrorLog) {
    process::install(Rc::new(log));
}

/// Logs through a [`Logger`] or anything with `write(Level, Arguments)`; arguments are not evaluated unless logged.
#[macro_export]
macro_rules! log {
    ($logger:expr, $level:ident, $($arg:tt)+) => {{
        let logger = &$logger;
        if logger.enabled($crate::log::Level::$level) {
            let _ = logger.write($crate::log::Level::$level, format_args!($($arg)+));
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;
    use crate::log::file::Opening;

    #[test]
    fn one_level_or_topics() {
        let at = Place { file: "f".into(), line: 1, column: 1 };
        for (words, expected) in [
            ("", Ok(Level::Error)),
            ("info", Ok(Level::Info)),
            ("debug_http debug_event", Ok(Level::Debug)),
            ("info warn", Err("duplicate log level \"warn\"")),
            ("info debug_http", Err("invalid log level \"debug_http\"")),
            ("loud", Err("invalid log level \"loud\"")),
        ] {
            let words: Vec<Word> =
                words.split_whitespace().map(|word| Word::new(word.as_bytes(), at.clone())).collect();
            assert_eq!(level(&words).map_err(|refusal| refusal.0), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let path = std::env::temp_dir().join(format!("tidegate-log-{}", std::process::id()));
        let logs = Logs::default();
        let file = logs.file(Some(&path));
        file.open(Opening::Create).unwrap();
        let log = ErrorLog::new(vec![(Level::Error, Target::File(file))]);
        let logger = |debugged| {
            let whose = Whose { connection: Some(7), debugged };
            Logger { log: log.clone(), whose, context: None }
        };
        assert!(logger(false).write(Level::Error, format_args!("bad \"a\nb\x1b\"")));
        assert!(!logger(false).write(Level::Info, format_args!("too chatty")));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("*7 bad \"a\\x0Ab\\x1B\"\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert!(logger(true).write(Level::Debug, format_args!("asked for")));
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("*7 asked for\n"));
        std::fs::remove_file(&path).unwrap();
    }
}
