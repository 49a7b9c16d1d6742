//! Upstream groups: peers, leases, passive health, balancing methods and idle connections. Knows no protocol.

pub mod algorithm;
pub mod attempts;
pub mod directory;
pub mod group;
pub mod health;
pub mod idle;
pub mod module;
pub mod peer;

pub use algorithm::{Ask, Balancer, Candidate};
pub use attempts::{Attempt, Attempts, HasAttempts};
pub use directory::Directory;
pub use group::{Condition, Group, Lease, NoPeer, Outcome};
pub use idle::Idle;
pub use module::{Groups, Upstreams};
pub use peer::Peer;
