//! Processes that kill themselves in the middle of a change, at every store in turn: for the tests of what lives in zones.
//!
//! Built for tests only, here and in the crates whose tests ask for the feature `kill-points`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::kill_point::STORES_LEFT;
use super::owner::Owner;
use super::{CHANGING, Region, Zone, Zones, always_sound};
use crate::conf::Place;
use crate::log::file::Opening;
use crate::log::{ErrorLog, Level, Logs, Target, error};
use crate::process::identity::fork;

/// More stores than any operation makes.
const STORES: u32 = 200;
/// Nobody else may be held up for longer.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often each death is died. The builds that are measured die more often.
const TIMES: usize = if cfg!(debug_assertions) { 2 } else { 20 };
/// Tells the process in which a test really runs.
const ALONE: &str = "TIDEGATE_TEST_ALONE";

/// What the parent of the worker that dies is doing meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Master {
    /// It runs and has not waited for the dead yet.
    Running,
    /// It is stopped.
    Stopped,
    /// It has died itself.
    Dead,
}

/// What a series of deaths came to.
#[derive(Debug, Default)]
pub struct Deaths {
    /// How many.
    pub count: usize,
    /// Of those, deaths after which the zone had to be checked.
    pub marked: usize,
    /// The longest that another process was held up, the time for which it had no processor taken off.
    pub slowest: Duration,
}

/// Runs the rest of a test in a process of its own: true in there. A test that forks must not have other threads, which
/// may hold whatever lock the child comes to need.
pub fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{}", out.lines().filter(|line| line.contains("deaths")).fold(String::new(), |all, line| all + line + "\n"));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    false
}

/// Makes a worker of its own make a change and kill itself at each of its stores in turn, under a master that runs, is
/// stopped, or is dead. Before each death everything is made ready by `prepare`. After each, `others` is what another
/// process does then: it must not be held up, and it is the one to find out whether what was left is sound.
///
/// # Panics
/// Somebody was held up, or no line, or more than one, tells that the zone was left in the middle of a change.
pub fn at_every_store(
    zone: &Rc<Zone>,
    mut prepare: impl FnMut(),
    change: impl Fn(),
    mut others: impl FnMut(),
) -> Deaths {
    let folder = std::env::temp_dir().join(format!("tidegate-kill-{}", std::process::id()));
    let logs = Logs::default();
    let file = logs.file(Some(&folder));
    file.open(Opening::Create).unwrap();
    error::install(ErrorLog::new(vec![(Level::Alert, Target::File(file))]));
    let alerts = || std::fs::read_to_string(&folder).unwrap().matches("in the middle of a change").count();
    let mut deaths = Deaths::default();
    for master in [Master::Running, Master::Stopped, Master::Dead] {
        for store in 0..STORES {
            let mut reached = false;
            for _ in 0..TIMES {
                prepare();
                let before = alerts();
                let dying = Dying::start(master, store, &change);
                let marked = zone.word(CHANGING).load(Relaxed) != 0;
                let took = timed(&mut others);
                if !dying.is_killed() {
                    break;
                }
                reached = true;
                deaths.count += 1;
                deaths.marked += usize::from(marked);
                deaths.slowest = deaths.slowest.max(took);
                assert!(took < PATIENCE, "held up for {took:?} after store {store}, master: {master:?}");
                assert_eq!(alerts() - before, usize::from(marked), "after store {store}, master: {master:?}");
            }
            if !reached {
                break;
            }
        }
    }
    std::fs::remove_file(&folder).unwrap();
    println!("{} deaths, {} in the middle of a change, slowest {:?}", deaths.count, deaths.marked, deaths.slowest);
    deaths
}

/// How long it took, less the time that this thread was ready and had no processor.
fn timed(act: &mut impl FnMut()) -> Duration {
    let start = (Instant::now(), waited());
    act();
    start.0.elapsed().saturating_sub(waited().saturating_sub(start.1))
}

fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_ascii_whitespace().nth(1).and_then(|waited| waited.parse().ok()).unwrap_or(0))
}

/// A worker that has died, or has come through, and its master.
struct Dying {
    shared: Region,
    /// The child of this process: the worker, or the master in between.
    child: Pid,
    master: Master,
}

const WORKER: usize = 0;
const THROUGH: usize = 1;

impl Dying {
    /// Returns when the worker has ended.
    fn start(master: Master, store: u32, change: &impl Fn()) -> Dying {
        let zones = Zones::default();
        let at = Place { file: "kill".into(), line: 0, column: 0 };
        let shared = zones.declare("kill", Some(32 << 10), &at).unwrap().region("kill", 2, always_sound).unwrap();
        let Some(child) = fork().unwrap() else {
            if master == Master::Running {
                worker(&shared, store, change);
            }
            let parent = Pid::this();
            if fork().unwrap().is_none() {
                let is_so = || match master {
                    Master::Stopped => state(parent) == Some('T'),
                    _ => matches!(state(parent), None | Some('Z' | 'X')),
                };
                while !is_so() {
                    std::thread::yield_now();
                }
                worker(&shared, store, change);
            }
            let _ = raise(if master == Master::Stopped { Signal::SIGSTOP } else { Signal::SIGKILL });
            std::process::abort();
        };
        let words = shared.words();
        loop {
            let worker = words.get(WORKER).map_or(0, |word| word.load(Acquire));
            if worker != 0 && Owner::from_word(worker).is_dead() {
                return Dying { shared, child, master };
            }
            std::thread::yield_now();
        }
    }

    fn is_killed(&self) -> bool {
        self.shared.words().get(THROUGH).is_some_and(|word| word.load(Acquire) == 0)
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        if self.master != Master::Running {
            let _ = kill(self.child, Signal::SIGKILL);
        }
        let _ = waitpid(self.child, None);
    }
}

fn worker(shared: &Region, store: u32, change: &impl Fn()) -> ! {
    let set = |at: usize, value: u64| shared.words().get(at).into_iter().for_each(|word| word.store(value, Release));
    set(WORKER, Owner::me().word());
    STORES_LEFT.set(Some(store));
    change();
    STORES_LEFT.set(None);
    set(THROUGH, 1);
    let _ = raise(Signal::SIGKILL);
    std::process::abort()
}

fn state(pid: Pid) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::WaitStatus;

    use super::super::table::{Damaged, Shape, Table, View};
    use super::*;

    type Change = fn(&View<'_>) -> Result<(), Damaged>;

    fn key(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    fn newest(view: &View<'_>) -> Result<(), Damaged> {
        view.insert(&key(1000)).map(drop)
    }

    fn middle(view: &View<'_>, act: impl Fn(super::super::table::Entry) -> Result<(), Damaged>) -> Result<(), Damaged> {
        view.find(&key(5))?.map_or(Ok(()), act)
    }

    /// Fills the table again, as far as something was lost.
    fn fill(view: &View<'_>) -> Result<(), Damaged> {
        if let Some(entry) = view.find(&key(1000))? {
            view.remove(entry)?;
        }
        for number in 0..10 {
            if view.find(&key(number))?.is_none() {
                view.insert(&key(number))?;
            }
        }
        Ok(())
    }

    fn zone() -> (Zones, Rc<Zone>) {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &Place { file: "f".into(), line: 1, column: 1 }).unwrap();
        (zones, zone)
    }

    #[test]
    fn death_at_any_store_of_any_change_delays_nobody_and_leaves_a_sound_table() {
        if !alone("zone::kill::tests::death_at_any_store_of_any_change_delays_nobody_and_leaves_a_sound_table") {
            return;
        }
        let (_zones, zone) = zone();
        let table = Table::in_zone(&zone, "test", Shape { key: 255, values: 2 }).unwrap();
        let changes: [Change; 5] = [
            newest,
            |view| middle(view, |entry| view.remove(entry)),
            |view| middle(view, |entry| view.touch(entry)),
            |view| view.oldest()?.map_or(Ok(()), |oldest| view.remove(oldest)),
            |view| {
                middle(view, |entry| {
                    view.set_value(entry, 0, 1);
                    view.set_value(entry, 1, 2);
                    Ok(())
                })
            },
        ];
        let (mut count, mut kept) = (0, 0);
        for change in changes {
            let deaths = at_every_store(
                &zone,
                || table.with(fill).unwrap(),
                || table.with(change).unwrap(),
                || {
                    let length = table.with(|view| view.verify().map(|()| view.len())).unwrap();
                    kept += usize::from(length >= 9);
                },
            );
            count += deaths.count;
        }
        // A change that was cut short before its first store, or of values only, costs nothing.
        assert!(count > 100 * TIMES && kept >= 20 * TIMES, "{count} {kept}");
    }

    #[test]
    fn death_while_a_region_is_made_delays_nobody_and_leaves_a_sound_zone() {
        if !alone("zone::kill::tests::death_while_a_region_is_made_delays_nobody_and_leaves_a_sound_zone") {
            return;
        }
        let (_zones, zone) = zone();
        let deaths = at_every_store(
            &zone,
            || {
                // The zone is as good as new again: no region, all words free.
                zone.word(3).store(0, Relaxed);
                zone.word(4).store(super::super::as_word(zone.first_region()), Relaxed);
            },
            || drop(zone.region("a", 10, always_sound).unwrap()),
            || {
                let region = |key| zone.region(key, 10, always_sound).unwrap();
                let (a, b, again) = (region("a"), region("b"), region("a"));
                let at = |region: &Region| region.words().as_ptr_range();
                assert!(at(&a).end <= at(&b).start && at(&a) == at(&again));
                assert_eq!((a.words().len(), b.words().len()), (10, 10));
            },
        );
        assert!(deaths.count >= 3 * 8 * TIMES && deaths.marked >= 3 * 6 * TIMES, "{deaths:?}");
    }

    #[test]
    fn a_panic_in_the_middle_of_a_change_is_the_end_of_the_process() {
        if !alone("zone::kill::tests::a_panic_in_the_middle_of_a_change_is_the_end_of_the_process") {
            return;
        }
        let (zones, zone) = zone();
        let table = Table::in_zone(&zone, "test", Shape { key: 8, values: 1 }).unwrap();
        table.with(|view| view.insert(b"a")).unwrap();
        let Some(child) = fork().unwrap() else {
            std::panic::set_hook(Box::new(|_| {}));
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                table.with(|_| -> Result<(), _> { panic!() })
            }));
            std::process::exit(0);
        };
        let status = waitpid(child, None).unwrap();
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGABRT, _)), "{status:?}");
        assert_eq!(zones.release(u32::try_from(child.as_raw()).unwrap()), ["z"]);
        assert_eq!(table.with(|view| Ok(view.len())), Some(1));
    }
}
