//! A cheap HTTP/1 backend for load: one thread, no blocking, and each request's number sent back in the reply.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A backend that answers `/..?id=NUMBER` with `NUMBER`, keeps connections, and remembers every number.
#[derive(Debug)]
pub struct EchoBackend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: HashSet<u64>,
    repeated: Vec<u64>,
}

impl EchoBackend {
    /// Starts it on a port of its own.
    pub fn start() -> EchoBackend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("a bound socket");
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let thread = thread::spawn({
            let seen = Arc::clone(&seen);
            move || serve(&listener, &stopped, &seen)
        });
        EchoBackend { address, seen, stop, thread: Some(thread) }
    }

    /// Its address, as a configuration names it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many different requests have come.
    pub fn requests(&self) -> usize {
        self.seen.lock().expect("the lock is whole").numbers.len()
    }

    /// The numbers of requests that have come more than once.
    pub fn repeated(&self) -> Vec<u64> {
        self.seen.lock().expect("the lock is whole").repeated.clone()
    }
}

impl Drop for EchoBackend {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"x");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    closing: bool,
}

fn serve(listener: &TcpListener, stopped: &UnixStream, seen: &Mutex<Seen>) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let mut sources =
            vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        sources.extend(clients.iter().map(|client| {
            let what = if client.output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
            PollFd::new(client.stream.as_fd(), what)
        }));
        let _ = poll(&mut sources, PollTimeout::NONE);
        let ready: Vec<bool> = sources.iter().map(|source| source.any().unwrap_or(true)).collect();
        if ready[0] {
            return;
        }
        let mut index = 2;
        clients.retain_mut(|client| {
            index += 1;
            !ready[index - 1] || client.go_on(seen)
        });
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nonblocking(true);
            let _ = stream.set_nodelay(true);
            clients.push(Client { stream, input: Vec::new(), output: Vec::new(), closing: false });
        }
    }
}

impl Client {
    /// Reads, answers and writes as far as that goes; false at the end of the connection.
    fn go_on(&mut self, seen: &Mutex<Seen>) -> bool {
        if !self.output.is_empty() && !self.write() {
            return false;
        }
        let mut chunk = [0; 8192];
        while self.output.is_empty() && !self.closing {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            while let Some(request) = take_request(&mut self.input) {
                self.answer(&request, seen);
            }
            if !self.write() {
                return false;
            }
        }
        !(self.closing && self.output.is_empty())
    }

    fn answer(&mut self, request: &Asked, seen: &Mutex<Seen>) {
        let mut seen = seen.lock().expect("the lock is whole");
        if let Some(number) = request.number
            && !seen.numbers.insert(number)
        {
            seen.repeated.push(number);
        }
        let body = request.number.map(|number| number.to_string()).unwrap_or_default();
        let close = if request.closes { "Connection: close\r\n" } else { "" };
        let reply = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n{body}", body.len());
        self.output.extend_from_slice(reply.as_bytes());
        self.closing |= request.closes;
    }

    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

struct Asked {
    number: Option<u64>,
    closes: bool,
}

/// Takes a complete request, and its body of known length, from the front of the buffer.
fn take_request(input: &mut Vec<u8>) -> Option<Asked> {
    let end = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    if input.len() < end + length {
        return None;
    }
    let target = head.split(' ').nth(1).unwrap_or("");
    let number = target.split_once("id=").and_then(|(_, number)| number.parse().ok());
    let closes = match field("connection:") {
        Some(value) => value == "close",
        None => head.lines().next().is_some_and(|line| line.ends_with("http/1.0")),
    };
    input.drain(..end + length);
    Some(Asked { number, closes })
}

#[cfg(test)]
mod tests {
    use crate::client::{Http, Wire, head};

    use super::*;

    #[test]
    fn numbers_come_back_in_order_and_repetitions_are_seen() {
        let backend = EchoBackend::start();
        let mut http = Http::over(Wire::try_connect(backend.address).unwrap());
        http.send(head("GET", "/?id=1", &[]) + &head("POST", "/?id=2", &["Content-Length: 3"]) + "abc");
        assert_eq!([http.response().text(), http.response().text()], ["1", "2"]);
        assert_eq!(http.ask("GET", "/x?id=2", &["Connection: close"]).text(), "2");
        assert!(http.wire.at_end());
        assert_eq!((backend.requests(), backend.repeated()), (2, vec![2]));
    }
}
