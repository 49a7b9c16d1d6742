//! Who holds a lock: a process, told by its pid and the time it started, in one word.
//!
//! A pid alone is not enough: it may belong to another process by now. Whether the owner lives is asked of the kernel,
//! so it does not matter whether anybody has waited for the dead.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bits of the time of start, in the kernel's ticks since boot. Above them is the pid, which has 22 bits at most; the
/// uppermost bit is left to the lock.
const START_BITS: u32 = 41;
const START_MASK: u64 = (1 << START_BITS) - 1;
const PID_MASK: u64 = (1 << 22) - 1;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

static ME: AtomicU64 = AtomicU64::new(0);

/// Must be called in a child right after fork(2): it is another process than the one that was asked before.
pub fn forked() {
    ME.store(0, Relaxed);
}

impl Owner {
    /// This process.
    pub fn me() -> Owner {
        match ME.load(Relaxed) {
            0 => {
                let me = Owner::living(std::process::id());
                ME.store(me.0, Relaxed);
                me
            }
            known => Owner(known),
        }
    }

    /// The process that has this pid now. Where the kernel does not tell when it started, that is taken to be zero.
    pub fn living(pid: u32) -> Owner {
        let start = stat(pid).map_or(0, |(_, start)| start);
        Owner((u64::from(pid) & PID_MASK) << START_BITS | start)
    }

    /// The owner that a word of a zone names, whatever is in it.
    pub fn from_word(word: u64) -> Owner {
        Owner(word & (PID_MASK << START_BITS | START_MASK))
    }

    /// The word for it; never zero.
    pub fn word(self) -> u64 {
        self.0
    }

    /// Its pid.
    pub fn pid(self) -> u32 {
        u32::try_from(self.0 >> START_BITS & PID_MASK).unwrap_or(0)
    }

    /// True when the process has certainly ended. One that is stopped lives; one that nobody has waited for does not.
    pub fn is_dead(self) -> bool {
        match stat(self.pid()) {
            Some((b'Z' | b'X', _)) => true,
            Some((_, start)) => self.0 & START_MASK != 0 && start != self.0 & START_MASK,
            None => {
                let Ok(pid) = i32::try_from(self.pid()) else { return true };
                pid == 0
                    || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
            }
        }
    }
}

/// State and time of start of the process with this pid, as far as the kernel tells.
fn stat(pid: u32) -> Option<(u8, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&text)
}

/// The name of the program, in parentheses, may contain anything.
fn parse(text: &[u8]) -> Option<(u8, u64)> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is the third field, the time of start the twenty-second.
    let start: u64 = fields.nth(18)?.parse().ok()?;
    Some((state, start & START_MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_known_again_and_another_with_its_pid_is_not() {
        let me = Owner::me();
        assert_eq!((me, me.pid()), (Owner::living(std::process::id()), std::process::id()));
        assert!(!me.is_dead());
        assert!(Owner(me.word() ^ 1).is_dead());
        assert!(Owner(0).is_dead());
        assert_eq!(Owner::from_word(me.word() | 1 << 63), me);
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = Owner::living(child.id());
        // No waitpid(2) here: it stays a zombie.
        while !owner.is_dead() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(owner.is_dead());
    }

    #[test]
    fn names_of_programs_do_not_confuse() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse(format!("12 (a) Z (b) {fields}").as_bytes()), Some((b'S', 777)));
        assert_eq!(parse(b"12 (a"), None);
        assert_eq!(parse(b""), None);
    }
}
