//! Work that is given up when nobody waits for what comes of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tidegate_core::net::timer::later;

use crate::carrier::Carrier;
use crate::exchange::Exchange;

/// How long a thread may take before it is asked whether the client is still there, and then how often.
const SLOW: Duration = Duration::from_secs(2);

/// Polls until it is ready, for no longer than `limit`: then `None`.
pub async fn within<T>(
    exchange: &Exchange,
    limit: Duration,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let mut deadline = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = poll(cx) {
            return Poll::Ready(Some(output));
        }
        let deadline = *deadline.get_or_insert_with(|| later(limit));
        exchange.carrier.poll_until(cx, deadline).map(|()| None)
    })
    .await
}

/// Runs `work` unless the client closes first: then `None`. A client that has only half-closed looks like one that is
/// gone, so this is for where nginx watches too: an upstream is being asked, or a request is being delayed.
pub async fn unless_gone<F: Future>(exchange: &Exchange, work: F) -> Option<F::Output> {
    unless_leaves(exchange, || true, work).await
}

/// Runs `work` unless the client closes while it `may_leave`: then `None`.
pub async fn unless_leaves<F: Future>(exchange: &Exchange, may_leave: impl Fn() -> bool, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if may_leave() => exchange.carrier.poll_gone(cx).map(|_| None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Runs `work` of the worker's threads unless it takes long and the client is gone: then `None`. A client that has only
/// half-closed gets its answer, however long a slow device takes.
pub async fn unless_given_up<F: Future>(exchange: &Exchange, work: F) -> Option<F::Output> {
    let mut looking = Looking { carrier: &*exchange.carrier, lookout: Lookout::default() };
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        looking.lookout.poll_gone(cx, looking.carrier).map(|()| None)
    })
    .await
}

struct Looking<'a> {
    carrier: &'a dyn Carrier,
    lookout: Lookout,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.lookout.rest(self.carrier);
    }
}

/// Notices that the client is gone while a thread is waited for, once that has taken long.
#[derive(Debug, Default)]
pub struct Lookout {
    next: Option<Instant>,
    /// The client's system is asked whether the client still has its end.
    probes: bool,
}

impl Lookout {
    /// Ready when the client is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, carrier: &dyn Carrier) -> Poll<()> {
        loop {
            let deadline = *self.next.get_or_insert_with(|| later(SLOW));
            ready!(carrier.poll_until(cx, deadline));
            if !std::mem::replace(&mut self.probes, true) {
                carrier.probe(true);
            }
            if carrier.is_abandoned() {
                return Poll::Ready(());
            }
            self.next = None;
        }
    }

    /// The thread is done.
    pub fn rest(&mut self, carrier: &dyn Carrier) {
        self.next = None;
        if std::mem::take(&mut self.probes) {
            carrier.probe(false);
        }
    }
}
