//! Black-box test harness, clients, backends, and a runner for outside test suites.
