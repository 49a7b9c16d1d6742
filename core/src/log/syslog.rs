//! `syslog:server=..`: lines as datagrams, in the format of RFC 3164 as nginx writes it.
//!
//! A send never waits. What the reader does not take at once is dropped and counted. A reader that has gone and come
//! back is found again by the next line: UDP needs nothing for that, a socket in the file system is connected to anew.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::rc::Rc;
use std::time::Duration;

use nix::libc::{EMSGSIZE, ENOBUFS, ENOMEM};
use socket2::{Domain, Socket, Type};

use super::error::ErrorLog;
use super::losses::Losses;
use super::{Level, Shown};
use crate::conf::{Refusal, Word};
use crate::net::Address;
use crate::net::address::{AddressError, Named};

/// The port of RFC 3164.
const PORT: u16 = 514;
/// RFC 3164: the longest tag.
const LONGEST_TAG: usize = 32;
/// Longer messages are cut: more does not fit into a datagram of IPv4.
const LONGEST_MESSAGE: usize = 65_000;
/// RFC 3164, in order: the place is the number.
const FACILITIES: [&[u8]; 24] = [
    b"kern",
    b"user",
    b"mail",
    b"daemon",
    b"auth",
    b"intern",
    b"lpr",
    b"news",
    b"uucp",
    b"clock",
    b"authpriv",
    b"ftp",
    b"ntp",
    b"audit",
    b"alert",
    b"cron",
    b"local0",
    b"local1",
    b"local2",
    b"local3",
    b"local4",
    b"local5",
    b"local6",
    b"local7",
];
/// nginx: local7.
const DEFAULT_FACILITY: usize = 23;

/// What `syslog:` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    server: Address,
    facility: usize,
    severity: Level,
    tag: Vec<u8>,
    hostname: bool,
}

impl Parameters {
    /// Reads what follows `syslog:`. A name is resolved by the system's resolver, which may take its time: in the master.
    ///
    /// # Errors
    /// nginx's words for what is wrong.
    pub fn parse(text: &Word) -> Result<Parameters, Refusal> {
        let (mut server, mut facility, mut severity, mut tag, mut hostname) = (None, None, None, None, true);
        for part in text.bytes().split(|byte| *byte == b',') {
            if let Some(name) = part.strip_prefix(b"server=") {
                once(&mut server, "server", resolve(name)?)?;
            } else if let Some(name) = part.strip_prefix(b"facility=") {
                let known = FACILITIES.iter().position(|known| *known == name);
                let known = known.ok_or_else(|| format!("unknown syslog facility \"{}\"", Shown(name)))?;
                once(&mut facility, "facility", known)?;
            } else if let Some(name) = part.strip_prefix(b"severity=") {
                let known = Level::named(name);
                let known = known.ok_or_else(|| format!("unknown syslog severity \"{}\"", Shown(name)))?;
                once(&mut severity, "severity", known)?;
            } else if let Some(name) = part.strip_prefix(b"tag=") {
                once(&mut tag, "tag", checked_tag(name)?)?;
            } else if part == b"nohostname" {
                hostname = false;
            } else {
                return Err(format!("unknown syslog parameter \"{}\"", Shown(part)).into());
            }
        }
        Ok(Parameters {
            server: server.ok_or("no syslog server specified")?,
            facility: facility.unwrap_or(DEFAULT_FACILITY),
            severity: severity.unwrap_or(Level::Info),
            tag: tag.unwrap_or_else(|| b"nginx".to_vec()),
            hostname,
        })
    }

    /// Where the messages go.
    pub fn server(&self) -> &Address {
        &self.server
    }
}

fn once<T>(setting: &mut Option<T>, name: &str, value: T) -> Result<(), Refusal> {
    if setting.replace(value).is_some() { Err(format!("duplicate syslog \"{name}\"").into()) } else { Ok(()) }
}

fn resolve(name: &[u8]) -> Result<Address, Refusal> {
    let addresses = Named::parse(name).and_then(|named| named.resolve(Some(PORT)));
    let first = addresses.and_then(|addresses| addresses.into_iter().next().ok_or(AddressError::NotFound));
    first.map_err(|why| Refusal(format!("{why} in syslog server \"{}\"", Shown(name))))
}

fn checked_tag(tag: &[u8]) -> Result<Vec<u8>, Refusal> {
    if tag.len() > LONGEST_TAG {
        return Err("syslog tag length exceeds 32".into());
    }
    if !tag.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return Err("syslog \"tag\" only allows alphanumeric characters and underscore".into());
    }
    Ok(tag.to_vec())
}

/// A reader of syslog messages, and how its messages begin.
#[derive(Clone)]
pub struct Syslog {
    reader: Rc<Reader>,
    parameters: Rc<Parameters>,
    hostname: Rc<str>,
}

impl Syslog {
    /// Messages to this reader, which must be the one that the parameters name.
    pub fn new(reader: Rc<Reader>, parameters: &Parameters) -> Syslog {
        let hostname = crate::hostname::hostname().into();
        Syslog { reader, parameters: Rc::new(parameters.clone()), hostname }
    }

    /// Sends a line, with or without its line end, with this severity or else the one of the parameters. False when it is
    /// lost.
    pub fn send(&self, severity: Option<Level>, line: &[u8]) -> bool {
        let Parameters { facility, tag, hostname, .. } = &*self.parameters;
        let priority = facility * 8 + severity.unwrap_or(self.parameters.severity).number();
        let mut message = Vec::with_capacity(line.len() + 96);
        let _ = write!(message, "<{priority}>");
        crate::clock::syslog_time(&mut message);
        if *hostname {
            message.push(b' ');
            message.extend_from_slice(self.hostname.as_bytes());
        }
        message.push(b' ');
        message.extend_from_slice(tag);
        message.extend_from_slice(b": ");
        message.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        message.truncate(LONGEST_MESSAGE);
        self.reader.send(&message)
    }
}

/// Where messages go: one socket in each process, however many logs name the address.
pub struct Reader {
    address: Address,
    socket: RefCell<Option<Socket>>,
    losses: Losses,
}

impl Reader {
    /// A reader at this address, to which nothing is sent yet.
    pub fn new(address: Address) -> Reader {
        Reader { address, socket: RefCell::new(None), losses: Losses::default() }
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects anew with the next message: for a socket in the file system that somebody else has now, while the former
    /// reader still holds what was there before.
    pub fn forget_connection(&self) {
        *self.socket.borrow_mut() = None;
    }

    /// How long until lost messages are to be told of; `None` when none is lost.
    pub fn due(&self) -> Option<Duration> {
        self.losses.due()
    }

    /// Tells of messages that are lost; see [`Losses::tell`].
    pub fn tell_losses(&self, log: &ErrorLog, now: bool) {
        // nginx: a reader that is gone is an error, and no alert.
        let context = format_args!(" while logging to syslog, server: {}", self.address);
        self.losses.tell(Level::Error, format_args!("send()"), context, log, now);
    }

    /// Sends a message. A failure that a new connection may cure is tried once more, with one.
    fn send(&self, message: &[u8]) -> bool {
        if self.losses.is_muted() {
            return false;
        }
        let mut socket = self.socket.borrow_mut();
        match self.attempt(&mut socket, message) {
            Ok(()) => return true,
            Err(error) if !is_about_connection(&error) => {
                self.losses.add(1, &error);
                return false;
            }
            // What is refused is the message before this one.
            Err(error) if matches!(self.address, Address::Inet(_)) && error.kind() == ErrorKind::ConnectionRefused => {
                self.losses.add(1, &error);
            }
            Err(_) => *socket = None,
        }
        let sent = self.attempt(&mut socket, message);
        if let Err(error) = &sent {
            self.losses.add(1, error);
            *socket = None;
        }
        sent.is_ok()
    }

    fn attempt(&self, socket: &mut Option<Socket>, message: &[u8]) -> io::Result<()> {
        let socket = match socket {
            Some(socket) => socket,
            None => socket.insert(self.connect()?),
        };
        socket.send(message).map(|_| ())
    }

    fn connect(&self) -> io::Result<Socket> {
        let domain = match self.address {
            Address::Inet(address) => Domain::for_address(address),
            Address::Unix(_) => Domain::UNIX,
        };
        let socket = Socket::new(domain, Type::DGRAM.cloexec().nonblocking(), None)?;
        socket.connect(&self.address.to_socket_address()?)?;
        Ok(socket)
    }
}

/// False when the reader is there and just does not take the message: it is slow, or the message too long.
fn is_about_connection(error: &io::Error) -> bool {
    error.kind() != ErrorKind::WouldBlock && !matches!(error.raw_os_error(), Some(EMSGSIZE | ENOBUFS | ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::net::UdpSocket;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::conf::Place;
    use crate::zone::counters::{self, Total};

    fn parse(text: impl AsRef<[u8]>) -> Result<Parameters, String> {
        let at = Place { file: "f".into(), line: 1, column: 1 };
        Parameters::parse(&Word::new(text.as_ref(), at)).map_err(|refusal| refusal.0)
    }

    fn lost() -> u64 {
        counters::of_worker().total(Total::LogDrops)
    }

    fn syslog(parameters: &str) -> Syslog {
        let parameters = parse(parameters).unwrap();
        Syslog::new(Rc::new(Reader::new(parameters.server().clone())), &parameters)
    }

    fn received(reader: &UdpSocket) -> String {
        let mut buffer = [0; 1024];
        let count = reader.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn parameters() {
        let all = parse("server=127.0.0.1:1514,facility=user,severity=warn,tag=Tide_1,nohostname").unwrap();
        let expected = Parameters {
            server: Address::Inet(([127, 0, 0, 1], 1514).into()),
            facility: 1,
            severity: Level::Warn,
            tag: b"Tide_1".to_vec(),
            hostname: false,
        };
        assert_eq!(all, expected);
        let few = parse("server=[::1]").unwrap();
        assert_eq!(few.server.to_string(), "[::1]:514");
        assert_eq!((few.facility, few.severity, few.tag, few.hostname), (23, Level::Info, b"nginx".to_vec(), true));
        assert_eq!(parse("server=unix:/dev/log").unwrap().server, Address::Unix("/dev/log".into()));
    }

    #[test]
    fn mistakes_in_nginx_words() {
        for (text, expected) in [
            ("", "unknown syslog parameter \"\""),
            ("tag=a", "no syslog server specified"),
            ("server=127.0.0.1,", "unknown syslog parameter \"\""),
            ("server=127.0.0.1,port=3", "unknown syslog parameter \"port=3\""),
            ("server=127.0.0.1,server=127.0.0.1", "duplicate syslog \"server\""),
            ("server=127.0.0.1:0", "invalid port in syslog server \"127.0.0.1:0\""),
            ("server=", "no host in syslog server \"\""),
            ("server=unix:", "no path in syslog server \"unix:\""),
            ("facility=local8", "unknown syslog facility \"local8\""),
            ("facility=user,facility=user", "duplicate syslog \"facility\""),
            ("severity=loud", "unknown syslog severity \"loud\""),
            ("severity=info,severity=info", "duplicate syslog \"severity\""),
            ("tag=a,tag=b", "duplicate syslog \"tag\""),
            ("tag=a-b", "syslog \"tag\" only allows alphanumeric characters and underscore"),
            ("tag=abcdefghijklmnopqrstuvwxyz1234567", "syslog tag length exceeds 32"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn names_and_messages_stay_bytes() {
        for (text, expected) in [
            (&b"server=h\xff:514"[..], "invalid host in syslog server \"h\\xFF:514\""),
            (b"server=127.0.0.1,\xff", "unknown syslog parameter \"\\xFF\""),
            (b"facility=\xff", "unknown syslog facility \"\\xFF\""),
            (b"severity=\xff", "unknown syslog severity \"\\xFF\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        let mut name = format!("tidegate-syslog-{}-", std::process::id()).into_bytes();
        name.push(0xff);
        let path = std::env::temp_dir().join(OsStr::from_bytes(&name));
        let reader = UnixDatagram::bind(&path).unwrap();
        let parameters = parse([b"server=unix:", path.as_os_str().as_bytes(), b",nohostname"].concat()).unwrap();
        let log = Syslog::new(Rc::new(Reader::new(parameters.server().clone())), &parameters);
        for line in [&b"\xff\xfe"[..], b"caf\xe9", b"\xed\xa0\x80", b"a\x00b"] {
            assert!(log.send(None, line));
            let mut buffer = [0; 256];
            let count = reader.recv(&mut buffer).unwrap();
            assert!(buffer[..count].ends_with(&[b" nginx: ", line].concat()), "{}", buffer[..count].escape_ascii());
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_message_has_the_form_of_rfc_3164() {
        let reader = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = reader.local_addr().unwrap();
        assert!(syslog(&format!("server={address},tag=t")).send(None, b"hello\n"));
        let message = received(&reader);
        let hostname = crate::hostname::hostname();
        assert!(message.starts_with("<190>") && message.ends_with(&format!(" {hostname} t: hello")), "{message}");
        // `Nov  1 23:59:59`
        assert_eq!(message.find(&hostname), Some("<190>".len() + 16), "{message}");
        assert!(syslog(&format!("server={address},nohostname,facility=user")).send(Some(Level::Error), b"x"));
        let message = received(&reader);
        assert!(message.starts_with("<11>") && message.len() == 4 + 15 + " nginx: x".len(), "{message}");
    }

    #[test]
    fn a_reader_that_is_gone_is_counted_and_found_again() {
        let reader = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = reader.local_addr().unwrap();
        let log = syslog(&format!("server={address}"));
        assert!(log.send(None, b"one"));
        drop(reader);
        let before = lost();
        let sent = (0..3).filter(|_| log.send(None, b"lost")).count();
        // Each was sent, and the refusals of the first two have come back.
        assert_eq!((sent, lost() - before), (3, 2));
        let reader = UdpSocket::bind(address).unwrap();
        assert!(log.send(None, b"again"));
        assert!(received(&reader).ends_with("again"));
    }

    #[test]
    fn a_local_reader_that_is_slow_gone_or_new() {
        let path = std::env::temp_dir().join(format!("tidegate-syslog-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let log = syslog(&format!("server=unix:{}", path.display()));
        let before = lost();
        assert!(!log.send(None, b"nobody is there"));
        let reader = UnixDatagram::bind(&path).unwrap();
        assert!(log.send(None, b"first"));
        let taken = (0..10_000).take_while(|_| log.send(None, b"more")).count();
        assert!((1..10_000).contains(&taken), "{taken}");
        assert_eq!(lost() - before, 2);
        drop(reader);
        std::fs::remove_file(&path).unwrap();
        let reader = UnixDatagram::bind(&path).unwrap();
        assert!(log.send(None, b"to the new one"));
        let mut buffer = [0; 1024];
        let count = reader.recv(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"to the new one"));
        std::fs::remove_file(&path).unwrap();
    }
}
