//! An answer's way out: filters, the head, the body, and what becomes of the connection.

mod head;
mod writer;

use std::time::Instant;

use tidegate_core::log;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::process::stall;
use tidegate_core::subject::Subject;
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::{Known, Method, Version};

use crate::answer::{Answer, Body, Chunk, Piece};
use crate::exchange::Exchange;
use crate::filters::{Filtered, Transform};
use crate::request_body;
use crate::run::After;
use crate::server::client::Client;
use crate::upstream::relay;

pub use head::absolute;
pub use writer::Writer;

/// What filters do to the body of an answer.
pub type Transforms = Vec<Box<dyn Transform>>;

/// Has the filters look at an answer.
///
/// # Errors
/// The status that one of them wants in its place.
pub fn filter(exchange: &Exchange, client: &Client, answer: &mut Answer) -> Result<Transforms, u16> {
    let plan = exchange.plan();
    let mut transforms = Vec::new();
    exchange.sent.keeps.set(may_keep(exchange, client, answer));
    for filter in &plan.filters {
        match filter.head(exchange, answer) {
            Filtered::Pass => {}
            Filtered::Transform(transform) => transforms.push(transform),
            Filtered::Refuse(status) => return Err(status),
        }
    }
    head::finish(exchange, answer);
    Ok(transforms)
}

/// Sends an answer and says what becomes of the connection.
pub async fn send(client: &mut Client, exchange: &Exchange, mut answer: Box<Answer>, transforms: Transforms) -> After {
    stall::doing("sending a response");
    let plan = exchange.plan();
    let body_read = request_body::discard_arrived(client);
    let unknown_length = !transforms.is_empty() || plan.trailers.are_due(exchange, answer.status);
    let framing = head::framing_of(exchange, &answer, unknown_length);
    let keep = keeps(exchange, client, &answer, framing, body_read);
    let Ok(head) = head::write(exchange, &mut answer, framing, keep) else {
        log!(exchange.logger(), Alert, "a response field cannot be written, the response is not sent");
        exchange.sent.status.set(500);
        return After::Close;
    };
    exchange.sent.look_at(&answer);
    exchange.sent.keeps.set(keep);
    exchange.sent.length.set(framing.length());
    exchange.sent.chunked.set(framing.is_chunked());
    exchange.sent.head.set(u64::try_from(head.len()).unwrap_or(0));
    let Answer { fields, body, .. } = *answer;
    *exchange.sent.fields.borrow_mut() = fields;
    let tunnel = matches!(body, Body::Tunnel(_));
    let mut writer = Writer::new(client, exchange, head, framing.is_chunked(), plan.settings.send_timeout);
    let written = if exchange.is_head() || framing.is_empty() {
        writer.flush().await.map_err(Failure::Client)
    } else {
        send_body(&mut writer, body, transforms, plan.settings.sendfile).await
    };
    match written {
        Ok(()) if tunnel => After::Close,
        Ok(()) if keep && body_read => After::Keep,
        Ok(()) if keep => Box::pin(drain(client, exchange)).await,
        Ok(()) if !client.body.is_done() => After::Linger,
        Ok(()) => After::Close,
        Err(Failure::Client(failure)) => {
            match &failure {
                IoFailure::TimedOut => log!(
                    exchange.logger(),
                    Info,
                    "client timed out (110: Connection timed out) while sending response to client"
                ),
                IoFailure::Io(error) => log!(
                    exchange.logger(),
                    Info,
                    "send() failed ({}) while sending response to client",
                    tidegate_core::log::os_error(error)
                ),
            }
            After::Reset
        }
        // The client must not take half an answer for a whole one.
        Err(Failure::Source) => After::Reset,
    }
}

/// Why an answer could not be sent whole.
pub enum Failure {
    /// The client took it no longer.
    Client(IoFailure),
    /// Its source failed; that has been logged.
    Source,
}

impl From<IoFailure> for Failure {
    fn from(failure: IoFailure) -> Self {
        Failure::Client(failure)
    }
}

async fn send_body(
    writer: &mut Writer<'_>,
    body: Body,
    mut transforms: Transforms,
    sendfile: bool,
) -> Result<(), Failure> {
    if !transforms.is_empty() {
        return Box::pin(transformed(writer, body, &mut transforms)).await;
    }
    match body {
        Body::Empty | Body::Announced(_) | Body::Unknown => writer.finish().await.map_err(Failure::Client),
        Body::Bytes(bytes) => writer.whole(&bytes).await.map_err(Failure::Client),
        Body::File(part) => {
            writer.file(&part, sendfile).await?;
            Ok(writer.finish().await?)
        }
        Body::Pieces(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => writer.data(&bytes).await?,
                    Piece::File(part) => writer.file(&part, sendfile).await?,
                }
            }
            Ok(writer.finish().await?)
        }
        // What is rare or long is boxed: the usual answer does not carry the room for it.
        Body::Upstream(reply) => Box::pin(relay::relay(writer, *reply)).await,
        Body::Tunnel(reply) => {
            writer.flush().await?;
            Box::pin(relay::tunnel(writer, *reply)).await
        }
    }
}

/// The slow way: every chunk through every transformer.
async fn transformed(
    writer: &mut Writer<'_>,
    body: Body,
    transforms: &mut [Box<dyn Transform>],
) -> Result<(), Failure> {
    let mut source = relay::Source::new(body);
    loop {
        let (chunk, is_last) = match source.next(writer).await? {
            Some(data) => (Chunk::Data(data), false),
            None => (Chunk::End, true),
        };
        let mut chunks = vec![chunk];
        for transform in transforms.iter_mut() {
            let mut out = Vec::new();
            chunks.into_iter().for_each(|chunk| transform.chunk(chunk, &mut out));
            chunks = out;
        }
        for chunk in chunks {
            match chunk {
                Chunk::Data(data) => writer.data(&data).await?,
                Chunk::Flush => writer.flush().await?,
                Chunk::End => {}
            }
        }
        if is_last {
            return Ok(writer.finish().await?);
        }
    }
}

/// Whether the connection carries another request behind this answer.
fn keeps(exchange: &Exchange, client: &Client, answer: &Answer, framing: head::Framing, body_read: bool) -> bool {
    // What was found for the filters still holds.
    exchange.sent.keeps.get()
        && !answer.close
        && !framing.ends_by_closing()
        // A client that was never told to go on may or may not send its body: nobody could tell it from the next head.
        && (body_read || !client.expects_continue)
}

/// The same as far as it is known before the filters have seen the answer.
fn may_keep(exchange: &Exchange, client: &Client, answer: &Answer) -> bool {
    let settings = &exchange.plan().settings;
    let asked = match exchange.head.version {
        Version::Http09 => false,
        Version::Http10 => exchange.head.fields.contains_token(Known::Connection, b"keep-alive"),
        _ => !exchange.head.fields.contains_token(Known::Connection, b"close"),
    };
    asked
        && !answer.close
        && !settings.keepalive_timeout.is_zero()
        && exchange.number < settings.keepalive_requests
        && exchange.started.saturating_duration_since(exchange.peer.accepted) < settings.keepalive_time
        && !client.life.is_stopping()
        && !is_misbehaving(exchange)
}

/// True for a browser that `keepalive_disable` is about.
fn is_misbehaving(exchange: &Exchange) -> bool {
    let browsers = exchange.plan.borrow().settings.keepalive_disable;
    let is_post = exchange.head.method == Method::Post;
    ((browsers.msie6 && is_post) || browsers.safari)
        && exchange.head.fields.get(Known::UserAgent).is_some_and(|agent| browsers.include(agent, is_post))
}

/// Reads the rest of the body that nobody wanted, so that the next head can be read.
async fn drain(client: &mut Client, exchange: &Exchange) -> After {
    if request_body::discard_arrived(client) {
        return After::Keep;
    }
    let settings = exchange.plan().settings.clone();
    let end = Instant::now() + settings.lingering_time;
    while exchange.head.framing != Framing::None && Instant::now() < end {
        client.buffer.reserve(4096);
        match client.connection.read(&mut client.buffer, settings.lingering_timeout).await {
            Ok(0) | Err(_) => return After::Close,
            Ok(_) if request_body::discard_arrived(client) => return After::Keep,
            Ok(_) => {}
        }
    }
    After::Close
}
