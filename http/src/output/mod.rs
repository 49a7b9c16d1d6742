//! An answer's way out: filters, the head, the body, and what becomes of the connection.

pub mod body;
pub mod framing;
pub mod head;
pub mod outgoing;
pub mod sink;

use tidegate_core::log;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::process::stall;
use tidegate_core::subject::Subject;
use tidegate_http_wire::{Known, Method, Version};

use crate::answer::{Answer, Body, Broken};
use crate::carrier::After;
use crate::exchange::Exchange;
use crate::filters::{Filtered, Transform, trailers};
use crate::limit_rate;
use crate::request_body;

use framing::Framing;
use outgoing::Outgoing;
use sink::Sink;

/// What filters do to the body of an answer.
pub type Transforms = Vec<Box<dyn Transform>>;

/// Has the filters look at an answer.
///
/// # Errors
/// The status that one of them wants in its place.
pub fn filter(exchange: &Exchange, answer: &mut Answer) -> Result<Transforms, u16> {
    let plan = exchange.plan();
    let mut transforms = Vec::new();
    exchange.sent.keeps.set(may_keep(exchange, answer));
    let is_part = exchange.is_subrequest();
    for filter in plan.filters.iter().filter(|filter| !is_part || filter.sees_subrequests()) {
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
pub async fn send(exchange: &Exchange, mut answer: Box<Answer>, transforms: Transforms) -> After {
    stall::doing("sending a response");
    let plan = exchange.plan();
    let settings = &plan.settings;
    let body_read = request_body::discard_arrived(exchange);
    let unknown_length = !transforms.is_empty() || trailers::are_due(&plan, exchange, answer.status);
    let framing = head::framing_of(exchange, &answer, unknown_length);
    let keep = keeps(exchange, &answer, framing, body_read);
    let mut out = Outgoing::default();
    let Ok(head) = exchange.carrier.begin(exchange, &mut answer, framing, keep, &mut out) else {
        log!(exchange.logger(), Alert, "a response field cannot be written, the response is not sent");
        exchange.sent.status.set(500);
        return After::Close;
    };
    exchange.sent.look_at(&answer);
    exchange.sent.keeps.set(keep);
    exchange.sent.length.set(framing.length());
    exchange.sent.chunked.set(framing.is_chunked());
    exchange.sent.head.set(u64::try_from(head).unwrap_or(0));
    // A head that does not go the way of the body has left already.
    exchange.count_sent(head.saturating_sub(out.len()));
    let Answer { fields, body, .. } = *answer;
    *exchange.sent.fields.borrow_mut() = fields;
    let tunnel = matches!(body, Body::Tunnel(_));
    let mut sink = Sink::new(exchange, out, settings.send_timeout, limit_rate::of(exchange, &plan));
    let sent = if exchange.is_head() || framing.is_empty() {
        sink.end_without_body();
        sink.flush().await.map_err(Failure::Client)
    } else {
        body::send(&mut sink, body, transforms, settings.sendfile).await
    };
    match sent {
        Ok(()) if tunnel => After::Close,
        Ok(()) if keep => After::Keep,
        Ok(()) if !exchange.carrier.is_taken() => After::Linger,
        Ok(()) => After::Close,
        Err(failure) => {
            log_failure(exchange, &failure);
            // The client must not take half an answer for a whole one.
            After::Reset
        }
    }
}

/// Why an answer could not be sent whole.
#[derive(Debug)]
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

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Failure::Source
    }
}

fn log_failure(exchange: &Exchange, failure: &Failure) {
    match failure {
        Failure::Client(IoFailure::TimedOut) => log!(
            exchange.logger(),
            Info,
            "client timed out (110: Connection timed out) while sending response to client"
        ),
        Failure::Client(IoFailure::Io(error)) => log!(
            exchange.logger(),
            Info,
            "send() failed ({}) while sending response to client",
            tidegate_core::log::os_error(error)
        ),
        Failure::Source => {}
    }
}

/// Whether the connection carries another request behind this answer.
fn keeps(exchange: &Exchange, answer: &Answer, framing: Framing, body_read: bool) -> bool {
    // What was found for the filters still holds.
    exchange.sent.keeps.get()
        && !answer.close
        && !framing.ends_by_closing()
        // A client that was never told to go on may or may not send its body: nobody could tell it from the next head.
        && (body_read || !exchange.carrier.awaits_continue())
}

/// The same as far as it is known before the filters have seen the answer.
fn may_keep(exchange: &Exchange, answer: &Answer) -> bool {
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
        && !exchange.carrier.is_stopping()
        && !is_misbehaving(exchange)
}

/// True for a browser that `keepalive_disable` is about.
fn is_misbehaving(exchange: &Exchange) -> bool {
    let browsers = exchange.plan.borrow().settings.keepalive_disable;
    let is_post = exchange.head.method == Method::Post;
    ((browsers.msie6 && is_post) || browsers.safari)
        && exchange.head.fields.get(Known::UserAgent).is_some_and(|agent| browsers.include(agent, is_post))
}
