//! One connection, read and written as bytes or as lines. Used by clients and by backends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::wait::PATIENCE;

use super::tls::{Offer, TlsFacts, TlsStream};

/// A connection with a read buffer. Every read has a deadline; running into it is a failed test.
#[derive(Debug)]
pub struct Wire {
    link: Link,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Wire {
    /// Connects to a port of 127.0.0.1.
    #[track_caller]
    pub fn connect(port: u16) -> Wire {
        Wire::try_connect((Ipv4Addr::LOCALHOST, port)).unwrap_or_else(|error| panic!("connect to {port}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_connect(address: impl ToSocketAddrs) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Wire::over(stream))
    }

    /// Takes over a connected socket.
    pub fn over(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).expect("set a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("set a write timeout");
        Wire { link: Link::Plain(stream), buffer: Vec::new() }
    }

    /// Starts TLS on the connection: at its beginning, or after STARTTLS.
    #[track_caller]
    pub fn start_tls(self, offer: &Offer) -> Wire {
        self.try_start_tls(offer).unwrap_or_else(|error| panic!("TLS handshake: {error}"))
    }

    /// Starts TLS on the connection, or says why it was refused.
    pub fn try_start_tls(self, offer: &Offer) -> io::Result<Wire> {
        assert!(self.buffer.is_empty(), "bytes in clear were received after the go-ahead for TLS");
        match self.link {
            Link::Plain(stream) => {
                let link = Link::Tls(Box::new(TlsStream::connect(stream, offer)?));
                Ok(Wire { link, buffer: Vec::new() })
            }
            Link::Tls(_) => panic!("TLS is on already"),
        }
    }

    /// What the TLS handshake settled; panics on a connection in clear.
    pub fn tls(&self) -> &TlsFacts {
        match &self.link {
            Link::Tls(stream) => stream.facts(),
            Link::Plain(_) => panic!("the connection is in clear"),
        }
    }

    /// Our own address.
    pub fn local_address(&self) -> SocketAddr {
        self.socket().local_addr().expect("a connected socket")
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        match &self.link {
            Link::Plain(stream) => stream,
            Link::Tls(stream) => stream.socket(),
        }
    }

    /// How long a read may take before it counts as failed.
    pub fn set_patience(&mut self, patience: Duration) {
        self.socket().set_read_timeout(Some(patience)).expect("set a read timeout");
    }

    /// Writes bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("send: {error}"));
    }

    /// Writes bytes, or says why not.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.writer().write_all(bytes.as_ref())?;
        self.writer().flush()
    }

    /// Writes a line, adding CR LF.
    #[track_caller]
    pub fn send_line(&mut self, line: &str) {
        self.send(format!("{line}\r\n"));
    }

    /// Says that we shall write no more.
    pub fn finish(&mut self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Reads a line, without its line end; `None` when the connection has ended.
    pub fn try_line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a line, without its line end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.try_line() {
            Ok(Some(line)) => line,
            Ok(None) => panic!("the connection ended; left over: {:?}", String::from_utf8_lossy(&self.buffer)),
            Err(error) => panic!("read a line: {error}"),
        }
    }

    /// Sends a line and reads one.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send_line(line);
        self.line()
    }

    /// Reads lines up to and including the first that starts so.
    #[track_caller]
    pub fn lines_until(&mut self, start: &str) -> Vec<String> {
        let mut lines = vec![self.line()];
        while !lines.last().is_some_and(|line| line.starts_with(start)) {
            lines.push(self.line());
        }
        lines
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        self.try_exactly(count).unwrap_or_else(|error| panic!("read {count} bytes: {error}"))
    }

    /// Reads exactly so many bytes, or says why not.
    pub fn try_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads up to and including an empty line; `None` when the connection ends before anything came.
    pub fn try_head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = end_of_head(&self.buffer) {
                return Ok(Some(self.buffer.drain(..end).collect()));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads to the end of the connection; a reset counts as one.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        self.try_rest().unwrap_or_else(|error| panic!("read to the end: {error}"))
    }

    /// Reads to the end of the connection, or says why not; a reset counts as an end.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Breaks the connection off: the peer sees a reset, whatever has not arrived yet is lost.
    pub fn abort(self) {
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self.socket(), sockopt::Linger, &at_once).expect("set the linger time");
    }

    /// Reads to the end of the connection; whether that is a reset.
    #[track_caller]
    pub fn ends_by_reset(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        loop {
            match self.reader().read(&mut chunk) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return false,
                Err(error) => panic!("wait for the end: {error}"),
            }
        }
    }

    /// Whether the connection has ended, waiting for either that or more bytes.
    #[track_caller]
    pub fn at_end(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().unwrap_or_else(|error| panic!("wait for the end: {error}")) == 0
    }

    /// Whether nothing at all comes for a while, neither bytes nor an end.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.set_patience(time);
        let silent = self.buffer.is_empty() && self.fill().is_err();
        self.set_patience(PATIENCE);
        silent
    }

    /// Reads once into the buffer. Zero means the end; so does a reset.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 65_536];
        loop {
            match self.reader().read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                // rustls: the peer closed without close_notify.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
        }
    }

    fn reader(&mut self) -> &mut dyn Read {
        match &mut self.link {
            Link::Plain(stream) => stream,
            Link::Tls(stream) => stream.as_mut(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.link {
            Link::Plain(stream) => stream,
            Link::Tls(stream) => stream.as_mut(),
        }
    }
}

fn end_of_head(buffer: &[u8]) -> Option<usize> {
    let crlf = buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    let lf = buffer.windows(2).position(|window| window == b"\n\n").map(|at| at + 2);
    crlf.into_iter().chain(lf).min()
}
