//! Features that every protocol with subjects shares, each written once.

pub mod access;
pub mod block;
pub mod builtin;
pub mod geo;
pub mod limit_conn;
pub mod limits;
pub mod map;
pub mod set;
pub mod split_clients;

pub use access::Access;
pub use builtin::BuiltIn;
pub use geo::Geo;
pub use limit_conn::{LimitConn, LimitConnWithStatus};
pub use limits::{HasLimits, Limited, UnderLimit};
pub use map::Map;
pub use set::Assign;
pub use split_clients::SplitClients;
