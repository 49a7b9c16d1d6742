//! The public traits of a response store; knows no protocol.
//!
//! A store keeps bodies under keys, each with metadata that it does not understand. Nothing implements it yet: these
//! are the seams that the proxy and a disk store will meet at.

pub mod key;
pub mod store;

pub use key::Key;
pub use store::{Entry, Fill, Found, Store};
