//! Our patterns beside PCRE2's.

mod constructs;
mod limits;
mod list;
mod oracle;
mod random;
