//! The backend: it knows from the number of an exchange what must come and what it has to send.

use std::thread;

use crate::Wire;
use crate::backend::TcpBackend;
use crate::message::{Fields, parse_head};
use crate::proof::chance::Compared;

use super::{Framing, Options, Plan, next_piece};

/// Starts it. A request that is not as it must be is answered with what is wrong with it.
pub fn start(options: Options) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        wire.set_patience(std::time::Duration::from_secs(600));
        while answer(&mut wire, &options).is_some() {}
    })
}

/// One exchange. Nothing when the connection is over.
fn answer(wire: &mut Wire, options: &Options) -> Option<()> {
    let head = wire.try_head().ok()??;
    let (first, fields) = parse_head(&head);
    let number = first.split_once("?id=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let Some(number) = number else { return refuse(wire, &format!("a request of no exchange: {first}")) };
    let mut plan = Plan::of(options, number);
    let mut body = Compared::with(plan.up);
    if let Err(error) = read(wire, &fields, |bytes| body.take(bytes)).and_then(|()| body.end()) {
        return refuse(wire, &format!("the body of the request: {error}"));
    }
    reply(wire, &mut plan).ok()?;
    (plan.down_framing != Framing::Close).then_some(())
}

fn refuse(wire: &mut Wire, what: &str) -> Option<()> {
    let head = format!("HTTP/1.1 555 Wrong\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{what}", what.len());
    let _ = wire.try_send(head);
    None
}

/// Reads a body in HTTP/1's framing, piece by piece.
pub fn read(wire: &mut Wire, fields: &Fields, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("read: {error}");
    let mut exactly = |wire: &mut Wire, mut left: usize| {
        while left > 0 {
            let piece = wire.try_exactly(left.min(64 << 10)).map_err(failed)?;
            left -= piece.len();
            take(&piece)?;
        }
        Ok(())
    };
    if fields.get("Transfer-Encoding").is_some() {
        loop {
            let line = wire.try_line().map_err(failed)?.ok_or("no chunk")?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| format!("a chunk of {line:?}"))?;
            exactly(wire, size)?;
            wire.try_line().map_err(failed)?.ok_or("no end of a chunk")?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length = fields.get("Content-Length").map_or(Ok(0), str::parse).map_err(|_| "a length that is none")?;
    exactly(wire, length)
}

/// Sends a body in HTTP/1's framing, cut and stalled by chance.
pub fn send(
    wire: &mut Wire,
    content: crate::proof::chance::Content,
    framing: Framing,
    chance: &mut crate::proof::chance::Chance,
) -> std::io::Result<()> {
    let mut at = 0;
    while at < content.length {
        let (size, stall) = next_piece(chance, content.length);
        if let Some(time) = stall {
            thread::sleep(time);
        }
        let piece = content.piece(at, size);
        at += piece.len() as u64;
        match framing {
            Framing::Chunked => {
                wire.try_send([format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat())?;
            }
            Framing::Length | Framing::Close => wire.try_send(piece)?,
        }
    }
    if framing == Framing::Chunked { wire.try_send("0\r\n\r\n") } else { Ok(()) }
}

fn reply(wire: &mut Wire, plan: &mut Plan) -> std::io::Result<()> {
    let framing = match plan.down_framing {
        Framing::Length => format!("Content-Length: {}", plan.down.length),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
        Framing::Close => "Connection: close".to_owned(),
    };
    wire.try_send(format!("HTTP/1.1 200 OK\r\nX-Exchange: {}\r\n{framing}\r\n\r\n", plan.number))?;
    send(wire, plan.down, plan.down_framing, &mut plan.backend)
}
