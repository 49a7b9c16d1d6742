//! Memory that is given back to the system after a rush of clients.
//!
//! The allocator (mimalloc) keeps what was freed in case it is wanted again, and gives it back in passing, while it does
//! other things. A worker that has nothing to do frees nothing, and would sit on what a rush has left behind until the next
//! one comes. So it has the allocator look once, when the rush is over.

use std::hint::black_box;
use std::time::Duration;

use crate::net::{Connections, buffers};

/// Connections that end in groups of so many leave something behind that is worth the effort.
const MANY: usize = 32;
/// A rush is over when in this time fewer than that have ended.
const QUIET: Duration = Duration::from_millis(500);

/// Gives memory back each time that a rush of clients is over, as long as the worker lives.
pub async fn tidy(connections: &Connections) {
    loop {
        connections.ended(MANY).await;
        loop {
            buffers::trim();
            tokio::time::sleep(QUIET).await;
            if connections.ended_meanwhile() < MANY {
                break;
            }
        }
        // What has not been wanted in that time.
        buffers::trim();
        collect();
    }
}

/// Has the allocator give back what it does not need: it looks for that before it says that there is no memory. There is
/// none of this size.
fn collect() {
    const MORE_THAN_THERE_IS: usize = isize::MAX.unsigned_abs();
    let _ = black_box(Vec::<u8>::new().try_reserve_exact(black_box(MORE_THAN_THERE_IS)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_memory_of_the_size_that_is_asked_for() {
        collect();
        assert!(Vec::<u8>::new().try_reserve_exact(isize::MAX.unsigned_abs()).is_err());
    }
}
