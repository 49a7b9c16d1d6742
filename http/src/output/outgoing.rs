//! What is on its way to a client: bytes that lie together in front, pieces behind them, and the framing between these.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tidegate_http_wire::Fields;
use tidegate_http_wire::h1::body::{LAST_CHUNK, chunk_header};
use tidegate_http_wire::h1::write;

/// What is smaller is copied behind the head instead of written apart.
const COPIED: usize = 16 << 10;
/// Pieces that leave in one call.
const SLICES: usize = 16;

/// How an answer ends.
#[derive(Debug)]
pub struct End {
    /// The fields behind the body.
    pub trailers: Option<Box<Fields>>,
}

/// Bytes that the client has yet to take.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The head, and what was small enough to be copied behind it.
    front: Vec<u8>,
    /// How much of the front has left.
    left: usize,
    pieces: VecDeque<Bytes>,
    /// Of the pieces together.
    length: usize,
    chunked: bool,
    end: Option<End>,
}

impl Outgoing {
    /// Puts the head in front. Behind it goes the body, in chunks if that is so.
    pub fn begin(&mut self, head: Vec<u8>, chunked: bool) {
        (self.front, self.left, self.chunked) = (head, 0, chunked);
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.left >= self.front.len()
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.length + self.front.len().saturating_sub(self.left)
    }

    /// Adds a part of the body.
    pub fn data(&mut self, data: Bytes) {
        if self.pieces.is_empty() && data.len() <= COPIED {
            return self.copy(&data);
        }
        self.pieces([data].into_iter().collect());
    }

    /// Adds a part of the body that is copied behind the head.
    pub fn copy(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if !self.pieces.is_empty() {
            return self.pieces([Bytes::copy_from_slice(data)].into_iter().collect());
        }
        if self.chunked {
            chunk_header(u64::try_from(data.len()).unwrap_or(0), &mut self.front);
        }
        self.front.extend_from_slice(data);
        if self.chunked {
            self.front.extend_from_slice(b"\r\n");
        }
    }

    /// Adds pieces that belong together, as one chunk where the body goes in chunks.
    pub fn pieces(&mut self, pieces: SmallVec<[Bytes; 4]>) {
        let length = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()));
        if length > 0 && self.chunked {
            self.chunk(u64::try_from(length).unwrap_or(0));
        }
        pieces.into_iter().for_each(|piece| self.push(piece));
        if length > 0 && self.chunked {
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    /// Frames a part of the body that goes another way: what precedes it.
    pub fn before(&mut self, length: u64) {
        if self.chunked {
            self.chunk(length);
        }
    }

    /// Frames a part of the body that went another way: what follows it.
    pub fn behind(&mut self, length: u64) {
        if self.chunked && length > 0 {
            self.raw(b"\r\n");
        }
    }

    /// Lets `read` put up to `room` bytes behind everything, and says how many it was.
    pub fn fill<E>(&mut self, room: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        if !self.pieces.is_empty() {
            let mut piece = vec![0; room];
            let count = read(&mut piece)?;
            piece.truncate(count);
            self.push(piece.into());
            return Ok(count);
        }
        let start = self.front.len();
        self.front.resize(start.saturating_add(room), 0);
        let count = read(self.front.get_mut(start..).unwrap_or_default());
        self.front.truncate(start.saturating_add(*count.as_ref().unwrap_or(&0)));
        count
    }

    /// Ends the body.
    pub fn end(&mut self, trailers: Option<Box<Fields>>) {
        if self.chunked {
            match &trailers {
                None => self.raw(LAST_CHUNK),
                Some(trailers) => {
                    let mut last = b"0\r\n".to_vec();
                    for field in trailers.iter() {
                        // What would break out of its line has been put in line, and is left out if it could not be.
                        let _ = write::field(field.name, field.value, &mut last);
                    }
                    last.extend_from_slice(b"\r\n");
                    self.raw(&last);
                }
            }
        }
        self.end = Some(End { trailers });
    }

    /// How the answer ends, once nothing else waits. It is given once.
    pub fn take_end(&mut self) -> Option<End> {
        if self.is_empty() { self.end.take() } else { None }
    }

    /// Up to `most` bytes, where what waits lies together.
    pub fn alone(&self, most: usize) -> Option<&[u8]> {
        let front = self.front.get(self.left..).unwrap_or_default();
        let alone = match (front.is_empty(), self.pieces.len()) {
            (_, 0) => front,
            (true, 1) => self.pieces.front()?,
            _ => return None,
        };
        alone.get(..alone.len().min(most))
    }

    /// Up to `most` bytes, as they lie.
    pub fn slices(&self, most: usize) -> SmallVec<[IoSlice<'_>; SLICES]> {
        let front = self.front.get(self.left..).filter(|front| !front.is_empty());
        let mut room = most;
        let mut slices = SmallVec::new();
        for bytes in front.into_iter().chain(self.pieces.iter().map(|piece| &**piece)).take(SLICES) {
            let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
            room -= bytes.len();
            slices.push(IoSlice::new(bytes));
            if room == 0 {
                break;
            }
        }
        slices
    }

    /// Takes up to `most` bytes off the front, as they lie. Nothing when nothing waits.
    pub fn take(&mut self, most: usize) -> Bytes {
        if self.left < self.front.len() {
            let front = Bytes::from(std::mem::take(&mut self.front)).split_off(self.left);
            self.left = 0;
            self.length += front.len();
            self.pieces.push_front(front);
        }
        let Some(piece) = self.pieces.front_mut() else { return Bytes::new() };
        let taken = piece.split_to(piece.len().min(most));
        self.length -= taken.len().min(self.length);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        taken
    }

    /// So many bytes have left.
    pub fn advance(&mut self, count: usize) {
        let of_front = count.min(self.front.len().saturating_sub(self.left));
        self.left += of_front;
        if self.left >= self.front.len() {
            self.front.clear();
            self.left = 0;
        }
        let mut count = count - of_front;
        self.length -= count.min(self.length);
        while count > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = count.min(piece.len());
            piece.advance(taken);
            count -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Takes back, in order, what waits beyond the first `keep` bytes. What is framed already stays.
    pub fn take_back(&mut self, keep: usize) -> Vec<Bytes> {
        let mut back = Vec::new();
        if !self.chunked && self.end.is_none() {
            let mut kept = self.front.len().saturating_sub(self.left);
            for piece in std::mem::take(&mut self.pieces) {
                let (mut piece, room) = (piece, keep.saturating_sub(kept));
                if piece.len() > room {
                    back.push(piece.split_off(room));
                }
                kept = kept.saturating_add(piece.len());
                self.pieces.push_back(piece);
            }
        }
        self.compact();
        back
    }

    /// Lets go of the memory that what waits does not need: a piece keeps the whole buffer that it was cut from.
    fn compact(&mut self) {
        let mut whole = Vec::with_capacity(self.len());
        whole.extend_from_slice(self.front.get(self.left..).unwrap_or_default());
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        (self.front, self.left, self.pieces, self.length) = (Vec::new(), 0, VecDeque::new(), 0);
        self.push(whole.into());
    }

    fn chunk(&mut self, length: u64) {
        if self.pieces.is_empty() {
            return chunk_header(length, &mut self.front);
        }
        let mut header = Vec::with_capacity(18);
        chunk_header(length, &mut header);
        self.push(header.into());
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.pieces.is_empty() {
            self.front.extend_from_slice(bytes);
        } else {
            self.push(Bytes::copy_from_slice(bytes));
        }
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that waits, taken in steps of so many bytes at most, in each of the three ways.
    fn taken(mut build: impl FnMut() -> Outgoing, most: usize) -> Vec<Vec<u8>> {
        let by_slices = |out: &Outgoing| out.slices(most).iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
        let alone = |out: &Outgoing| out.alone(most).map_or_else(|| by_slices(out), <[u8]>::to_vec);
        let mut all = Vec::new();
        for way in 0..3 {
            let (mut out, mut bytes) = (build(), Vec::new());
            while !out.is_empty() {
                let piece = match way {
                    0 => by_slices(&out),
                    1 => alone(&out),
                    _ => out.take(most).to_vec(),
                };
                assert!(!piece.is_empty() && piece.len() <= most);
                if way < 2 {
                    out.advance(piece.len());
                }
                bytes.extend(piece);
            }
            assert_eq!(out.len(), 0);
            assert!(out.take_end().is_some() && out.take_end().is_none());
            all.push(bytes);
        }
        all
    }

    #[test]
    fn what_goes_in_comes_out_however_it_is_taken() {
        let large = Bytes::from(vec![b'x'; COPIED + 1]);
        let build = |chunked: bool, with_trailers: bool| {
            let mut out = Outgoing::default();
            out.begin(b"head\r\n\r\n".to_vec(), chunked);
            out.data(Bytes::from_static(b"small"));
            out.data(large.clone());
            out.copy(b"copied");
            out.pieces([Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"chunk")].into_iter().collect());
            out.pieces(SmallVec::new());
            let trailers = with_trailers.then(|| {
                let mut fields = Fields::new();
                fields.push(b"X-Sum", b"1");
                Box::new(fields)
            });
            out.end(trailers);
            out
        };
        let body = [b"small", &*large, b"copied", b"onechunk"].concat();
        let frame = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
        let framed = [frame(b"small"), frame(&large), frame(b"copied"), frame(b"onechunk")].concat();
        for (chunked, with_trailers, expected) in [
            (false, false, [b"head\r\n\r\n", &*body].concat()),
            (true, false, [b"head\r\n\r\n", &*framed, b"0\r\n\r\n"].concat()),
            (true, true, [b"head\r\n\r\n", &*framed, b"0\r\nX-Sum: 1\r\n\r\n"].concat()),
        ] {
            assert_eq!(build(chunked, with_trailers).len(), expected.len());
            for most in [1, 7, 100, 1 << 20] {
                for bytes in taken(|| build(chunked, with_trailers), most) {
                    assert!(bytes == expected, "chunked {chunked}, at most {most}");
                }
            }
        }
    }

    #[test]
    fn what_is_taken_back_is_what_waits_last() {
        let all = |out: &Outgoing| out.slices(usize::MAX).iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
        let body: Vec<u8> = (0..60_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        for chunked in [false, true] {
            for (gone, keep) in [(0, 0), (0, 4), (2, 10), (4, 8192), (20_010, 8192), (20_010, 50_000), (60_004, 0)] {
                let mut out = Outgoing::default();
                out.begin(b"head".to_vec(), chunked);
                body.chunks(20_000).for_each(|piece| out.data(Bytes::copy_from_slice(piece)));
                out.advance(gone);
                let before = all(&out);
                let back = out.take_back(keep).concat();
                let left = all(&out);
                assert_eq!(left.len(), out.len());
                assert!([&*left, &back].concat() == before, "{chunked} {gone} {keep}");
                // The head stays, and what is in chunks.
                let most = if chunked { usize::MAX } else { keep.max(4_usize.saturating_sub(gone)) };
                assert!(left.len() <= most && (back.is_empty() || left.len() >= keep), "{chunked} {gone} {keep}");
                out.data(Bytes::from_static(b"more"));
                out.end(None);
                let end: &[u8] = if chunked { b"4\r\nmore\r\n0\r\n\r\n" } else { b"more" };
                assert!(all(&out) == [&left, end].concat());
            }
        }
    }

    #[test]
    fn what_goes_another_way_is_framed_around_it() {
        let mut out = Outgoing::default();
        out.begin(b"head".to_vec(), true);
        out.before(300);
        assert_eq!(out.alone(99), Some(&b"head12c\r\n"[..]));
        out.advance(out.len());
        assert!(out.is_empty());
        out.behind(300);
        assert_eq!(
            out.fill::<()>(4, |room| {
                room[..2].copy_from_slice(b"ab");
                Ok(2)
            }),
            Ok(2)
        );
        assert_eq!(out.fill(4, |_| Err("no")), Err("no"));
        out.end(None);
        assert_eq!(out.alone(99), Some(&b"\r\nab0\r\n\r\n"[..]));
    }
}
