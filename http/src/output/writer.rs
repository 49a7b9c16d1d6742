//! Writes an answer's bytes: the head with the beginning of the body, chunks with their framing, files by the kernel.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::clock;
use tidegate_core::file::Asked;
use tidegate_core::net::connection::{self, IoFailure};
use tidegate_http_wire::h1::body::chunk_header;

use crate::answer::FilePart;
use crate::exchange::Exchange;
use crate::server::client::Client;
use crate::server::h1;

/// What is smaller is copied behind the head instead of written apart.
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
const PIECE: usize = 64 << 10;

/// The way to the client.
pub struct Writer<'a> {
    /// The client.
    pub client: &'a mut Client,
    /// The exchange.
    pub exchange: &'a Exchange,
    /// Bytes that leave with whatever comes next.
    pub pending: Vec<u8>,
    /// The body goes in chunks.
    pub chunked: bool,
    /// `send_timeout`
    pub limit: Duration,
}

impl<'a> Writer<'a> {
    /// A writer that has yet to write the head.
    pub fn new(client: &'a mut Client, exchange: &'a Exchange, head: Vec<u8>, chunked: bool, limit: Duration) -> Self {
        Writer { client, exchange, pending: head, chunked, limit }
    }

    /// Frames `data` into what is pending, without writing anything.
    pub fn frame(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if self.chunked {
            chunk_header(u64::try_from(data.len()).unwrap_or(0), &mut self.pending);
        }
        self.pending.extend_from_slice(data);
        if self.chunked {
            self.pending.extend_from_slice(b"\r\n");
        }
    }

    /// Frames the end of the body.
    pub fn frame_end(&mut self) {
        if self.chunked {
            self.exchange.plan().trailers.write_end(self.exchange, &mut self.pending);
        }
    }

    /// Writes what is pending.
    pub async fn flush(&mut self) -> Result<(), IoFailure> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.client.connection.write(&self.pending, self.limit).await?;
        self.exchange.count_sent(self.pending.len());
        self.pending.clear();
        Ok(())
    }

    /// Writes a part of the body.
    pub async fn data(&mut self, data: &[u8]) -> Result<(), IoFailure> {
        if data.len() <= COPIED {
            self.frame(data);
            return self.flush().await;
        }
        if self.chunked {
            chunk_header(u64::try_from(data.len()).unwrap_or(0), &mut self.pending);
        }
        let connection = &mut self.client.connection;
        connection::write_both(&mut connection.transport, &mut connection.timer, &self.pending, data, self.limit)
            .await?;
        self.exchange.count_sent(self.pending.len() + data.len());
        self.pending.clear();
        if self.chunked {
            self.pending.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// Writes a body that is all there, and its end.
    pub async fn whole(&mut self, data: &[u8]) -> Result<(), IoFailure> {
        if data.len() <= COPIED {
            self.frame(data);
        } else {
            self.data(data).await?;
        }
        self.finish().await
    }

    /// Writes the end of the body.
    pub async fn finish(&mut self) -> Result<(), IoFailure> {
        self.frame_end();
        self.flush().await
    }

    /// Writes a part of a file.
    pub async fn file(&mut self, part: &FilePart, sendfile: bool) -> Result<(), super::Failure> {
        let length = part.range.end.saturating_sub(part.range.start);
        if self.chunked && length > 0 {
            chunk_header(length, &mut self.pending);
        }
        let by_kernel = sendfile && part.file.is_local() && self.client.connection.transport.is_plain_tcp();
        if length <= SMALL_FILE || !by_kernel {
            self.copy_file(part).await?;
        } else {
            // Boxed, as all that is long: the usual answer does not carry the room for it.
            Box::pin(self.send_file(part)).await?;
        }
        if self.chunked && length > 0 {
            self.pending.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// Reads the file and writes it, the first piece together with what is pending.
    async fn copy_file(&mut self, part: &FilePart) -> Result<(), super::Failure> {
        let mut at = part.range.start;
        while at < part.range.end {
            let wanted = usize::try_from(part.range.end - at).unwrap_or(PIECE).min(PIECE);
            let start = self.pending.len();
            self.pending.resize(start + wanted, 0);
            let room = self.pending.get_mut(start..).unwrap_or_default();
            let count = match part.file.read_cached(room, at) {
                Some(count) => count.map_err(|error| self.failed("pread()", &error))?,
                None => {
                    self.pending.truncate(start);
                    Box::pin(self.read_uncached(part, wanted, at)).await?
                }
            };
            self.pending.truncate(start + count);
            if count == 0 {
                return Err(self.failed("pread()", &io::ErrorKind::UnexpectedEof.into()));
            }
            at += u64::try_from(count).unwrap_or(u64::MAX);
            if at < part.range.end || self.pending.len() > COPIED {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Has a thread read a piece, and puts it behind what is pending. Gives its length.
    async fn read_uncached(&mut self, part: &FilePart, wanted: usize, at: u64) -> Result<usize, super::Failure> {
        let bytes = self.wait("pread()", part.file.read(wanted, at)).await?;
        self.pending.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Reads the next piece of a part of a file, and takes it off its range. `None` when nothing is left of it.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter; it has been logged. The client has given up.
    pub async fn next_piece(&mut self, part: &mut FilePart) -> Result<Option<Bytes>, super::Failure> {
        let wanted = usize::try_from(part.range.end.saturating_sub(part.range.start)).unwrap_or(PIECE).min(PIECE);
        if wanted == 0 {
            return Ok(None);
        }
        let bytes = self.wait("pread()", part.file.read(wanted, part.range.start)).await?;
        if bytes.is_empty() {
            return Err(self.failed("pread()", &io::ErrorKind::UnexpectedEof.into()));
        }
        part.range.start += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Some(bytes.into()))
    }

    /// Waits for what a thread does, unless the client gives up.
    async fn wait<T: Send + 'static>(&mut self, call: &str, asked: Asked<T>) -> Result<T, super::Failure> {
        match h1::unless_given_up(self.client, asked.wait()).await {
            Some(done) => done.map_err(|error| self.failed(call, &error)),
            None => Err(IoFailure::Io(io::ErrorKind::ConnectionAborted.into()).into()),
        }
    }

    /// Has the kernel send the file; the head leaves first, marked as having more behind it.
    async fn send_file(&mut self, part: &FilePart) -> Result<(), super::Failure> {
        self.flush_with_more().await?;
        let mut at = part.range.start;
        // Up to where pages were in the cache, and when that was seen.
        let (mut cached_until, mut seen) = (0, 0);
        while at < part.range.end {
            let now = clock::monotonic();
            let sure = at < cached_until && now.saturating_sub(seen) < REMEMBERED;
            let until = if sure { cached_until } else { part.range.end };
            let wanted = usize::try_from(until - at).unwrap_or(SENDFILE).min(SENDFILE);
            let connection = &mut self.client.connection;
            let sending = connection.transport.send_file(&part.file, at, wanted, sure);
            let sent = connection.timer.limit(self.limit, sending).await;
            let Some(count) = sent.map_err(IoFailure::from)?.map_err(IoFailure::from)? else {
                let length = (part.range.end - at).min(UNCACHED);
                self.wait("pread()", part.file.cache(at, length)).await?;
                (cached_until, seen) = (at.saturating_add(length), clock::monotonic());
                continue;
            };
            if !sure {
                (cached_until, seen) = (at.saturating_add(u64::try_from(wanted).unwrap_or(0)), now);
            }
            if count == 0 {
                return Err(self.failed("sendfile()", &io::ErrorKind::UnexpectedEof.into()));
            }
            self.exchange.count_sent(count);
            at += u64::try_from(count).unwrap_or(u64::MAX);
            if count == SENDFILE {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn flush_with_more(&mut self) -> Result<(), IoFailure> {
        const FLAGS: i32 = nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL;
        if let Some(tcp) = self.client.connection.transport.tcp() {
            let sent = tcp.try_io(tokio::io::Interest::WRITABLE, || {
                socket2::SockRef::from(tcp).send_with_flags(&self.pending, FLAGS)
            });
            match sent {
                Ok(count) => {
                    self.exchange.count_sent(count);
                    self.pending.drain(..count.min(self.pending.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.flush().await
    }

    fn failed(&self, call: &str, error: &io::Error) -> super::Failure {
        use tidegate_core::subject::Subject;
        let changed = match error.kind() {
            io::ErrorKind::UnexpectedEof => ", the file has changed while it was sent",
            _ => "",
        };
        let why = tidegate_core::log::os_error(error);
        tidegate_core::log!(self.exchange.logger(), Alert, "{call} failed ({why}){changed}");
        super::Failure::Source
    }
}
