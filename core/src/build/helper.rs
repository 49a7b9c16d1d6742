//! Helper processes: what has to be done once for all workers, beside them, such as loading or cleaning a cache.

use futures_core::future::LocalBoxFuture;

/// A process beside the workers. It has their rights, zones, logs and signals, and a loop of its own; it accepts nothing.
///
/// A protocol puts one into [`Build::helpers`](super::Build::helpers) while it loads. The master starts it behind the
/// workers, replaces it at every reload, and starts it again when it dies.
pub trait Helper {
    /// What it is called in the log, as nginx calls its own: `cache manager process`.
    fn name(&self) -> &'static str;

    /// Does the work. When this ends the work is done, and the process with it, until the next reload.
    fn run(&self) -> LocalBoxFuture<'_, ()>;
}
