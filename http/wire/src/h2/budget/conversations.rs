//! Whole conversations with the default limits: floods that have names end soon, good clients never.

use std::time::{Duration, Instant};

use tidegate_core_wire::testing::every_split;

use super::super::frames::PREFACE;
use super::super::limits::{Excess, Limit, Limits};
use super::super::testing::*;
use super::super::watch::Watch;

const HEAD_BLOCK: &[u8] = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x7a\x88\x25\xb6\x50";
const ANSWER_BLOCK: &[u8] = b"\x88\x76\x89";
const CANCEL: &[u8] = &[0, 0, 0, 8];

/// A conversation at a pace, which counts its frames from the client.
struct Conversation {
    watch: Watch,
    now: Instant,
    next: u32,
    frames: u64,
}

type Told = Result<(), Excess>;

impl Conversation {
    fn new() -> Self {
        let now = Instant::now();
        let mut it = Self { watch: Watch::new(Limits::default(), now), now, next: 1, frames: 0 };
        it.watch.incoming(PREFACE, now).unwrap();
        it.client(SETTINGS, 0, 0, &[0, 4, 0, 0x60, 0, 0, 0, 2, 0, 0, 0, 0]).unwrap();
        it.client(WINDOW_UPDATE, 0, 0, &[0, 0xef, 0, 1]).unwrap();
        it.server(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 128]).unwrap();
        it.client(SETTINGS, END, 0, b"").unwrap();
        it
    }

    fn client(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Told {
        self.frames += 1;
        self.watch.incoming(&frame(kind, flags, stream, payload), self.now)
    }

    fn server(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Told {
        self.watch.outgoing(&frame(kind, flags, stream, payload), self.now)
    }

    fn request(&mut self, flags: u8) -> Result<u32, Excess> {
        let stream = self.next;
        self.next += 2;
        self.client(HEADERS, flags, stream, HEAD_BLOCK)?;
        Ok(stream)
    }

    fn answer(&mut self, stream: u32, body: usize) -> Told {
        self.server(HEADERS, HEAD, stream, ANSWER_BLOCK)?;
        let mut left = body;
        loop {
            let size = left.min(16_384);
            left -= size;
            self.server(DATA, u8::from(left == 0), stream, &vec![0; size])?;
            if left == 0 {
                return Ok(());
            }
            // a client gives back what it has read
            if left < body / 2 {
                self.client(WINDOW_UPDATE, 0, stream, &u32::to_be_bytes(32_768))?;
                self.client(WINDOW_UPDATE, 0, 0, &u32::to_be_bytes(32_768))?;
            }
        }
    }
}

#[test]
fn floods_that_have_names_end_soon() {
    type Flood = fn(&mut Conversation) -> Told;
    let table: &[(&str, Limit, u64, Flood)] = &[
        ("CVE-2023-44487 rapid reset", Limit::RapidResets, 1100, |c| {
            let stream = c.request(ALL)?;
            c.client(RST_STREAM, 0, stream, CANCEL)
        }),
        ("rapid reset, mixed with answers", Limit::RapidResets, 2100, |c| {
            for _ in 0..3 {
                let stream = c.request(ALL)?;
                c.client(RST_STREAM, 0, stream, CANCEL)?;
            }
            let stream = c.request(ALL)?;
            c.answer(stream, 10)
        }),
        ("rapid reset, slowly", Limit::RapidResetsInAll, 20_100, |c| {
            c.now += Duration::from_millis(100);
            let stream = c.request(ALL)?;
            c.client(RST_STREAM, 0, stream, CANCEL)
        }),
        ("CVE-2025-8671 by an increment of nothing", Limit::OwnResets, 250, |c| {
            let stream = c.request(ALL)?;
            c.client(WINDOW_UPDATE, 0, stream, &[0; 4])?;
            c.server(RST_STREAM, 0, stream, &[0, 0, 0, 1])
        }),
        ("CVE-2025-8671 by a window that overflows", Limit::OwnResets, 350, |c| {
            let stream = c.request(ALL)?;
            c.client(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])?;
            c.server(RST_STREAM, 0, stream, &[0, 0, 0, 3])
        }),
        ("CVE-2025-8671 by DATA behind the end", Limit::OwnResets, 350, |c| {
            let stream = c.request(ALL)?;
            c.client(DATA, 0, stream, b"a")?;
            c.server(RST_STREAM, 0, stream, &[0, 0, 0, 5])
        }),
        ("CVE-2019-9514 reset flood by requests that are malformed", Limit::OwnResets, 150, |c| {
            let stream = c.next;
            c.next += 2;
            c.client(HEADERS, ALL, stream, b"")?;
            c.server(RST_STREAM, 0, stream, &[0, 0, 0, 1])
        }),
        ("CVE-2019-9514 resets of what is not open", Limit::StrayFrames, 1100, |c| c.client(RST_STREAM, 0, 1, CANCEL)),
        ("CVE-2024-27316 CONTINUATION", Limit::Continuations, 80, |c| {
            if c.next == 1 {
                c.request(END)?;
            }
            c.client(CONTINUATION, 0, 1, &[0x82; 100])
        }),
        ("CONTINUATION of full size", Limit::HeaderBlock, 20, |c| {
            if c.next == 1 {
                c.request(END)?;
            }
            c.client(CONTINUATION, 0, 1, &[0x82; 16_384])
        }),
        ("CVE-2019-9512 PING", Limit::Pings, 210, |c| {
            c.client(PING, 0, 0, &[0; 8])?;
            c.server(PING, END, 0, &[0; 8])
        }),
        ("PING that nobody asked to answer", Limit::StrayFrames, 1100, |c| c.client(PING, END, 0, &[0; 8])),
        ("CVE-2019-9515 SETTINGS", Limit::Settings, 110, |c| {
            c.client(SETTINGS, 0, 0, b"")?;
            c.server(SETTINGS, END, 0, b"")
        }),
        ("SETTINGS of many entries", Limit::SettingsEntries, 10, |c| c.client(SETTINGS, 0, 0, &[0; 16_380])),
        ("SETTINGS that move all windows", Limit::Settings, 240, |c| {
            if c.next < 240 {
                c.request(ALL)?;
            }
            c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])
        }),
        ("CVE-2019-9518 empty DATA", Limit::EmptyData, 110, |c| {
            if c.next == 1 {
                c.request(HEAD)?;
            }
            c.client(DATA, 0, 1, b"")
        }),
        ("DATA of padding", Limit::PaddingOnly, 110, |c| {
            if c.next == 1 {
                c.request(HEAD)?;
            }
            c.client(DATA, PADDED, 1, &[255; 256])
        }),
        ("DATA of a byte and padding", Limit::Overhead, 40_000, |c| {
            if c.next == 1 {
                c.request(HEAD)?;
            }
            let mut padded = [0; 257];
            padded[0] = 255;
            c.client(DATA, PADDED, 1, &padded)
        }),
        ("CVE-2019-9511 data dribble", Limit::TinyWindowUpdates, 510, |c| {
            if c.next == 1 {
                c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
                c.request(ALL)?;
                c.server(HEADERS, HEAD, 1, ANSWER_BLOCK)?;
            }
            c.client(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])?;
            c.server(DATA, 0, 1, b"a")
        }),
        ("WINDOW_UPDATE without data", Limit::WindowUpdates, 1100, |c| c.client(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0])),
        ("CVE-2019-9513 resource loop", Limit::Priorities, 210, |c| {
            let other = u8::from(c.frames.is_multiple_of(2));
            c.client(PRIORITY, 0, 1, &[0x80, 0, 0, 3 + 2 * other, 255])
        }),
        ("CVE-2019-9516 by heads of nothing", Limit::OwnResets, 150, |c| {
            let stream = c.next;
            c.next += 2;
            c.client(HEADERS, ALL, stream, &[0x40, 0, 0])?;
            c.server(RST_STREAM, 0, stream, &[0, 0, 0, 1])
        }),
        ("CVE-2019-9517 answers that nobody takes", Limit::StalledStreams, 200, |c| {
            if c.next == 1 {
                c.client(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
            }
            if c.next < 200 {
                let stream = c.request(ALL)?;
                c.server(HEADERS, HEAD, stream, ANSWER_BLOCK)?;
            }
            c.now += Duration::from_secs(1);
            c.watch.check(c.now)
        }),
        ("streams beyond the announced number", Limit::RefusedStreams, 400, |c| {
            let stream = c.request(HEAD)?;
            if stream > 256 {
                c.server(RST_STREAM, 0, stream, &[0, 0, 0, 7])?;
            }
            Ok(())
        }),
        ("frames of unknown type", Limit::UnknownFrames, 210, |c| c.client(0xee, 0, 0, b"")),
    ];
    for (name, limit, soon, flood) in table {
        let mut conversation = Conversation::new();
        let excess = (0..200_000).find_map(|_| flood(&mut conversation).err());
        let excess = excess.unwrap_or_else(|| panic!("{name} is not noticed"));
        assert_eq!(excess.limit, *limit, "{name}: {excess}");
        assert!(conversation.frames <= *soon, "{name}: {} frames", conversation.frames);
    }
}

const REQUESTS: u32 = 100_000;

/// Runs one good client for a whole long connection, at several paces.
fn lives_long(name: &str, paces: &[Duration], turn: impl Fn(&mut Conversation, u32) -> Told) {
    for pace in paces {
        let mut conversation = Conversation::new();
        let mut room = 0;
        for n in 0..REQUESTS {
            turn(&mut conversation, n).unwrap_or_else(|excess| panic!("{name}, a turn each {pace:?}, {n}: {excess}"));
            conversation.now += *pace;
            conversation.watch.check(conversation.now).unwrap_or_else(|excess| panic!("{name}, {pace:?}: {excess}"));
            let now = conversation.watch.budget().streams.capacity();
            assert!(now <= 128, "memory is bounded");
            // after the first streams nothing is allocated
            assert!(n < 1000 || now == room, "{name}: {room} to {now}");
            room = now;
        }
    }
}

const ANY_PACE: [Duration; 4] =
    [Duration::ZERO, Duration::from_micros(20), Duration::from_millis(5), Duration::from_secs(2)];

#[test]
fn a_browser_hits_no_budget() {
    lives_long("browser", &ANY_PACE[1..], |c, n| {
        c.client(0x10, 0, 0, &[0; 9])?;
        let stream = c.request(ALL)?;
        if n % 7 == 0 {
            c.client(0x0b + 0x1f * 3, 0, stream, b"grease")?;
        }
        if n % 50 == 0 {
            c.client(PING, 0, 0, &[0; 8])?;
            c.server(PING, END, 0, &[0; 8])?;
        }
        if n % 20 == 3 {
            // it needs only the beginning
            c.server(HEADERS, HEAD, stream, ANSWER_BLOCK)?;
            c.server(DATA, 0, stream, &[0; 16_384])?;
            return c.client(RST_STREAM, 0, stream, CANCEL);
        }
        c.answer(stream, (n as usize % 5) * 10_000)?;
        if n % 1000 == 999 {
            // the page is left while it loads
            for stream in (0..100).map(|_| c.request(ALL)).collect::<Result<Vec<_>, _>>()? {
                c.client(RST_STREAM, 0, stream, CANCEL)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_load_tool_with_a_hundred_streams_hits_no_budget() {
    lives_long("h2load -m 100", &ANY_PACE, |c, n| {
        if n % 100 != 0 {
            return Ok(());
        }
        let streams = (0..100).map(|_| c.request(ALL)).collect::<Result<Vec<_>, _>>()?;
        streams.into_iter().try_for_each(|stream| c.answer(stream, 20))
    });
}

#[test]
fn a_grpc_client_hits_no_budget() {
    lives_long("gRPC", &ANY_PACE, |c, n| {
        if n < 10 {
            c.client(SETTINGS, 0, 0, &[0, 4, 0, 0x10, 0, 0])?;
        }
        let stream = c.request(HEAD)?;
        c.client(DATA, 0, stream, &[0; 12])?;
        c.client(DATA, END, stream, b"")?;
        c.server(HEADERS, HEAD, stream, ANSWER_BLOCK)?;
        c.server(DATA, 0, stream, &[0; 9])?;
        c.client(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 9])?;
        c.client(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])?;
        c.client(PING, 0, 0, &[0; 8])?;
        c.server(PING, END, 0, &[0; 8])?;
        c.server(HEADERS, ALL, stream, b"\xbf")
    });
}

#[test]
fn a_stream_of_small_messages_hits_no_budget() {
    lives_long("WebSocket", &ANY_PACE[2..], |c, n| {
        if n == 0 {
            c.request(HEAD)?;
            c.server(HEADERS, HEAD, 1, ANSWER_BLOCK)?;
        }
        c.client(DATA, 0, 1, b"a")?;
        c.server(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])?;
        c.server(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])?;
        c.server(DATA, 0, 1, b"b")?;
        c.client(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])?;
        c.client(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    });
}

#[test]
fn an_uploader_that_is_often_refused_hits_no_budget() {
    lives_long("uploads", &ANY_PACE[2..3], |c, n| {
        let stream = c.request(HEAD)?;
        if n % 10 < 3 && n < 30_000 {
            // refused at once, while its first window is under way
            c.server(HEADERS, ALL, stream, ANSWER_BLOCK)?;
            c.server(RST_STREAM, 0, stream, &[0; 4])?;
            return (0..64).try_for_each(|_| {
                c.client(DATA, 0, stream, &[0; 1024])?;
                // the library has forgotten the stream
                c.server(RST_STREAM, 0, stream, &[0, 0, 0, 5])
            });
        }
        for last in [0, 0, 0, 1] {
            c.client(DATA, last, stream, &[0; 1024])?;
            c.server(WINDOW_UPDATE, 0, stream, &[0, 0, 4, 0])?;
            c.server(WINDOW_UPDATE, 0, 0, &[0, 0, 4, 0])?;
        }
        c.answer(stream, 0)
    });
}

#[test]
fn a_conversation_means_the_same_under_every_split() {
    let limits = || Limits { pings: 2, rapid_resets: 1, ..Limits::default() };
    let now = Instant::now();
    let request = |stream| frame(HEADERS, ALL, stream, b"\x82");
    let reset = |stream| frame(RST_STREAM, 0, stream, CANCEL);
    for (conversation, told) in [
        (vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]), frame(PING, 0, 0, &[0; 8])], None),
        (vec![frame(PING, 0, 0, &[0; 8]); 3], Some(Limit::Pings)),
        (vec![request(1), reset(1), request(3), reset(3), request(5)], Some(Limit::RapidResets)),
        (vec![request(1), reset(1), request(3)], None),
        (vec![frame(SETTINGS, 0, 0, &[0; 33 * 6])], Some(Limit::SettingsEntries)),
    ] {
        let bytes = [PREFACE.to_vec(), conversation.concat()].concat();
        let found = every_split(&bytes, |pieces| {
            let mut watch = Watch::new(limits(), now);
            pieces.iter().try_for_each(|piece| watch.incoming(piece, now)).err()
        });
        assert_eq!(found.map(|excess| excess.limit), told);
        let mut watch = Watch::new(limits(), now);
        let outgoing = every_split(&conversation.concat(), |pieces| {
            let mut watch = Watch::new(limits(), now);
            pieces.iter().try_for_each(|piece| watch.outgoing(piece, now)).err()
        });
        assert_eq!(outgoing, None, "what we send ourselves is no flood");
        assert_eq!(watch.incoming(b"GET / HTTP/1.1\r\n\r\n", now), Ok(()), "that is refused elsewhere");
    }
}

#[test]
fn noise_never_panics() {
    let mut told = 0;
    for seed in 0..2000 {
        let mut noise = Noise::new(seed);
        let now = Instant::now();
        let small = u32::try_from(noise.below(100)).unwrap();
        let limits = Limits {
            concurrent_streams: small,
            stalled_streams: small / 4,
            stall: Duration::from_millis(100),
            pings: small,
            settings: small,
            window_updates: small,
            stray_frames: small,
            ..Limits::default()
        };
        let mut watch = Watch::new(limits, now);
        watch.incoming(PREFACE, now).unwrap();
        for turn in 0..200 {
            // frames of any kind on few streams, some of them nonsense
            let payload: Vec<u8> = (0..noise.below(12)).map(|_| noise.byte()).collect();
            let stream = u32::try_from(noise.below(40)).unwrap();
            let kind = u8::try_from(noise.below(12)).unwrap();
            let mut bytes = frame(kind, noise.byte(), stream, &payload);
            if noise.below(50) == 0 {
                bytes.truncate(usize::try_from(noise.below(9)).unwrap());
            }
            let later = now + Duration::from_millis(turn * noise.below(100));
            let result =
                if noise.below(3) == 0 { watch.outgoing(&bytes, later) } else { watch.incoming(&bytes, later) };
            let _ = watch.check(later);
            if let Err(excess) = result {
                assert!(!excess.to_string().is_empty());
                told += 1;
                break;
            }
            assert!(watch.budget().streams.waiting() <= small);
        }
    }
    assert!(told > 100, "{told}");
}
