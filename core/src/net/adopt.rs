//! Descriptors that another process has left open for us: sockets and zones across an upgrade, sockets of systemd; and
//! how listening sockets, which come that way, are watched.
//!
//! `unsafe` is allowed in this file: it is where a number becomes an owned descriptor, and where one is lent to the event
//! loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// Takes over descriptors that were announced by number. Numbers below 3, repeated ones and those that are not open are
/// passed over. What is taken over no longer survives an exec, and never makes its user wait: systemd hands over sockets
/// that block unless it is told otherwise (`NonBlocking=`), and a worker that blocks in accept(2) serves nobody.
///
/// Call this once, before the process has opened anything of its own.
pub fn adopt(numbers: impl IntoIterator<Item = RawFd>) -> Vec<(RawFd, OwnedFd)> {
    let mut taken: Vec<(RawFd, OwnedFd)> = Vec::new();
    for number in numbers {
        if number < 3 || taken.iter().any(|(known, _)| *known == number) {
            continue;
        }
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            continue;
        }
        // SAFETY: the number is open, as /proc has just told, and it is nobody else's: this runs before the process opens
        // any descriptor of its own, the standard three are left alone, and no number is taken twice.
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        if keep_on_exec(&owned, false) && never_wait(&owned) {
            taken.push((number, owned));
        }
    }
    taken
}

/// Registers a socket, which must not block, with the event loop, to learn when it can be read from.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and gives the same number, for as long as it lives; the registration owns it.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(watched?)
}

/// The event loop's own view of the sockets that it watches: the loop itself, and the word by which it knows each of them.
pub struct Watched {
    epoll: OwnedFd,
    words: Vec<(RawFd, u64)>,
}

impl Watched {
    /// Looks for the event loop that watches this socket, among what the process has open. `None` where /proc does not
    /// tell.
    pub fn find(socket: &impl AsRawFd) -> Option<Watched> {
        for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
            let is_epoll =
                std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]");
            let Some(number) = number.filter(|_| is_epoll) else { continue };
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
            let words: Vec<(RawFd, u64)> = text.lines().filter_map(watched).collect();
            if words.iter().any(|(known, _)| *known == socket.as_raw_fd()) {
                // SAFETY: the number is open, as /proc has just told, and stays so: it is the event loop that the caller
                // runs in and that watches the caller's socket. It is only borrowed to be duplicated.
                let epoll = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok()?;
                return Some(Watched { epoll, words });
            }
        }
        None
    }

    /// The event loop.
    pub fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// The word by which the event loop knows a socket.
    pub fn word(&self, socket: &impl AsRawFd) -> Option<u64> {
        self.words.iter().find(|(known, _)| *known == socket.as_raw_fd()).map(|(_, word)| *word)
    }
}

/// A line of `/proc/self/fdinfo` about what an epoll instance watches (proc(5)): `tfd: 5 events: 1d data: 7f00 ..`.
fn watched(line: &str) -> Option<(RawFd, u64)> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let word = words.skip_while(|word| *word != "data:").nth(1)?;
    Some((number, u64::from_str_radix(word, 16).ok()?))
}

fn never_wait(descriptor: &impl AsFd) -> bool {
    let flags = fcntl(descriptor.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags.is_ok_and(|flags| fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).is_ok())
}

/// Says whether a descriptor survives an exec. False when the system refuses.
pub fn keep_on_exec(descriptor: &impl AsFd, keep: bool) -> bool {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(flags)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_event_loop_watches_is_found_by_its_word() {
        assert_eq!(
            watched("tfd:        5 events:       1d data: ffffffff00000001  pos:0 ino:61af sdev:7"),
            Some((5, 0xffff_ffff_0000_0001))
        );
        for other in ["pos:\t0", "tfd: x events: 1 data: 1", "tfd: 5 events: 1", "tfd: 5 data:", ""] {
            assert_eq!(watched(other), None, "{other}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            assert!(Watched::find(&listener).is_none());
            let socket = watch(listener.into()).unwrap();
            let found = Watched::find(socket.get_ref()).unwrap();
            assert!(found.word(socket.get_ref()).is_some());
            assert_eq!(found.word(&std::io::stdin()), None);
        });
    }
}
