//! `auth_http`: asks the authentication server whether a client may log in, and where.
//!
//! One question is one connection. Of several addresses the next is asked when one cannot be reached, and one that
//! could not be rests; nginx knows the first only.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tidegate_balancer::algorithm::round_robin::RoundRobin;
use tidegate_balancer::{Ask, Group, Outcome, Peer};
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Line, Refusal, Setting, literal};
use tidegate_core::net::address::{AddressError, Named};
use tidegate_core::net::timer::later;
use tidegate_core::net::{Address, Timer, Transport};
use tidegate_core::subject::Subject;
use tidegate_core::tls::ClientCertificate;
use tidegate_core::{inherit, log};
use tidegate_core_wire::line::take_line;
use tidegate_http_wire::ReplyHead;
use tidegate_http_wire::h1::reply::{ReplyError, ReplyParser};
use tidegate_mail_wire::auth::{AuthError, AuthRequest, MAX_ANSWER_HEAD, TlsSession, Verdict, Verification, interpret};
use tidegate_mail_wire::dialogue::{Attempt, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::session::Session;

/// The settings of one block.
#[derive(Default)]
pub struct AuthHttpConf {
    /// `None` if it is written but wrong.
    target: Setting<Option<Rc<Target>>>,
    headers: Vec<(String, String)>,
    timeout: Setting<Duration>,
    pass_client_cert: Setting<bool>,
}

inherit!(AuthHttpConf { target, headers, timeout, pass_client_cert });

/// `auth_http` and its neighbours
pub struct AuthHttp;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

impl Feature for AuthHttp {
    type Conf = AuthHttpConf;
    const NAME: &'static str = "auth_http";
    const DIRECTIVES: &'static [Directive<AuthHttpConf>] = &[
        Directive {
            name: "auth_http",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(auth_http),
            doc: "The URL of the authentication server, which decides about logins.",
        },
        Directive {
            name: "auth_http_header",
            levels: ANYWHERE,
            arity: Arity::Exactly(2),
            set: Set::With(|conf, line| {
                literal::field_name(line.arg(0)?)?;
                literal::one_line(line.arg(1)?)?;
                conf.headers.push((line.arg(0)?.to_string(), line.arg(1)?.to_string()));
                Ok(())
            }),
            doc: "A header for every question, such as a shared secret.",
        },
        Directive {
            name: "auth_http_timeout",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Time(|conf| &mut conf.timeout),
            doc: "The time that one address has to answer.",
        },
        Directive {
            name: "auth_http_pass_client_cert",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.pass_client_cert),
            doc: "Whether the client's certificate goes with the question.",
        },
    ];
}

/// nginx: written twice, the last one counts.
fn auth_http(conf: &mut AuthHttpConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let text = line.arg(0)?.to_string();
    conf.target = Setting::of(None);
    conf.target = Setting::of(Some(Rc::new(Target::parse(&text)?)));
    Ok(())
}

/// What `auth_http` names.
pub struct Target {
    addresses: Rc<Group>,
    host: String,
    uri: String,
}

impl Target {
    fn parse(text: &str) -> Result<Target, String> {
        let text = text.strip_prefix("http://").unwrap_or(text);
        let words = |why: AddressError| format!("{why} in auth_http \"{text}\"");
        let (server, uri) = split_url(text);
        let named = Named::parse(server).map_err(words)?;
        let addresses = named.resolve(Some(80)).map_err(words)?;
        let host = match &named {
            Named::Unix(_) => "localhost",
            _ => server.rsplit_once(':').map_or(server, |(host, port)| if port.ends_with(']') { server } else { host }),
        };
        let peers = addresses.into_iter().map(Peer::new).collect();
        Ok(Target {
            addresses: Rc::new(Group::new(server, peers, Box::new(RoundRobin), None)?),
            host: host.to_owned(),
            uri: if uri.is_empty() { "/".to_owned() } else { uri.to_owned() },
        })
    }
}

/// The server and the path of a URL without its scheme; for a local socket the path of the URL follows a colon.
fn split_url(text: &str) -> (&str, &str) {
    match text.strip_prefix("unix:") {
        Some(path) => match path.split_once(':') {
            Some((socket, uri)) => (text.get(.."unix:".len() + socket.len()).unwrap_or(text), uri),
            None => (text, ""),
        },
        None => text.find('/').and_then(|at| text.split_at_checked(at)).unwrap_or((text, "")),
    }
}

impl AuthHttpConf {
    /// The run-time form.
    pub fn authority(&self) -> Written {
        let target = match self.target.get() {
            None => return Written::Nowhere,
            Some(None) => return Written::Badly,
            Some(Some(target)) => target.clone(),
        };
        let timeout = self.timeout.or(Duration::from_secs(60));
        Written::Well(Authority {
            target,
            headers: self.headers.clone(),
            timeout,
            pass_client_cert: self.pass_client_cert.or(false),
        })
    }
}

/// How `auth_http` is written.
pub enum Written {
    /// As it should be.
    Well(Authority),
    /// With a mistake that has been reported.
    Badly,
    /// Not at all.
    Nowhere,
}

/// Who decides about logins.
pub struct Authority {
    target: Rc<Target>,
    headers: Vec<(String, String)>,
    timeout: Duration,
    pass_client_cert: bool,
}

/// Why there is no verdict.
pub enum NoVerdict {
    /// No address could be reached; each has been logged.
    Unreachable,
    /// The server at this address failed us.
    Failed(Address, AuthError),
}

impl Authority {
    /// Asks whether this attempt of a client may succeed.
    ///
    /// # Errors
    /// See [`NoVerdict`].
    pub async fn ask(&self, session: &Session, attempt: &Attempt) -> Result<Verdict, NoVerdict> {
        let client_ip = session.peer().client.host();
        let question = AuthRequest {
            uri: &self.target.uri,
            host: &self.target.host,
            method: attempt.method,
            credentials: &attempt.credentials,
            salt: attempt.salt.as_deref(),
            protocol: Protocol::Imap,
            attempt: attempt.number,
            client_ip: &client_ip,
            client_host: None,
            proxied: None,
            envelope: None,
            tls: session.peer().tls.get().map(|tls| TlsSession {
                protocol: tls.protocol,
                cipher: tls.cipher,
                verification: tls.client.as_ref().map(|client| self.verification(client)),
            }),
            headers: &self.headers,
        };
        let mut tried = Vec::new();
        while let Ok(lease) = self.target.addresses.lease(&Ask { client: &session.peer().client, tried: &tried }) {
            let address = lease.address().clone();
            let deadline = later(self.timeout);
            match self.connect(session, &address, deadline).await {
                Some(transport) => {
                    lease.report(Outcome::Success);
                    let answer = converse(transport, &question, deadline).await;
                    return answer.map_err(|error| NoVerdict::Failed(address, error));
                }
                None => {
                    tried.push(lease.index());
                    lease.report(Outcome::Failure);
                }
            }
        }
        Err(NoVerdict::Unreachable)
    }

    fn verification<'a>(&self, client: &'a ClientCertificate) -> Verification<'a> {
        Verification {
            result: &client.verify,
            subject: &client.subject,
            issuer: &client.issuer,
            serial: &client.serial,
            fingerprint: &client.fingerprint,
            certificate: if self.pass_client_cert { client.pem.as_bytes() } else { b"" },
        }
    }

    async fn connect(&self, session: &Session, address: &Address, deadline: Instant) -> Option<Transport> {
        match until(deadline, Transport::connect(address)).await {
            Some(Ok(transport)) => return Some(transport),
            Some(Err(error)) => {
                log!(session.logger(), Error, "connect() to {address} failed ({})", log::os_error(&error));
            }
            None => {
                let name = address.to_string();
                log!(session.logger(), Error, "{}", Logged(&name, &AuthError::TimedOut));
            }
        }
        None
    }
}

/// A failure as nginx logs it: a time-out with its system error.
pub struct Logged<'a>(pub &'a str, pub &'a AuthError);

impl fmt::Display for Logged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Logged(name, error) = self;
        error.by(name).fmt(f)?;
        if **error == AuthError::TimedOut { f.write_str(" (110: Connection timed out)") } else { Ok(()) }
    }
}

/// `None` once the deadline has passed.
async fn until<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    Timer::default().limit(deadline.saturating_duration_since(Instant::now()), work).await.ok()
}

/// Puts the question and reads the answer.
async fn converse(
    mut transport: Transport,
    question: &AuthRequest<'_>,
    deadline: Instant,
) -> Result<Verdict, AuthError> {
    let dialogue = async {
        let mut request = Vec::new();
        question.write(&mut request);
        transport.write_all(&request).await.map_err(broken)?;
        let mut answer = AnswerReader::default();
        loop {
            if let Some((status, head)) = answer.take()? {
                let headers = head.fields.iter().map(|field| (field.name, field.value));
                return interpret(status, headers, question.needs_password());
            }
            if transport.read_buf(&mut answer.input).await.map_err(broken)? == 0 {
                return Err(AuthError::Closed);
            }
        }
    };
    until(deadline, dialogue).await.unwrap_or(Err(AuthError::TimedOut))
}

/// nginx says nothing of why the connection broke.
fn broken(_: io::Error) -> AuthError {
    AuthError::Closed
}

/// What stands for the status line of an answer: the reader of heads wants one.
const STATUS_LINE: &[u8] = b"HTTP/1.0 200 OK\r\n";

/// Reads the head of an answer. As nginx: any line that begins with `HTTP/` will do for a status line, and there need
/// be none. The status counts where it can be read.
struct AnswerReader {
    input: BytesMut,
    status: Option<u16>,
    parser: ReplyParser,
}

impl Default for AnswerReader {
    fn default() -> Self {
        AnswerReader {
            input: BytesMut::with_capacity(1024),
            status: None,
            parser: ReplyParser::new(MAX_ANSWER_HEAD + STATUS_LINE.len()),
        }
    }
}

impl AnswerReader {
    /// The status and the headers, once all is there.
    fn take(&mut self) -> Result<Option<(u16, ReplyHead)>, AuthError> {
        let status = match self.status {
            Some(status) => status,
            None => match self.take_status()? {
                None => return Ok(None),
                Some(status) => {
                    let headers = self.input.split();
                    self.input.extend_from_slice(STATUS_LINE);
                    self.input.extend_from_slice(&headers);
                    *self.status.insert(status)
                }
            },
        };
        match self.parser.parse(&mut self.input) {
            Ok(head) => Ok(head.map(|head| (status, head))),
            Err(ReplyError::TooBigHeader) => Err(AuthError::TooLong),
            Err(ReplyError::Closed) => Err(AuthError::Closed),
            Err(ReplyError::NoValidHeader) => Err(AuthError::InvalidResponse),
            Err(ReplyError::BadHeader(..) | ReplyError::Framing(_)) => Err(AuthError::InvalidHeader),
        }
    }

    /// Takes the status line, if there is one.
    fn take_status(&mut self) -> Result<Option<u16>, AuthError> {
        const START: &[u8] = b"HTTP/";
        const ASSUMED: u16 = 200;
        if !self.input.iter().zip(START).all(|(found, wanted)| found == wanted) {
            return Ok(Some(ASSUMED));
        }
        if self.input.len() < START.len() {
            return Ok(None);
        }
        let line = take_line(&mut self.input, MAX_ANSWER_HEAD).map_err(|_| AuthError::TooLong)?;
        Ok(line.map(|line| status_of(&line).unwrap_or(ASSUMED)))
    }
}

/// The three digits of a status line, if they are where they should be.
fn status_of(line: &[u8]) -> Option<u16> {
    let mut rest = line.splitn(3, |byte| *byte == b' ').nth(1)?;
    if rest.len() != 3 || !rest.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut status = 0;
    while rest.has_remaining() {
        status = status * 10 + u16::from(rest.get_u8() - b'0');
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core_wire::testing::every_split;

    #[test]
    fn a_url_has_a_server_and_a_path() {
        for (text, expected) in [
            ("127.0.0.1", ("127.0.0.1", "")),
            ("127.0.0.1:8080/auth?x=/", ("127.0.0.1:8080", "/auth?x=/")),
            ("unix:/tmp/s", ("unix:/tmp/s", "")),
            ("unix:/tmp/s:/auth", ("unix:/tmp/s", "/auth")),
        ] {
            assert_eq!(split_url(text), expected, "{text}");
        }
    }

    #[test]
    fn a_target_has_a_host_a_path_and_addresses() {
        for (text, host, uri, address) in [
            ("http://127.0.0.1:8080/auth", "127.0.0.1", "/auth", "127.0.0.1:8080"),
            ("127.0.0.1", "127.0.0.1", "/", "127.0.0.1:80"),
            ("http://[::1]/x", "[::1]", "/x", "[::1]:80"),
            ("http://[::1]:81", "[::1]", "/", "[::1]:81"),
            ("unix:/tmp/s:/a", "localhost", "/a", "unix:/tmp/s"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((&*target.host, &*target.uri), (host, uri), "{text}");
            assert_eq!(target.addresses.peers()[0].name.as_ref(), address, "{text}");
        }
        for (text, why) in [
            ("http://127.0.0.1:99999/", "invalid port in auth_http \"127.0.0.1:99999/\""),
            ("", "no host in auth_http \"\""),
        ] {
            assert_eq!(Target::parse(text).err().unwrap(), why);
        }
    }

    /// The status and the headers read, or the error; `Ok(None)` if more is wanted.
    fn read(pieces: &[&[u8]]) -> Result<Option<(u16, Vec<String>)>, AuthError> {
        let mut reader = AnswerReader::default();
        for piece in pieces {
            reader.input.extend_from_slice(piece);
            if let Some((status, head)) = reader.take()? {
                return Ok(Some((status, head.fields.iter().map(|field| format!("{field:?}")).collect())));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_status_line_is_welcome_and_not_demanded() {
        for (answer, status) in [
            ("HTTP/1.0 200 OK\r\nA: b\r\n\r\n", 200),
            ("HTTP/1.1 503 Sorry\nA: b\n\n", 503),
            ("HTTP/ whatever\r\nA: b\r\n\r\n", 200),
            ("HTTP/1.1 5000 x\r\nA: b\r\n\r\n", 200),
            ("A: b\r\n\r\n", 200),
        ] {
            let expected = Ok(Some((status, vec!["A: b".to_owned()])));
            assert_eq!(every_split(answer.as_bytes(), read), expected, "{answer}");
        }
    }

    #[test]
    fn an_answer_may_be_long_but_not_endless() {
        let field = format!("X: {}\r\n", "x".repeat(997));
        let head = |fields: usize| format!("HTTP/1.0 200 OK\r\n{}\r\n", field.repeat(fields));
        assert_eq!(read(&[head(16).as_bytes()]).unwrap().unwrap().1.len(), 16);
        assert_eq!(read(&[head(17).as_bytes()]), Err(AuthError::TooLong));
        assert_eq!(read(&[field.repeat(17).as_bytes()]), Err(AuthError::TooLong));
        assert_eq!(read(&[format!("HTTP/{}", "x".repeat(17_000)).as_bytes()]), Err(AuthError::TooLong));
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        assert_eq!(read(&[b"HTTP/1.0 200 OK\r\nA b: c\r\n\r\n"]), Err(AuthError::InvalidHeader));
        assert_eq!(read(&[b"HTTP/1.0 200 OK\r\nA: b\r\n"]), Ok(None));
    }
}
