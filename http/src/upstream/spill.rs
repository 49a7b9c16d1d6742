//! A reply in front of a client that is slower than the upstream: what does not fit into the buffers goes to a temporary
//! file and is read back in order, so that the upstream is done as soon as it can be.
//!
//! As long as the client keeps up this does nothing but pass chunks on. What has come of a reply lies, oldest first: with the
//! sink, in the file, in memory. docs/decisions/0011-temporary-files.md says why it is so.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_core::file::Asked;
use tidegate_core::file::pool::Pending;
use tidegate_core::file::temp::{Naming, Spool, Written};
use tidegate_core::log;
use tidegate_core::log::os_error;
use tidegate_core::subject::Subject;
use tidegate_http_wire::Fields;

use super::module::{LEAST_READ, Reading, SpillSettings};
use super::relay::Reply;
use crate::answer::{Broken, Chunk, Source};
use crate::exchange::Exchange;
use crate::presence::Lookout;

/// How long, all in all, the upstream waits for a client before a file is begun. A client that is only late now and then
/// costs no file; a slow one costs the upstream no more than this.
const PATIENCE: Duration = Duration::from_millis(50);

/// A reply and what the client has yet to take of it.
pub struct Spill {
    reply: Reply,
    /// How the reply is read while the client keeps up.
    reading: Reading,
    /// Since when the upstream has been waiting for the client.
    held_up: Option<Instant>,
    /// What is left of [`PATIENCE`].
    patience: Duration,
    backlog: Option<Box<Backlog>>,
    /// A backlog has been begun, which has not been told yet.
    has_begun: bool,
}

/// What lies between the upstream and the sink.
struct Backlog {
    spool: Spool,
    /// How much of the file the client has been given.
    given: u64,
    /// A piece of the file that a thread reads.
    reading: Option<Pending<Vec<u8>>>,
    /// Behind what is in the file.
    memory: Vec<Bytes>,
    queued: usize,
    /// Whether the client is still there, while the disk is waited for.
    lookout: Lookout,
    /// How the reply ended.
    end: Option<Result<Option<Box<Fields>>, Broken>>,
}

/// How a backlog is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    /// What is written at a time.
    write: usize,
    /// What is given to the client at a time, before the end of the reply is there and afterwards.
    give: (usize, usize),
    /// The largest file.
    most: u64,
}

impl Sizes {
    fn of(settings: &SpillSettings, reading: Reading) -> Sizes {
        let most = usize::try_from(settings.most).unwrap_or(usize::MAX);
        let piece = reading.piece.max(LEAST_READ);
        Sizes {
            write: settings.write.min(most).clamp(LEAST_READ, piece),
            give: (settings.busy.clamp(LEAST_READ, piece), piece),
            most: settings.most,
        }
    }

    /// Another piece may be read, where so much is in the file or on its way there, and so much in memory.
    fn have_room(&self, in_file: u64, queued: usize) -> bool {
        let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        queued < self.write && in_file.saturating_add(size(queued)).saturating_add(size(self.write)) <= self.most
    }
}

/// What a backlog has for the client.
enum Next {
    Chunk(Chunk),
    /// Nothing, and the reply goes on: the client has caught up.
    CaughtUp,
}

impl Spill {
    /// A reply that is buffered.
    pub fn new(reply: Reply) -> Spill {
        let reading = reply.reading();
        Spill { reply, reading, held_up: None, patience: PATIENCE, backlog: None, has_begun: false }
    }

    /// True when the upstream has waited long enough for the client, which has yet to take `waiting` bytes.
    fn poll_patience(&mut self, cx: &mut Context<'_>, exchange: &Exchange, waiting: usize) -> Poll<()> {
        if self.reply.may_fill(waiting) {
            self.calm();
            return Poll::Pending;
        }
        let since = *self.held_up.get_or_insert_with(Instant::now);
        exchange.carrier.poll_until(cx, since + self.patience)
    }

    /// It is not the client that is waited for.
    fn calm(&mut self) {
        if let Some(since) = self.held_up.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
    }

    fn begin(&mut self) {
        let settings = self.reply.settings();
        let sizes = Sizes::of(&settings.spill, self.reading);
        self.backlog = Some(Box::new(Backlog {
            spool: Spool::new(settings.spill.folder.clone(), Naming::Nameless),
            given: 0,
            reading: None,
            memory: Vec::new(),
            queued: 0,
            lookout: Lookout::default(),
            end: None,
        }));
        self.reply.set_piece(sizes.write);
        self.has_begun = true;
    }

    /// Reads on, writes what there is enough of, and gives the client what comes next.
    fn poll_backlog(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
        waiting: usize,
    ) -> Poll<Result<Next, Broken>> {
        let Some(backlog) = &mut self.backlog else { return Poll::Ready(Ok(Next::CaughtUp)) };
        let sizes = Sizes::of(&self.reply.settings().spill, self.reading);
        loop {
            let was_written = backlog.spool.is_writing();
            let written = backlog.poll_written(cx, exchange)?;
            // What is being written is all that memory is used for.
            while backlog.end.is_none()
                && !backlog.spool.is_writing()
                && sizes.have_room(backlog.in_file(), backlog.queued)
                && let Poll::Ready(chunk) = self.reply.poll_chunk(cx, exchange, 0)
            {
                backlog.take(chunk);
            }
            if backlog.end.is_some() {
                self.reply.let_go();
            }
            if backlog.is_due(&sizes) {
                backlog.write(exchange)?;
                continue;
            }
            if let Poll::Ready(next) = backlog.poll_next(cx, exchange, waiting, &sizes) {
                return Poll::Ready(next);
            }
            if !(was_written && written.is_ready()) {
                return Poll::Pending;
            }
        }
    }
}

impl Backlog {
    /// How much is in the file, or on its way there.
    fn in_file(&self) -> u64 {
        self.spool.len().saturating_add(self.spool.being_written())
    }

    /// There is enough to write; of what is left at the end of a reply any is, so that none of it keeps memory.
    fn is_due(&self, sizes: &Sizes) -> bool {
        let rest = self.end.is_some() && self.in_file() > self.given;
        let total = self.in_file().saturating_add(u64::try_from(self.queued).unwrap_or(u64::MAX));
        let is_enough = self.queued >= sizes.write || (rest && self.queued > 0);
        is_enough && !self.spool.is_writing() && total <= sizes.most
    }

    fn take(&mut self, chunk: Result<Chunk, Broken>) {
        match chunk {
            Ok(Chunk::Data(pieces)) => {
                self.queued = pieces.iter().fold(self.queued, |sum, piece| sum.saturating_add(piece.len()));
                self.memory.extend(pieces);
            }
            // A reply includes nothing.
            Ok(Chunk::Flush | Chunk::Include(_)) => {}
            Ok(Chunk::End(trailers)) => self.end = Some(Ok(trailers)),
            Err(broken) => self.end = Some(Err(broken)),
        }
    }

    fn write(&mut self, exchange: &Exchange) -> Result<(), Broken> {
        self.queued = 0;
        self.spool.write(std::mem::take(&mut self.memory)).map_err(|error| {
            log!(exchange.logger(), Crit, "{error} while reading upstream");
            Broken
        })
    }

    fn poll_written(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Result<Poll<()>, Broken> {
        match self.spool.poll_written(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(Written::There)) => {}
            Poll::Ready(Ok(Written::First)) => {
                let path = self.spool.file().map(|file| file.path().display().to_string()).unwrap_or_default();
                log!(
                    exchange.logger(),
                    Warn,
                    "an upstream response is buffered to a temporary file {path} while reading upstream"
                );
            }
            Poll::Ready(Err(error)) => {
                log!(exchange.logger(), Crit, "{error} while reading upstream");
                return Err(Broken);
            }
        }
        Ok(Poll::Ready(()))
    }

    /// What comes next, once the client has taken all that it was given.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
        waiting: usize,
        sizes: &Sizes,
    ) -> Poll<Result<Next, Broken>> {
        if waiting > 0 {
            return Poll::Pending;
        }
        let must_read = self.given < self.spool.len();
        let read = if must_read { self.poll_read(cx, sizes) } else { Poll::Ready(Ok(Vec::new())) };
        if read.is_pending() || (!must_read && self.spool.is_writing()) {
            // Nothing but the disk is waited for.
            ready!(self.lookout.poll_gone(cx, &*exchange.carrier));
            log!(exchange.logger(), Info, "client prematurely closed connection while sending response to client");
            return Poll::Ready(Err(Broken));
        }
        self.lookout.rest(&*exchange.carrier);
        if must_read {
            let read = ready!(read);
            return Poll::Ready(match read {
                Ok(bytes) if !bytes.is_empty() => Ok(Next::Chunk(data([Bytes::from(bytes)]))),
                Ok(_) => Err(unread(exchange, &std::io::ErrorKind::UnexpectedEof.into())),
                Err(error) => Err(unread(exchange, &error)),
            });
        }
        if self.queued > 0 {
            self.queued = 0;
            return Poll::Ready(Ok(Next::Chunk(data(std::mem::take(&mut self.memory)))));
        }
        Poll::Ready(match self.end.take() {
            Some(Ok(trailers)) => Ok(Next::Chunk(Chunk::End(trailers))),
            Some(Err(broken)) => Err(broken),
            None => Ok(Next::CaughtUp),
        })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, sizes: &Sizes) -> Poll<std::io::Result<Vec<u8>>> {
        let read = match &mut self.reading {
            Some(reading) => ready!(Pin::new(reading).poll(cx)),
            None => {
                let give = if self.end.is_some() { sizes.give.1 } else { sizes.give.0 };
                let left = usize::try_from(self.spool.len() - self.given).unwrap_or(usize::MAX);
                let Some(file) = self.spool.file() else { return Poll::Ready(Ok(Vec::new())) };
                match file.open().read(give.min(left), self.given) {
                    Asked::Now(read) => read,
                    Asked::Later(pending) => ready!(Pin::new(self.reading.insert(pending)).poll(cx)),
                }
            }
        };
        self.reading = None;
        if let Ok(bytes) = &read {
            self.given = self.given.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
        Poll::Ready(read)
    }
}

fn data(pieces: impl IntoIterator<Item = Bytes>) -> Chunk {
    Chunk::Data(pieces.into_iter().collect::<SmallVec<[Bytes; 4]>>())
}

fn unread(exchange: &Exchange, error: &std::io::Error) -> Broken {
    log!(exchange.logger(), Crit, "pread() of a temporary file failed ({})", os_error(error));
    Broken
}

impl Source for Spill {
    fn length(&self) -> Option<u64> {
        self.reply.length()
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, exchange: &Exchange, waiting: usize) -> Poll<Result<Chunk, Broken>> {
        if self.backlog.is_none() {
            let polled = self.reply.poll_chunk(cx, exchange, waiting);
            if polled.is_ready() {
                self.calm();
                return polled;
            }
            ready!(self.poll_patience(cx, exchange, waiting));
            self.begin();
            // What the sink has comes first, if it is put back.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match ready!(self.poll_backlog(cx, exchange, waiting))? {
            Next::Chunk(chunk) => Poll::Ready(Ok(chunk)),
            Next::CaughtUp => {
                self.backlog = None;
                self.reply.set_piece(self.reading.piece);
                self.reply.poll_chunk(cx, exchange, waiting)
            }
        }
    }

    fn falls_behind(&mut self) -> Option<usize> {
        let keep = Sizes::of(&self.reply.settings().spill, self.reading).give.0;
        std::mem::take(&mut self.has_begun).then_some(keep)
    }

    fn put_back(&mut self, pieces: Vec<Bytes>) {
        let Some(backlog) = &mut self.backlog else { return };
        backlog.queued = pieces.iter().fold(backlog.queued, |sum, piece| sum.saturating_add(piece.len()));
        backlog.memory.splice(..0, pieces);
    }

    fn abandon(&mut self, exchange: &Exchange) {
        self.reply.abandon(exchange);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_and_written_at_which_sizes() {
        let sizes = |write: usize, most: u64| Sizes { write, give: (write, write), most };
        for (name, sizes, in_file, queued, expected) in [
            ("the first piece", sizes(8192, 1 << 30), 0, 0, true),
            ("less than one write", sizes(8192, 1 << 30), 0, 8191, true),
            ("one write", sizes(8192, 1 << 30), 0, 8192, false),
            ("the last that fits", sizes(8192, 16384), 8192, 0, true),
            ("with what is queued it does not", sizes(8192, 16384), 8192, 1, false),
            ("a full file", sizes(8192, 16384), 16384, 0, false),
            ("a file smaller than a write", sizes(8192, 4096), 0, 0, false),
            ("no overflow", sizes(8192, u64::MAX), u64::MAX, 0, true),
        ] {
            assert_eq!(sizes.have_room(in_file, queued), expected, "{name}");
        }
    }
}
