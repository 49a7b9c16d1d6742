//! Buffers that come back: a worker keeps a few of each size instead of asking the allocator every time.

use std::cell::RefCell;

use bytes::BytesMut;

/// Buffers kept for reuse, at most.
const KEPT: usize = 64;
/// Larger buffers are given back to the allocator.
const LARGEST: usize = 1 << 17;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for at least `size` bytes.
pub fn take(size: usize) -> BytesMut {
    let spare = SPARE.with_borrow_mut(|spare| {
        let at = spare.iter().rposition(|buffer| buffer.capacity() >= size)?;
        Some(spare.swap_remove(at))
    });
    spare.unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Gives a buffer back. What was in it is forgotten.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    if (1..=LARGEST).contains(&buffer.capacity()) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}
