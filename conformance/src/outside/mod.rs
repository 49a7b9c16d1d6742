//! Runners for test suites made by others.
//!
//! What passes is written in a list; a run that differs from its list in either direction fails. So a regression shows,
//! and so does a list that has fallen behind.

pub mod expected;
pub mod nginx_tests;
pub mod tap;
