//! The sequence of frames on one direction of a connection, read beside the machine that understands them.
//!
//! The reader is fed with the bytes in any pieces and tells of every frame when its last byte has passed, which is when
//! the other machine can act on it. Payloads are passed over; the few numbers that budgets need are kept. The reader
//! has a fixed size, owns no memory, and refuses nothing: whether a frame is allowed is for the other machine to say.

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of the header before each payload.
pub const HEADER: u32 = 9;

/// What a frame is for (RFC 9113 section 6, RFC 9218 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DATA.
    Data,
    /// HEADERS.
    Headers,
    /// PRIORITY, which RFC 9113 deprecates.
    Priority,
    /// `RST_STREAM`.
    ResetStream,
    /// SETTINGS.
    Settings,
    /// `PUSH_PROMISE`.
    PushPromise,
    /// PING.
    Ping,
    /// GOAWAY.
    GoAway,
    /// `WINDOW_UPDATE`.
    WindowUpdate,
    /// CONTINUATION.
    Continuation,
    /// `PRIORITY_UPDATE` of RFC 9218.
    PriorityUpdate,
    /// Any other type, which a receiver ignores.
    Unknown(u8),
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::ResetStream,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            0x10 => Self::PriorityUpdate,
            other => Self::Unknown(other),
        }
    }
}

/// What was kept of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing: the kind has no number that matters, or the payload is too short to hold it.
    None,
    /// DATA and HEADERS with the PADDED flag: bytes of padding, its length byte included.
    Padding(u32),
    /// The error code of `RST_STREAM` and GOAWAY.
    Code(u32),
    /// What a `WINDOW_UPDATE` adds.
    Increment(u32),
    /// The last `SETTINGS_INITIAL_WINDOW_SIZE` of a SETTINGS frame.
    InitialWindow(u32),
}

/// One frame that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// Its flags; what they mean depends on the kind.
    pub flags: u8,
    /// The stream it belongs to, 0 for the connection.
    pub stream: u32,
    /// The length of the payload in bytes.
    pub length: u32,
    /// What was kept of the payload.
    pub detail: Detail,
}

impl Frame {
    #[inline]
    fn from_header(header: [u8; 9]) -> Self {
        let [high, middle, low, kind, flags, first, second, third, fourth] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let stream = u32::from_be_bytes([first & 0x7f, second, third, fourth]);
        Self { kind: Kind::of(kind), flags, stream, length, detail: Detail::None }
    }

    /// How many bytes at the start of the payload matter.
    #[inline]
    fn wanted(&self) -> u8 {
        match self.kind {
            Kind::Data | Kind::Headers if self.flags & 0x8 != 0 => 1,
            Kind::ResetStream | Kind::WindowUpdate => 4,
            Kind::GoAway => 8,
            Kind::Settings => 6,
            _ => 0,
        }
    }

    /// Whether the sender ends its side of the stream: DATA and HEADERS only.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 0x1 != 0
    }

    /// Whether a header block ends here.
    #[must_use]
    pub fn is_end_headers(&self) -> bool {
        matches!(self.kind, Kind::Headers | Kind::Continuation | Kind::PushPromise) && self.flags & 0x4 != 0
    }

    /// Whether this answers a SETTINGS or a PING.
    #[must_use]
    pub fn is_ack(&self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & 0x1 != 0
    }

    /// The payload without padding.
    #[must_use]
    pub fn content(&self) -> u32 {
        match self.detail {
            Detail::Padding(padding) => self.length.saturating_sub(padding),
            _ => self.length,
        }
    }

    /// The whole frame as it came over the wire.
    #[must_use]
    pub fn wire_length(&self) -> u32 {
        self.length.saturating_add(HEADER)
    }

    /// How many settings a SETTINGS frame has.
    #[must_use]
    pub fn settings(&self) -> u32 {
        if self.kind == Kind::Settings { self.length / SETTING } else { 0 }
    }
}

/// The length of one setting.
const SETTING: u32 = 6;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// Reads one direction of a connection.
///
/// It is `Copy`, and thereby cannot allocate.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    part: Part,
    /// The bytes of the header or detail that is being read.
    held: [u8; 9],
    filled: usize,
    frame: Frame,
    /// What is left of the payload.
    rest: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// So many bytes of the preface have passed.
    Preface(usize),
    Header,
    /// So many bytes of the payload are wanted next.
    Detail(u8),
    Rest,
    /// The preface was wrong: what follows is not HTTP/2.
    Lost,
}

impl Frames {
    /// The direction from the client: the preface comes first.
    #[must_use]
    pub fn of_client() -> Self {
        Self::starting(Part::Preface(0))
    }

    /// The direction from the server.
    #[must_use]
    pub fn of_server() -> Self {
        Self::starting(Part::Header)
    }

    fn starting(part: Part) -> Self {
        let frame = Frame { kind: Kind::Data, flags: 0, stream: 0, length: 0, detail: Detail::None };
        Self { part, held: [0; 9], filled: 0, frame, rest: 0 }
    }

    /// Takes bytes off `input` up to the end of the next frame, or all of them if that has not arrived.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Frame> {
        loop {
            match self.part {
                Part::Preface(passed) => self.part = preface(passed, input)?,
                Part::Header => {
                    if let Some(frame) = self.whole_frame(input) {
                        return Some(frame);
                    }
                    self.gather(input, 9)?;
                    self.begin();
                }
                Part::Detail(wanted) => {
                    self.gather(input, usize::from(wanted))?;
                    self.rest = self.rest.saturating_sub(u32::from(wanted));
                    self.learn();
                }
                Part::Rest => {
                    let passed = take(input, usize::try_from(self.rest).unwrap_or(usize::MAX)).len();
                    self.rest = self.rest.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX));
                    if self.rest > 0 {
                        return None;
                    }
                    self.part = Part::Header;
                    return Some(self.frame);
                }
                Part::Lost => {
                    *input = &[];
                    return None;
                }
            }
        }
    }

    /// Whether the client began with anything but the preface. Nothing is read from then on.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.part == Part::Lost
    }

    /// Whether the last byte fed was the last of a frame or of the preface.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.part == Part::Header && self.filled == 0
    }

    /// Whether the last byte fed was one of a DATA frame that is not complete.
    #[must_use]
    pub fn is_in_data(&self) -> bool {
        matches!(self.part, Part::Detail(_) | Part::Rest) && self.frame.kind == Kind::Data
    }

    /// Fills the held bytes up to `wanted`; `None` if the input ends before.
    fn gather(&mut self, input: &mut &[u8], wanted: usize) -> Option<()> {
        let room = self.held.get_mut(self.filled..wanted).unwrap_or_default();
        let taken = take(input, room.len());
        for (place, byte) in room.iter_mut().zip(taken) {
            *place = *byte;
        }
        self.filled += taken.len();
        if self.filled < wanted {
            return None;
        }
        self.filled = 0;
        Some(())
    }

    /// The next frame if all of it has arrived and nothing of it has to be kept, as is true of most.
    #[inline]
    fn whole_frame(&self, input: &mut &[u8]) -> Option<Frame> {
        if self.filled > 0 {
            return None;
        }
        let (header, rest) = input.split_first_chunk()?;
        let frame = Frame::from_header(*header);
        let length = usize::try_from(frame.length).ok()?;
        let (_, rest) = rest.split_at_checked(length)?;
        if frame.wanted() > 0 {
            return None;
        }
        *input = rest;
        Some(frame)
    }

    /// Understands the header that is held.
    fn begin(&mut self) {
        self.frame = Frame::from_header(self.held);
        self.rest = self.frame.length;
        self.part = self.wanting(self.frame.wanted());
    }

    /// Understands the detail that is held.
    fn learn(&mut self) {
        let [b0, b1, b2, b3, b4, b5, b6, b7, _] = self.held;
        let mut next = 0;
        match self.frame.kind {
            Kind::Data | Kind::Headers => self.frame.detail = Detail::Padding(u32::from(b0) + 1),
            Kind::ResetStream => self.frame.detail = Detail::Code(u32::from_be_bytes([b0, b1, b2, b3])),
            Kind::WindowUpdate => self.frame.detail = Detail::Increment(u32::from_be_bytes([b0 & 0x7f, b1, b2, b3])),
            Kind::GoAway => self.frame.detail = Detail::Code(u32::from_be_bytes([b4, b5, b6, b7])),
            Kind::Settings => {
                if u16::from_be_bytes([b0, b1]) == INITIAL_WINDOW_SIZE {
                    self.frame.detail = Detail::InitialWindow(u32::from_be_bytes([b2, b3, b4, b5]));
                }
                next = 6;
            }
            _ => {}
        }
        self.part = self.wanting(next);
    }

    /// The next part if `bytes` of the payload are wanted: nothing is if the payload has not got them.
    fn wanting(&self, bytes: u8) -> Part {
        if bytes == 0 || self.rest < u32::from(bytes) { Part::Rest } else { Part::Detail(bytes) }
    }
}

/// Compares what arrived with the preface; `None` if more of it must come.
fn preface(passed: usize, input: &mut &[u8]) -> Option<Part> {
    let expected = PREFACE.get(passed..).unwrap_or_default();
    let found = take(input, expected.len());
    if !expected.starts_with(found) {
        return Some(Part::Lost);
    }
    if found.len() == expected.len() {
        return Some(Part::Header);
    }
    (!found.is_empty()).then_some(Part::Preface(passed + found.len()))
}

/// The first `count` bytes of the input, or all of it, taken off.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use tidegate_core_wire::testing::every_split;

    use super::super::testing::{Noise, frame};
    use super::*;

    fn read(frames: Frames, input: &[u8]) -> (Vec<Frame>, bool, bool) {
        every_split(input, |pieces| {
            let (mut frames, mut found) = (frames, Vec::new());
            for piece in pieces {
                let mut rest = *piece;
                while let Some(frame) = frames.next(&mut rest) {
                    found.push(frame);
                }
                assert!(rest.is_empty(), "everything is consumed");
            }
            (found, frames.is_lost(), frames.is_between_frames())
        })
    }

    fn seen(kind: Kind, flags: u8, stream: u32, length: u32, detail: Detail) -> Frame {
        Frame { kind, flags, stream, length, detail }
    }

    #[test]
    fn frames_are_told_under_every_split() {
        let settings = [0, 4, 0, 0, 0, 7, 0, 3, 0, 0, 0, 100, 0, 4, 0x80, 0, 0, 1];
        for (bytes, expected) in [
            (frame(0, 0, 1, b"abc"), seen(Kind::Data, 0, 1, 3, Detail::None)),
            (frame(0, 1, 1, b""), seen(Kind::Data, 1, 1, 0, Detail::None)),
            (frame(0, 9, 3, b"\x02ab\0\0"), seen(Kind::Data, 9, 3, 5, Detail::Padding(3))),
            (frame(0, 8, 3, b""), seen(Kind::Data, 8, 3, 0, Detail::None)),
            (frame(0, 8, 3, b"\xff"), seen(Kind::Data, 8, 3, 1, Detail::Padding(256))),
            (frame(1, 0x2d, 5, b"\0\0\0\0\0\x10a"), seen(Kind::Headers, 0x2d, 5, 7, Detail::Padding(1))),
            (frame(2, 0, 5, b"\0\0\0\0\x10"), seen(Kind::Priority, 0, 5, 5, Detail::None)),
            (frame(3, 0, 7, b"\0\0\0\x08"), seen(Kind::ResetStream, 0, 7, 4, Detail::Code(8))),
            (frame(3, 0, 7, b"\0\0\0"), seen(Kind::ResetStream, 0, 7, 3, Detail::None)),
            (frame(4, 0, 0, &settings), seen(Kind::Settings, 0, 0, 18, Detail::InitialWindow(0x8000_0001))),
            (frame(4, 0, 0, &settings[6..14]), seen(Kind::Settings, 0, 0, 8, Detail::None)),
            (frame(4, 1, 0, b""), seen(Kind::Settings, 1, 0, 0, Detail::None)),
            (frame(5, 4, 1, b"abcd"), seen(Kind::PushPromise, 4, 1, 4, Detail::None)),
            (frame(6, 0, 0, b"12345678"), seen(Kind::Ping, 0, 0, 8, Detail::None)),
            (frame(7, 0, 0, b"\0\0\0\x05\0\0\0\x0bwhy"), seen(Kind::GoAway, 0, 0, 11, Detail::Code(11))),
            (frame(8, 0, 0, b"\xff\xff\xff\xff"), seen(Kind::WindowUpdate, 0, 0, 4, Detail::Increment(0x7fff_ffff))),
            (frame(9, 4, 1, b"x"), seen(Kind::Continuation, 4, 1, 1, Detail::None)),
            (frame(0x10, 0, 0, b"\0\0\0\x01u=3"), seen(Kind::PriorityUpdate, 0, 0, 7, Detail::None)),
            (frame(0xfa, 3, 9, b"xy"), seen(Kind::Unknown(0xfa), 3, 9, 2, Detail::None)),
            (frame(0, 0, 0xffff_ffff, b""), seen(Kind::Data, 0, 0x7fff_ffff, 0, Detail::None)),
        ] {
            assert_eq!(read(Frames::of_server(), &bytes), (vec![expected], false, true));
            let twice = [PREFACE.as_slice(), &bytes, &bytes].concat();
            assert_eq!(read(Frames::of_client(), &twice), (vec![expected, expected], false, true));
            for end in 1..bytes.len() {
                assert_eq!(read(Frames::of_server(), &bytes[..end]), (Vec::new(), false, false), "{end} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_frames_say_of_themselves() {
        let padded = seen(Kind::Data, 9, 1, 5, Detail::Padding(3));
        assert_eq!((padded.content(), padded.wire_length(), padded.is_end_stream()), (2, 14, true));
        assert_eq!(seen(Kind::Data, 8, 1, 1, Detail::Padding(256)).content(), 0);
        assert_eq!(seen(Kind::Settings, 0, 0, 17, Detail::None).settings(), 2);
        assert_eq!(seen(Kind::Ping, 0, 0, 18, Detail::None).settings(), 0);
        for (kind, end_stream, end_headers, ack) in [
            (Kind::Data, true, false, false),
            (Kind::Headers, true, true, false),
            (Kind::Continuation, false, true, false),
            (Kind::Settings, false, false, true),
            (Kind::Ping, false, false, true),
            (Kind::WindowUpdate, false, false, false),
            (Kind::Unknown(0x20), false, false, false),
        ] {
            let frame = seen(kind, 0x5, 1, 0, Detail::None);
            assert_eq!((frame.is_end_stream(), frame.is_end_headers(), frame.is_ack()), (end_stream, end_headers, ack));
        }
    }

    #[test]
    fn a_wrong_preface_loses_the_reader() {
        for input in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", "X"] {
            assert_eq!(read(Frames::of_client(), input.as_bytes()), (Vec::new(), true, false), "{input}");
        }
        for end in 0..PREFACE.len() {
            assert_eq!(read(Frames::of_client(), &PREFACE[..end]), (Vec::new(), false, false));
        }
        assert_eq!(read(Frames::of_client(), PREFACE), (Vec::new(), false, true));
    }

    #[test]
    fn any_bytes_can_be_read_and_nothing_can_be_allocated() {
        fn is_plain_memory<T: Copy>(_: &T) {}
        let (mut noise, mut found) = (Noise::new(1), 0);
        for round in 0..2000 {
            let mut frames = if round % 2 == 0 { Frames::of_server() } else { Frames::of_client() };
            is_plain_memory(&frames);
            is_plain_memory(&frames.frame);
            for piece in 0..30 {
                // many zeros make short frames, so that more than one is seen
                let mut bytes: Vec<u8> =
                    (0..noise.below(64)).map(|_| noise.byte() * u8::from(noise.below(4) == 0)).collect();
                if piece == 0 && round % 4 == 1 {
                    bytes = PREFACE.to_vec();
                }
                let mut rest = bytes.as_slice();
                while frames.next(&mut rest).is_some() {
                    found += 1;
                }
                assert!(rest.is_empty());
            }
        }
        assert!(found > 1000, "{found}");
    }
}
