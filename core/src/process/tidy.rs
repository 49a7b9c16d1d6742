//! Memory that is given back to the system when many connections have ended.
//!
//! The allocator (mimalloc) keeps what was freed for a second, in case it is wanted again, and gives it back when it next
//! frees a page of its own. A worker that has nothing to do frees none, and would sit on what a rush of clients has left
//! behind until the next one comes.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use crate::net::{Connections, buffers};

/// Connections that end in groups of so many leave something behind that is worth the effort.
const MANY: usize = 32;
/// Others may be about to end as well.
const PAUSE: Duration = Duration::from_millis(50);
/// The allocator's second, and a little.
const KEPT: Duration = Duration::from_millis(1100);
/// An allocation of this size is a page of its own, which is not touched.
const OWN_PAGE: usize = 4 << 20;
/// So many calls later the allocator no longer saves empty pages of small blocks for the next block.
const CALLS: usize = 20;

/// Gives memory back each time that many connections have ended, as long as the worker lives.
pub async fn tidy(connections: Rc<Connections>) {
    loop {
        connections.ended(MANY).await;
        tokio::time::sleep(PAUSE).await;
        buffers::trim();
        (0..CALLS).for_each(|_| prompt());
        tokio::time::sleep(KEPT).await;
        buffers::trim();
        prompt();
    }
}

/// Has the allocator look at what it keeps.
fn prompt() {
    drop(black_box(Vec::<u8>::with_capacity(OWN_PAGE)));
}
