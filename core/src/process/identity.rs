//! Who a process is: forking, detaching, and giving up root for good.
//!
//! `unsafe` is allowed in this file: fork(2) is.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Group, Pid, Uid, User};

/// Splits the process in two. `None` in the child.
///
/// # Errors
/// Those of fork(2).
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the callers are single-threaded: the master never starts a thread or a runtime, and a worker never forks.
    // So no lock can be held by another thread at the time of the fork, and the child may do anything.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            crate::zone::owner::forked();
            Ok(None)
        }
    }
}

/// The process that was started, which waits to hear whether all went well.
pub struct Starter(OwnedFd);

impl Starter {
    /// Lets it end with success.
    pub fn tell(self) {
        let _ = nix::unistd::write(&self.0, b"1");
    }
}

/// Goes on in a new session, in the background. The process that was started ends with success when it is told so, and
/// with failure if this one ends before.
///
/// # Errors
/// Those of the system calls involved.
pub fn detach() -> io::Result<Starter> {
    let (heard, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if fork()?.is_some() {
        drop(tell);
        let told = loop {
            match nix::unistd::read(&heard, &mut [0]) {
                Err(nix::errno::Errno::EINTR) => {}
                read => break read,
            }
        };
        // Nothing of the child's may be flushed or removed by the parent's destructors.
        std::process::exit(if told == Ok(1) { 0 } else { 1 });
    }
    drop(heard);
    nix::unistd::setsid()?;
    // Each file says its mode; one that forgets to is not for everybody to write to. nginx allows everything.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(Starter(tell))
}

/// Detaches the standard error stream too, once nothing more has to be said there.
pub fn silence() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// A user and group that workers become.
#[derive(Clone, Debug)]
pub struct Identity {
    name: CString,
    uid: Uid,
    gid: Gid,
}

impl Identity {
    /// Looks up the user; without a group, the one named like the user, else the user's own. `None` unless we are root.
    ///
    /// # Errors
    /// A name that does not exist.
    pub fn find(user: Option<&(String, Option<String>)>) -> Result<Option<Identity>, String> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let nobody = ("nobody".to_owned(), None);
        let (name, group) = user.unwrap_or(&nobody);
        let account = User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(|| format!("getpwnam(\"{name}\") failed: there is no such user"))?;
        let gid = match group {
            Some(group) => {
                Group::from_name(group)
                    .ok()
                    .flatten()
                    .ok_or_else(|| format!("getgrnam(\"{group}\") failed: there is no such group"))?
                    .gid
            }
            None => Group::from_name(name).ok().flatten().map_or(account.gid, |group| group.gid),
        };
        let name = CString::new(name.as_str()).map_err(|_| "a user's name cannot contain a zero byte")?;
        Ok(Some(Identity { name, uid: account.uid, gid }))
    }

    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Becomes this user, for good.
    ///
    /// # Errors
    /// Those of setgid(2), initgroups(3) and setuid(2).
    pub fn assume(&self) -> io::Result<()> {
        nix::unistd::setgid(self.gid)?;
        nix::unistd::initgroups(&self.name, self.gid)?;
        nix::unistd::setuid(self.uid)?;
        Ok(())
    }
}
