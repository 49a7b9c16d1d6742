//! The body of a request as it comes: limited, counted, and asked for with `100 Continue` when it is first wanted.

use bytes::Bytes;
use tidegate_core::log;
use tidegate_core::subject::Subject;
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h1::body::{BadBody, Decoded};

use crate::exchange::Exchange;
use crate::presence::within;

/// Why a body cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// Larger than `client_max_body_size`.
    TooLarge,
    /// Malformed.
    Bad,
    /// The client took too long.
    TimedOut,
    /// The client closed.
    Gone,
    /// It cannot be kept.
    Storage,
}

impl BodyFault {
    /// nginx's status.
    pub fn status(self) -> u16 {
        match self {
            BodyFault::TooLarge => 413,
            BodyFault::Bad | BodyFault::Gone => 400,
            BodyFault::TimedOut => 408,
            BodyFault::Storage => 500,
        }
    }
}

/// Refuses a body that is announced as too large.
pub fn check_announced(exchange: &Exchange) -> Result<(), BodyFault> {
    let most = exchange.plan().settings.client_max_body_size;
    match exchange.head.framing {
        Framing::Length(length) if most > 0 && length > most => {
            log!(exchange.logger(), Error, "client intended to send too large body: {length} bytes");
            Err(BodyFault::TooLarge)
        }
        _ => Ok(()),
    }
}

/// The next part of the body; `None` at its end.
///
/// # Errors
/// See [`BodyFault`]; it has been logged.
pub async fn next(exchange: &Exchange) -> Result<Option<Bytes>, BodyFault> {
    loop {
        match piece(exchange)? {
            Decoded::Data(data) => return Ok(Some(data)),
            Decoded::End(_) => return Ok(None),
            Decoded::NeedMore => more(exchange).await?,
        }
    }
}

/// The next part of what has arrived; `None` when there is no more for now.
///
/// # Errors
/// See [`next`].
pub fn next_arrived(exchange: &Exchange) -> Result<Option<Bytes>, BodyFault> {
    match piece(exchange)? {
        Decoded::Data(data) => Ok(Some(data)),
        Decoded::End(_) | Decoded::NeedMore => Ok(None),
    }
}

/// Tells a client that waits for it to go on: its body is wanted. nginx: also when the body has come along already.
///
/// # Errors
/// The client has gone.
pub async fn welcome(exchange: &Exchange) -> Result<(), BodyFault> {
    go_on(exchange).await
}

/// The next part of what has arrived, counted and limited.
fn piece(exchange: &Exchange) -> Result<Decoded, BodyFault> {
    let carrier = &*exchange.carrier;
    match carrier.piece() {
        Ok(Decoded::Data(data)) => {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let received = exchange.body_received.get().saturating_add(length);
            exchange.body_received.set(received);
            exchange.received.set(exchange.received.get().saturating_add(length));
            let most = exchange.plan().settings.client_max_body_size;
            if most > 0 && received > most {
                log!(exchange.logger(), Error, "client intended to send too large chunked body: {received} bytes");
                return Err(BodyFault::TooLarge);
            }
            Ok(Decoded::Data(data))
        }
        Ok(other) => {
            // What is announced need not come before it is refused.
            let most = exchange.plan().settings.client_max_body_size;
            let (received, announced) = (exchange.body_received.get(), carrier.announced());
            if most > 0 && received.saturating_add(announced) > most {
                log!(
                    exchange.logger(),
                    Error,
                    "client intended to send too large chunked body: {received}+{announced} bytes"
                );
                return Err(BodyFault::TooLarge);
            }
            Ok(other)
        }
        Err(bad) => Err(malformed(exchange, bad)),
    }
}

fn malformed(exchange: &Exchange, bad: BadBody) -> BodyFault {
    log!(exchange.logger(), Info, "{} while reading client request body", bad.by_client());
    BodyFault::Bad
}

/// Tells a client that waits for it to go on.
async fn go_on(exchange: &Exchange) -> Result<(), BodyFault> {
    if !exchange.carrier.awaits_continue() {
        return Ok(());
    }
    let limit = exchange.plan().settings.send_timeout;
    let told = within(exchange, limit, |cx| exchange.carrier.poll_continue(cx)).await;
    told.ok_or(BodyFault::Gone)?.map_err(|_| BodyFault::Gone)
}

async fn more(exchange: &Exchange) -> Result<(), BodyFault> {
    go_on(exchange).await?;
    let limit = exchange.plan().settings.client_body_timeout;
    match within(exchange, limit, |cx| exchange.carrier.poll_more(cx)).await {
        Some(Ok(false)) => {
            log!(exchange.logger(), Info, "client prematurely closed connection while reading client request body");
            Err(BodyFault::Gone)
        }
        Some(Ok(true)) => Ok(()),
        Some(Err(error)) => {
            log!(
                exchange.logger(),
                Info,
                "recv() failed ({}) while reading client request body",
                tidegate_core::log::os_error(&error)
            );
            Err(BodyFault::Gone)
        }
        None => {
            log!(
                exchange.logger(),
                Info,
                "client timed out (110: Connection timed out) while reading client request body"
            );
            Err(BodyFault::TimedOut)
        }
    }
}

/// Drops what has come of a body that nobody wants, before it is answered.
///
/// # Errors
/// It is malformed, so that nobody could tell where the next head begins; it has been logged.
pub fn pass_over(exchange: &Exchange) -> Result<(), BodyFault> {
    drop_arrived(exchange).map(drop).map_err(|bad| malformed(exchange, bad))
}

/// Drops what has come of the body. True when that was all of it, so that the next head follows.
pub fn discard_arrived(exchange: &Exchange) -> bool {
    drop_arrived(exchange).unwrap_or(false)
}

fn drop_arrived(exchange: &Exchange) -> Result<bool, BadBody> {
    loop {
        match exchange.carrier.piece()? {
            Decoded::Data(_) => {}
            Decoded::End(_) => return Ok(true),
            Decoded::NeedMore => return Ok(exchange.carrier.is_taken()),
        }
    }
}
