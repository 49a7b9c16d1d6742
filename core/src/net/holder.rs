//! Who listens on an address that is in use: what the system tells of other processes, for an error that explains.

use std::collections::BTreeSet;
use std::path::Path;

/// Processes named at most.
const MOST: usize = 4;

/// Words about the processes that listen on a TCP port, as far as this process may see them: ` (PROCESS listens there)`.
/// Empty when none can be seen.
pub fn of_port(port: u16) -> String {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let sockets: BTreeSet<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    let mut found: Vec<String> = Vec::new();
    for pid in processes() {
        if found.len() < MOST && has_any(pid, &sockets) {
            found.push(describe(pid));
        }
    }
    if found.is_empty() { String::new() } else { format!(" ({} listens there)", found.join(", ")) }
}

/// The sockets that listen on a port, by the numbers that a table of the system gives them.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let its_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        let number = fields.nth(5).filter(|_| state == LISTENS && its_port == port)?;
        Some(format!("socket:[{number}]"))
    };
    table.lines().filter_map(socket).collect()
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn has_any(pid: u32, sockets: &BTreeSet<String>) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

/// `process 4711 tidegate`; more of a worker that its master has left behind.
fn describe(pid: u32) -> String {
    let executable = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (its, own) = (executable(pid), executable(std::process::id()));
    let its_name = its.as_deref().map(name).unwrap_or_default();
    if its_name.trim_end_matches(" (deleted)") != own.as_deref().map(name).unwrap_or_default() {
        return format!("process {pid} {its_name}");
    }
    match parent(pid).and_then(executable) {
        Some(parent) if Some(&parent) == its.as_ref() => format!("process {pid} {its_name}, a worker"),
        _ => format!("process {pid} {its_name}, a master, or a worker whose master has died: SIGQUIT lets it finish"),
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n\
                     1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4243 1\n\
                     2: broken\n";
        assert_eq!(listening(table, 8080), ["socket:[4242]"]);
        assert!(listening(table, 8081).is_empty());
    }

    #[test]
    fn this_process_is_found_by_what_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = of_port(listener.local_addr().unwrap().port());
        assert!(text.starts_with(&format!(" (process {} ", std::process::id())), "{text}");
        assert_eq!(of_port(1), "");
    }
}
