//! Processes that kill themselves in the middle of a change, at every store in turn: tests only.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};

use super::owner::Owner;
use super::table::{Damaged, Shape, Table, View};
use super::{Zone, Zones};
use crate::conf::Place;

/// More stores than any operation makes.
const STORES: u32 = 60;
const TIMES: usize = 20;
/// Nobody may wait longer.
const PATIENCE: Duration = Duration::from_millis(100);

thread_local! {
    static STORES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Ends the process if its time has come; called before every store.
pub fn fail_point() {
    match STORES_LEFT.get() {
        None => {}
        Some(0) => {
            let _ = raise(Signal::SIGKILL);
        }
        Some(left) => STORES_LEFT.set(Some(left - 1)),
    }
}

type Change = fn(&View<'_>) -> Result<(), Damaged>;

/// Has a child make a change and kill itself at its store of this number. While it is a zombie that nobody has waited
/// for, `then` is run. Tells how long that took; `None` when the change has fewer stores.
pub fn killed_at(store: u32, change: impl FnOnce(), then: impl FnOnce()) -> Option<Duration> {
    let Some(child) = crate::process::identity::fork().unwrap() else {
        STORES_LEFT.set(Some(store));
        change();
        let _ = raise(Signal::SIGTERM);
        std::process::abort();
    };
    while !Owner::living(u32::try_from(child.as_raw()).unwrap()).is_dead() {
        std::thread::yield_now();
    }
    let start = Instant::now();
    then();
    let took = start.elapsed();
    let killed = matches!(waitpid(child, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGKILL, _));
    killed.then_some(took)
}

/// Nobody was delayed by more than [`PATIENCE`], but for a few whom a busy machine may have kept waiting itself.
pub fn assert_not_delayed(mut times: Vec<Duration>) {
    times.sort_unstable();
    let most = times[times.len() * 9 / 10];
    assert!(most < PATIENCE, "{most:?}");
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn newest(view: &View<'_>) -> Result<(), Damaged> {
    view.insert(&key(1000)).map(drop)
}

fn middle(view: &View<'_>, act: impl Fn(super::table::Entry) -> Result<(), Damaged>) -> Result<(), Damaged> {
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
    let (mut times, mut kept) = (Vec::new(), 0);
    for change in changes {
        for store in 0..STORES {
            let mut reached = false;
            for _ in 0..TIMES {
                table.with(fill).unwrap();
                let mut length = 0;
                let took = killed_at(
                    store,
                    || table.with(change).unwrap(),
                    || {
                        length = table.with(|view| view.verify().map(|()| view.len())).unwrap();
                    },
                );
                let Some(took) = took else { break };
                times.push(took);
                reached = true;
                kept += usize::from(length >= 9);
            }
            if !reached {
                break;
            }
        }
    }
    // A change that was cut short before its first store, or of values only, costs nothing.
    assert!(times.len() > 20 * TIMES && kept >= 5 * TIMES, "{} {kept}", times.len());
    assert_not_delayed(times);
}

#[test]
fn a_panic_in_the_middle_of_a_change_is_the_end_of_the_process() {
    let (zones, zone) = zone();
    let table = Table::in_zone(&zone, "test", Shape { key: 8, values: 1 }).unwrap();
    table.with(|view| view.insert(b"a")).unwrap();
    let Some(child) = crate::process::identity::fork().unwrap() else {
        std::panic::set_hook(Box::new(|_| {}));
        let _ =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| table.with(|_| -> Result<(), _> { panic!() })));
        std::process::exit(0);
    };
    let status = waitpid(child, None).unwrap();
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGABRT, _)), "{status:?}");
    assert_eq!(zones.release(u32::try_from(child.as_raw()).unwrap()), ["z"]);
    assert_eq!(table.with(|view| Ok(view.len())), Some(1));
}
