//! A client's connection between and during exchanges.

use bytes::BytesMut;
use tidegate_core::net::{Connection, Lifetime};
use tidegate_core::zone::counters::Standing;
use tidegate_http_wire::h1::body::BodyDecoder;

/// A client's connection: what outlives an exchange is small, since most connections are idle most of the time.
pub struct Client {
    /// The connection.
    pub connection: Connection,
    /// What has been read and not understood yet. Empty and without memory while idle.
    pub buffer: BytesMut,
    /// The body of the request in progress.
    pub body: BodyDecoder,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Bytes of the body received.
    pub body_received: u64,
    /// The request in progress had arrived before the one before it was answered.
    pub pipelined: bool,
    /// Requests carried.
    pub served: u64,
    /// What the connection is doing, for the counters that all workers share.
    pub standing: Standing,
    /// The connection's membership in its worker.
    pub life: Lifetime,
}
