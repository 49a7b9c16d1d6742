//! The memory behind a zone: a memfd mapped shared, seen as an array of atomic words and nothing else.
//!
//! `unsafe` is allowed in this file: it is where a mapping becomes a slice.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Bytes before the words, for the word that waiters for the lock sleep on.
const BELL_BYTES: usize = 64;

/// A shared mapping.
pub struct Memory {
    map: MmapRaw,
    words: usize,
    file: OwnedFd,
}

impl Memory {
    /// A new mapping of zeroes, with room for `bytes` bytes of words.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2) and mmap(2).
    pub fn create(name: &str, bytes: usize) -> io::Result<Memory> {
        let label = format!("tidegate-{}", name.replace('\0', ""));
        let file = memfd_create(label.as_str(), MFdFlags::MFD_CLOEXEC)?;
        // Whoever looks into /proc could open it again by its mode, which is everybody's otherwise.
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        let words = bytes.div_ceil(8);
        let length =
            words.checked_mul(8).and_then(|bytes| bytes.checked_add(BELL_BYTES)).ok_or(io::ErrorKind::OutOfMemory)?;
        // A memfd is given its memory only when it is written to. So the system is asked for as much once before: what it
        // can never have is refused here, with nginx's ENOMEM, and not with a SIGBUS in a worker.
        drop(MmapOptions::new().len(length).map_anon()?);
        nix::unistd::ftruncate(&file, i64::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?)?;
        let map = MmapOptions::new().len(length).map_raw(&file)?;
        Ok(Memory { map, words, file })
    }

    /// The mapping of a memory that another process has made; as large as it is.
    ///
    /// # Errors
    /// It is no such memory, or mmap(2) fails.
    pub fn adopt(file: OwnedFd) -> io::Result<Memory> {
        let length = usize::try_from(nix::sys::stat::fstat(&file)?.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        let words =
            length.checked_sub(BELL_BYTES).filter(|bytes| bytes % 8 == 0).ok_or(io::ErrorKind::InvalidData)? / 8;
        let map = MmapOptions::new().len(length).map_raw(&file)?;
        Ok(Memory { map, words, file })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, so `BELL_BYTES` into it is aligned for u64; it is `BELL_BYTES + 8 * words`
        // long and lives as long as `self`. Other processes write to it, which atomics allow. No reference of another
        // type to these bytes is ever made: this slice and `bell`, which lies before it, are the only views.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(BELL_BYTES).cast::<AtomicU64>(), self.words) }
    }

    /// What waiters for the lock sleep on: a futex has 32 bits.
    pub fn bell(&self) -> &AtomicU32 {
        // SAFETY: the first four bytes of a page-aligned mapping that lives as long as `self`; see `words`.
        unsafe { &*self.map.as_ptr().cast::<AtomicU32>() }
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
