//! Chance that can be had again, and bodies that say which exchange they belong to.

/// Numbers that look like chance, the same for the same seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below this one, which is not zero.
    pub fn below(&mut self, most: u64) -> u64 {
        self.number() % most
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// Bytes of which each eight are nowhere the same, neither in this body nor in that of another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub name: u64,
    /// Its length.
    pub length: u64,
}

impl Content {
    /// The bytes from `start` on, as many as there are and as fit into `room`.
    pub fn fill(&self, start: u64, room: &mut [u8]) -> usize {
        let count = self.length.saturating_sub(start).min(room.len() as u64) as usize;
        let mut at = start;
        let mut rest = &mut room[..count];
        while !rest.is_empty() {
            let word = mixed(self.name.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (at / 8)).to_le_bytes();
            let from = (at % 8) as usize;
            let part = (8 - from).min(rest.len());
            rest[..part].copy_from_slice(&word[from..from + part]);
            at += part as u64;
            rest = &mut rest[part..];
        }
        count
    }

    /// The bytes from `start` on, so many at most.
    pub fn piece(&self, start: u64, most: usize) -> Vec<u8> {
        let mut piece = vec![0; self.length.saturating_sub(start).min(most as u64) as usize];
        self.fill(start, &mut piece);
        piece
    }
}

/// A body that is compared, byte for byte, while it comes.
#[derive(Debug)]
pub struct Compared {
    content: Content,
    at: u64,
    room: Vec<u8>,
}

impl Compared {
    /// Expects this.
    pub fn with(content: Content) -> Compared {
        Compared { content, at: 0, room: Vec::new() }
    }

    /// Compares what has come next.
    ///
    /// # Errors
    /// Where it differs.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.room.resize(bytes.len(), 0);
        let count = self.content.fill(self.at, &mut self.room);
        if count < bytes.len() {
            return Err(format!("{:?} is longer than that", self.content));
        }
        if let Some(place) = self.room.iter().zip(bytes).position(|(own, other)| own != other) {
            return Err(format!("{:?} differs at {}", self.content, self.at + place as u64));
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It is too short.
    pub fn end(&self) -> Result<(), String> {
        match self.at == self.content.length {
            true => Ok(()),
            false => Err(format!("{:?} ends at {}", self.content, self.at)),
        }
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_in_whatever_pieces() {
        let content = Content { name: 7, length: 1001 };
        let whole = content.piece(0, 2000);
        for size in [1, 3, 8, 13, 500] {
            let mut pieces = Vec::new();
            let mut compared = Compared::with(content);
            while pieces.len() < 1001 {
                let piece = content.piece(pieces.len() as u64, size);
                compared.take(&piece).unwrap();
                pieces.extend(piece);
            }
            assert!(pieces == whole && compared.end().is_ok(), "{size}");
        }
    }

    #[test]
    fn what_is_wrong_is_seen() {
        let (mine, other) = (Content { name: 7, length: 100 }, Content { name: 8, length: 100 });
        let right = mine.piece(0, 100);
        let with = |bytes: &[u8]| {
            let mut compared = Compared::with(mine);
            compared.take(bytes).and_then(|()| compared.end())
        };
        assert!(with(&right).is_ok());
        let twisted = [&right[8..16], &right[..8], &right[16..]].concat();
        for wrong in [&other.piece(0, 100), &right[..99], &[&right[..], b"x"].concat(), &twisted] {
            assert!(with(wrong).is_err());
        }
    }
}
