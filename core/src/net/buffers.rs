//! Buffers that come back: a worker keeps a few of each size instead of asking the allocator every time, and lets go of
//! those that have not been wanted for a while.

use std::cell::RefCell;

use bytes::BytesMut;

/// The sizes kept.
const SIZES: [usize; 6] = [2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Buffers kept of each size, at most: half a megabyte of any.
const KEPT: [usize; 6] = [256, 128, 32, 32, 16, 8];

/// The most that is lent.
const LENT: usize = 64 << 10;

/// The spare buffers of one size.
struct Spare {
    list: Vec<BytesMut>,
    /// The fewest that there were since the last [`trim`]: so many were not wanted.
    fewest: usize,
}

thread_local! {
    static SPARE: RefCell<[Spare; SIZES.len()]> =
        const { RefCell::new([const { Spare { list: Vec::new(), fewest: 0 } }; SIZES.len()]) };
    /// What is lent.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for at least `size` bytes.
pub fn take(size: usize) -> BytesMut {
    let Some(class) = SIZES.iter().position(|class| *class >= size) else { return BytesMut::with_capacity(size) };
    let spare = SPARE.with_borrow_mut(|spare| {
        let spare = spare.get_mut(class)?;
        let buffer = spare.list.pop();
        spare.fewest = spare.fewest.min(spare.list.len());
        buffer
    });
    spare.unwrap_or_else(|| BytesMut::with_capacity(SIZES.get(class).copied().unwrap_or(size)))
}

/// Gives a buffer back. What was in it is forgotten. One that others still hold parts of is left to them.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    let left = buffer.capacity();
    let whole = SIZES.iter().position(|size| *size == left);
    // What was taken off the front comes back with the first byte more than is left, if nobody holds it.
    if whole.is_none() && !buffer.try_reclaim(left.saturating_add(1)) {
        return;
    }
    let class = whole.or_else(|| SIZES.iter().rposition(|size| *size <= buffer.capacity()));
    let Some(class) = class else { return };
    SPARE.with_borrow_mut(|spare| {
        let most = KEPT.get(class).copied().unwrap_or(0);
        if let Some(spare) = spare.get_mut(class).filter(|spare| spare.list.len() < most) {
            spare.list.push(buffer);
        }
    });
}

/// Lends a buffer of up to `size` bytes for the time of a call: what is passed on at once needs none of its own.
pub fn lent<R>(size: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let size = size.min(LENT);
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < size {
            *scratch = vec![0; size];
        }
        work(scratch.get_mut(..size).unwrap_or_default())
    })
}

/// Lets go of buffers that nobody has wanted since the last time.
pub fn trim() {
    SPARE.with_borrow_mut(|spare| {
        for Spare { list, fewest } in spare {
            // Those at the front have lain there longest.
            drop(list.drain(..(*fewest).min(list.len())));
            *fewest = list.len();
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

    #[test]
    fn what_is_not_wanted_is_let_go_of() {
        let spare = || SPARE.with_borrow(|spare| spare[0].list.len());
        let buffers: Vec<_> = (0..KEPT[0] + 1).map(|_| take(1000)).collect();
        buffers.into_iter().for_each(give);
        assert_eq!(spare(), KEPT[0]);
        trim();
        assert_eq!(spare(), KEPT[0], "all of them were wanted a moment ago");
        give(take(1000));
        trim();
        assert_eq!(spare(), 1, "one of them was");
        trim();
        assert_eq!(spare(), 0);
    }
}
