//! Error logs, access logs, and what is behind both: files, readers of syslog messages, memory.

pub mod access;
pub mod bell;
pub mod error;
pub mod file;
pub mod level;
pub mod losses;
pub mod memory;
pub mod process;
pub mod shown;
pub mod syslog;
pub mod target;

pub use error::{ErrorLog, Logger};
pub use file::LogFile;
pub use level::Level;
pub use shown::Shown;
pub use target::{Logs, Target};

/// An operating system error as nginx writes it: `2: No such file or directory`.
pub fn os_error(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            format!("{code}: {text}")
        }
        None => error.to_string(),
    }
}
