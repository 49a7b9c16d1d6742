//! Where the next byte that matters is: a line is walked eight bytes a step, once.

/// The first position from `from` on with a control character, DEL among them and the tab too; the end of `text` if there
/// is none.
#[inline]
pub(crate) fn control(text: &[u8], from: usize) -> usize {
    find(text, from, |word| below(word, b' ') | equal(word, 0x7f), |byte| byte < b' ' || byte == 0x7f)
}

/// The first position from `from` on with a colon, a space or a control character below it; the end of `text` if there is
/// none.
#[inline]
pub(crate) fn colon_or_blank(text: &[u8], from: usize) -> usize {
    find(text, from, |word| below(word, b'!') | equal(word, b':'), |byte| byte <= b' ' || byte == b':')
}

/// The first position from `from` on with a byte that cannot be part of a request's arguments: a `#`, a space or a control
/// character; the end of `text` if there is none.
#[inline]
pub(crate) fn end_of_args(text: &[u8], from: usize) -> usize {
    find(
        text,
        from,
        |word| below(word, b'!') | equal(word, b'#') | equal(word, 0x7f),
        |byte| byte <= b' ' || byte == b'#' || byte == 0x7f,
    )
}

/// The first position from `from` on with another byte than a space.
#[inline]
pub(crate) fn other_than_space(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| **byte == b' ').count()
}

/// Finds the first byte that is `wanted`. `marks` says the same of eight bytes at once: the lowest mark that it sets is
/// true, those above need not be.
#[inline(always)]
fn find(text: &[u8], from: usize, marks: impl Fn(u64) -> u64, wanted: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let (words, tail) = rest.as_chunks::<8>();
    let mut at = from;
    for word in words {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return at + first_mark(found);
        }
        at += 8;
    }
    at + tail.iter().take_while(|byte| !wanted(**byte)).count()
}

/// The place of the byte with the lowest mark, from 0 to 7.
#[inline]
fn first_mark(marks: u64) -> usize {
    usize::from(u8::try_from(marks.trailing_zeros() / 8).unwrap_or(0))
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const TOPS: u64 = u64::from_le_bytes([0x80; 8]);

/// Marks the bytes below `limit`, which is at most 0x80.
#[inline]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES.wrapping_mul(u64::from(limit))) & !word & TOPS
}

/// Marks the bytes equal to `byte`.
#[inline]
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ ONES.wrapping_mul(u64::from(byte)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte, at every place of a text of every length up to three words.
    #[test]
    fn every_byte_is_found_or_passed_over_at_every_place() {
        for len in 0..=24 {
            for place in 0..len {
                for byte in 0..=255u8 {
                    let mut text = vec![b'a'; len];
                    text[place] = byte;
                    let expect = |wanted: bool| if wanted { place } else { len };
                    let is_control = byte < 0x20 || byte == 0x7f;
                    assert_eq!(control(&text, 0), expect(is_control), "{text:?}");
                    assert_eq!(colon_or_blank(&text, 0), expect(byte <= b' ' || byte == b':'), "{text:?}");
                    assert_eq!(end_of_args(&text, 0), expect(is_control || b" #".contains(&byte)), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_several_is_found_from_where_it_is_looked_for() {
        let text = b"ab:\x7f\n :\xff\x80\r c: d\x01\x1f   x";
        for from in 0..text.len() + 3 {
            let first = |wanted: &dyn Fn(u8) -> bool| {
                (from..text.len()).find(|at| wanted(text[*at])).unwrap_or(text.len().max(from))
            };
            assert_eq!(control(text, from), first(&|byte| byte < 0x20 || byte == 0x7f), "{from}");
            assert_eq!(colon_or_blank(text, from), first(&|byte| byte <= b' ' || byte == b':'), "{from}");
            assert_eq!(other_than_space(text, from), first(&|byte| byte != b' '), "{from}");
        }
    }
}
