//! Which server, and which location of it.

pub mod location;
pub mod server_name;
