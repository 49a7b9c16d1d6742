//! HTTP/2 frame by frame: what no library would send.

use std::io::{self, Error};

use super::Wire;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// One frame that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of `RST_STREAM` and GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    /// The status that HEADERS begin with.
    pub fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        // The table may be made smaller first.
        match behind_sizes(&self.payload) {
            [index @ 0x88..=0x8e, ..] => Some([200, 204, 206, 304, 400, 404, 500][usize::from(*index - 0x88)]),
            [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, 3, digits @ ..] => {
                std::str::from_utf8(&digits[..3]).ok()?.parse().ok()
            }
            [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, length, coded @ ..] if length & 0x80 != 0 => {
                huffman_digits(&coded[..usize::from(length & 0x7f)])
            }
            _ => None,
        }
    }

    /// Whether the server has ended its side of the stream.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & 1 != 0
    }
}

/// A header block behind the changes of the table's size that it may begin with: integers in five bits and what follows
/// them, while their first bit is set.
fn behind_sizes(mut block: &[u8]) -> &[u8] {
    while let [first @ 0x20..=0x3f, rest @ ..] = block {
        let more = rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        block = if *first == 0x3f { rest.get(more..).unwrap_or_default() } else { rest };
    }
    block
}

/// Three digits in the Huffman code of HPACK: 0 to 2 in five bits, the others in six.
fn huffman_digits(coded: &[u8]) -> Option<u16> {
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut number) = (bits.as_str(), 0);
    for _ in 0..3 {
        let short = u16::from_str_radix(rest.get(..5)?, 2).ok()?;
        let (digit, length) = match short {
            0..=2 => (short, 5),
            _ => (u16::from_str_radix(rest.get(..6)?, 2).ok()?.checked_sub(0b01_0110)?, 6),
        };
        number = number * 10 + digit;
        rest = rest.get(length..)?;
    }
    Some(number)
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a payload that fits");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A connection on which any frame can be sent.
#[derive(Debug)]
pub struct Frames {
    /// The connection itself.
    pub wire: Wire,
}

impl Frames {
    /// Begins with the preface and these settings.
    #[track_caller]
    pub fn over(mut wire: Wire, settings: &[(u16, u32)]) -> Frames {
        wire.send([PREFACE, &Frames::settings(settings)].concat());
        Frames { wire }
    }

    /// SETTINGS.
    pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
        let pairs = settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
        frame(SETTINGS, 0, 0, pairs.collect::<Vec<u8>>())
    }

    /// A header block: every field as a literal that is not kept.
    pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                length(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        }
        block
    }

    /// The pseudo-fields of a usual request, and more fields.
    pub fn head<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
        let mut fields = vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
        fields.extend(more);
        Frames::block(&fields)
    }

    /// GET, complete.
    pub fn get(stream: u32, path: &str) -> Vec<u8> {
        frame(HEADERS, 5, stream, Frames::head("GET", path, &[]))
    }

    /// POST whose body is to follow.
    pub fn post(stream: u32, path: &str) -> Vec<u8> {
        frame(HEADERS, 4, stream, Frames::head("POST", path, &[]))
    }

    /// `WINDOW_UPDATE`.
    pub fn window(stream: u32, bytes: u32) -> Vec<u8> {
        frame(8, 0, stream, bytes.to_be_bytes())
    }

    /// `RST_STREAM` with CANCEL.
    pub fn reset(stream: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, 8u32.to_be_bytes())
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    /// The next frame; `None` at the end of the connection. A PING is answered.
    pub fn try_next(&mut self) -> io::Result<Option<Frame>> {
        let header = match self.wire.try_exactly(9) {
            Ok(header) => header,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
        let payload = self.wire.try_exactly(usize::try_from(length).map_err(Error::other)?)?;
        if header[3] == PING && header[4] == 0 {
            // A server that asks waits for the answer, and may be gone when it comes.
            let _ = self.wire.try_send(frame(PING, 1, 0, &payload));
        }
        Ok(Some(Frame { kind: header[3], flags: header[4], stream, payload }))
    }

    /// The frames up to the first that is so.
    #[track_caller]
    pub fn until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Frame {
        let mut passed = Vec::new();
        loop {
            match self.try_next() {
                Ok(Some(frame)) if is_it(&frame) => return frame,
                Ok(Some(frame)) => passed.push((frame.kind, frame.stream, frame.code())),
                other => panic!("waited in vain for a frame: {other:?} after {passed:?}"),
            }
        }
    }

    /// The status of a stream's answer.
    #[track_caller]
    pub fn status(&mut self, stream: u32) -> u16 {
        let head = self.until(|frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM));
        head.status().unwrap_or_else(|| panic!("no status: {head:?}"))
    }

    /// How a stream ends: with its status, or reset with a code.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Result<u16, u32> {
        let end = self.until(|frame| match frame.kind {
            HEADERS | RST_STREAM => frame.stream == stream,
            kind => kind == GOAWAY && frame.code() != Some(0),
        });
        end.status().ok_or_else(|| end.code().unwrap_or_default())
    }

    /// Reads to the end of the connection; the code of its GOAWAY, if one came through.
    #[track_caller]
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        loop {
            match self.try_next() {
                Ok(Some(frame)) if frame.kind == GOAWAY => code = frame.code(),
                Ok(Some(_)) => {}
                Ok(None) => return code,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection does not end"),
                Err(_) => return code,
            }
        }
    }

    /// Whether the server answers a PING.
    pub fn is_alive(&mut self) -> bool {
        if self.wire.try_send(frame(PING, 0, 0, b"are you?")).is_err() {
            return false;
        }
        loop {
            match self.try_next() {
                Ok(Some(frame)) if frame.kind == PING && frame.flags == 1 => return true,
                Ok(Some(frame)) if frame.kind != GOAWAY => {}
                _ => return false,
            }
        }
    }
}

/// An integer of HPACK in seven bits and what follows them.
fn length(block: &mut Vec<u8>, number: usize) {
    let Some(mut rest) = number.checked_sub(127) else { return block.push(u8::try_from(number).unwrap_or(0)) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap_or(0) | 0x80);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        let status = |payload: &[u8]| Frame { kind: HEADERS, flags: 4, stream: 1, payload: payload.to_vec() }.status();
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x3f, 0x8d]), None);
        assert_eq!(status(&[0x3f, 0x8d, 0x01, 0x8d]), Some(404));
        assert_eq!(status(&[0x20, 0x8e]), Some(500));
        assert_eq!(status(b"\x48\x03405"), Some(405));
        // RFC 7541, C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(frame(1, 4, 3, b"ab"), [0, 0, 2, 1, 4, 0, 0, 0, 3, b'a', b'b']);
    }
}
