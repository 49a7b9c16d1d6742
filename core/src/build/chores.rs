//! Chores: what each worker does beside serving, for as long as it serves a generation. `docs/decisions/0013-chores.md`
//! tells why they end the way they do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_core::future::LocalBoxFuture;
use tokio::task::{JoinHandle, spawn_local};

/// A chore that has panicked is begun again after a pause, which gets longer each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Something that each worker does beside serving.
///
/// It waits for events, or until it is time, and never looks again and again whether there is something to do: a worker with
/// nothing to do is not to be woken. What only one of the workers is to do is for the one whose
/// [`slot::index`](crate::slot::index) is 0.
pub trait Chore {
    /// What it is called in the log.
    fn name(&self) -> &'static str;

    /// How long it goes on.
    fn lasts(&self) -> Lasts {
        Lasts::WhileAccepting
    }

    /// Does it. It may end of itself; else it is dropped where it waits, when it has lasted as long as it says.
    fn run(&self) -> LocalBoxFuture<'_, ()>;
}

/// How long a chore goes on in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// Until the worker accepts no more clients for this generation: after a reload others do the same.
    WhileAccepting,
    /// Until the last connection of the generation has ended, too.
    ToTheEnd,
}

/// The chores of a generation.
#[derive(Default)]
pub struct Chores(RefCell<Vec<Rc<dyn Chore>>>);

impl Chores {
    /// One more.
    pub fn add(&self, chore: Rc<dyn Chore>) {
        self.0.borrow_mut().push(chore);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<dyn Chore>> {
        self.0.borrow().clone()
    }
}

/// Chores that are being done by this process. They end when this is dropped.
#[derive(Default)]
pub struct Running(Vec<(Lasts, JoinHandle<()>)>);

impl Running {
    /// Begins chores.
    pub fn start(&mut self, chores: impl IntoIterator<Item = Rc<dyn Chore>>) {
        self.0.extend(chores.into_iter().map(|chore| (chore.lasts(), spawn_local(keep_doing(chore, SHORTEST_PAUSE)))));
    }

    /// The worker accepts no more.
    pub fn retire(&mut self) {
        self.0.retain(|(lasts, task)| {
            let goes_on = *lasts == Lasts::ToTheEnd;
            if !goes_on {
                task.abort();
            }
            goes_on
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

thread_local! {
    static DOING: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The chore that is being done right now: whose a panic is.
pub fn doing() -> Option<&'static str> {
    DOING.get()
}

/// Does a chore, and again when it has panicked, after a pause.
async fn keep_doing(chore: Rc<dyn Chore>, mut pause: Duration) {
    while !is_done(&*chore).await {
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}

/// Does it once. False when it has panicked.
async fn is_done(chore: &dyn Chore) -> bool {
    let mut work: Option<LocalBoxFuture<'_, ()>> = None;
    poll_fn(|cx| {
        DOING.set(Some(chore.name()));
        // What has panicked is dropped and not looked at again.
        let turn = catch_unwind(AssertUnwindSafe(|| work.get_or_insert_with(|| chore.run()).as_mut().poll(cx)));
        DOING.set(None);
        turn.map_or(Poll::Ready(false), |poll| poll.map(|()| true))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Log {
        lines: RefCell<Vec<String>>,
        go: Notify,
    }

    struct Work {
        lasts: Lasts,
        panics: Cell<u32>,
        log: Rc<Log>,
    }

    struct Ends(Rc<Log>, Lasts);

    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.lines.borrow_mut().push(format!("{:?} ends", self.1));
        }
    }

    impl Chore for Work {
        fn name(&self) -> &'static str {
            "testing"
        }

        fn lasts(&self) -> Lasts {
            self.lasts
        }

        fn run(&self) -> LocalBoxFuture<'_, ()> {
            Box::pin(async {
                let _ends = Ends(self.log.clone(), self.lasts);
                assert_eq!(doing(), Some("testing"));
                if self.panics.replace(self.panics.get().saturating_sub(1)) > 0 {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                self.log.go.notified().await;
            })
        }
    }

    fn runtime() -> LocalRuntime {
        Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).unwrap()
    }

    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_chore_ends_where_it_waits_when_its_time_has_come() {
        let log = Rc::new(Log::default());
        let chores = Chores::default();
        for lasts in [Lasts::WhileAccepting, Lasts::ToTheEnd] {
            chores.add(Rc::new(Work { lasts, panics: Cell::new(0), log: log.clone() }));
        }
        let ended = |log: &Log| log.lines.borrow().join(", ");
        runtime().block_on(async {
            let mut running = Running::default();
            running.start(chores.all());
            settle().await;
            assert_eq!(ended(&log), "");
            running.retire();
            settle().await;
            assert_eq!(ended(&log), "WhileAccepting ends");
            drop(running);
            settle().await;
            assert_eq!(ended(&log), "WhileAccepting ends, ToTheEnd ends");
            // And begins again with the next generation, or in the next worker.
            let mut running = Running::default();
            running.start(chores.all());
            settle().await;
            log.go.notify_waiters();
            settle().await;
            assert!(running.0.iter().all(|(_, task)| task.is_finished()), "they may end of themselves");
        });
    }

    #[test]
    fn a_chore_that_panics_is_begun_again_after_longer_and_longer_pauses() {
        let log = Rc::new(Log::default());
        let work = Rc::new(Work { lasts: Lasts::ToTheEnd, panics: Cell::new(3), log: log.clone() });
        runtime().block_on(async {
            let task = spawn_local(keep_doing(work.clone(), Duration::from_millis(1)));
            while work.panics.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The fourth time it waits, and ends when it is told to.
            while !task.is_finished() {
                log.go.notify_waiters();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!((log.lines.borrow().len(), doing()), (4, None));
        });
        let pauses: Vec<u64> = std::iter::successors(Some(SHORTEST_PAUSE), |pause| Some(longer(*pause)))
            .map(|pause| pause.as_secs())
            .take(8)
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
