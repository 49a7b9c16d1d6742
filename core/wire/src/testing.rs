//! Test tools for machines: the same input must mean the same under every segmentation.

use std::fmt::Debug;

/// Inputs up to this length are also tried under every split into three pieces.
const THREE_PIECES_UP_TO: usize = 96;

/// Runs `run` on `input` cut in every way that matters and asserts that the outcome never differs.
///
/// The cuts: whole; byte by byte; every split into two pieces; every split into three for short inputs.
/// Returns the outcome of the whole input.
///
/// # Panics
/// When two segmentations disagree, naming the pieces: this is an assertion for tests.
#[allow(clippy::indexing_slicing, clippy::missing_panics_doc)]
pub fn every_split<T: PartialEq + Debug>(input: &[u8], mut run: impl FnMut(&[&[u8]]) -> T) -> T {
    let whole = run(&[input]);
    let mut check = |pieces: &[&[u8]]| {
        let outcome = run(pieces);
        assert_eq!(
            outcome,
            whole,
            "the split {:?} changes the outcome",
            pieces.iter().map(|p| String::from_utf8_lossy(p)).collect::<Vec<_>>()
        );
    };
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    check(&bytes);
    for first in 1..input.len() {
        check(&[&input[..first], &input[first..]]);
        if input.len() <= THREE_PIECES_UP_TO {
            for second in first + 1..input.len() {
                check(&[&input[..first], &input[first..second], &input[second..]]);
            }
        }
    }
    whole
}
