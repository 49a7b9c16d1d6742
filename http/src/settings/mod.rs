//! Limits, timeouts and flags of connections and exchanges.

pub mod directives;

use std::time::Duration;

use tidegate_http_wire::conditional::Since;
use tidegate_http_wire::h1::request::HeadLimits;

/// When the connection is kept open for what the client may still be sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    /// Never.
    Off,
    /// When something unread is known to be on its way.
    On,
    /// Always.
    Always,
}

/// How much `Server` and error pages tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Name and version.
    On,
    /// The name.
    Off,
}

/// `keepalive_disable`: browsers that misbehave on kept connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Browsers {
    /// Old ones of Microsoft, behind a POST.
    pub msie6: bool,
    /// Those of Apple.
    pub safari: bool,
}

impl Browsers {
    /// True when the browser behind this `User-Agent` is one of them.
    pub fn include(self, agent: &[u8], is_post: bool) -> bool {
        let says = |what: &[u8]| agent.windows(what.len()).any(|part| part == what);
        let msie = || {
            let at = agent.windows(5).position(|part| part == b"MSIE ").and_then(|at| agent.get(at + 5..));
            match at {
                Some([b'4' | b'5', b'.', ..]) => true,
                Some([b'6', b'.', ..]) => !says(b"SV1"),
                _ => false,
            }
        };
        let safari =
            || says(b"Safari/") && says(b"Mac OS X") && !says(b"Opera") && !says(b"Gecko/") && !says(b"Chrome/");
        (self.msie6 && is_post && msie()) || (self.safari && safari())
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `keepalive_timeout`; zero closes.
    pub keepalive_timeout: Duration,
    /// What `Keep-Alive: timeout=` tells.
    pub keepalive_header: Option<Duration>,
    /// `keepalive_requests`
    pub keepalive_requests: u64,
    /// `keepalive_time`
    pub keepalive_time: Duration,
    /// `keepalive_min_timeout`: the grace of idle connections when a worker goes away.
    pub keepalive_min_timeout: Duration,
    /// `keepalive_disable`
    pub keepalive_disable: Browsers,
    /// `client_header_timeout`
    pub client_header_timeout: Duration,
    /// `client_header_buffer_size`
    pub client_header_buffer_size: usize,
    /// What a head may be.
    pub head: HeadLimits,
    /// `client_body_timeout`
    pub client_body_timeout: Duration,
    /// `client_body_buffer_size`
    pub client_body_buffer_size: usize,
    /// `client_max_body_size`; 0 is any size.
    pub client_max_body_size: u64,
    /// `send_timeout`
    pub send_timeout: Duration,
    /// `lingering_close`
    pub lingering_close: Lingering,
    /// `lingering_time`
    pub lingering_time: Duration,
    /// `lingering_timeout`
    pub lingering_timeout: Duration,
    /// `tcp_nodelay`
    pub tcp_nodelay: bool,
    /// `sendfile`
    pub sendfile: bool,
    /// `server_tokens`
    pub server_tokens: Tokens,
    /// `etag`
    pub etag: bool,
    /// `if_modified_since`
    pub if_modified_since: Since,
    /// `max_ranges`
    pub max_ranges: Option<usize>,
    /// `chunked_transfer_encoding`
    pub chunked_transfer_encoding: bool,
    /// `absolute_redirect`
    pub absolute_redirect: bool,
    /// `port_in_redirect`
    pub port_in_redirect: bool,
    /// `server_name_in_redirect`
    pub server_name_in_redirect: bool,
    /// `log_not_found`
    pub log_not_found: bool,
    /// `recursive_error_pages`
    pub recursive_error_pages: bool,
    /// `log_subrequest`
    pub log_subrequest: bool,
    /// `subrequest_output_buffer_size`
    pub subrequest_output_buffer_size: usize,
    /// `reset_timedout_connection`
    pub reset_timedout_connection: bool,
}
