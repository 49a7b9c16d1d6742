//! Request methods.

/// Declares the methods nginx has bits for, and their spelling.
macro_rules! methods {
    ($($id:ident = $name:literal,)*) => {
        /// A request method (RFC 9110 section 9). nginx takes any word of `[A-Z_-]`.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = concat!("`", $name, "`")] $id,)*
            /// A word that the list does not have.
            Other(Box<[u8]>),
        }

        impl Method {
            /// The method a word names, or `None` for a word with another letter than `[A-Z_-]`, or none at all.
            #[must_use]
            pub fn parse(word: &[u8]) -> Option<Self> {
                $(if word == $name.as_bytes() { return Some(Self::$id); })*
                let valid = !word.is_empty() && word.iter().all(|letter| is_letter(*letter));
                valid.then(|| Self::Other(word.into()))
            }

            /// The word as received.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                match self {
                    $(Self::$id => $name.as_bytes(),)*
                    Self::Other(word) => word,
                }
            }
        }
    };
}

methods! {
    Get = "GET",
    Post = "POST",
    Head = "HEAD",
    Put = "PUT",
    Delete = "DELETE",
    Options = "OPTIONS",
    Patch = "PATCH",
    Mkcol = "MKCOL",
    Copy = "COPY",
    Move = "MOVE",
    Propfind = "PROPFIND",
    Proppatch = "PROPPATCH",
    Lock = "LOCK",
    Unlock = "UNLOCK",
    Trace = "TRACE",
    Connect = "CONNECT",
}

impl Method {
    /// Whether a second delivery does no harm: what nginx may pass to the next upstream without `non_idempotent`
    /// (all but POST, LOCK and PATCH).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        !matches!(self, Self::Post | Self::Lock | Self::Patch)
    }
}

/// nginx: the letters of a method.
pub(crate) fn is_letter(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_methods_and_back() {
        for word in ["GET", "HEAD", "PROPPATCH", "CONNECT", "PURGE", "_", "M-SEARCH"] {
            assert_eq!(Method::parse(word.as_bytes()).unwrap().as_bytes(), word.as_bytes());
        }
        assert_eq!(Method::parse(b"GET"), Some(Method::Get));
        assert_eq!(Method::parse(b"PURGE"), Some(Method::Other(b"PURGE"[..].into())));
    }

    #[test]
    fn other_letters_are_refused() {
        for word in ["", "get", "GE T", "G3T", "GET\0", "\u{dc}"] {
            assert_eq!(Method::parse(word.as_bytes()), None, "{word:?}");
        }
    }
}
