//! What carries an exchange between a client and this server: a connection of HTTP/1, a stream of HTTP/2, another exchange.
//! The exchange knows nothing else of it.

use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use futures_core::future::LocalBoxFuture;
use tidegate_core::file::OpenFile;
use tidegate_core::net::pump::{Counters, Limits};
use tidegate_core::net::{Lifetime, Transport};
use tidegate_http_wire::h1::body::{BadBody, Decoded};
use tidegate_http_wire::h1::write::BadPart;

use crate::answer::Answer;
use crate::exchange::Exchange;
use crate::output::framing::Framing;
use crate::output::outgoing::Outgoing;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request may follow.
    Keep,
    /// It is closed.
    Close,
    /// It is closed once the client has stopped sending.
    Linger,
    /// It is closed at once, and reset if so configured.
    Reset,
}

/// A way from a client and back.
pub trait Carrier: RequestBody + Presence + Way {}

impl<T: RequestBody + Presence + Way> Carrier for T {}

/// The body of a request, pulled.
pub trait RequestBody {
    /// The next piece of what has arrived.
    ///
    /// # Errors
    /// It is malformed.
    fn piece(&self) -> Result<Decoded, BadBody>;

    /// Waits until more has arrived, be it the end of the body. False when the client sends no more before that.
    ///
    /// # Errors
    /// The connection has failed.
    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>>;

    /// Bytes that are certain to follow what has been taken, as far as they are announced.
    fn announced(&self) -> u64;

    /// All of it has been taken.
    fn is_taken(&self) -> bool;

    /// The client waits for `100 Continue` before it sends the body.
    fn awaits_continue(&self) -> bool;

    /// Tells a client that waits for it to go on.
    ///
    /// # Errors
    /// The client has gone.
    fn poll_continue(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Whether the client is there, and whether this worker stays.
pub trait Presence {
    /// Ready when the client has closed its side, as far as can be seen without taking anything of what it has sent. One
    /// that has only half-closed looks like one that is gone.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// True when the client is known to be gone, and has not just said that it sends no more.
    fn is_abandoned(&self) -> bool;

    /// Has the kernel ask the client's every now and then whether the client still has its end, or no more.
    fn probe(&self, on: bool);

    /// The worker is going away: no further request is wanted.
    fn is_stopping(&self) -> bool;

    /// Ready at `deadline`.
    fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()>;

    /// A place among the worker's connections for what goes on behind the exchange; `None` when none is left.
    fn admit(&self) -> Option<Lifetime>;
}

/// The way of an answer to the client.
pub trait Way {
    /// Puts the head of an answer in front of everything in `out`. Its length, in bytes.
    ///
    /// # Errors
    /// Something of it would break out of its line.
    fn begin(
        &self,
        exchange: &Exchange,
        answer: &mut Answer,
        framing: Framing,
        keep: bool,
        out: &mut Outgoing,
    ) -> Result<usize, BadPart>;

    /// Takes up to `most` bytes off the front of what goes out; how many it was.
    ///
    /// # Errors
    /// The client has gone.
    fn poll_write(&self, cx: &mut Context<'_>, out: &mut Outgoing, most: usize) -> Poll<io::Result<usize>>;

    /// Waits until everything taken is on its way, and the end of it where `out` has come to its end.
    ///
    /// # Errors
    /// The client has gone.
    fn poll_flush(&self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<io::Result<()>>;

    /// The kernel can send files by itself.
    fn sends_files(&self) -> bool {
        false
    }

    /// Has the kernel send a part of a file. `None` when it is not all cached, which would keep the worker waiting, and
    /// nothing has been sent; with `sure` nobody looks.
    ///
    /// # Errors
    /// The client has gone, or the file cannot be read.
    fn poll_send_file(
        &self,
        _cx: &mut Context<'_>,
        _file: &OpenFile,
        _at: u64,
        _count: usize,
        _sure: bool,
    ) -> Poll<io::Result<Option<usize>>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Takes what it can off the front at once, and has the kernel keep it until more follows.
    ///
    /// # Errors
    /// The client has gone.
    fn write_before_more(&self, _out: &mut Outgoing) -> io::Result<usize> {
        Ok(0)
    }

    /// Bytes both ways between the client and `upstream`, which has sent `first`, until one of the two ends.
    fn tunnel<'a>(
        &'a self,
        upstream: &'a mut Transport,
        first: BytesMut,
        limits: Limits,
        counters: &'a Counters,
    ) -> LocalBoxFuture<'a, ()>;
}
