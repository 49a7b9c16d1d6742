//! Descriptors that another process has left open for us: sockets and zones across an upgrade, sockets of systemd.
//!
//! `unsafe` is allowed in this file: it is where a number becomes an owned descriptor.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes over descriptors that were announced by number. Numbers below 3, repeated ones and those that are not open are
/// passed over. What is taken over no longer survives an exec.
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
        if keep_on_exec(&owned, false) {
            taken.push((number, owned));
        }
    }
    taken
}

/// Says whether a descriptor survives an exec. False when the system refuses.
pub fn keep_on_exec(descriptor: &impl AsFd, keep: bool) -> bool {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(flags)).is_ok()
}
