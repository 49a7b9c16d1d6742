//! The threads of a worker that wait for files, and the queue before them.
//!
//! The threads are started when they are first needed and end when they have been idle for a while. What waits for one is
//! counted, and refused beyond `max_queue`. A thread that hangs holds up nothing but the tasks behind it, and the end of
//! the process does not wait for it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

/// `thread_pool default`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `threads`: how many threads a worker has at most.
    pub threads: usize,
    /// `max_queue`: how many tasks may wait for a thread.
    pub queue: usize,
}

impl Default for Limits {
    /// nginx: 32 threads, 65536 tasks.
    fn default() -> Self {
        Limits { threads: 32, queue: 65536 }
    }
}

thread_local! {
    static QUEUE: Cell<usize> = Cell::new(Limits::default().queue);
    static WAITING: Arc<AtomicUsize> = Arc::default();
}

/// Sets how many tasks may wait. The number of threads is the runtime's: see [`runtime`].
pub(super) fn install(limits: Limits) {
    QUEUE.set(limits.queue);
}

/// Gives a runtime the threads. As in nginx, they leave all signals to the thread that serves.
pub fn runtime(builder: &mut tokio::runtime::Builder, limits: Limits) -> &mut tokio::runtime::Builder {
    builder.max_blocking_threads(limits.threads.max(1)).thread_name("thread pool").on_thread_start(|| {
        let _ = nix::sys::signal::SigSet::all().thread_block();
    })
}

/// What a thread is going to give. Dropping it takes the task back if no thread has begun it; otherwise what the thread
/// gives is dropped when it comes.
#[derive(Debug)]
pub struct Pending<T>(JoinHandle<io::Result<T>>);

impl<T> Future for Pending<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        Pin::new(&mut self.0).poll(cx).map(|done| done.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One of those that wait for a thread.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn take() -> io::Result<Waiting> {
        WAITING.with(|waiting| {
            let count = waiting.load(Ordering::Relaxed);
            if count >= QUEUE.get() {
                crate::log::process::of_process(|log| {
                    crate::log!(log, Error, "thread pool \"default\" queue overflow: {count} tasks waiting");
                });
                return Err(io::Error::other("thread pool queue overflow"));
            }
            waiting.fetch_add(1, Ordering::Relaxed);
            Ok(Waiting(waiting.clone()))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has a thread do what may wait.
///
/// # Errors
/// Too many tasks wait already; that has been logged.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<Pending<T>> {
    let waiting = Waiting::take()?;
    Ok(Pending(spawn_blocking(move || {
        drop(waiting);
        work()
    })))
}

/// Has a thread drop what may wait when it is dropped. It is not counted: what is open has a limit of its own.
pub(super) fn discard<T: Send + 'static>(what: T) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn_blocking(move || drop(what)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn on_one_thread<F: Future>(test: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        runtime(&mut builder, Limits { threads: 1, queue: 2 }).enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn the_queue_has_a_limit() {
        on_one_thread(async {
            install(Limits { threads: 1, queue: 2 });
            let (go, wait) = mpsc::channel::<()>();
            let (begun, has_begun) = mpsc::channel();
            let first = run(move || {
                begun.send(()).unwrap();
                wait.recv().map_err(io::Error::other)
            });
            has_begun.recv().unwrap();
            let second = run(|| Ok(2)).unwrap();
            let third = run(|| Ok(3)).unwrap();
            assert_eq!(run(|| Ok(4)).unwrap_err().to_string(), "thread pool queue overflow");
            go.send(()).unwrap();
            first.unwrap().await.unwrap();
            assert_eq!((second.await.unwrap(), third.await.unwrap()), (2, 3));
            assert_eq!(run(|| Ok(5)).unwrap().await.unwrap(), 5);
        });
    }

    #[test]
    fn what_nobody_waits_for_any_longer_is_not_begun() {
        on_one_thread(async {
            let (go, wait) = mpsc::channel::<()>();
            let (begun, has_begun) = mpsc::channel();
            let first = run(move || {
                begun.send(()).unwrap();
                wait.recv().map_err(io::Error::other)
            });
            has_begun.recv().unwrap();
            let (tell, told) = mpsc::channel();
            drop(run(move || tell.send(()).map_err(io::Error::other)));
            go.send(()).unwrap();
            first.unwrap().await.unwrap();
            run(|| Ok(())).unwrap().await.unwrap();
            assert!(told.recv().is_err(), "the task was run");
        });
    }

    #[test]
    fn a_panic_is_an_error() {
        let result = on_one_thread(async { run(|| -> io::Result<()> { panic!("on purpose") }).unwrap().await });
        assert!(result.is_err());
    }
}
