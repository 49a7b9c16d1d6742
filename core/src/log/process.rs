//! The log of what belongs to no connection and to no block, for those who have no other: whatever they are, they need not
//! know what a log is made of.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::level::Level;

/// Something that takes lines.
pub trait Lines {
    /// True when lines of this level are taken: ask before formatting.
    fn enabled(&self, level: Level) -> bool;
    /// Writes a line. False when nothing that a person reads has taken it.
    fn write(&self, level: Level, message: fmt::Arguments<'_>) -> bool;
}

thread_local! {
    static PROCESS: RefCell<Option<Rc<dyn Lines>>> = const { RefCell::new(None) };
}

/// Makes this the log of the process.
pub fn install(log: Rc<dyn Lines>) {
    PROCESS.set(Some(log));
}

/// Logs to the log of the process, where one was installed.
pub fn of_process(write: impl FnOnce(&dyn Lines)) {
    if let Some(log) = PROCESS.with_borrow(Clone::clone) {
        write(&*log);
    }
}
