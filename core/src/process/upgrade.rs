//! Upgrade of the binary: a new master is started beside the old one, with the listening sockets and the zones.
//!
//! The sockets are named in nginx's own environment variable, so that existing tooling works, and the zones in one of
//! ours. The roles of the signals are nginx's: USR2 starts the new binary, WINCH retires the old workers, HUP brings
//! them back, QUIT ends the one or the other.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

use super::generation::{Bound, Generation};
use crate::net::adopt::{adopt, keep_on_exec};
use crate::slot::SLOTS;

/// `NUMBER;NUMBER;` of listening sockets, as nginx writes it.
const SOCKETS: &str = "NGINX";
/// `NUMBER:NAME;` of zones; every byte of a name in hexadecimal.
const ZONES: &str = "TIDEGATE_ZONES";
/// `NUMBER;NUMBER;` of those among the sockets that systemd has opened.
const FOREIGN: &str = "TIDEGATE_FOREIGN";
/// Where the new master's worker slots begin: both masters' workers write to the same zones for a while.
const FIRST_SLOT: &str = "TIDEGATE_FIRST_SLOT";

/// What this process was started with.
pub struct Inherited {
    /// Listening sockets.
    pub sockets: Vec<Socket>,
    /// Zones by name.
    pub zones: Vec<(String, OwnedFd)>,
    /// The first worker slot of this master.
    pub first_slot: usize,
    /// This process was started by an old master that is being upgraded.
    pub upgrading: bool,
    /// The process that has started this one.
    pub parent: Pid,
}

/// A listening socket that another process has left us.
pub struct Socket {
    /// Its descriptor.
    pub descriptor: OwnedFd,
    /// It is systemd's: its name in the file system is not ours to remove.
    pub foreign: bool,
}

impl Inherited {
    /// Takes over what the environment announces: of an old master, or of systemd (`LISTEN_FDS`).
    pub fn take() -> Inherited {
        let parent = nix::unistd::getppid();
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let sockets = variable(SOCKETS);
        let upgrading = !sockets.is_empty();
        let list =
            |text: &str| -> Vec<RawFd> { text.split([';', ':']).filter_map(|number| number.parse().ok()).collect() };
        let mut numbers = list(&sockets);
        let mut foreign = if upgrading { list(&variable(FOREIGN)) } else { Vec::new() };
        if variable("LISTEN_PID") == std::process::id().to_string() {
            let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or(0);
            let theirs = 3..3_i32.saturating_add(count.clamp(0, 1024));
            numbers.extend(theirs.clone());
            foreign.extend(theirs);
        }
        let zones: Vec<(RawFd, String)> =
            if upgrading { variable(ZONES).split(';').filter_map(parse_zone).collect() } else { Vec::new() };
        let mut sockets = Vec::new();
        let mut adopted_zones = Vec::new();
        for (number, descriptor) in adopt(numbers.iter().copied().chain(zones.iter().map(|(number, _)| *number))) {
            match zones.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => adopted_zones.push((name.clone(), descriptor)),
                None => sockets.push(Socket { descriptor, foreign: foreign.contains(&number) }),
            }
        }
        let first_slot = if upgrading { variable(FIRST_SLOT).parse().unwrap_or(0) } else { 0 };
        Inherited { sockets, zones: adopted_zones, first_slot: first_slot % SLOTS, upgrading, parent }
    }
}

fn parse_zone(text: &str) -> Option<(RawFd, String)> {
    let (number, name) = text.split_once(':')?;
    if name.len() % 2 != 0 {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let name = name.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some((number.parse().ok()?, String::from_utf8(name).ok()?))
}

fn write_zone(number: RawFd, name: &str) -> String {
    let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{number}:{name};")
}

/// Starts the binary anew, with the arguments of this process.
///
/// # Errors
/// It cannot be started: it is missing, not executable, or there is no memory.
pub fn start(generation: &Generation, first_slot: usize) -> std::io::Result<Pid> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().ok_or(std::io::ErrorKind::NotFound)?;
    let zones = generation.zones.all();
    let sockets = || generation.sockets.iter().flat_map(|bound| bound.all());
    let numbers = |bounds: &mut dyn Iterator<Item = &Bound>| -> String {
        bounds.flat_map(Bound::all).map(|socket| format!("{};", socket.as_raw_fd())).collect()
    };
    let socket_list = numbers(&mut generation.sockets.iter());
    let foreign_list = numbers(&mut generation.sockets.iter().filter(|bound| bound.is_foreign()));
    let zone_list: String = zones.iter().map(|zone| write_zone(zone.as_fd().as_raw_fd(), zone.name())).collect();
    let keep = |keep: bool| {
        for socket in sockets() {
            let _ = keep_on_exec(socket, keep);
        }
        for zone in &zones {
            let _ = keep_on_exec(&zone.as_fd(), keep);
        }
    };
    keep(true);
    let other_half = (first_slot + SLOTS / 2) % SLOTS;
    let mut command = Command::new(program);
    for (name, value) in &generation.settings.environment {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let child = command
        .args(arguments)
        .env(SOCKETS, socket_list)
        .env(FOREIGN, foreign_list)
        .env(ZONES, zone_list)
        .env(FIRST_SLOT, other_half.to_string())
        .spawn();
    keep(false);
    let pid = child?.id();
    Ok(Pid::from_raw(i32::try_from(pid).map_err(|_| std::io::ErrorKind::InvalidData)?))
}

/// Where the pid file of an old master is while a new one runs.
pub fn old_pid_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".oldbin");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_named_whatever_their_names_hold() {
        for name in ["one", "", "a;b:c", "größe"] {
            let text = write_zone(7, name);
            assert_eq!(parse_zone(text.strip_suffix(';').unwrap()), Some((7, name.to_owned())));
        }
        for wrong in ["", "7", "x:61", "7:6", "7:zz"] {
            assert_eq!(parse_zone(wrong), None, "{wrong}");
        }
    }
}
