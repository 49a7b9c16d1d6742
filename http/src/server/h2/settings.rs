//! How a server speaks HTTP/2.

use tidegate_http_wire::h2::Limits;

/// `http2_chunk_size` of a location that says it.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSize(pub usize);

/// How a server speaks HTTP/2.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http2_max_concurrent_streams`
    pub streams: u32,
    /// `http2_body_preread_size`
    pub window: u32,
    /// `http2_chunk_size`
    pub chunk: u32,
    /// `http2_limits`
    pub limits: Limits,
}
