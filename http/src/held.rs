//! The body of a request as far as it is held: in memory, or in a file.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::file::temp::TempFile;

/// The body of a request as far as it is held.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// In memory. What is in a file is not.
    pub memory: Bytes,
    /// In a file, and how much that is.
    pub file: Option<(Arc<TempFile>, u64)>,
    /// There is no more.
    pub complete: bool,
}

impl Held {
    /// No body.
    pub fn nothing() -> Held {
        Held { complete: true, ..Held::default() }
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        let memory = u64::try_from(self.memory.len()).unwrap_or(u64::MAX);
        self.file.as_ref().map_or(memory, |(_, length)| *length)
    }

    /// All of it is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.complete && self.file.is_none()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
