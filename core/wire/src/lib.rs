//! What every protocol machine shares: the `Machine` trait, the tools that test one, and the reading of lines.
//!
//! Nothing here opens a socket, a file or a clock; the dependency test of the workspace proves it.

pub mod line;
pub mod machine;
pub mod testing;

pub use machine::Machine;
