//! Hashes that are kept in zones: the same in every build, since a zone outlives the binary that has made it.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// SipHash-1-3 of some parts, each told from its neighbours by its length; never zero. For names and settings, which
/// nobody chooses in order to harm.
pub fn of_parts(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write_u64(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le());
        hasher.write(part);
    }
    hasher.finish() | 1
}

/// SipHash-1-3 under a key. For what peers choose: without the key they cannot find values that collide.
pub fn keyed(key: (u64, u64), bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_every_other_build() {
        assert_eq!(of_parts(&[b"a", b"bc"]), HASH);
        assert_ne!(of_parts(&[b"ab", b"c"]), HASH);
        assert_eq!(keyed((1, 2), b"abc"), KEYED);
        assert_ne!(keyed((2, 1), b"abc"), KEYED);
    }

    const HASH: u64 = 18_139_956_459_179_832_509;
    const KEYED: u64 = 2_873_231_128_186_165_274;
}
