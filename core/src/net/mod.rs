//! Addresses, listening sockets, connections, deadlines and the byte pump.

pub mod address;
pub mod adopt;
pub mod buffers;
pub mod connection;
mod deadlines;
pub mod forwarded;
pub mod holder;
pub mod life;
pub mod listen;
pub mod network;
pub mod pump;
pub mod ranges;
pub mod stale;
pub mod timer;

pub use address::Address;
pub use connection::{Connection, PeerInfo, Transport};
pub use life::{Connections, Lifetime};
pub use timer::{TimedOut, Timer};

use std::rc::Rc;

use futures_core::future::LocalBoxFuture;

/// What a listener hosts: all that the core knows of a protocol.
pub trait Protocol {
    /// Serves one connection to its end.
    fn serve(self: Rc<Self>, connection: Connection, life: Lifetime) -> LocalBoxFuture<'static, ()>;
}
