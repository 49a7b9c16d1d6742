//! Black-box test harness, clients, backends, and a runner for outside test suites.
//!
//! A test writes a configuration, starts the binary on it, and talks to it over real sockets:
//!
//! ```no_run
//! use tidegate_conformance::Server;
//!
//! let server = Server::start("events {} http { server { listen 127.0.0.1:%%PORT_0%%; return 204; } }");
//! assert_eq!(server.http(0).get("/").status, 204);
//! ```
//!
//! The binary is `TIDEGATE_BINARY` when that is set, which may well be an nginx, else the workspace's own.
//! Everything here fails by panicking, as tests do, and says what it was waiting for.

pub mod backend;
pub mod binary;
pub mod certificate;
pub mod client;
pub mod dependencies;
pub mod fuse;
pub mod idle;
pub mod load;
pub mod message;
pub mod outside;
pub mod pattern;
pub mod peers;
pub mod port;
pub mod processes;
pub mod proof;
pub mod server;
pub mod temporary;
pub mod wait;

pub use binary::is_nginx;
pub use certificate::{Authority, Certificate};
pub use client::{Http, Wire};
pub use message::{Request, Response};
pub use pattern::matches;
pub use port::Port;
pub use server::{Server, Setup};
pub use wait::wait_until;
