//! How much of what a peer may do on one connection, and what is said when it did more.

use std::fmt;
use std::time::Duration;

/// The budgets of one connection.
///
/// Unless a line says otherwise a number is a count of frames within any [`period`](Self::period), and what the client
/// earns by ordinary use comes on top of it. So a limit bounds the work that a hostile client causes per second,
/// and a long and busy connection of a good client never comes near it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time that counts look back on. 30 s: long enough for a burst of a browser to be forgiven by what follows.
    pub period: Duration,
    /// How many streams the client may have open, as announced in `SETTINGS_MAX_CONCURRENT_STREAMS`. 128, as nginx's
    /// `http2_max_concurrent_streams`.
    pub concurrent_streams: u32,
    /// HEADERS that open a stream beyond [`concurrent_streams`](Self::concurrent_streams). 256: a client that has not
    /// yet read our SETTINGS may open more than it would otherwise; nginx ends the connection after 128.
    pub refused_streams: u32,
    /// `RST_STREAM` from the client within [`rapid`](Self::rapid) of the request, before its answer was complete
    /// (CVE-2023-44487). Each answer that was completed earns one. 500, as Envoy; nghttp2 has 1000. A page that is left
    /// while it loads takes about a hundred.
    pub rapid_resets: u32,
    /// The same over the life of the connection. 10,000.
    pub rapid_resets_in_all: u32,
    /// How young a stream must be for its reset to count. 1 s, as Envoy: whoever waits longer gets no more work done
    /// than the number of concurrent streams allows anyway.
    pub rapid: Duration,
    /// `RST_STREAM` that we had to send on an open stream for an error of the client (CVE-2025-8671, CVE-2019-9514).
    /// Nothing earns more: a correct client causes none. 100, as nginx allows refused streams.
    pub own_resets: u32,
    /// The same over the life of the connection, where each answer that was completed earns one. 1000.
    pub own_resets_in_all: u32,
    /// CONTINUATION frames in one header block (CVE-2024-27316). 64: nghttp2 has 8, but a client may cut small.
    pub continuations: u32,
    /// Bytes of one header block before decompression. 64 KiB, twice what `large_client_header_buffers` takes decoded.
    pub header_block: u32,
    /// PING (CVE-2019-9512). Each HEADERS and DATA frame that we send earns one, since gRPC clients measure the path with
    /// a PING after data. 200.
    pub pings: u32,
    /// SETTINGS (CVE-2019-9515). 100: clients that adapt their window send some ten in all.
    pub settings: u32,
    /// Settings in one frame. 32, as nghttp2.
    pub settings_entries: u32,
    /// DATA without content, padding or `END_STREAM` (CVE-2019-9518). Each request earns one. 100.
    pub empty_data: u32,
    /// DATA with padding only and without `END_STREAM`. Each request earns one. 100.
    pub padding_only: u32,
    /// `WINDOW_UPDATE`. Each DATA frame that we send and each request earns four: one for the stream and one for the
    /// connection are usual. 1000. Envoy has 10 for each DATA frame.
    pub window_updates: u32,
    /// `WINDOW_UPDATE` of less than [`tiny`](Self::tiny) bytes (CVE-2019-9511). Each DATA frame that we send earns two,
    /// unless it was cut short by the window. 500.
    pub tiny_window_updates: u32,
    /// Bytes: a smaller increment or DATA frame is tiny. 64.
    pub tiny: u32,
    /// DATA frames that we had to cut to less than [`tiny`](Self::tiny) bytes because the window was full
    /// (CVE-2019-9511). Each KiB of DATA that we send earns one. 1000.
    pub dribbles: u32,
    /// PRIORITY and `PRIORITY_UPDATE` (CVE-2019-9513). Each request earns eight. 200. nginx and Envoy earn about a
    /// hundred for each request.
    pub priorities: u32,
    /// Frames of unknown type. Each request earns four, since browsers send some on purpose. 200.
    pub unknown_frames: u32,
    /// Frames that belong to nothing: on streams that are not open, acknowledgements of nothing, GOAWAY,
    /// `PUSH_PROMISE`. Each request earns 64: the DATA that is under way when a stream ends early, a window of 1 MiB
    /// in usual frames. 1000.
    pub stray_frames: u32,
    /// Bytes that the wire may carry, divided by eight, beyond those of bodies and heads; both directions together
    /// (all of the above, and whatever no other budget knows). 1 MiB, as nginx, which never forgives.
    pub overhead: u64,
    /// Streams whose answer has begun and that wait for the client to open its window, for longer than
    /// [`stall`](Self::stall) (CVE-2019-9517). 32: a client may pause a few downloads.
    pub stalled_streams: u32,
    /// How long that many streams may wait. 60 s; at least `send_timeout` is sensible.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(30),
            concurrent_streams: 128,
            refused_streams: 256,
            rapid_resets: 500,
            rapid_resets_in_all: 10_000,
            rapid: Duration::from_secs(1),
            own_resets: 100,
            own_resets_in_all: 1000,
            continuations: 64,
            header_block: 64 * 1024,
            pings: 200,
            settings: 100,
            settings_entries: 32,
            empty_data: 100,
            padding_only: 100,
            window_updates: 1000,
            tiny_window_updates: 500,
            tiny: 64,
            dribbles: 1000,
            priorities: 200,
            unknown_frames: 200,
            stray_frames: 1000,
            overhead: 1024 * 1024,
            stalled_streams: 32,
            stall: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The limits that are one number, by which a configuration names them; a time is a number of seconds.
    pub const NAMES: [&'static str; 20] = [
        "refused_streams",
        "rapid_resets",
        "rapid_resets_in_all",
        "own_resets",
        "own_resets_in_all",
        "continuations",
        "header_block",
        "pings",
        "settings",
        "settings_entries",
        "empty_data",
        "padding_only",
        "window_updates",
        "tiny_window_updates",
        "dribbles",
        "priorities",
        "unknown_frames",
        "stray_frames",
        "stalled_streams",
        "stall",
    ];

    /// Sets one of [`NAMES`](Self::NAMES). False if there is none of that name.
    pub fn set(&mut self, name: &str, number: u32) -> bool {
        if name == "stall" {
            self.stall = Duration::from_secs(number.into());
            return true;
        }
        let limit = match name {
            "refused_streams" => &mut self.refused_streams,
            "rapid_resets" => &mut self.rapid_resets,
            "rapid_resets_in_all" => &mut self.rapid_resets_in_all,
            "own_resets" => &mut self.own_resets,
            "own_resets_in_all" => &mut self.own_resets_in_all,
            "continuations" => &mut self.continuations,
            "header_block" => &mut self.header_block,
            "pings" => &mut self.pings,
            "settings" => &mut self.settings,
            "settings_entries" => &mut self.settings_entries,
            "empty_data" => &mut self.empty_data,
            "padding_only" => &mut self.padding_only,
            "window_updates" => &mut self.window_updates,
            "tiny_window_updates" => &mut self.tiny_window_updates,
            "dribbles" => &mut self.dribbles,
            "priorities" => &mut self.priorities,
            "unknown_frames" => &mut self.unknown_frames,
            "stray_frames" => &mut self.stray_frames,
            "stalled_streams" => &mut self.stalled_streams,
            _ => return false,
        };
        *limit = number;
        true
    }
}

/// Which of the [`Limits`] was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Limits::refused_streams`].
    RefusedStreams,
    /// [`Limits::rapid_resets`].
    RapidResets,
    /// [`Limits::rapid_resets_in_all`].
    RapidResetsInAll,
    /// [`Limits::own_resets`].
    OwnResets,
    /// [`Limits::own_resets_in_all`].
    OwnResetsInAll,
    /// [`Limits::continuations`].
    Continuations,
    /// [`Limits::header_block`].
    HeaderBlock,
    /// [`Limits::pings`].
    Pings,
    /// [`Limits::settings`].
    Settings,
    /// [`Limits::settings_entries`].
    SettingsEntries,
    /// [`Limits::empty_data`].
    EmptyData,
    /// [`Limits::padding_only`].
    PaddingOnly,
    /// [`Limits::window_updates`].
    WindowUpdates,
    /// [`Limits::tiny_window_updates`].
    TinyWindowUpdates,
    /// [`Limits::dribbles`].
    Dribbles,
    /// [`Limits::priorities`].
    Priorities,
    /// [`Limits::unknown_frames`].
    UnknownFrames,
    /// [`Limits::stray_frames`].
    StrayFrames,
    /// [`Limits::overhead`].
    Overhead,
    /// [`Limits::stalled_streams`].
    StalledStreams,
}

impl Limit {
    /// The field of [`Limits`] that sets it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RefusedStreams => "refused_streams",
            Self::RapidResets => "rapid_resets",
            Self::RapidResetsInAll => "rapid_resets_in_all",
            Self::OwnResets => "own_resets",
            Self::OwnResetsInAll => "own_resets_in_all",
            Self::Continuations => "continuations",
            Self::HeaderBlock => "header_block",
            Self::Pings => "pings",
            Self::Settings => "settings",
            Self::SettingsEntries => "settings_entries",
            Self::EmptyData => "empty_data",
            Self::PaddingOnly => "padding_only",
            Self::WindowUpdates => "window_updates",
            Self::TinyWindowUpdates => "tiny_window_updates",
            Self::Dribbles => "dribbles",
            Self::Priorities => "priorities",
            Self::UnknownFrames => "unknown_frames",
            Self::StrayFrames => "stray_frames",
            Self::Overhead => "overhead",
            Self::StalledStreams => "stalled_streams",
        }
    }

    /// What was counted, behind a number.
    fn counted(self) -> &'static str {
        match self {
            Self::RefusedStreams => "streams opened beyond the announced number",
            Self::RapidResets | Self::RapidResetsInAll => "streams reset by the client right after it opened them",
            Self::OwnResets | Self::OwnResetsInAll => "streams reset for errors of the client",
            Self::Continuations => "CONTINUATION frames in one header block",
            Self::HeaderBlock => "bytes in one header block",
            Self::Pings => "PING frames",
            Self::Settings => "SETTINGS frames",
            Self::SettingsEntries => "settings in one frame",
            Self::EmptyData => "empty DATA frames",
            Self::PaddingOnly => "DATA frames of padding",
            Self::WindowUpdates => "WINDOW_UPDATE frames",
            Self::TinyWindowUpdates => "WINDOW_UPDATE frames of a few bytes",
            Self::Dribbles => "DATA frames cut short by the window",
            Self::Priorities => "PRIORITY frames",
            Self::UnknownFrames => "frames of unknown type",
            Self::StrayFrames => "frames that belong to no stream or question",
            Self::Overhead => "times eight bytes of frames around the payload",
            Self::StalledStreams => "streams waiting for their windows",
        }
    }

    /// Whether the count is one of the last [`Limits::period`].
    fn is_recent(self) -> bool {
        !matches!(
            self,
            Self::RapidResetsInAll
                | Self::OwnResetsInAll
                | Self::Continuations
                | Self::HeaderBlock
                | Self::SettingsEntries
                | Self::StalledStreams
        )
    }
}

/// The error code of a GOAWAY or `RST_STREAM` (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `NO_ERROR`.
    NoError = 0,
    /// `PROTOCOL_ERROR`.
    ProtocolError = 1,
    /// `ENHANCE_YOUR_CALM`.
    EnhanceYourCalm = 11,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// A client went over a limit: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Over which.
    pub limit: Limit,
    /// The count that was reached.
    pub count: u64,
    /// The count that was allowed, with what had been earned.
    pub allowed: u64,
    /// The time over which was counted, or how long streams may wait.
    pub over: Duration,
    /// How many requests the client had begun on the connection.
    pub requests: u64,
    /// How many of them had a complete answer.
    pub answered: u64,
}

impl Excess {
    /// The error code for the GOAWAY. A client whose windows stay closed is perhaps only slow, and is not blamed.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.limit {
            Limit::StalledStreams => Code::NoError,
            _ => Code::EnhanceYourCalm,
        }
    }
}

impl fmt::Display for Excess {
    /// One line for the log. It begins as nginx's does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http2 flood detected: {} {}", self.count, self.limit.counted())?;
        if self.limit.is_recent() {
            write!(f, " within {}s", self.over.as_secs())?;
        } else if self.limit == Limit::StalledStreams {
            write!(f, " for {}s", self.over.as_secs())?;
        }
        let Self { allowed, requests, answered, .. } = self;
        write!(f, ", {allowed} allowed ({}); {requests} requests, {answered} answered", self.limit.name())
    }
}

impl std::error::Error for Excess {}
