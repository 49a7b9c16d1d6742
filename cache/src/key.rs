//! What an entry is found by: the whole text, not only its hash, so that two texts can never share an entry.

/// The text that `proxy_cache_key` evaluates to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of this text. Whatever distinguishes two answers (the host above all) must be part of it.
    pub fn new(text: impl Into<Box<[u8]>>) -> Key {
        Key(text.into())
    }

    /// The text, which a store keeps beside the body and compares on every find.
    pub fn text(&self) -> &[u8] {
        &self.0
    }
}
