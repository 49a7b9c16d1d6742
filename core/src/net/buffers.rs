//! Buffers that come back: a worker keeps a few of each size instead of asking the allocator every time.

use std::cell::RefCell;

use bytes::BytesMut;

/// The sizes kept.
const SIZES: [usize; 5] = [2 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Buffers kept of each size, at most.
const KEPT: usize = 32;

thread_local! {
    static SPARE: RefCell<[Vec<BytesMut>; SIZES.len()]> = const { RefCell::new([const { Vec::new() }; SIZES.len()]) };
}

/// An empty buffer with room for at least `size` bytes.
pub fn take(size: usize) -> BytesMut {
    let Some(class) = SIZES.iter().position(|class| *class >= size) else { return BytesMut::with_capacity(size) };
    let spare = SPARE.with_borrow_mut(|spare| spare.get_mut(class).and_then(Vec::pop));
    spare.unwrap_or_else(|| BytesMut::with_capacity(SIZES.get(class).copied().unwrap_or(size)))
}

/// Gives a buffer back. What was in it is forgotten. One that others still hold parts of is left to them.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    let Some(class) = SIZES.iter().rposition(|size| buffer.try_reclaim(*size)) else { return };
    SPARE.with_borrow_mut(|spare| {
        if let Some(list) = spare.get_mut(class).filter(|list| list.len() < KEPT) {
            list.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_whole_once_nobody_holds_a_part() {
        let mut buffer = take(1000);
        buffer.extend_from_slice(b"head and rest");
        let head = buffer.split_to(4).freeze();
        let rest = buffer.split();
        give(rest);
        drop(head);
        give(buffer);
        assert!(take(1000).capacity() >= 2048);
        assert!(take(1 << 20).capacity() >= 1 << 20);
    }
}
