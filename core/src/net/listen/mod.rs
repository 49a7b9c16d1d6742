//! `listen`: its parameters, and which sockets have to be opened for a set of endpoints.

mod binding;
mod socket;

use super::address::{Address, Named};
use crate::conf::{Line, Place, Refusal, Word, value};
pub use binding::{Binding, Endpoint, bindings};
pub use socket::{KeepAlive, SocketOptions, configure, open};

/// One `listen` directive.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// How.
    pub options: SocketOptions,
    /// `default_server`
    pub default_server: bool,
    /// `ssl`
    pub tls: bool,
    /// `http2`
    pub http2: bool,
    /// Parameters without effect here: what they ask for makes things faster and changes nothing else.
    pub ignored: Vec<String>,
    /// Where it is written.
    pub at: Place,
}

/// Parameters that not every protocol takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Takes {
    /// `default_server`, `default`
    pub default_server: bool,
    /// `reuseport`, `deferred`, `fastopen`, `multipath`
    pub tuning: bool,
    /// Used when no port is written; without it a port is demanded.
    pub default_port: Option<u16>,
}

impl Listen {
    /// Reads the arguments of `listen`. A name with several addresses gives several.
    ///
    /// # Errors
    /// nginx's words, naming the parameter.
    pub fn read(line: &mut Line<'_>, takes: Takes) -> Result<Vec<Listen>, Refusal> {
        let listens = Listen::parse(line.args(), line.at(), takes)?;
        for parameter in listens.first().map(|listen| listen.ignored.clone()).unwrap_or_default() {
            line.warn(format!(
                "the \"{parameter}\" parameter is known to nginx, but not supported yet and has no effect"
            ));
        }
        Ok(listens)
    }

    /// As [`read`](Listen::read), from words that stand elsewhere.
    ///
    /// # Errors
    /// nginx's words, naming the parameter.
    pub fn parse(args: &[Word], at: &Place, takes: Takes) -> Result<Vec<Listen>, Refusal> {
        let Some((address, parameters)) = args.split_first() else {
            return Err("invalid number of arguments in \"listen\" directive".into());
        };
        let text = address.text();
        let range = port_range(&text);
        let last = range.map(|(_, last)| last);
        let first = range.map_or(address.bytes(), |(first, _)| first.as_bytes());
        let addresses = Named::parse(first)
            .and_then(|named| named.resolve(takes.default_port))
            .map_err(|why| Refusal(format!("{why} in \"{text}\" of the \"listen\" directive")))?;
        let mut listen = Listen {
            address: Address::Unix("".into()),
            options: SocketOptions::default(),
            default_server: false,
            tls: false,
            http2: false,
            ignored: Vec::new(),
            at: at.clone(),
        };
        for word in parameters {
            listen.parameter(word, takes)?;
        }
        let mut listens = Vec::new();
        for address in addresses {
            let ports = match (&address, last) {
                (Address::Inet(inet), Some(last)) => inet.port()..=last,
                (address, _) => address.port().map_or(0..=0, |port| port..=port),
            };
            if ports.is_empty() {
                return Err(format!("invalid port range in \"{text}\" of the \"listen\" directive").into());
            }
            listens.extend(ports.map(|port| Listen { address: address.with_port(port), ..listen.clone() }));
        }
        Ok(listens)
    }

    fn parameter(&mut self, word: &Word, takes: Takes) -> Result<(), Refusal> {
        let invalid = || Refusal(format!("invalid parameter \"{word}\""));
        let options = &mut self.options;
        if let Some(n) = word.after("backlog=") {
            let n = value::number(&n).filter(|n| *n > 0).ok_or_else(|| format!("invalid backlog \"{n}\""))?;
            options.backlog = Some(i32::try_from(n).map_err(|_| format!("invalid backlog \"{n}\""))?);
        } else if let Some(size) = word.after("rcvbuf=") {
            options.receive_buffer = Some(buffer_size(&size, "rcvbuf")?).filter(|size| *size > 0);
        } else if let Some(size) = word.after("sndbuf=") {
            options.send_buffer = Some(buffer_size(&size, "sndbuf")?).filter(|size| *size > 0);
        } else if let Some(flag) = word.after("ipv6only=") {
            options.ipv6_only = Some(value::flag(&flag).ok_or_else(|| format!("invalid ipv6only flags \"{flag}\""))?);
        } else if let Some(n) = word.after("fastopen=").filter(|_| takes.tuning) {
            let most = value::number(&n).and_then(|n| usize::try_from(n).ok()).filter(|n| i32::try_from(*n).is_ok());
            options.fast_open = Some(most.ok_or_else(|| format!("invalid fastopen \"{n}\""))?);
        } else if let Some(spec) = word.after("so_keepalive=") {
            options.keep_alive =
                Some(keep_alive(&spec).ok_or_else(|| format!("invalid so_keepalive value: \"{spec}\""))?);
        } else {
            match word.bytes() {
                b"bind" => {}
                b"default_server" | b"default" if takes.default_server => {
                    self.default_server = true;
                    return Ok(());
                }
                b"ssl" => {
                    self.tls = true;
                    return Ok(());
                }
                b"http2" if takes.default_server => {
                    self.http2 = true;
                    return Ok(());
                }
                b"deferred" if takes.tuning => options.deferred = true,
                b"multipath" if takes.tuning => options.multipath = true,
                b"reuseport" if takes.tuning => options.reuse_port = true,
                b"deferred" | b"multipath" | b"udp" | b"quic" | b"http2" | b"proxy_protocol" => {
                    return Err(format!("the \"{word}\" parameter is not supported yet").into());
                }
                _ => return Err(invalid()),
            }
        }
        self.options.bind = true;
        Ok(())
    }
}

/// The text without the end of its range of ports, and that end: `127.0.0.1:8080-8085`.
fn port_range(text: &str) -> Option<(&str, u16)> {
    let (first, last) = text.rsplit_once('-')?;
    let port = first.rsplit_once(':').map_or(first, |(_, port)| port);
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with("unix:");
    if is_port { Some((first, last.parse().ok()?)) } else { None }
}

fn buffer_size(word: &Word, name: &str) -> Result<usize, Refusal> {
    value::size(word)
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| format!("invalid {name} \"{word}\"").into())
}

fn keep_alive(spec: &Word) -> Option<KeepAlive> {
    if let Some(on) = value::flag(spec) {
        return Some(if on { KeepAlive::On { idle: None, interval: None, count: None } } else { KeepAlive::Off });
    }
    let text = spec.text();
    let mut parts =
        text.split(':').map(|part| (!part.is_empty()).then(|| Word::new(part.as_bytes(), spec.at().clone())));
    let (idle, interval, count) = (parts.next()?, parts.next()?, parts.next().flatten());
    if parts.next().is_some() || (idle.is_none() && interval.is_none() && count.is_none()) {
        return None;
    }
    let time = |word: Option<Word>| word.map_or(Some(None), |word| value::time(&word).map(Some));
    let count = count.map_or(Some(None), |word| value::number(&word).and_then(|n| u32::try_from(n).ok()).map(Some))?;
    Some(KeepAlive::On { idle: time(idle)?, interval: time(interval)?, count })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use socket2::Socket;

    use super::*;
    use crate::net::Protocol;

    fn parse(text: &str) -> Result<Vec<Listen>, Refusal> {
        let at = Place { file: "f".into(), line: 1, column: 1 };
        let words: Vec<Word> = text.split(' ').map(|word| Word::new(word.as_bytes(), at.clone())).collect();
        Listen::parse(&words, &at, Takes { default_server: true, tuning: true, default_port: Some(80) })
    }

    #[test]
    fn parameters_are_read_or_refused_by_name() {
        let listen = parse("127.0.0.1:8080 default_server ssl backlog=5 so_keepalive=30m::10").unwrap().remove(0);
        assert!(listen.default_server && listen.tls && listen.options.bind);
        assert_eq!(listen.options.backlog, Some(5));
        assert_eq!(
            listen.options.keep_alive,
            Some(KeepAlive::On { idle: Some(Duration::from_secs(1800)), interval: None, count: Some(10) })
        );
        let ports = |text: &str| parse(text).unwrap().iter().map(|listen| listen.address.port()).collect::<Vec<_>>();
        assert_eq!(ports("127.0.0.1:80-82"), [Some(80), Some(81), Some(82)]);
        assert_eq!(ports("[::1]:80-80"), [Some(80)]);
        for (text, expected) in [
            ("127.0.0.1:82-80", "invalid port range in \"127.0.0.1:82-80\" of the \"listen\" directive"),
            ("127.0.0.1:80-x", "invalid port in \"127.0.0.1:80-x\" of the \"listen\" directive"),
            ("127.0.0.1:8080 backlog=x", "invalid backlog \"x\""),
            ("127.0.0.1:8080 frob", "invalid parameter \"frob\""),
            ("127.0.0.1:99999", "invalid port in \"127.0.0.1:99999\" of the \"listen\" directive"),
            ("127.0.0.1:80 so_keepalive=::", "invalid so_keepalive value: \"::\""),
        ] {
            assert_eq!(parse(text).unwrap_err().0, expected, "{text}");
        }
    }

    struct Nobody;
    impl Protocol for Nobody {
        fn serve(
            self: Rc<Self>,
            _: crate::net::Connection,
            _: crate::net::Lifetime,
        ) -> futures_core::future::LocalBoxFuture<'static, ()> {
            Box::pin(async {})
        }
    }

    #[test]
    fn a_wildcard_socket_takes_in_specific_addresses_of_its_port() {
        let endpoint = |text: &str| {
            let listen = parse(text).unwrap().remove(0);
            Endpoint { address: listen.address, options: listen.options, protocol: Rc::new(Nobody), at: listen.at }
        };
        let list = bindings(vec![
            endpoint("127.0.0.1:80"),
            endpoint("*:80"),
            endpoint("127.0.0.2:80 bind"),
            endpoint("127.0.0.1:81"),
        ]);
        let shape: Vec<(String, usize)> =
            list.iter().map(|binding| (binding.address.to_string(), binding.specific.len())).collect();
        assert_eq!(shape, [("0.0.0.0:80".into(), 1), ("127.0.0.2:80".into(), 0), ("127.0.0.1:81".into(), 0)]);
    }

    #[test]
    fn options_that_tune_are_taken_by_the_system() {
        let mut listen = parse("127.0.0.1:1 deferred fastopen=7").unwrap().remove(0);
        listen.address = listen.address.with_port(0);
        assert_eq!((listen.options.deferred, listen.options.fast_open), (true, Some(7)));
        let socket = Socket::from(open(&listen.address, &listen.options).unwrap());
        (listen.options.deferred, listen.options.fast_open) = (false, Some(3));
        configure(&socket, &listen.options).unwrap();
        assert_eq!(parse("127.0.0.1:1 fastopen=x").unwrap_err().0, "invalid fastopen \"x\"");
        assert!(parse("127.0.0.1:1 multipath").unwrap()[0].options.multipath);
    }
}
