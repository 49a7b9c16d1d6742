//! What /proc says about processes and listening sockets, and how to end a family of processes for certain.

use std::fs;
use std::process::Child;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::wait::wait_until;

/// One process, as `/proc/<pid>/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// The parent's process id.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// One letter: `R`, `S`, `D`, `T`, `Z` ...
    pub state: char,
}

/// Every process that can be seen.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// One process, or `None` when it is gone.
pub fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Process { pid, parent, group, state })
}

/// Whether the process exists and has not ended (a zombie has). While any of its threads is left, its descriptors are open.
pub fn is_alive(pid: i32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    process(pid).is_some_and(|process| process.state != 'Z' || threads() > 1)
}

/// The living children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    let mut pids: Vec<i32> =
        all().into_iter().filter(|p| p.parent == parent && p.state != 'Z').map(|p| p.pid).collect();
    pids.sort_unstable();
    pids
}

/// The command line as it is shown by ps, which servers like to rewrite.
pub fn title(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned()
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Number of open descriptors.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Whether some process listens on this TCP port. Looking does not open a connection, so no log and no count sees it.
pub fn is_listening(port: u16) -> bool {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().unwrap_or("");
            let state = fields.nth(1).unwrap_or("");
            state == "0A" && local.rsplit_once(':').is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
        })
    })
}

/// Makes orphans of our children ours, so that [`end_family`] can wait for them.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
}

/// Kills the process group that `leader` leads, and waits until none of its processes is left.
pub fn end_family(leader: &mut Child) {
    let group = Pid::from_raw(leader.id() as i32);
    // Also after the leader has been reaped: its children keep the group alive, and its number taken.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = leader.wait();
    end_group(group.as_raw());
}

/// Kills a process group and waits until none of its processes is left.
pub fn end_group(group: i32) {
    let group = Pid::from_raw(group);
    let _ = killpg(group, Signal::SIGKILL);
    while !matches!(waitpid(Pid::from_raw(-group.as_raw()), None), Err(Errno::ECHILD | Errno::EINVAL)) {}
    wait_until("killed processes are gone", || {
        let left = all().into_iter().any(|p| p.group == group.as_raw() && p.state != 'Z');
        (!left).then_some(())
    });
}

/// The TCP connections of this machine: own port, the peer's port, and the state as the kernel numbers it.
pub fn connections() -> impl Iterator<Item = (u16, u16, u8)> {
    table().into_iter().map(|connection| (connection.own, connection.peer, connection.state))
}

/// Whether a process has accepted the connection between a port of its own and a peer's. One that waits in the queue of
/// a listening socket is nobody's.
pub fn has_accepted(pid: i32, own: u16, peer: u16) -> bool {
    let Some(connection) = table().into_iter().find(|known| (known.own, known.peer) == (own, peer)) else {
        return false;
    };
    let name = format!("socket:[{}]", connection.inode);
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == name.as_str())
}

/// A row of the kernel's table of TCP connections.
struct Connection {
    own: u16,
    peer: u16,
    state: u8,
    /// 0 where no process has it.
    inode: u64,
}

fn table() -> Vec<Connection> {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    table.lines().skip(1).filter_map(connection).collect()
}

fn connection(row: &str) -> Option<Connection> {
    let mut fields = row.split_ascii_whitespace().skip(1);
    let mut port = || u16::from_str_radix(fields.next()?.split_once(':')?.1, 16).ok();
    let (own, peer) = (port()?, port()?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some(Connection { own, peer, state, inode: fields.nth(5)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_family_ends_with_its_orphans() {
        adopt_orphans();
        let mut leader =
            Command::new("sh").args(["-c", "sleep 600 & sleep 600 & wait"]).process_group(0).spawn().unwrap();
        let pid = leader.id() as i32;
        wait_until("the shell has children", || (children(pid).len() == 2).then_some(()));
        end_family(&mut leader);
        assert!(!all().iter().any(|process| process.group == pid));
    }

    #[test]
    fn listening_ports_are_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_listening(port));
        drop(listener);
        wait_until("the port is free", || (!is_listening(port)).then_some(()));
    }
}
