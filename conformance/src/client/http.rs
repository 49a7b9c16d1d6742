//! HTTP/1 over a wire: exactly the bytes a test wants to send, and whole responses back.

use std::io::{self, Error};

use crate::message::{Fields, Framing, Response, parse_head, response_framing};

use super::wire::Wire;

/// One client connection that speaks HTTP/1.
#[derive(Debug)]
pub struct Http {
    /// The connection itself, for tests that need the bytes.
    pub wire: Wire,
}

impl Http {
    /// Speaks HTTP over a connection.
    pub fn over(wire: Wire) -> Http {
        Http { wire }
    }

    /// Asks for a target with `Host: localhost` and keeps the connection.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.ask("GET", target, &[])
    }

    /// Asks with a method and more header lines (`"Name: value"`); a `Host` among them replaces the usual one.
    #[track_caller]
    pub fn ask(&mut self, method: &str, target: &str, lines: &[&str]) -> Response {
        self.send(head(method, target, lines));
        self.response_to(method)
    }

    /// Asks with a body of known length.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: &[u8], lines: &[&str]) -> Response {
        let length = format!("Content-Length: {}", body.len());
        let lines: Vec<&str> = lines.iter().copied().chain([length.as_str()]).collect();
        let mut message = head("POST", target, &lines).into_bytes();
        message.extend_from_slice(body);
        // A server may refuse, and close, before it has read everything: its answer is what matters.
        let _ = self.wire.try_send(&message);
        self.response_to("POST")
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    /// Reads the response to a request that was no HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads the response to a request with this method, passing over interim ones.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        loop {
            let response = self.try_response_to(method).unwrap_or_else(|error| panic!("read a response: {error}"));
            if response.status >= 200 || response.status == 101 {
                return response;
            }
        }
    }

    /// Reads a response, be it an interim one, or says why there is none.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        let head = self.wire.try_head()?.ok_or_else(|| Error::other("the connection ended before a response"))?;
        let (first, fields) = parse_head(&head);
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or("").to_owned();
        let status = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| Error::other(first.clone()))?;
        let reason = words.next().unwrap_or("").to_owned();
        let framing = response_framing(method, status, &fields);
        let body = self.body(framing)?;
        Ok(Response { version, status, reason, fields, body })
    }

    fn body(&mut self, framing: Framing) -> io::Result<Vec<u8>> {
        read_body(&mut self.wire, framing).map(|(body, _)| body)
    }
}

/// Reads a body that ends so, and the trailer of a chunked one.
pub(crate) fn read_body(wire: &mut Wire, framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
    match framing {
        Framing::None => Ok((Vec::new(), Fields::default())),
        Framing::Length(length) => Ok((wire.try_exactly(length)?, Fields::default())),
        Framing::Close => Ok((wire.try_rest()?, Fields::default())),
        Framing::Chunked => read_chunks(wire),
    }
}

fn read_chunks(wire: &mut Wire) -> io::Result<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        let line = wire.try_line()?.ok_or_else(|| Error::other("the connection ended between chunks"))?;
        let size = line.split(';').next().unwrap_or("").trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Error::other(format!("chunk size {line:?}")))?;
        if size == 0 {
            break;
        }
        body.extend(wire.try_exactly(size)?);
        wire.try_exactly(2)?;
    }
    let mut trailer = Fields::default();
    loop {
        match wire.try_line()? {
            Some(line) if line.is_empty() => return Ok((body, trailer)),
            Some(line) => {
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                trailer.0.push((name.to_owned(), value.trim().to_owned()));
            }
            None => return Err(Error::other("the connection ended in a trailer")),
        }
    }
}

/// A request head with an empty line at its end.
pub fn head(method: &str, target: &str, lines: &[&str]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !lines.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        head.push_str("Host: localhost\r\n");
    }
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}
