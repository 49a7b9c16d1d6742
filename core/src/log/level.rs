//! How severe a line of an error log is.

/// Severity, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Cannot start.
    Emerg,
    /// Needs attention at once.
    Alert,
    /// Critical.
    Crit,
    /// An exchange failed.
    Error,
    /// Suspicious.
    Warn,
    /// Normal but notable.
    Notice,
    /// For information.
    Info,
    /// For debugging.
    Debug,
}

impl Level {
    const NAMES: [(&'static str, Level); 8] = [
        ("emerg", Level::Emerg),
        ("alert", Level::Alert),
        ("crit", Level::Crit),
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("notice", Level::Notice),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];

    /// The level of this name.
    pub fn named(name: &[u8]) -> Option<Level> {
        Self::NAMES.iter().find(|(text, _)| text.as_bytes() == name).map(|(_, level)| *level)
    }

    /// Its number in the syslog protocol, RFC 3164: 0 is the most severe.
    pub fn number(self) -> usize {
        Self::NAMES.iter().position(|(_, level)| *level == self).unwrap_or(0)
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("error", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_and_named() {
        assert!(Level::Emerg < Level::Debug);
        assert_eq!(Level::named(b"warn"), Some(Level::Warn));
        assert_eq!(Level::named(b"loud"), None);
    }
}
