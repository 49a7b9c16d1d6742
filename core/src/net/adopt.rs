//! Descriptors that another process has left open for us: sockets and zones across an upgrade, sockets of systemd; and
//! how listening sockets, which come that way, are watched.
//!
//! `unsafe` is allowed in this file: it is where a number becomes an owned descriptor, and where one is lent to the event loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

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

fn never_wait(descriptor: &impl AsFd) -> bool {
    let flags = fcntl(descriptor.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags.is_ok_and(|flags| fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).is_ok())
}

/// Says whether a descriptor survives an exec. False when the system refuses.
pub fn keep_on_exec(descriptor: &impl AsFd, keep: bool) -> bool {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(flags)).is_ok()
}
