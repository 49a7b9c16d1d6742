//! Where the next byte that matters is: a text is walked eight bytes a step.

/// Where the first control character is, DEL among them and the tab too; the length of `text` if there is none.
#[inline]
pub(crate) fn control(text: &[u8]) -> usize {
    find(text, |word| below(word, b' ') | equal(word, 0x7f), |byte| byte < b' ' || byte == 0x7f)
}

/// Where the first colon, space or control character below it is; the length of `text` if there is none.
#[inline]
pub(crate) fn colon_or_blank(text: &[u8]) -> usize {
    find(text, |word| below(word, b'!') | equal(word, b':'), |byte| byte <= b' ' || byte == b':')
}

/// Where the first byte is that cannot be part of a request's arguments: a `#`, a space or a control character; the length
/// of `text` if there is none.
#[inline]
pub(crate) fn end_of_args(text: &[u8]) -> usize {
    find(
        text,
        |word| below(word, b'!') | equal(word, b'#') | equal(word, 0x7f),
        |byte| byte <= b' ' || byte == b'#' || byte == 0x7f,
    )
}

/// How many spaces `text` begins with.
#[inline]
pub(crate) fn spaces(text: &[u8]) -> usize {
    text.iter().take_while(|byte| **byte == b' ').count()
}

/// Finds the first byte that is `wanted`. `marks` says the same of eight bytes at once: the lowest mark that it sets is
/// true, those above need not be. No place within a text can overflow.
#[inline(always)]
fn find(text: &[u8], marks: impl Fn(u64) -> u64, wanted: impl Fn(u8) -> bool) -> usize {
    let (words, tail) = text.as_chunks::<8>();
    let mut at = 0usize;
    for word in words {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return at.wrapping_add(first_mark(found));
        }
        at = at.wrapping_add(8);
    }
    at.wrapping_add(tail.iter().take_while(|byte| !wanted(**byte)).count())
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
                    assert_eq!(control(&text), expect(is_control), "{text:?}");
                    assert_eq!(colon_or_blank(&text), expect(byte <= b' ' || byte == b':'), "{text:?}");
                    assert_eq!(end_of_args(&text), expect(is_control || b" #".contains(&byte)), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_several_is_found() {
        let all = b"ab:\x7f\n :\xff\x80\r c: d\x01\x1f   x#\x7f\x20\x1f:!\x80";
        for from in 0..=all.len() {
            let text = &all[from..];
            let first = |wanted: &dyn Fn(u8) -> bool| text.iter().position(|byte| wanted(*byte)).unwrap_or(text.len());
            let is_control = |byte: u8| byte < 0x20 || byte == 0x7f;
            assert_eq!(control(text), first(&is_control), "{from}");
            assert_eq!(colon_or_blank(text), first(&|byte| byte <= b' ' || byte == b':'), "{from}");
            assert_eq!(end_of_args(text), first(&|byte| is_control(byte) || b" #".contains(&byte)), "{from}");
            assert_eq!(spaces(text), first(&|byte| byte != b' '), "{from}");
        }
    }
}
