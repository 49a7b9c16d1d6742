//! One timer a connection, armed lazily: a deadline that moves back costs nothing until the earlier one fires.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::deadlines::Deadline;

/// The time allowed is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// A connection's deadline.
///
/// A wait that ends in time touches nothing: what is armed stays so for the earliest deadline asked for since it last
/// fired, and is armed again only when it fires too early or a nearer deadline comes.
#[derive(Debug, Default)]
pub struct Timer {
    armed: Option<Deadline>,
}

impl Timer {
    /// Waits for `future`, for no longer than `limit`.
    ///
    /// # Errors
    /// [`TimedOut`]; the future is dropped.
    pub async fn limit<F: Future>(&mut self, limit: Duration, future: F) -> Result<F::Output, TimedOut> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let deadline = *deadline.get_or_insert_with(|| later(limit));
            self.poll_until(cx, deadline).map(|()| Err(TimedOut))
        })
        .await
    }

    /// Ready once `deadline` has passed.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.armed.as_ref().is_some_and(|armed| armed.will_wake(cx.waker(), deadline)) {
            return Poll::Pending;
        }
        // The next wait arms afresh.
        self.armed = None;
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        self.armed = Some(Deadline::new(deadline, cx.waker()));
        Poll::Pending
    }
}

/// Now and `limit`; far in the future where that overflows.
pub fn later(limit: Duration) -> Instant {
    after(Instant::now(), limit)
}

/// `now` and `limit`; far in the future where that overflows.
pub fn after(now: Instant, limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 86400);
    now + limit.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_ready_future_wins_and_a_pending_one_times_out() {
        run(async {
            let mut timer = Timer::default();
            assert_eq!(timer.limit(Duration::from_secs(1), ready(5)).await, Ok(5));
            assert_eq!(timer.limit(Duration::from_millis(20), pending::<()>()).await, Err(TimedOut));
        });
    }

    #[test]
    fn a_task_without_budget_arms_its_timer_all_the_same() {
        run(async {
            let mut timer = Timer::default();
            let deadline = later(Duration::from_millis(20));
            let mut has_budget = true;
            let waiting = poll_fn(|cx| {
                while has_budget {
                    has_budget = pin!(tokio::task::consume_budget()).poll(cx).is_ready();
                }
                timer.poll_until(cx, deadline)
            });
            assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.is_ok());
        });
    }
}
