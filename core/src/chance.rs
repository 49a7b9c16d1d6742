//! The one place that asks for chance: numbers that nobody outside can guess.
//!
//! They come from the kernel with every call, so a fork cannot make two processes draw the same ones.

use rustix::rand::{GetRandomFlags, getrandom};

/// A random number.
///
/// # Errors
/// The kernel has no getrandom(2), or refuses it.
pub fn number() -> std::io::Result<u64> {
    let mut octets = [0; 8];
    // Up to 256 octets are never cut short.
    getrandom(&mut octets, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        assert_ne!(number().unwrap(), number().unwrap());
    }
}
