//! Runners for test suites made by others.
