//! The HTTP server and proxy.
