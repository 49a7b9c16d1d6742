//! The way of an answer's bytes to the client: where they are counted, slowed down and given up, whatever carries them.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_core::clock;
use tidegate_core::file::Asked;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::net::timer::later;
use tidegate_core::subject::Subject;
use tidegate_http_wire::Fields;

use super::Failure;
use super::outgoing::Outgoing;
use crate::answer::FilePart;
use crate::exchange::Exchange;
use crate::filters::trailers;
use crate::limit_rate::{May, Pace};
use crate::presence;

/// What is larger is not held back for the next piece of a file.
const COPIED: usize = 16 << 10;
/// Files up to this size are read and written with their head in one go.
const SMALL_FILE: u64 = 32 << 10;
/// What one sendfile(2) may send, so that a fast client does not hold up the others.
const SENDFILE: usize = 2 << 20;
/// What a thread reads ahead of sendfile(2) at a time, where that would have to wait.
const UNCACHED: u64 = 1 << 20;
/// How long pages that were in the cache are taken to be there, in milliseconds.
const REMEMBERED: u64 = 1000;
/// Pieces that files are read in where the kernel cannot send them itself.
pub(super) const PIECE: usize = 64 << 10;

/// The way to the client.
pub struct Sink<'a> {
    exchange: &'a Exchange,
    out: Outgoing,
    /// `send_timeout`
    limit: Duration,
    /// `limit_rate`
    pace: Option<Pace>,
    /// When the client will have taken nothing for too long.
    deadline: Option<Instant>,
}

impl<'a> Sink<'a> {
    /// A sink for an answer whose head lies in `out`.
    pub fn new(exchange: &'a Exchange, out: Outgoing, limit: Duration, pace: Option<Pace>) -> Self {
        Sink { exchange, out, limit, pace, deadline: None }
    }

    /// The exchange that is answered.
    pub fn exchange(&self) -> &'a Exchange {
        self.exchange
    }

    /// How many bytes the client has yet to take.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// The client is slow: takes back what waits beyond the first `keep` bytes, as far as that can be.
    pub fn take_back(&mut self, keep: usize) -> Vec<Bytes> {
        self.out.take_back(keep)
    }

    /// Adds a part of the body.
    pub fn data(&mut self, data: Bytes) {
        self.out.data(data);
    }

    /// Adds a part of the body that lies in pieces.
    pub fn pieces(&mut self, pieces: SmallVec<[Bytes; 4]>) {
        self.out.pieces(pieces);
    }

    /// Ends an answer that has no body.
    pub fn end_without_body(&mut self) {
        self.out.end(None);
    }

    /// Ends the body. What an upstream has sent behind its own goes before what the configuration adds.
    pub fn end(&mut self, came: Option<Box<Fields>>) {
        self.out.end(trailers::of(self.exchange, came));
    }

    /// Writes what waits; ready when the client has taken all of it.
    ///
    /// # Errors
    /// The client has gone, or took nothing for `send_timeout`.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoFailure>> {
        let carrier = &*self.exchange.carrier;
        while !self.out.is_empty() {
            let most = match &self.pace {
                None => usize::MAX,
                Some(_) => ready!(self.poll_allowance(cx))?,
            };
            match carrier.poll_write(cx, &mut self.out, most) {
                Poll::Ready(Ok(count)) => {
                    self.exchange.count_sent(count);
                    self.deadline = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    let deadline = *self.deadline.get_or_insert_with(|| later(self.limit));
                    return carrier.poll_until(cx, deadline).map(|()| Err(IoFailure::TimedOut));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// How much may leave now, as soon as something may. nginx: a client that closes meanwhile is not waited for.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, IoFailure>> {
        let carrier = &*self.exchange.carrier;
        loop {
            let Some(pace) = &self.pace else { return Poll::Ready(Ok(usize::MAX)) };
            match pace.may(self.exchange.bytes_sent(), Instant::now()) {
                May::Go(most) => return Poll::Ready(Ok(most)),
                May::Wait(until) if carrier.poll_until(cx, until).is_pending() => {
                    return carrier.poll_gone(cx).map(|error| Err(error.into()));
                }
                May::Wait(_) => {}
            }
        }
    }

    /// Writes what waits, and waits until it is on its way.
    ///
    /// # Errors
    /// See [`poll_drain`](Self::poll_drain).
    pub async fn flush(&mut self) -> Result<(), IoFailure> {
        poll_fn(|cx| {
            ready!(self.poll_drain(cx))?;
            self.poll_flush(cx)
        })
        .await
    }

    /// Sees to it that what has been written leaves, while there is no more to write.
    ///
    /// # Errors
    /// The client has gone, or took nothing for `send_timeout`.
    pub fn poll_settle(&mut self, cx: &mut Context<'_>) -> Result<(), IoFailure> {
        if !self.out.is_empty() {
            return Ok(());
        }
        match self.exchange.carrier.poll_flush(cx, &mut self.out) {
            Poll::Ready(settled) => {
                self.deadline = None;
                settled.map_err(IoFailure::from)
            }
            Poll::Pending => {
                let deadline = *self.deadline.get_or_insert_with(|| later(self.limit));
                let is_late = self.exchange.carrier.poll_until(cx, deadline).is_ready();
                if is_late { Err(IoFailure::TimedOut) } else { Ok(()) }
            }
        }
    }

    /// Waits until everything written is on its way.
    ///
    /// # Errors
    /// The client has gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoFailure>> {
        self.exchange.carrier.poll_flush(cx, &mut self.out).map_err(IoFailure::from)
    }

    /// Writes a part of a file.
    ///
    /// # Errors
    /// The client has gone, or the file cannot be read; that has been logged.
    pub async fn file(&mut self, part: &FilePart, sendfile: bool) -> Result<(), Failure> {
        let length = part.range.end.saturating_sub(part.range.start);
        self.out.before(length);
        let by_kernel = sendfile && part.file.is_local() && self.exchange.carrier.sends_files();
        if length <= SMALL_FILE || !by_kernel {
            self.copy_file(part).await?;
        } else {
            // Boxed, as all that is long: the usual answer does not carry the room for it.
            Box::pin(self.send_file(part)).await?;
        }
        self.out.behind(length);
        Ok(())
    }

    /// Reads the file and writes it, the first piece together with what waits.
    async fn copy_file(&mut self, part: &FilePart) -> Result<(), Failure> {
        let mut at = part.range.start;
        while at < part.range.end {
            let wanted = usize::try_from(part.range.end - at).unwrap_or(PIECE).min(PIECE);
            let mut cached = true;
            let read = self.out.fill(wanted, |room| match part.file.read_cached(room, at) {
                Some(read) => read,
                None => {
                    cached = false;
                    Ok(0)
                }
            });
            let mut count = read.map_err(|error| failed(self.exchange, "pread()", &error))?;
            if !cached {
                let bytes = Box::pin(wait(self.exchange, "pread()", part.file.read(wanted, at))).await?;
                count = self.out.fill(bytes.len(), |room| Ok::<_, Failure>(copy(&bytes, room)))?;
            }
            if count == 0 {
                return Err(failed(self.exchange, "pread()", &io::ErrorKind::UnexpectedEof.into()));
            }
            at += u64::try_from(count).unwrap_or(u64::MAX);
            if at < part.range.end || self.out.len() > COPIED {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Has the kernel send the file; the head leaves first, marked as having more behind it.
    async fn send_file(&mut self, part: &FilePart) -> Result<(), Failure> {
        if self.pace.is_none() {
            let count = self.exchange.carrier.write_before_more(&mut self.out).map_err(IoFailure::from)?;
            self.exchange.count_sent(count);
        }
        self.flush().await?;
        let mut at = part.range.start;
        // Up to where pages were in the cache, and when that was seen.
        let (mut cached_until, mut seen) = (0, 0);
        while at < part.range.end {
            let now = clock::monotonic();
            let sure = at < cached_until && now.saturating_sub(seen) < REMEMBERED;
            let until = if sure { cached_until } else { part.range.end };
            let wanted = usize::try_from(until - at).unwrap_or(SENDFILE).min(SENDFILE);
            let Some(count) = poll_fn(|cx| self.poll_send_file(cx, part, at, wanted, sure)).await? else {
                let length = (part.range.end - at).min(UNCACHED);
                wait(self.exchange, "pread()", part.file.cache(at, length)).await?;
                (cached_until, seen) = (at.saturating_add(length), clock::monotonic());
                continue;
            };
            if !sure {
                (cached_until, seen) = (at.saturating_add(u64::try_from(wanted).unwrap_or(0)), now);
            }
            if count == 0 {
                return Err(failed(self.exchange, "sendfile()", &io::ErrorKind::UnexpectedEof.into()));
            }
            at += u64::try_from(count).unwrap_or(u64::MAX);
            if count == SENDFILE {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        part: &FilePart,
        at: u64,
        wanted: usize,
        sure: bool,
    ) -> Poll<Result<Option<usize>, IoFailure>> {
        let most = match &self.pace {
            None => wanted,
            Some(_) => wanted.min(ready!(self.poll_allowance(cx))?),
        };
        match self.exchange.carrier.poll_send_file(cx, &part.file, at, most, sure) {
            Poll::Ready(sent) => {
                self.deadline = None;
                let sent = sent?;
                self.exchange.count_sent(sent.unwrap_or(0));
                Poll::Ready(Ok(sent))
            }
            Poll::Pending => {
                let deadline = *self.deadline.get_or_insert_with(|| later(self.limit));
                self.exchange.carrier.poll_until(cx, deadline).map(|()| Err(IoFailure::TimedOut))
            }
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

/// Waits for what a thread does, unless the client gives up.
async fn wait<T: Send + 'static>(exchange: &Exchange, call: &str, asked: Asked<T>) -> Result<T, Failure> {
    match presence::unless_given_up(exchange, asked.wait()).await {
        Some(done) => done.map_err(|error| failed(exchange, call, &error)),
        None => Err(IoFailure::Io(io::ErrorKind::ConnectionAborted.into()).into()),
    }
}

/// Says of a file that it cannot be sent.
pub(super) fn failed(exchange: &Exchange, call: &str, error: &io::Error) -> Failure {
    let changed = match error.kind() {
        io::ErrorKind::UnexpectedEof => ", the file has changed while it was sent",
        _ => "",
    };
    let why = tidegate_core::log::os_error(error);
    tidegate_core::log!(exchange.logger(), Alert, "{call} failed ({why}){changed}");
    Failure::Source
}
