//! What every protocol machine shares: the `Machine` trait, and the tools that test one.
//!
//! Nothing here opens a socket, a file or a clock; the dependency test of the workspace proves it.

pub mod machine;
pub mod testing;

pub use machine::Machine;
