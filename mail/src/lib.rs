//! The mail proxy.
