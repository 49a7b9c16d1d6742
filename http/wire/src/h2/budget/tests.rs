//! Every budget below, at and above its limit; what is earned; the floods that have names; clients that do nothing wrong.

use std::time::Duration;

use super::super::frames::PREFACE;
use super::super::limits::Code;
use super::super::testing::*;
use super::super::watch::Watch;
use super::*;

/// A connection whose time the test tells.
struct Connection {
    watch: Watch,
    now: Instant,
}

impl Connection {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let mut connection = Self { watch: Watch::new(limits, now), now };
        connection.watch.incoming(PREFACE, now).unwrap();
        connection
    }

    fn client(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Excess> {
        self.watch.incoming(&frame(kind, flags, stream, payload), self.now)
    }

    fn server(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Excess> {
        self.watch.outgoing(&frame(kind, flags, stream, payload), self.now)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// A request that is answered at once.
    fn exchange(&mut self, stream: u32, body: &[u8]) -> Result<(), Excess> {
        self.client(HEADERS, ALL, stream, HEAD_BLOCK)?;
        self.server(HEADERS, HEAD, stream, b"\x88")?;
        self.server(DATA, END, stream, body)
    }
}

/// A compressed head as a second request on a connection has.
const HEAD_BLOCK: &[u8] = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x7a\x88\x25\xb6\x50";
const CANCEL: &[u8] = &[0, 0, 0, 8];
const PROTOCOL_ERROR: &[u8] = &[0, 0, 0, 1];
const FAR: &[u8] = &[0x3f, 0xff, 0, 0];

fn odd(n: u32) -> u32 {
    2 * n + 1
}

/// Nothing may be done: the base of each test sets what its budget allows.
fn nothing() -> Limits {
    Limits { overhead: u64::MAX, header_block: u32::MAX, settings_entries: 8, ..Limits::default() }
}

type Case = (Limit, fn(&mut Limits, u32), Step);
type Step = fn(&mut Connection, u32) -> Result<(), Excess>;

#[test]
fn each_budget_is_exceeded_by_one_more_than_it_allows() {
    let table: &[Case] = &[
        (
            Limit::RapidResets,
            |limits, n| limits.rapid_resets = n,
            |c, n| {
                c.client(HEADERS, ALL, odd(n), HEAD_BLOCK)?;
                c.client(RST_STREAM, 0, odd(n), CANCEL)
            },
        ),
        (
            Limit::RapidResetsInAll,
            |limits, n| limits.rapid_resets_in_all = n,
            |c, n| {
                c.wait(Duration::from_secs(5));
                c.client(HEADERS, HEAD, odd(n), HEAD_BLOCK)?;
                c.client(RST_STREAM, 0, odd(n), CANCEL)
            },
        ),
        (
            Limit::OwnResets,
            |limits, n| limits.own_resets = n,
            |c, n| {
                c.client(HEADERS, ALL, odd(n), HEAD_BLOCK)?;
                c.client(WINDOW_UPDATE, 0, odd(n), &[0; 4])?;
                c.server(RST_STREAM, 0, odd(n), PROTOCOL_ERROR)
            },
        ),
        (
            Limit::OwnResetsInAll,
            |limits, n| limits.own_resets_in_all = n,
            |c, n| {
                c.wait(Duration::from_secs(5));
                c.client(HEADERS, ALL, odd(n), HEAD_BLOCK)?;
                c.server(RST_STREAM, 0, odd(n), &[0, 0, 0, 3])
            },
        ),
        (
            Limit::RefusedStreams,
            |limits, n| (limits.concurrent_streams, limits.refused_streams) = (0, n),
            |c, n| c.client(HEADERS, ALL, odd(n), HEAD_BLOCK),
        ),
        (
            Limit::Continuations,
            |limits, n| limits.continuations = n,
            |c, n| {
                if n == 0 {
                    c.client(HEADERS, END, 1, b"")?;
                }
                c.client(CONTINUATION, 0, 1, b"")
            },
        ),
        (
            Limit::HeaderBlock,
            |limits, n| limits.header_block = n,
            |c, n| {
                if n == 0 {
                    c.client(HEADERS, END, 1, b"")?;
                }
                c.client(CONTINUATION, 0, 1, b"a")
            },
        ),
        (Limit::Pings, |limits, n| limits.pings = n, |c, _| c.client(PING, 0, 0, &[0; 8])),
        (Limit::Settings, |limits, n| limits.settings = n, |c, _| c.client(SETTINGS, 0, 0, b"")),
        (
            Limit::SettingsEntries,
            |limits, n| limits.settings_entries = n,
            |c, n| c.client(SETTINGS, 0, 0, &vec![0; 6 * (n as usize + 1)]),
        ),
        (
            Limit::EmptyData,
            // the request that carries them earns one
            |limits, n| limits.empty_data = n - 1,
            |c, n| {
                if n == 0 {
                    c.client(HEADERS, HEAD, 1, HEAD_BLOCK)?;
                }
                c.client(DATA, 0, 1, b"")
            },
        ),
        (
            Limit::PaddingOnly,
            |limits, n| limits.padding_only = n - 1,
            |c, n| {
                if n == 0 {
                    c.client(HEADERS, HEAD, 1, HEAD_BLOCK)?;
                }
                c.client(DATA, PADDED, 1, b"\x03\0\0\0")
            },
        ),
        (
            Limit::WindowUpdates,
            |limits, n| limits.window_updates = n,
            |c, n| c.client(WINDOW_UPDATE, 0, n % 2, &[0, 0, 0, 64]),
        ),
        (
            Limit::TinyWindowUpdates,
            |limits, n| limits.tiny_window_updates = n,
            |c, n| c.client(WINDOW_UPDATE, 0, n % 2, &[0, 0, 0, 63]),
        ),
        (
            Limit::Dribbles,
            |limits, n| limits.dribbles = n,
            |c, n| {
                if n == 0 {
                    c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
                    c.client(HEADERS, ALL, 1, HEAD_BLOCK)?;
                    c.server(HEADERS, HEAD, 1, b"\x88")?;
                }
                c.client(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])?;
                c.server(DATA, 0, 1, b"a")
            },
        ),
        (
            Limit::Priorities,
            |limits, n| limits.priorities = n,
            |c, n| c.client(if n % 2 == 0 { PRIORITY } else { 0x10 }, 0, n, &[0; 5]),
        ),
        (
            Limit::UnknownFrames,
            |limits, n| limits.unknown_frames = n,
            |c, n| c.client(0x20 + (n % 8) as u8, 0, n, b"any"),
        ),
        (
            Limit::StrayFrames,
            |limits, n| limits.stray_frames = n,
            |c, n| match n % 8 {
                0 => c.client(DATA, 0, 5, b"a"),
                1 => c.client(RST_STREAM, 0, 5, CANCEL),
                2 => c.client(HEADERS, ALL, 2, HEAD_BLOCK),
                3 => c.client(PING, END, 0, &[0; 8]),
                4 => c.client(SETTINGS, END, 0, b""),
                5 => c.client(GOAWAY, 0, 0, &[0; 8]),
                6 => c.client(PUSH_PROMISE, HEAD, 1, &[0; 8]),
                _ => c.client(HEADERS, ALL, 0, HEAD_BLOCK),
            },
        ),
        (
            Limit::StalledStreams,
            |limits, n| (limits.stalled_streams, limits.stall) = (n, Duration::from_secs(60)),
            |c, n| {
                if n == 0 {
                    c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
                }
                c.client(HEADERS, ALL, odd(n), HEAD_BLOCK)?;
                c.server(HEADERS, HEAD, odd(n), b"\x88")?;
                if let Some(next) = c.watch.next_check() {
                    assert_eq!(next, c.now + Duration::from_secs(60));
                    c.watch.check(next - Duration::from_nanos(1))?;
                    return c.watch.check(next);
                }
                c.wait(Duration::from_secs(100));
                c.watch.check(c.now)
            },
        ),
    ];
    for (limit, set, step) in table {
        for allowed in [1, 2, 7] {
            let mut limits = nothing();
            set(&mut limits, allowed);
            let mut connection = Connection::new(limits);
            for n in 0..allowed {
                assert_eq!(step(&mut connection, n), Ok(()), "{limit:?} {n} of {allowed}");
            }
            let excess = step(&mut connection, allowed).unwrap_err();
            assert_eq!((excess.limit, excess.count), (*limit, u64::from(allowed) + 1), "{excess}");
            let calm = if *limit == Limit::StalledStreams { Code::NoError } else { Code::EnhanceYourCalm };
            assert_eq!(excess.code(), calm);
            let text = excess.to_string();
            assert!(text.starts_with("http2 flood detected: ") && text.contains(limit.name()), "{text}");
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(connection.exchange(999, b""), Err(excess), "it is told again");
        }
    }
}

#[test]
fn bytes_around_the_payload_are_weighed() {
    for (payload, overhead, most) in [(0, 1000, 8007), (0, 1, 15), (500, 1000, 12_007), (8, 0, 71)] {
        let mut connection = Connection::new(Limits { overhead, pings: u32::MAX, ..Limits::default() });
        let mut bytes = 0;
        if payload > 0 {
            connection.client(HEADERS, ALL, 1, &vec![0; payload]).unwrap();
            bytes += 9 + payload;
        }
        let excess = loop {
            match connection.client(PING, 0, 0, b"") {
                Ok(()) => bytes += 9,
                Err(excess) => break excess,
            }
        };
        assert!(bytes <= most && bytes + 9 > most, "{payload} {overhead}: {bytes}");
        assert_eq!((excess.limit, excess.allowed), (Limit::Overhead, overhead + payload as u64));
    }
}

#[test]
fn what_ordinary_use_earns_is_allowed_on_top() {
    type Use = fn(&mut Connection);
    type Case = (Limit, fn(&mut Limits), Use, Step, u64);
    let answer: Use = |c| c.exchange(1, &[0; 4096]).unwrap();
    let table: &[Case] = &[
        (
            Limit::RapidResets,
            |limits| limits.rapid_resets = 2,
            answer,
            |c, n| {
                c.client(HEADERS, ALL, odd(n + 1), HEAD_BLOCK)?;
                c.client(RST_STREAM, 0, odd(n + 1), CANCEL)
            },
            1,
        ),
        (Limit::Pings, |limits| limits.pings = 2, answer, |c, _| c.client(PING, 0, 0, &[0; 8]), 2),
        (
            Limit::WindowUpdates,
            |limits| limits.window_updates = 2,
            answer,
            |c, _| c.client(WINDOW_UPDATE, 0, 0, FAR),
            8,
        ),
        (
            Limit::TinyWindowUpdates,
            |limits| limits.tiny_window_updates = 2,
            answer,
            |c, _| c.client(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
            2,
        ),
        (Limit::Priorities, |limits| limits.priorities = 2, answer, |c, _| c.client(PRIORITY, 0, 1, &[0; 5]), 8),
        (Limit::UnknownFrames, |limits| limits.unknown_frames = 2, answer, |c, _| c.client(0x21, 0, 1, b""), 4),
        (Limit::StrayFrames, |limits| limits.stray_frames = 2, answer, |c, _| c.client(DATA, 0, 1, b"a"), 64),
        (
            Limit::Dribbles,
            |limits| limits.dribbles = 2,
            |c| {
                c.exchange(1, &[0; 4096]).unwrap();
                c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
                c.client(HEADERS, ALL, 3, HEAD_BLOCK).unwrap();
            },
            |c, _| {
                c.client(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1])?;
                c.server(DATA, 0, 3, b"a")
            },
            4,
        ),
    ];
    for (limit, set, use_it, step, earned) in table {
        let mut limits = nothing();
        set(&mut limits);
        let mut connection = Connection::new(limits);
        use_it(&mut connection);
        let done = (0..1000).find(|n| step(&mut connection, *n).is_err()).unwrap();
        assert_eq!(u64::from(done), 2 + earned, "{limit:?}");
        let excess = connection.watch.check(connection.now).unwrap_err();
        assert_eq!((excess.limit, excess.allowed), (*limit, 2 + earned));
    }
}

#[test]
fn only_what_is_recent_counts() {
    let mut connection = Connection::new(Limits { pings: 100, ..Limits::default() });
    for second in 0..300 {
        // three a second are 90 in 30 seconds
        for _ in 0..3 {
            connection.client(PING, 0, 0, &[0; 8]).unwrap_or_else(|excess| panic!("{second}: {excess}"));
        }
        connection.wait(Duration::from_secs(1));
    }
    for burst in 0..10 {
        connection.wait(Duration::from_secs(60));
        for _ in 0..100 {
            connection.client(PING, 0, 0, &[0; 8]).unwrap_or_else(|excess| panic!("{burst}: {excess}"));
        }
    }
    assert!(connection.client(PING, 0, 0, &[0; 8]).is_err());
}

#[test]
fn resets_that_are_not_rapid_are_free() {
    let limits = Limits { rapid_resets: 0, own_resets: 0, ..Limits::default() };
    let mut connection = Connection::new(limits);
    for n in 0..1000 {
        let stream = odd(n);
        connection.client(HEADERS, ALL, stream, HEAD_BLOCK).unwrap();
        match n % 4 {
            // it had waited long enough
            0 => {
                connection.wait(Duration::from_secs(1));
                connection.client(RST_STREAM, 0, stream, CANCEL).unwrap();
            }
            // the answer was complete, and the reset crossed it
            1 => {
                connection.server(HEADERS, ALL, stream, b"\x88").unwrap();
                connection.client(RST_STREAM, 0, stream, CANCEL).unwrap();
            }
            // resets of our own that the client did not cause
            2 => connection.server(RST_STREAM, 0, stream, &[0, 0, 0, 2]).unwrap(),
            _ => connection.server(RST_STREAM, 0, stream, &[0; 4]).unwrap(),
        }
    }
    connection.client(HEADERS, ALL, odd(1000), HEAD_BLOCK).unwrap();
    let excess = connection.client(RST_STREAM, 0, odd(1000), CANCEL).map_err(|excess| (excess.limit, excess.requests));
    assert_eq!(excess, Ok(()), "a completed answer within the period pays for one");
}

#[test]
fn a_window_below_zero_is_flow_control() {
    let mut connection = Connection::new(Limits { stalled_streams: 0, ..Limits::default() });
    connection.client(HEADERS, ALL, 1, HEAD_BLOCK).unwrap();
    connection.server(HEADERS, HEAD, 1, b"\x88").unwrap();
    connection.server(DATA, 0, 1, &[0; 16384]).unwrap();
    assert_eq!(connection.watch.next_check(), None);
    // 65535 become 10: the stream is 16374 below zero
    connection.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]).unwrap();
    assert!(connection.watch.next_check().is_some());
    connection.client(WINDOW_UPDATE, 0, 1, &16_374u32.to_be_bytes()).unwrap();
    assert!(connection.watch.next_check().is_some(), "at zero");
    connection.client(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()).unwrap();
    assert_eq!(connection.watch.next_check(), None);
    for window in [0, 0x7fff_ffff, 0xffff_ffff, 0, 1] {
        connection.client(SETTINGS, 0, 0, &[[0, 4].as_slice(), &u32::to_be_bytes(window)].concat()).unwrap();
        connection.client(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]).unwrap();
        connection.client(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).unwrap();
    }
}

#[test]
fn windows_that_stay_closed_end_the_connection() {
    for (connection_window, streams, stalls) in
        [(false, 32, false), (false, 33, true), (true, 33, true), (true, 32, false)]
    {
        let mut connection = Connection::new(Limits::default());
        if !connection_window {
            connection.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100]).unwrap();
        }
        for n in 0..streams {
            connection.client(HEADERS, ALL, odd(n), HEAD_BLOCK).unwrap();
            connection.server(HEADERS, HEAD, odd(n), b"\x88").unwrap();
            let size = if connection_window { 65_535 / streams as usize } else { 100 };
            connection.server(DATA, 0, odd(n), &vec![0; size]).unwrap();
        }
        if connection_window {
            connection.server(DATA, 0, 1, &vec![0; 65_535 % streams as usize]).unwrap();
        }
        // waiting without an answer is no stall
        connection.client(HEADERS, ALL, odd(streams), HEAD_BLOCK).unwrap();
        let due = connection.watch.next_check();
        assert_eq!(due.is_some(), stalls, "{connection_window} {streams}");
        connection.wait(Duration::from_secs(59));
        assert_eq!(connection.watch.check(connection.now), Ok(()));
        connection.wait(Duration::from_secs(1));
        let found = connection.watch.check(connection.now).map_err(|excess| (excess.limit, excess.code()));
        assert_eq!(found.is_err(), stalls);
        if stalls {
            assert_eq!(found, Err((Limit::StalledStreams, Code::NoError)));
            // the same client, had it read in time
            let mut connection = connection.watch.budget().clone();
            let open = Frame {
                kind: Kind::WindowUpdate,
                flags: 0,
                stream: u32::from(!connection_window),
                length: 4,
                detail: Detail::Increment(1),
            };
            let before = due.unwrap() - Duration::from_millis(1);
            connection.stalled = Some(before);
            assert_eq!(connection.seen(&open, before), Ok(()));
            assert_eq!(connection.next_check(), None);
        }
    }
}

#[test]
fn heads_are_measured_while_they_come() {
    let mut connection = Connection::new(Limits::default());
    let begun = connection.now;
    connection.client(HEADERS, END, 1, HEAD_BLOCK).unwrap();
    connection.wait(Duration::from_secs(5));
    connection.client(CONTINUATION, 0, 1, b"abc").unwrap();
    assert_eq!(connection.watch.budget().unfinished_head(), Some(begun));
    assert_eq!(connection.watch.unfinished(), Some(begun));
    connection.client(CONTINUATION, HEAD, 1, b"d").unwrap();
    assert_eq!(connection.watch.budget().unfinished_head(), None);
    let size = |connection: &Connection, stream| connection.watch.budget().head_size(stream);
    assert_eq!(size(&connection, 1), u32::try_from(HEAD_BLOCK.len() + 4).ok());
    connection.client(HEADERS, ALL, 3, b"").unwrap();
    assert_eq!(connection.watch.budget().unfinished_head(), None);
    assert_eq!((size(&connection, 3), size(&connection, 5)), (Some(0), None));
    connection.server(HEADERS, ALL, 1, b"").unwrap();
    assert_eq!(size(&connection, 1), None, "the stream is closed");
}

#[test]
fn a_frame_is_owed_until_it_is_complete() {
    let ms = Duration::from_millis;
    for (frame, since_first) in [
        (frame(HEADERS, ALL, 1, HEAD_BLOCK), true),
        (frame(PING, 0, 0, b"12345678"), true),
        (frame(DATA, 0, 1, b"12345678"), false),
    ] {
        let begun = Instant::now();
        let mut watch = Watch::new(Limits::default(), begun);
        assert_eq!(watch.unfinished(), None);
        watch.incoming(PREFACE, begun).unwrap();
        assert_eq!(watch.unfinished(), None);
        for (at, byte) in (0..).zip(&frame[..frame.len() - 1]) {
            let now = begun + ms(at);
            watch.incoming(&[*byte], now).unwrap();
            // Before its head is there nobody knows what a frame is.
            let owed = if since_first || at < 8 { begun } else { now };
            assert_eq!(watch.unfinished(), Some(owed), "{at} of {frame:?}");
        }
        watch.incoming(&frame[frame.len() - 1..], begun + ms(99)).unwrap();
        assert_eq!(watch.unfinished(), None);
    }
}
