//! What is no TLS, for ports that expect it, and what they should answer.

use super::Wire;

/// Openings of connections that no TLS client makes.
pub const NO_TLS: &[&[u8]] = &[
    b"a1 LOGIN alice pw\r\n",
    b"EHLO example.com\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    // An alert and application data, out of turn.
    b"\x15\x03\x03\0\x02\x02\x28",
    b"\x17\x03\x03\0\x05hello and more",
    // Handshake records with nonsense in them, with more behind it.
    b"\x16\x03\x01\0\x05hello and more that nobody has asked for",
    b"\x16\x03\x01\0\x08\x02\0\0\x04abcdand more",
    b"\x16\x03\x01\xff\xffand more",
];

/// Sends this; whether the answer is a fatal alert and then an orderly end. Otherwise what came instead.
pub fn alerted(wire: &mut Wire, opening: &[u8]) -> Result<(), String> {
    wire.try_send(opening).map_err(|error| format!("send: {error}"))?;
    let alert = wire.try_exactly(7).map_err(|error| format!("no alert: {error}"))?;
    match alert.as_slice() {
        [21, 3, _, 0, 2, 2, _] if wire.ends_by_reset() => Err("a reset".to_owned()),
        [21, 3, _, 0, 2, 2, _] => Ok(()),
        other => Err(other.escape_ascii().to_string()),
    }
}
