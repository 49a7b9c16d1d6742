//! `-s`: telling a running master what to do.

use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cli::SignalName;
use super::generation::Loader;
use crate::zone::Zones;

/// Sends a signal to the master that the configuration's pid file names.
pub fn send(loader: &Loader, name: SignalName) -> ExitCode {
    let program = loader.program.name;
    let fail = |message: String| {
        eprintln!("{program}: [error] {message}");
        ExitCode::from(1)
    };
    let generation = match loader.load(Zones::default()) {
        Ok((generation, _)) => generation,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{program}: [emerg] {error}"));
            return ExitCode::from(1);
        }
    };
    let path = generation.settings.pid.display().to_string();
    let text = match std::fs::read_to_string(&generation.settings.pid) {
        Ok(text) => text,
        Err(error) => return fail(format!("open() \"{path}\" failed ({})", crate::log::os_error(&error))),
    };
    let Some(pid) = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1) else {
        return fail(format!("invalid PID number \"{}\" in \"{path}\"", text.trim()));
    };
    if let Some(other) = stranger(pid) {
        return fail(format!("process {pid} of \"{path}\" is no {program} but {other}, the signal is not sent"));
    }
    let signal = match name {
        SignalName::Stop => Signal::SIGTERM,
        SignalName::Quit => Signal::SIGQUIT,
        SignalName::Reopen => Signal::SIGUSR1,
        SignalName::Reload => Signal::SIGHUP,
    };
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format!("kill({pid}, {signal}) failed ({})", crate::log::os_error(&error.into()))),
    }
}

/// What a process runs, when that is certainly not this program: a pid file may be left over, and its number in use
/// again. Names are compared, not files: the binary may have been replaced or moved since the master was started.
fn stranger(pid: i32) -> Option<String> {
    let its = executable(&pid.to_string())?;
    (its != executable("self")?).then_some(its)
}

fn executable(process: &str) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy();
    Some(name.trim_end_matches(" (deleted)").to_owned())
}
