//! The lock among real threads and processes. All orders of its steps are tried by `tests/lock_model.rs`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::lock::{Lock, PATIENCE, WAITED_FOR};
use super::owner::Owner;

#[test]
fn threads_exclude_each_other() {
    static WORD: AtomicU64 = AtomicU64::new(0);
    static BELL: AtomicU32 = AtomicU32::new(0);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let _held = Lock::new(&WORD, &BELL).hold();
                    let seen = COUNT.load(Relaxed);
                    std::hint::spin_loop();
                    COUNT.store(seen + 1, Relaxed);
                }
            });
        }
    });
    assert_eq!((COUNT.load(Relaxed), WORD.load(Relaxed)), (4000, 0));
}

#[test]
fn a_dead_owner_is_succeeded_and_so_is_one_whose_pid_another_process_has() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = Owner::living(child.id());
    child.wait().unwrap();
    let (word, bell) = (AtomicU64::new(dead.word()), AtomicU32::new(0));
    drop(Lock::new(&word, &bell).hold());
    assert_eq!(word.load(Relaxed), 0);
    word.store(Owner::me().word() ^ 1, Relaxed);
    drop(Lock::new(&word, &bell).hold());
    assert_eq!(word.load(Relaxed), 0);
    word.store(dead.word() | WAITED_FOR, Relaxed);
    assert!(Lock::new(&word, &bell).succeed(dead.pid()).is_some());
    assert!(Lock::new(&word, &bell).succeed(dead.pid()).is_none());
}

#[test]
fn a_stopped_owner_is_not_robbed() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let owner = Owner::living(child.id());
    let (word, bell) = (AtomicU64::new(owner.word()), AtomicU32::new(0));
    let taken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _held = Lock::new(&word, &bell).hold();
            taken.store(1, Relaxed);
        });
        let mark = || word.load(Relaxed) & WAITED_FOR != 0;
        while !mark() {
            std::thread::yield_now();
        }
        // Several rounds of patience.
        std::thread::sleep(PATIENCE * 4);
        let robbed = taken.load(Relaxed);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(robbed, 0);
    });
    assert_eq!((taken.load(Relaxed), word.load(Relaxed)), (1, 0));
}
