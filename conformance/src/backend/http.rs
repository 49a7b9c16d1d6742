//! An HTTP/1 server whose answers are scripted to the byte.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::client::{Wire, read_body};
use crate::message::{Request, parse_head, request_framing};
use crate::port::Port;

use super::tcp::TcpBackend;

/// What to do about one request: send these pieces in turn, then keep or close the connection.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pieces: Vec<Piece>,
    close: bool,
}

#[derive(Debug, Clone)]
enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
    Silence,
}

impl Reply {
    /// `200 OK` with this body, and the connection kept.
    pub fn ok(body: impl AsRef<[u8]>) -> Reply {
        Reply::status("200 OK", &[], body)
    }

    /// A status line's status and reason, more header lines, and a body of known length.
    pub fn status(status: &str, lines: &[&str], body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let mut message = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
        for line in lines {
            message.push_str(line);
            message.push_str("\r\n");
        }
        message.push_str("\r\n");
        let mut message = message.into_bytes();
        message.extend_from_slice(body);
        Reply::raw(message)
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::default().then(bytes)
    }

    /// Nothing more until the peer goes away.
    pub fn silence() -> Reply {
        Reply { pieces: vec![Piece::Silence], close: true }
    }

    /// Nothing at all, and the connection closed.
    pub fn hang_up() -> Reply {
        Reply { pieces: Vec::new(), close: true }
    }

    /// Then these bytes.
    pub fn then(mut self, bytes: impl AsRef<[u8]>) -> Reply {
        self.pieces.push(Piece::Bytes(bytes.as_ref().to_vec()));
        self
    }

    /// Then nothing for a while: the delay is what the test is about.
    pub fn after(mut self, pause: Duration) -> Reply {
        self.pieces.push(Piece::Pause(pause));
        self
    }

    /// Then nothing until the peer goes away.
    pub fn then_silence(mut self) -> Reply {
        self.pieces.push(Piece::Silence);
        self.closing()
    }

    /// Closes the connection at the end.
    pub fn closing(mut self) -> Reply {
        self.close = true;
        self
    }
}

/// An HTTP/1 backend.
#[derive(Debug)]
pub struct HttpBackend {
    tcp: TcpBackend,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HttpBackend {
    /// Answers every request as `script` says.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HttpBackend {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tcp = TcpBackend::start(handler(&requests, script));
        HttpBackend { tcp, requests }
    }

    /// As [`HttpBackend::start`], on a port claimed earlier.
    pub fn start_on(port: &Port, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HttpBackend {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tcp = TcpBackend::start_on(port, handler(&requests, script));
        HttpBackend { tcp, requests }
    }

    /// Answers every request with the same text.
    pub fn saying(text: &str) -> HttpBackend {
        let reply = Reply::ok(text);
        HttpBackend::start(move |_| reply.clone())
    }

    /// Its address, as a configuration names it.
    pub fn address(&self) -> String {
        self.tcp.address()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.tcp.port()
    }

    /// Every request so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no script panics with the lock").clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.tcp.accepted()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.tcp.open()
    }
}

fn handler(
    requests: &Arc<Mutex<Vec<Request>>>,
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(Wire, usize) + Send + Sync + 'static {
    let requests = Arc::clone(requests);
    move |mut wire, connection| {
        for number in 0.. {
            let Ok(Some(request)) = read_request(&mut wire, connection, number) else { return };
            requests.lock().expect("no script panics with the lock").push(request.clone());
            let reply = script(&request);
            let close = reply.close || !request.keeps_alive();
            if play(&mut wire, reply).is_err() || close {
                return;
            }
        }
    }
}

fn read_request(wire: &mut Wire, connection: usize, number: usize) -> io::Result<Option<Request>> {
    let Some(head) = wire.try_head()? else { return Ok(None) };
    let (first, fields) = parse_head(&head);
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target, version) =
        (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (body, _) = read_body(wire, request_framing(&fields))?;
    Ok(Some(Request { method, target, version, fields, body, connection, number }))
}

fn play(wire: &mut Wire, reply: Reply) -> io::Result<()> {
    for piece in reply.pieces {
        match piece {
            Piece::Bytes(bytes) => wire.try_send(bytes)?,
            Piece::Pause(time) => thread::sleep(time),
            Piece::Silence => drop(wire.try_rest()?),
        }
    }
    Ok(())
}
