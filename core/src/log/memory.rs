//! `error_log memory:SIZE`: the latest lines, kept in shared memory and never written out.
//!
//! For a debug log that would be too much for a disk: a line costs a copy. The memory is a zone, so it is one for all
//! workers, and what a worker has logged is still there when the worker is not. The master has it open as a file:
//!
//! ```text
//! ls -l /proc/$(cat /run/nginx.pid)/fd | grep error_log
//! strings /proc/$(cat /run/nginx.pid)/fd/NUMBER
//! ```
//!
//! nginx keeps such a log for a debugger, in each process.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::conf::{ConfigError, Place, Refusal, Word, value};
use crate::zone::{Region, SMALLEST, Zones, always_sound};

/// nginx: one line of the longest kind and a title must fit.
const LEAST: u64 = 2048 + 64;
/// So that a size too much does not come to light as a process without memory.
const MOST: u64 = 1 << 30;
/// What a zone needs for itself, and some.
const OVERHEAD: u64 = 4096;
/// The longest end of a path that, with what stands around it, the kernel takes as a label. Bytes.
const LONGEST_PATH: usize = 200;

/// What `memory:` says.
#[derive(Clone, Debug)]
pub struct Parameters {
    size: u64,
    at: Place,
}

impl Parameters {
    /// Reads what follows `memory:`.
    ///
    /// # Errors
    /// `invalid buffer size "x"`, as nginx; also beyond a gigabyte.
    pub fn parse(size: &Word) -> Result<Parameters, Refusal> {
        let valid = value::size(size).filter(|bytes| (LEAST..=MOST).contains(bytes));
        let bytes = valid.ok_or_else(|| format!("invalid buffer size \"{size}\""))?;
        Ok(Parameters { size: bytes, at: size.at().clone() })
    }

    /// The memory; the same one for the same line of the configuration, also after a reload.
    ///
    /// # Errors
    /// There is no memory.
    pub fn open(&self, zones: &Zones) -> Result<Memory, ConfigError> {
        let file = &*self.at.file;
        let start = (file.len().saturating_sub(LONGEST_PATH)..).find(|at| file.is_char_boundary(*at));
        let end_of_path = start.and_then(|start| file.get(start..)).unwrap_or_default();
        let name = format!("error_log {end_of_path}:{}", self.at.line);
        let zone = zones.declare(&name, Some(self.size.saturating_add(OVERHEAD).max(SMALLEST)), &self.at)?;
        let words = usize::try_from(self.size / 8).unwrap_or(usize::MAX).saturating_add(1);
        let region = zone.region("lines", words, always_sound);
        Ok(Memory { region: Rc::new(region.map_err(|message| ConfigError::new(&self.at, message))?) })
    }
}

/// A ring of lines. The first word counts the words written so far; a line takes whole words, filled up with spaces.
#[derive(Clone)]
pub struct Memory {
    region: Rc<Region>,
}

impl Memory {
    /// Appends a line, which must include its line end, in the place of the oldest.
    pub fn line(&self, line: &[u8]) {
        let Some((written, ring)) = self.region.words().split_first() else { return };
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let words = (text.len() / 8 + 1).min(ring.len());
        // Nobody else writes here until all others have written the ring once around.
        let first = usize::try_from(written.fetch_add(u64::try_from(words).unwrap_or(0), Relaxed)).unwrap_or(0);
        let places = (first..first.saturating_add(words)).filter_map(|at| ring.get(at % ring.len().max(1)));
        let mut bytes = text.iter().copied().chain(std::iter::repeat(b' '));
        let last = words.saturating_sub(1);
        for (index, place) in places.enumerate() {
            store(place, &mut bytes, index == last);
        }
    }
}

fn store(place: &AtomicU64, bytes: &mut impl Iterator<Item = u8>, last: bool) {
    let mut word = [b' '; 8];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    if let Some(end) = word.last_mut().filter(|_| last) {
        *end = b'\n';
    }
    place.store(u64::from_ne_bytes(word), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(memory: &Memory) -> String {
        let bytes = memory.region.words().iter().skip(1).flat_map(|word| word.load(Relaxed).to_ne_bytes());
        String::from_utf8(bytes.collect()).unwrap()
    }

    #[test]
    fn the_latest_lines_are_there() {
        let memory = Memory { region: Rc::new(Region::private(5)) };
        memory.line(b"first\n");
        memory.line(b"1234567\n");
        memory.line(b"12345678\n");
        assert_eq!(text(&memory), "first  \n1234567\n12345678       \n");
        memory.line(b"\n");
        assert_eq!(text(&memory), "       \n1234567\n12345678       \n");
        memory.line("long, ".repeat(20).as_bytes());
        assert_eq!(text(&memory).len(), 32);
        assert!(text(&memory).contains("long, long"));
    }

    #[test]
    fn sizes_that_are_refused() {
        let at = Place { file: "f".into(), line: 7, column: 1 };
        for (size, valid) in [("32k", true), ("4k", true), ("2k", false), ("", false), ("x", false), ("2g", false)] {
            assert_eq!(Parameters::parse(&Word::new(size.as_bytes(), at.clone())).is_ok(), valid, "{size}");
        }
    }

    #[test]
    fn the_memory_of_a_line_outlives_a_reload() {
        let at = Place { file: "größe/".repeat(100).into(), line: 7, column: 1 };
        let parameters = Parameters::parse(&Word::new(&b"4k"[..], at)).unwrap();
        let zones = Zones::default();
        parameters.open(&zones).unwrap().line(b"before\n");
        let after = parameters.open(&Zones::after(Some(&zones))).unwrap();
        assert!(text(&after).starts_with("before \n"));
    }
}
