//! The field names that the proxy itself has an opinion on, recognised once while parsing.

/// Declares the enum, its names and their number from one list.
macro_rules! known {
    ($($id:ident = $name:literal,)*) => {
        /// A well-known field name. Anything else is [`Known::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(u8)]
        pub enum Known {
            $(#[doc = concat!("`", $name, "`")] $id,)*
            /// A name this list does not have.
            #[default]
            Other,
        }

        /// Every known name in the order of the enum.
        const LIST: &[(Known, &str)] = &[$((Known::$id, $name),)*];

        /// How a line with each of them begins.
        const BEGINNINGS: &[&str] = &[$(concat!($name, ": "),)*];
    };
}

known! {
    Host = "Host",
    Connection = "Connection",
    ContentLength = "Content-Length",
    TransferEncoding = "Transfer-Encoding",
    ContentType = "Content-Type",
    Expect = "Expect",
    KeepAlive = "Keep-Alive",
    Upgrade = "Upgrade",
    Te = "TE",
    Trailer = "Trailer",
    ProxyConnection = "Proxy-Connection",
    Date = "Date",
    Server = "Server",
    Location = "Location",
    ETag = "ETag",
    LastModified = "Last-Modified",
    IfModifiedSince = "If-Modified-Since",
    IfUnmodifiedSince = "If-Unmodified-Since",
    IfMatch = "If-Match",
    IfNoneMatch = "If-None-Match",
    IfRange = "If-Range",
    Range = "Range",
    ContentRange = "Content-Range",
    AcceptRanges = "Accept-Ranges",
    UserAgent = "User-Agent",
    Referer = "Referer",
    Cookie = "Cookie",
    SetCookie = "Set-Cookie",
    XForwardedFor = "X-Forwarded-For",
    XForwardedProto = "X-Forwarded-Proto",
    XForwardedHost = "X-Forwarded-Host",
    XRealIp = "X-Real-IP",
    Forwarded = "Forwarded",
    Via = "Via",
    Authorization = "Authorization",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyAuthenticate = "Proxy-Authenticate",
    WwwAuthenticate = "WWW-Authenticate",
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    AcceptCharset = "Accept-Charset",
    CacheControl = "Cache-Control",
    Pragma = "Pragma",
    Expires = "Expires",
    Vary = "Vary",
    Age = "Age",
    Refresh = "Refresh",
    Allow = "Allow",
    ContentEncoding = "Content-Encoding",
    ContentDisposition = "Content-Disposition",
    ContentLanguage = "Content-Language",
    ContentLocation = "Content-Location",
    XAccelRedirect = "X-Accel-Redirect",
    XAccelExpires = "X-Accel-Expires",
    XAccelLimitRate = "X-Accel-Limit-Rate",
    XAccelBuffering = "X-Accel-Buffering",
    XAccelCharset = "X-Accel-Charset",
    XPad = "X-Pad",
    Link = "Link",
    Http2Settings = "HTTP2-Settings",
    Depth = "Depth",
    Destination = "Destination",
    Overwrite = "Overwrite",
    Status = "Status",
    RetryAfter = "Retry-After",
    Origin = "Origin",
    Proxy = "Proxy",
    EarlyData = "Early-Data",
    StrictTransportSecurity = "Strict-Transport-Security",
    XPoweredBy = "X-Powered-By",
    Priority = "Priority",
    AltSvc = "Alt-Svc",
    GrpcStatus = "Grpc-Status",
    GrpcMessage = "Grpc-Message",
}

impl Known {
    /// How many known names there are, without [`Known::Other`].
    pub const COUNT: usize = LIST.len();

    /// Recognises a name in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        Self::recognised(name)
    }

    /// As [`of`](Self::of), for the one place where a call counts.
    #[inline(always)]
    pub(crate) fn recognised(name: &[u8]) -> Self {
        let mut at = FIRST.get(hash(name)).copied().unwrap_or(END);
        while let Some((known, spelling)) = LIST.get(usize::from(at)) {
            // most peers use the usual spelling, and comparing that is a word at a time
            if name == spelling.as_bytes() || name.eq_ignore_ascii_case(spelling.as_bytes()) {
                return *known;
            }
            at = NEXT.get(usize::from(at)).copied().unwrap_or(END);
        }
        Self::Other
    }

    /// The usual spelling, which is also how nginx writes it; empty for [`Known::Other`].
    #[inline]
    #[must_use]
    pub fn name(self) -> &'static str {
        LIST.get(usize::from(self as u8)).map_or("", |(_, name)| name)
    }

    /// The spelling in lower case, as HTTP/2 and 3 write it; empty for [`Known::Other`].
    #[inline]
    #[must_use]
    pub fn lower_name(self) -> &'static [u8] {
        LOWER.get(self as usize).and_then(|name| name.get(..self.name().len())).unwrap_or_default()
    }

    /// How a line begins that has this name in its usual spelling; empty for [`Known::Other`].
    #[inline]
    pub(crate) fn beginning(self) -> &'static [u8] {
        BEGINNINGS.get(usize::from(self as u8)).map_or(b"", |beginning| beginning.as_bytes())
    }
}

/// A set of names; [`Known::Other`] can be in it like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownSet([u64; 2]);

impl KnownSet {
    /// The set of some names. Runs at compile time only.
    #[allow(clippy::indexing_slicing)]
    pub(crate) const fn of(names: &[Known]) -> Self {
        let mut words = [0; 2];
        let mut at = 0;
        while at < names.len() {
            let (word, bit) = names[at].place();
            words[word] |= bit;
            at += 1;
        }
        Self(words)
    }

    /// Adds a name.
    #[inline]
    pub fn insert(&mut self, known: Known) {
        let (word, bit) = known.place();
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// Removes a name.
    pub fn remove(&mut self, known: Known) {
        let (word, bit) = known.place();
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a name is in the set.
    #[inline]
    #[must_use]
    pub fn contains(self, known: Known) -> bool {
        let (word, bit) = known.place();
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl Known {
    /// The word of a set that a name is in, and its bit there.
    #[inline]
    const fn place(self) -> (usize, u64) {
        let number = self as u8;
        ((number >> 6) as usize, 1 << (number & 63))
    }
}

/// Room for the longest name.
const LONGEST: usize = 32;
static LOWER: [[u8; LONGEST]; LIST.len()] = lowered();

/// Runs at compile time only, and fails there if a name has no room.
#[allow(clippy::indexing_slicing)]
const fn lowered() -> [[u8; LONGEST]; LIST.len()] {
    let mut names = [[0; LONGEST]; LIST.len()];
    let mut at = 0;
    while at < LIST.len() {
        let name = LIST[at].1.as_bytes();
        let mut letter = 0;
        while letter < name.len() {
            names[at][letter] = name[letter].to_ascii_lowercase();
            letter += 1;
        }
        at += 1;
    }
    names
}

/// The end of a chain: no name has this number.
const END: u8 = u8::MAX;
/// Where the chain of names with a hash begins, and for each name the next with the same hash.
const TABLES: ([u8; 256], [u8; LIST.len()]) = chains();
static FIRST: [u8; 256] = TABLES.0;
static NEXT: [u8; LIST.len()] = TABLES.1;

/// Length, first and last letter tell all known names but two apart, and these factors give each a place of its own.
#[inline(always)]
const fn hash(name: &[u8]) -> usize {
    match (name.first(), name.last()) {
        (Some(first), Some(last)) => {
            let first = (*first | 0x20) as usize;
            let last = (*last | 0x20) as usize;
            name.len().wrapping_mul(250).wrapping_add(first * 177).wrapping_add(last * 99) & 0xff
        }
        _ => 0,
    }
}

/// Runs at compile time only, where an index out of range is a compile error.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
const fn chains() -> ([u8; 256], [u8; LIST.len()]) {
    assert!(LIST.len() < 128, "names, and what is none, have places in two words");
    let (mut first, mut next) = ([END; 256], [END; LIST.len()]);
    let mut at = LIST.len();
    while at > 0 {
        at -= 1;
        let slot = hash(LIST[at].1.as_bytes());
        next[at] = first[slot];
        first[slot] = at as u8;
    }
    (first, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (known, name) in LIST {
            assert_eq!(Known::of(name.as_bytes()), *known);
            assert_eq!(Known::of(name.to_lowercase().as_bytes()), *known);
            assert_eq!(Known::of(name.to_uppercase().as_bytes()), *known);
            assert_eq!(known.name(), *name);
            assert_eq!(known.lower_name(), name.to_lowercase().as_bytes());
        }
    }

    #[test]
    fn what_merely_resembles_a_name_is_other() {
        for name in ["", "h", "Hose", "Content_Length", "Content-Lengt", "Content-Length ", "X-Foo", "\u{e9}tag"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name:?}");
        }
        assert_eq!(Known::Other.name(), "");
        assert_eq!(Known::Other.lower_name(), b"");
    }

    #[test]
    fn lines_begin_with_the_name() {
        for (known, name) in LIST {
            assert_eq!(known.beginning(), format!("{name}: ").as_bytes());
        }
        assert_eq!(Known::Other.beginning(), b"");
    }

    #[test]
    fn sets_have_what_was_added() {
        let mut set = KnownSet::default();
        for (known, _) in LIST {
            assert!(!set.contains(*known));
            set.insert(*known);
            assert!(set.contains(*known));
        }
        set.remove(Known::Host);
        assert!(!set.contains(Known::Host) && set.contains(Known::Date) && !set.contains(Known::Other));
        set.insert(Known::Other);
        assert!(!set.contains(Known::Host) && set.contains(Known::GrpcMessage) && set.contains(Known::Other));
        assert_eq!(KnownSet::of(&[Known::Host, Known::Other]), {
            let mut same = KnownSet::default();
            same.insert(Known::Other);
            same.insert(Known::Host);
            same
        });
    }

    #[test]
    fn the_chains_stay_short() {
        let longest = (0..=255u8)
            .map(|slot| {
                let (mut at, mut length) = (FIRST[usize::from(slot)], 0);
                while at != END {
                    length += 1;
                    at = NEXT[usize::from(at)];
                }
                length
            })
            .max();
        assert!(longest <= Some(2), "{longest:?}");
    }
}
