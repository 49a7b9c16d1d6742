//! Features that every protocol with subjects shares, each written once.

pub mod access;
pub mod builtin;
pub mod map;
pub mod set;

pub use access::Access;
pub use builtin::BuiltIn;
pub use map::Map;
pub use set::Assign;
