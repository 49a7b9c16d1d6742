//! From text to typed settings: lexer, tree, directive tables, application and inheritance.
//!
//! *Apply records; install acts.* The tables are the only authors of configuration errors, and all errors of a run are
//! collected before anything is refused.

pub mod apply;
pub mod check;
pub mod directive;
pub mod error;
pub mod known;
pub mod lexer;
pub mod literal;
pub mod others;
pub mod setting;
pub mod tree;
pub mod value;

pub use apply::{Block, Confs, Line, Tables};
pub use check::Check;
pub use directive::{Arity, Directive, Feature, Levels, Set};
pub use error::{ConfigError, Errors, Place, Refusal};
pub use setting::{Inherit, Setting};
pub use tree::{Node, Tree, Word};
