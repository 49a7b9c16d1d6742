//! The body of an answer on its way: pulled from its source, changed by the filters, given to the sink.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tidegate_core::file::Asked;
use tidegate_core::file::pool::Pending;

use super::sink::{PIECE, Sink, failed};
use super::{Failure, Transforms};
use crate::answer::{Body, Broken, Chunk, FilePart, Piece, Source};
use crate::exchange::Exchange;

/// Sends a body to its end.
///
/// # Errors
/// Which side has failed. What is not the client's doing has been logged.
pub async fn send(sink: &mut Sink<'_>, body: Body, transforms: Transforms, sendfile: bool) -> Result<(), Failure> {
    if !transforms.is_empty() {
        let source = match body {
            Body::Source(source) => source,
            body => Box::new(Ready::new(body)),
        };
        return Box::pin(drive(sink, source, transforms)).await;
    }
    match body {
        Body::Empty | Body::Announced(_) | Body::Unknown => {}
        Body::Bytes(bytes) => sink.data(bytes),
        Body::File(part) => sink.file(&part, sendfile).await?,
        Body::Pieces(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => sink.data(bytes),
                    Piece::File(part) => sink.file(&part, sendfile).await?,
                }
            }
        }
        // What is rare or long is boxed: the usual answer does not carry the room for it.
        Body::Source(source) => return Box::pin(drive(sink, source, transforms)).await,
        Body::Tunnel(mut tunnel) => {
            sink.flush().await?;
            tunnel.run(sink.exchange()).await;
            return Ok(());
        }
    }
    sink.end(None);
    Ok(sink.flush().await?)
}

/// Chunks on their way through the filters.
///
/// What a filter has a subrequest answer goes through the filters behind it, as nginx has it. It stays in its place in the
/// queue until it has ended, behind what has been made of what it gave last and before what comes after it.
struct Stages {
    transforms: Transforms,
    /// The next one first, and which filter is the next that it has to go through.
    waiting: VecDeque<(usize, Chunk)>,
}

impl Stages {
    fn new(transforms: Transforms) -> Stages {
        Stages { transforms, waiting: VecDeque::new() }
    }

    /// The next chunk for the client, made of what `source` gives.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
        source: &mut dyn Source,
        unsent: usize,
    ) -> Poll<Result<Chunk, Broken>> {
        loop {
            match self.waiting.front_mut() {
                None => {
                    let chunk = ready!(source.poll_chunk(cx, exchange, unsent))?;
                    if self.transforms.is_empty() && !matches!(chunk, Chunk::Include(_)) {
                        return Poll::Ready(Ok(chunk));
                    }
                    self.waiting.push_front((0, chunk));
                }
                Some((stage, Chunk::Include(included))) => {
                    let stage = *stage;
                    match ready!(included.poll_chunk(cx, exchange, unsent))? {
                        Chunk::End(_) => _ = self.waiting.pop_front(),
                        chunk => self.waiting.push_front((stage, chunk)),
                    }
                }
                Some(_) => {
                    let Some((stage, chunk)) = self.waiting.pop_front() else { continue };
                    let Some(transform) = self.transforms.get_mut(stage) else { return Poll::Ready(Ok(chunk)) };
                    let mut out = Vec::new();
                    transform.chunk(exchange, chunk, &mut out)?;
                    out.into_iter().rev().for_each(|chunk| self.waiting.push_front((stage + 1, chunk)));
                }
            }
        }
    }
}

/// Pulls a body and pushes it. The client takes what it can at any time, and the source is asked for more as long as it may
/// read ahead: neither waits for the other without need.
async fn drive(sink: &mut Sink<'_>, mut source: Box<dyn Source>, transforms: Transforms) -> Result<(), Failure> {
    let exchange = sink.exchange();
    let mut stages = Stages::new(transforms);
    let mut ended: Option<Result<(), Broken>> = None;
    let driven = poll_fn(|cx| {
        loop {
            // What has come together leaves together: the end with the last of the data.
            while ended.is_none()
                && let Poll::Ready(chunk) = stages.poll_chunk(cx, exchange, &mut *source, sink.waiting())
            {
                match chunk {
                    Ok(chunk) => {
                        ended = matches!(chunk, Chunk::End(_)).then_some(Ok(()));
                        deliver(sink, chunk);
                    }
                    Err(broken) => ended = Some(Err(broken)),
                }
            }
            // What filters have made of a body is not the source's any more.
            if stages.transforms.is_empty()
                && let Some(keep) = source.falls_behind()
            {
                source.put_back(sink.take_back(keep));
                continue;
            }
            let before = sink.waiting();
            let drained = sink.poll_drain(cx)?;
            match ended {
                // The client gets what came before a source broke off.
                Some(Err(broken)) => return drained.map(|()| Err(broken.into())),
                Some(Ok(())) => {
                    ready!(drained);
                    return sink.poll_flush(cx).map_err(Failure::Client);
                }
                // With less that waits, the source may read on.
                None if sink.waiting() < before => {}
                None => {
                    // Over TLS what has been taken may not have left yet.
                    sink.poll_settle(cx)?;
                    return Poll::Pending;
                }
            }
        }
    })
    .await;
    if driven.is_err() && ended != Some(Ok(())) {
        source.abandon(exchange);
    }
    driven
}

fn deliver(sink: &mut Sink<'_>, chunk: Chunk) {
    match chunk {
        Chunk::Data(pieces) => sink.pieces(pieces),
        // Nothing is ever held back, and what is included has taken its own place.
        Chunk::Flush | Chunk::Include(_) => {}
        Chunk::End(trailers) => sink.end(trailers),
    }
}

/// A body that is all there, or in files, chunk by chunk.
struct Ready {
    length: Option<u64>,
    /// The first one is next.
    pieces: std::vec::IntoIter<Piece>,
    file: Option<FilePart>,
    reading: Option<Pending<Vec<u8>>>,
}

impl Ready {
    fn new(body: Body) -> Ready {
        let length = body.length();
        let pieces = match body {
            Body::Bytes(bytes) => vec![Piece::Bytes(bytes)],
            Body::File(part) => vec![Piece::File(part)],
            Body::Pieces(pieces) => pieces,
            Body::Empty | Body::Announced(_) | Body::Unknown | Body::Source(_) | Body::Tunnel(_) => Vec::new(),
        };
        Ready { length, pieces: pieces.into_iter(), file: None, reading: None }
    }

    /// The next piece of the file that is being read; `None` at its end.
    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(part) = &mut self.file else { return Poll::Ready(Ok(None)) };
        let wanted = usize::try_from(part.range.end.saturating_sub(part.range.start)).unwrap_or(PIECE).min(PIECE);
        if wanted == 0 {
            self.file = None;
            return Poll::Ready(Ok(None));
        }
        let bytes = match &mut self.reading {
            Some(reading) => ready!(std::pin::Pin::new(reading).poll(cx)),
            None => match part.file.read(wanted, part.range.start) {
                Asked::Now(read) => read,
                Asked::Later(pending) => {
                    let reading = self.reading.insert(pending);
                    ready!(std::pin::Pin::new(reading).poll(cx))
                }
            },
        };
        self.reading = None;
        let bytes = bytes?;
        if bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        part.range.start += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Poll::Ready(Ok(Some(bytes.into())))
    }
}

impl Source for Ready {
    fn length(&self) -> Option<u64> {
        self.length
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, exchange: &Exchange, waiting: usize) -> Poll<Result<Chunk, Broken>> {
        // What is here already, or on a disk, need not be read ahead.
        if waiting > 0 {
            return Poll::Pending;
        }
        loop {
            match ready!(self.poll_file(cx)) {
                Ok(Some(bytes)) => return Poll::Ready(Ok(Chunk::Data([bytes].into_iter().collect()))),
                Ok(None) => {}
                Err(error) => {
                    failed(exchange, "pread()", &error);
                    return Poll::Ready(Err(Broken));
                }
            }
            match self.pieces.next() {
                Some(Piece::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Piece::Bytes(bytes)) => return Poll::Ready(Ok(Chunk::Data([bytes].into_iter().collect()))),
                Some(Piece::File(part)) => self.file = Some(part),
                None => return Poll::Ready(Ok(Chunk::End(None))),
            }
        }
    }
}
