//! Variables, templates and regular expressions: what a configuration may ask of a subject at run time.

pub mod names;
pub mod regex;
pub mod slots;
pub mod template;
pub mod variable;

pub use names::Names;
pub use regex::{PatternList, Regex};
pub use slots::Slots;
pub use template::Template;
pub use variable::{Source, Variable, VariableRef, Variables};
