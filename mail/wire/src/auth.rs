//! auth_http as values: the question to the authentication server, and what its answer means.
//!
//! The connection, the status line and the splitting of headers belong to others; here is nginx's contract with the
//! server: which headers go out, in which order, and which come back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use bytes::Bytes;

use crate::dialogue::Protocol;
use crate::sasl::{Credentials, Method, Secret};

/// The most octets that the head of an answer may have. nginx stops at 1,024 and then fails or hangs.
pub const MAX_ANSWER_HEAD: usize = 16 * 1024;

/// The longest `Auth-Wait` that is honoured, in seconds: one hour. A longer one is taken for the mistake that it must be.
pub const MAX_WAIT: u32 = 60 * 60;

/// How often one login may be told `WAIT` before it is given up.
pub const MAX_REPEATS: u32 = 100;

/// The addresses of a PROXY header, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxiedAddresses<'a> {
    /// Where the connection came from.
    pub source: &'a str,
    /// Its port.
    pub source_port: u16,
    /// Where it went to.
    pub destination: &'a str,
    /// Its port.
    pub destination_port: u16,
}

/// What an SMTP client said before RCPT, without authentication: `HELO`'s argument and two whole command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The argument of HELO or EHLO.
    pub helo: &'a [u8],
    /// The MAIL command.
    pub from: &'a [u8],
    /// The RCPT command.
    pub to: &'a [u8],
}

/// The client's TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsSession<'a> {
    /// Such as `TLSv1.3`.
    pub protocol: &'a str,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'a str,
    /// Unless `ssl_verify_client off`.
    pub verification: Option<Verification<'a>>,
}

/// What is known of the client's certificate; empty where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verification<'a> {
    /// `NONE`, `SUCCESS` or `FAILED:reason`.
    pub result: &'a str,
    /// The subject's distinguished name.
    pub subject: &'a str,
    /// The issuer's distinguished name.
    pub issuer: &'a str,
    /// The serial number in hexadecimal.
    pub serial: &'a str,
    /// The SHA-1 fingerprint in hexadecimal.
    pub fingerprint: &'a str,
    /// The certificate in PEM, with `auth_http_pass_client_cert`.
    pub certificate: &'a [u8],
}

/// One question: may this client log in, and where? No `Debug`: `auth_http_header` often carries a key.
#[derive(Clone, Copy)]
pub struct AuthRequest<'a> {
    /// The path of `auth_http`.
    pub uri: &'a str,
    /// The host of `auth_http`, `localhost` for a Unix socket.
    pub host: &'a str,
    /// How the client proves who it is.
    pub method: Method,
    /// Who it is.
    pub credentials: &'a Credentials,
    /// The challenge that a digest answers.
    pub salt: Option<&'a [u8]>,
    /// The protocol of the session.
    pub protocol: Protocol,
    /// The number of the attempt in this session, from 1.
    pub attempt: u32,
    /// The client's address, without the port.
    pub client_ip: &'a str,
    /// The client's verified host name; SMTP only.
    pub client_host: Option<&'a str>,
    /// If the session began with a PROXY header.
    pub proxied: Option<ProxiedAddresses<'a>>,
    /// With [`Method::None`].
    pub envelope: Option<Envelope<'a>>,
    /// If the session is in TLS.
    pub tls: Option<TlsSession<'a>>,
    /// `auth_http_header`, in order.
    pub headers: &'a [(String, String)],
}

impl AuthRequest<'_> {
    /// Appends the whole HTTP/1.0 request.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("GET {} HTTP/1.0\r\n", self.uri).as_bytes());
        field(out, "Host", self.host);
        self.write_login(out);
        self.write_client(out);
        if let Some(envelope) = &self.envelope {
            field(out, "Auth-SMTP-Helo", envelope.helo);
            field(out, "Auth-SMTP-From", envelope.from);
            field(out, "Auth-SMTP-To", envelope.to);
        }
        if let Some(tls) = &self.tls {
            write_tls(tls, out);
        }
        for (name, value) in self.headers {
            field(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_login(&self, out: &mut Vec<u8>) {
        let password = self.credentials.password.as_ref().map_or(&b""[..], Secret::expose);
        field(out, "Auth-Method", self.method.name());
        field(out, "Auth-User", escape(&self.credentials.user));
        field(out, "Auth-Pass", escape(password));
        if matches!(self.method, Method::Apop | Method::CramMd5) {
            field_unless_empty(out, "Auth-Salt", self.salt.unwrap_or_default());
        }
        field(out, "Auth-Protocol", self.protocol.name());
        field(out, "Auth-Login-Attempt", self.attempt.to_string());
    }

    fn write_client(&self, out: &mut Vec<u8>) {
        field(out, "Client-IP", self.client_ip);
        field_unless_empty(out, "Client-Host", self.client_host.unwrap_or_default());
        if let Some(proxied) = &self.proxied {
            field(out, "Proxy-Protocol-Addr", proxied.source);
            field(out, "Proxy-Protocol-Port", proxied.source_port.to_string());
            field(out, "Proxy-Protocol-Server-Addr", proxied.destination);
            field(out, "Proxy-Protocol-Server-Port", proxied.destination_port.to_string());
        }
    }

    /// Whether the answer must bring a password because the client's proof is useless to the backend.
    ///
    /// An SMTP backend trusts XCLIENT and needs none.
    pub fn needs_password(&self) -> bool {
        self.protocol != Protocol::Smtp && self.method.needs_backend_password()
    }
}

fn write_tls(tls: &TlsSession<'_>, out: &mut Vec<u8>) {
    field(out, "Auth-SSL", "on");
    field_unless_empty(out, "Auth-SSL-Protocol", tls.protocol);
    field_unless_empty(out, "Auth-SSL-Cipher", tls.cipher);
    if let Some(client) = &tls.verification {
        field_unless_empty(out, "Auth-SSL-Verify", client.result);
        field_unless_empty(out, "Auth-SSL-Subject", client.subject);
        field_unless_empty(out, "Auth-SSL-Issuer", client.issuer);
        field_unless_empty(out, "Auth-SSL-Serial", client.serial);
        field_unless_empty(out, "Auth-SSL-Fingerprint", client.fingerprint);
        field_unless_empty(out, "Auth-SSL-Cert", escape(client.certificate));
    }
}

/// One header line. A line end or NUL inside the value, from wherever it came, becomes a space: one field stays one.
fn field(out: &mut Vec<u8>, name: &str, value: impl AsRef<[u8]>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.as_ref().iter().map(|&octet| if matches!(octet, b'\r' | b'\n' | 0) { b' ' } else { octet }));
    out.extend_from_slice(b"\r\n");
}

fn field_unless_empty(out: &mut Vec<u8>, name: &str, value: impl AsRef<[u8]>) {
    if !value.as_ref().is_empty() {
        field(out, name, value);
    }
}

/// nginx's escape for credentials: controls, space and `%` become `%XX`, everything else goes as it is.
fn escape(text: &[u8]) -> Vec<u8> {
    let digit = |value: u8| b"0123456789ABCDEF".get(usize::from(value)).copied().unwrap_or_default();
    let mut escaped = Vec::with_capacity(text.len());
    for &octet in text {
        if octet <= b' ' || octet == b'%' {
            escaped.extend_from_slice(&[b'%', digit(octet >> 4), digit(octet & 15)]);
        } else {
            escaped.push(octet);
        }
    }
    escaped
}

/// The authentication server said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its words, for the client and for an info line `client login failed: "<text>"`.
    pub text: Bytes,
    /// Hold the reply for so many seconds and let the client try again; without it, reply and close.
    pub wait: Option<NonZeroU32>,
    /// The SMTP code to use instead of `535 5.7.0`.
    pub error_code: Option<Bytes>,
}

/// What the authentication server decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Log the client in there, with these credentials where they replace the client's.
    Accept {
        /// The backend.
        server: SocketAddr,
        /// `Auth-User`
        user: Option<Bytes>,
        /// `Auth-Pass`
        password: Option<Secret>,
    },
    /// Tell the client no.
    Refuse(Refusal),
    /// Ask again after so many seconds; the client waits. Not without end: see [`Repeats`].
    Wait {
        /// At least one, where nginx would ask again at once and so for ever.
        seconds: NonZeroU32,
    },
}

/// The authentication server failed us: an error line, and the client gets an internal server error.
///
/// `Display` is nginx's wording without the server's name; [`by`](AuthError::by) puts it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    /// `auth_http_timeout` passed.
    TimedOut,
    /// It closed before its head was complete.
    Closed,
    /// Its status line makes no sense.
    InvalidResponse,
    /// A header line makes no sense.
    InvalidHeader,
    /// Its head is longer than [`MAX_ANSWER_HEAD`].
    TooLong,
    /// It failed by its own account, with this 5xx status, and decided nothing.
    Status(u16),
    /// It said yes without saying where to.
    NoServer,
    /// It said yes without the password that the backend needs.
    NoPassword,
    /// The address is not a literal one.
    InvalidAddress(Bytes),
    /// The port is not a port.
    InvalidPort(Bytes),
    /// It said `WAIT` more than [`MAX_REPEATS`] times.
    WaitedTooOften,
}

impl AuthError {
    /// The log line for a server called `name`, such as `127.0.0.1:8080`.
    pub fn by<'a>(&'a self, name: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| self.describe(f, &format_args!("auth http server {name}")))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>, server: &dyn fmt::Display) -> fmt::Result {
        match self {
            AuthError::TimedOut => write!(f, "{server} timed out"),
            AuthError::Closed => write!(f, "{server} prematurely closed connection"),
            AuthError::InvalidResponse => write!(f, "{server} sent invalid response"),
            AuthError::InvalidHeader => write!(f, "{server} sent invalid header in response"),
            AuthError::TooLong => write!(f, "{server} sent too long response"),
            AuthError::Status(status) => write!(f, "{server} sent status {status}"),
            AuthError::NoServer => write!(f, "{server} did not send server or port"),
            AuthError::NoPassword => write!(f, "{server} did not send password"),
            AuthError::InvalidAddress(address) => {
                write!(f, "{server} sent invalid server address:\"{}\"", address.escape_ascii())
            }
            AuthError::InvalidPort(port) => write!(f, "{server} sent invalid server port:\"{}\"", port.escape_ascii()),
            AuthError::WaitedTooOften => write!(f, "{server} sent WAIT more than {MAX_REPEATS} times"),
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f, &"auth http server")
    }
}

impl std::error::Error for AuthError {}

/// Counts the `WAIT` answers of one login.
#[derive(Debug, Default)]
pub struct Repeats(u32);

impl Repeats {
    /// Allows one more question, or says that it is enough.
    pub fn again(&mut self) -> Result<(), AuthError> {
        if self.0 >= MAX_REPEATS {
            return Err(AuthError::WaitedTooOften);
        }
        self.0 += 1;
        Ok(())
    }
}

/// The headers of an answer that mean something to us.
#[derive(Default)]
struct Answer<'a> {
    /// There is an `Auth-Status`.
    decided: bool,
    waits: bool,
    refusal: Option<&'a [u8]>,
    wait: Option<NonZeroU32>,
    error_code: Option<&'a [u8]>,
    server: &'a [u8],
    port: &'a [u8],
    user: Option<&'a [u8]>,
    password: Option<&'a [u8]>,
}

/// Decides what an answer means, from its status and its headers in the order received.
///
/// `Auth-Status` decides, whatever the status. An answer of 500 and above without it is a failure of the server; nginx
/// would log in where it names a backend all the same. A refusal outweighs everything else, then `WAIT`. `needs_password` is [`AuthRequest::needs_password`] of the question.
pub fn interpret<'a>(
    status: u16,
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    needs_password: bool,
) -> Result<Verdict, AuthError> {
    let mut answer = Answer::default();
    for (name, value) in headers {
        answer.note(name, value.trim_ascii());
    }
    if status >= 500 && !answer.decided {
        return Err(AuthError::Status(status));
    }
    answer.decide(needs_password)
}

impl<'a> Answer<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
        if is("Auth-Status") {
            self.decided = true;
            match value {
                b"OK" => (),
                b"WAIT" => self.waits = true,
                text => self.refusal = Some(text),
            }
        } else if is("Auth-Server") {
            self.server = value;
        } else if is("Auth-Port") {
            self.port = value;
        } else if is("Auth-User") {
            self.user = Some(value);
        } else if is("Auth-Pass") {
            self.password = Some(value);
        } else if is("Auth-Wait") {
            self.wait = seconds(value).unwrap_or(self.wait);
        } else if is("Auth-Error-Code") {
            self.error_code = Some(value);
        }
    }

    fn decide(self, needs_password: bool) -> Result<Verdict, AuthError> {
        if let Some(text) = self.refusal {
            return Ok(Verdict::Refuse(Refusal {
                text: Bytes::copy_from_slice(text),
                wait: self.wait,
                error_code: self.error_code.filter(|code| !code.is_empty()).map(Bytes::copy_from_slice),
            }));
        }
        if self.waits {
            return Ok(Verdict::Wait { seconds: self.wait.unwrap_or(NonZeroU32::MIN) });
        }
        if self.server.is_empty() || self.port.is_empty() {
            return Err(AuthError::NoServer);
        }
        if needs_password && self.password.is_none() {
            return Err(AuthError::NoPassword);
        }
        Ok(Verdict::Accept {
            server: SocketAddr::new(address(self.server)?, port(self.port)?),
            user: self.user.map(Bytes::copy_from_slice),
            password: self.password.map(|octets| Secret::new(Bytes::copy_from_slice(octets))),
        })
    }
}

/// `None` if the value is no number, or an absurd one, which is ignored; `Some(None)` for zero, which means no wait.
fn seconds(value: &[u8]) -> Option<Option<NonZeroU32>> {
    let seconds = number(value).and_then(|number| u32::try_from(number).ok()).filter(|seconds| *seconds <= MAX_WAIT)?;
    Some(NonZeroU32::new(seconds))
}

fn address(value: &[u8]) -> Result<IpAddr, AuthError> {
    let literal = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    literal.ok_or_else(|| AuthError::InvalidAddress(Bytes::copy_from_slice(value)))
}

fn port(value: &[u8]) -> Result<u16, AuthError> {
    let port = number(value).and_then(|number| u16::try_from(number).ok()).filter(|&port| port > 0);
    port.ok_or_else(|| AuthError::InvalidPort(Bytes::copy_from_slice(value)))
}

/// Decimal digits and nothing else, and no more of them than a number has.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0, |sum: u64, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &'static [u8], password: Option<&'static [u8]>) -> Credentials {
        Credentials { user: Bytes::from_static(user), password: password.map(Secret::new) }
    }

    fn request(credentials: &Credentials) -> AuthRequest<'_> {
        AuthRequest {
            uri: "/auth",
            host: "auth.example",
            method: Method::Plain,
            credentials,
            salt: None,
            protocol: Protocol::Imap,
            attempt: 1,
            client_ip: "192.0.2.1",
            client_host: None,
            proxied: None,
            envelope: None,
            tls: None,
            headers: &[],
        }
    }

    fn written(request: &AuthRequest<'_>) -> String {
        let mut out = Vec::new();
        request.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_request_has_nginxs_headers_in_nginxs_order() {
        let credentials = credentials(b"u@example.com", Some(b"p"));
        assert_eq!(
            written(&request(&credentials)),
            "GET /auth HTTP/1.0\r\n\
             Host: auth.example\r\n\
             Auth-Method: plain\r\n\
             Auth-User: u@example.com\r\n\
             Auth-Pass: p\r\n\
             Auth-Protocol: imap\r\n\
             Auth-Login-Attempt: 1\r\n\
             Client-IP: 192.0.2.1\r\n\
             \r\n"
        );
    }

    #[test]
    fn a_request_may_carry_everything() {
        let credentials = credentials(b"", None);
        let headers = [("X-Auth-Key".to_owned(), "secret string".to_owned()), ("X-B".to_owned(), String::new())];
        let full = AuthRequest {
            method: Method::None,
            protocol: Protocol::Smtp,
            attempt: 7,
            client_host: Some("[UNAVAILABLE]"),
            proxied: Some(ProxiedAddresses {
                source: "192.0.2.9",
                source_port: 1234,
                destination: "198.51.100.1",
                destination_port: 25,
            }),
            envelope: Some(Envelope { helo: b"me", from: b"MAIL FROM:<a> SIZE=1", to: b"RCPT TO:<b>" }),
            tls: Some(TlsSession {
                protocol: "TLSv1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                verification: Some(Verification {
                    result: "SUCCESS",
                    subject: "CN=c",
                    issuer: "CN=i",
                    serial: "01",
                    fingerprint: "ab",
                    certificate: b"-----BEGIN X-----\nAA%\n",
                }),
            }),
            headers: &headers,
            ..request(&credentials)
        };
        assert_eq!(
            written(&full),
            "GET /auth HTTP/1.0\r\n\
             Host: auth.example\r\n\
             Auth-Method: none\r\n\
             Auth-User: \r\n\
             Auth-Pass: \r\n\
             Auth-Protocol: smtp\r\n\
             Auth-Login-Attempt: 7\r\n\
             Client-IP: 192.0.2.1\r\n\
             Client-Host: [UNAVAILABLE]\r\n\
             Proxy-Protocol-Addr: 192.0.2.9\r\n\
             Proxy-Protocol-Port: 1234\r\n\
             Proxy-Protocol-Server-Addr: 198.51.100.1\r\n\
             Proxy-Protocol-Server-Port: 25\r\n\
             Auth-SMTP-Helo: me\r\n\
             Auth-SMTP-From: MAIL FROM:<a> SIZE=1\r\n\
             Auth-SMTP-To: RCPT TO:<b>\r\n\
             Auth-SSL: on\r\n\
             Auth-SSL-Protocol: TLSv1.3\r\n\
             Auth-SSL-Cipher: TLS_AES_128_GCM_SHA256\r\n\
             Auth-SSL-Verify: SUCCESS\r\n\
             Auth-SSL-Subject: CN=c\r\n\
             Auth-SSL-Issuer: CN=i\r\n\
             Auth-SSL-Serial: 01\r\n\
             Auth-SSL-Fingerprint: ab\r\n\
             Auth-SSL-Cert: -----BEGIN%20X-----%0AAA%25%0A\r\n\
             X-Auth-Key: secret string\r\n\
             X-B: \r\n\
             \r\n"
        );
    }

    #[test]
    fn a_digest_brings_its_salt_and_plain_does_not() {
        let credentials = credentials(b"u", Some(b"00"));
        let with = |method| written(&AuthRequest { method, salt: Some(b"<1.2@h>"), ..request(&credentials) });
        assert!(with(Method::CramMd5).contains("Auth-Pass: 00\r\nAuth-Salt: <1.2@h>\r\nAuth-Protocol: imap\r\n"));
        assert!(with(Method::Apop).contains("Auth-Salt"));
        assert!(!with(Method::Plain).contains("Auth-Salt"));
    }

    #[test]
    fn credentials_cannot_add_a_header() {
        let credentials = credentials(b"a\r\nAuth-User: root", Some(b"\0 %\x1f\x7f\xff"));
        let mut out = Vec::new();
        AuthRequest { client_host: Some("h\r\nX: y"), ..request(&credentials) }.write(&mut out);
        let text = out.escape_ascii().to_string();
        assert!(text.contains("Auth-User: a%0D%0AAuth-User:%20root\\r\\n"), "{text}");
        assert!(text.contains("Auth-Pass: %00%20%25%1F\\x7f\\xff\\r\\n"), "{text}");
        assert!(text.contains("Client-Host: h  X: y\\r\\n"), "{text}");
    }

    #[test]
    fn digests_and_external_need_a_password_unless_smtp() {
        let credentials = credentials(b"u", None);
        for (protocol, method, needs) in [
            (Protocol::Imap, Method::Plain, false),
            (Protocol::Imap, Method::CramMd5, true),
            (Protocol::Imap, Method::External, true),
            (Protocol::Pop3, Method::Apop, true),
            (Protocol::Smtp, Method::CramMd5, false),
            (Protocol::Smtp, Method::None, false),
        ] {
            assert_eq!(AuthRequest { protocol, method, ..request(&credentials) }.needs_password(), needs);
        }
    }

    fn answer(headers: &str) -> Result<Verdict, AuthError> {
        ask(200, headers, false)
    }

    /// `headers` is `Name: value` separated by `|`.
    fn ask(status: u16, headers: &str, needs_password: bool) -> Result<Verdict, AuthError> {
        let pairs = headers.split('|').filter_map(|line| line.split_once(": "));
        interpret(status, pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())), needs_password)
    }

    fn accepted(
        server: &str,
        user: Option<&'static str>,
        password: Option<&'static str>,
    ) -> Result<Verdict, AuthError> {
        Ok(Verdict::Accept {
            server: server.parse().unwrap(),
            user: user.map(Bytes::from),
            password: password.map(Secret::new),
        })
    }

    fn refused(text: &'static str, wait: u32, error_code: Option<&'static str>) -> Result<Verdict, AuthError> {
        let error_code = error_code.map(Bytes::from);
        Ok(Verdict::Refuse(Refusal { text: Bytes::from(text), wait: NonZeroU32::new(wait), error_code }))
    }

    fn wait(seconds: u32) -> Result<Verdict, AuthError> {
        Ok(Verdict::Wait { seconds: NonZeroU32::new(seconds).unwrap() })
    }

    #[test]
    fn ok_or_no_status_with_server_and_port_accepts() {
        for headers in [
            "Auth-Status: OK|Auth-Server: 192.0.2.5|Auth-Port: 143",
            "Auth-Status:  OK |Auth-Server:  192.0.2.5\t|Auth-Port: 143 ",
            "auth-server: 192.0.2.5|AUTH-PORT: 143|X-Other: y",
            "Auth-Status: OK|Auth-Server: 192.0.2.5|Auth-Port: 143|Auth-Wait: 3",
        ] {
            assert_eq!(answer(headers), accepted("192.0.2.5:143", None, None), "{headers}");
        }
        assert_eq!(
            answer("Auth-Server: 2001:db8::1|Auth-Port: 65535|Auth-User: x y|Auth-Pass: "),
            accepted("[2001:db8::1]:65535", Some("x y"), Some(""))
        );
    }

    #[test]
    fn any_other_status_refuses() {
        for (headers, expected) in [
            ("Auth-Status: Invalid login or password", refused("Invalid login or password", 0, None)),
            ("Auth-Status: ok", refused("ok", 0, None)),
            ("Auth-Status: ", refused("", 0, None)),
            ("Auth-Status: no|Auth-Wait: 3", refused("no", 3, None)),
            ("Auth-Wait: 3|Auth-Status: no|Auth-Wait: soon", refused("no", 3, None)),
            ("Auth-Status: no|Auth-Wait: 0", refused("no", 0, None)),
            ("Auth-Status: no|Auth-Wait: 007", refused("no", 7, None)),
            ("Auth-Status: no|Auth-Error-Code: 451 4.3.0", refused("no", 0, Some("451 4.3.0"))),
            ("Auth-Status: no|Auth-Status: OK|Auth-Server: 192.0.2.5|Auth-Port: 143", refused("no", 0, None)),
            ("Auth-Status: WAIT|Auth-Status: no", refused("no", 0, None)),
        ] {
            assert_eq!(answer(headers), expected, "{headers}");
        }
    }

    #[test]
    fn a_wait_that_makes_no_sense_is_ignored() {
        let most = MAX_WAIT.to_string();
        let more = (MAX_WAIT + 1).to_string();
        for value in [
            "",
            "soon",
            "-1",
            "+1",
            "1.5",
            "1s",
            "0x10",
            "1 2",
            "\u{661}",
            &more,
            "86401",
            "1000000000",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999",
            "-99999999999999999999",
        ] {
            let wrong = format!("Auth-Status: no|Auth-Wait: {value}");
            assert_eq!(answer(&wrong), refused("no", 0, None), "{value}");
            let after = format!("Auth-Status: no|Auth-Wait: 3|Auth-Wait: {value}");
            assert_eq!(answer(&after), refused("no", 3, None), "{value}");
            assert_eq!(answer(&format!("Auth-Status: WAIT|Auth-Wait: {value}")), wait(1), "{value}");
        }
        assert_eq!(answer(&format!("Auth-Status: no|Auth-Wait: {most}")), refused("no", MAX_WAIT, None));
    }

    #[test]
    fn wait_is_never_at_once() {
        assert_eq!(answer("Auth-Status: WAIT"), wait(1));
        assert_eq!(answer("Auth-Status: WAIT|Auth-Wait: 0"), wait(1));
        assert_eq!(answer("Auth-Status: WAIT|Auth-Wait: 5"), wait(5));
    }

    #[test]
    fn wait_is_not_for_ever() {
        let mut repeats = Repeats::default();
        for _ in 0..MAX_REPEATS {
            assert_eq!(repeats.again(), Ok(()));
        }
        assert_eq!(repeats.again(), Err(AuthError::WaitedTooOften));
    }

    #[test]
    fn an_auth_status_is_obeyed_whatever_the_status() {
        let yes = "Auth-Server: 192.0.2.5|Auth-Port: 143";
        for status in [100, 200, 204, 302, 404, 499, 500, 503, 599, 999] {
            let ask = |headers: &str| ask(status, headers, false);
            assert_eq!(ask(&format!("Auth-Status: OK|{yes}")), accepted("192.0.2.5:143", None, None), "{status}");
            assert_eq!(ask(&format!("{yes}|auth-status: OK")), accepted("192.0.2.5:143", None, None), "{status}");
            assert_eq!(ask(&format!("Auth-Status: no|{yes}")), refused("no", 0, None), "{status}");
            assert_eq!(ask("Auth-Status: no|Auth-Wait: 2"), refused("no", 2, None), "{status}");
            assert_eq!(ask("Auth-Status: WAIT|Auth-Wait: 2"), wait(2), "{status}");
            assert_eq!(ask("Auth-Status: OK"), Err(AuthError::NoServer), "{status}");
            let undecided = if status < 500 {
                [accepted("192.0.2.5:143", None, None), Err(AuthError::NoServer)]
            } else {
                [Err(AuthError::Status(status)), Err(AuthError::Status(status))]
            };
            assert_eq!([ask(yes), ask("Auth-Wait: 2")], undecided, "{status}");
        }
    }

    #[test]
    fn failures_are_worded_as_nginx_words_them() {
        for (headers, line) in [
            ("Auth-Status: OK", "did not send server or port"),
            ("Auth-Server: 192.0.2.5", "did not send server or port"),
            ("Auth-Port: 143", "did not send server or port"),
            ("Auth-Server: localhost|Auth-Port: 143", "sent invalid server address:\"localhost\""),
            ("Auth-Server: [::1]|Auth-Port: 143", "sent invalid server address:\"[::1]\""),
            ("Auth-Server: \u{e9}|Auth-Port: 143", "sent invalid server address:\"\\xc3\\xa9\""),
            ("Auth-Server: 192.0.2.5|Auth-Port: 0", "sent invalid server port:\"0\""),
            ("Auth-Server: 192.0.2.5|Auth-Port: 65536", "sent invalid server port:\"65536\""),
            ("Auth-Server: 192.0.2.5|Auth-Port: +25", "sent invalid server port:\"+25\""),
        ] {
            let error = answer(headers).unwrap_err();
            assert_eq!(error.to_string(), format!("auth http server {line}"));
            assert_eq!(error.by("127.0.0.1:8080").to_string(), format!("auth http server 127.0.0.1:8080 {line}"));
        }
        let error = ask(200, "Auth-Server: 192.0.2.5|Auth-Port: 143", true).unwrap_err();
        assert_eq!(error.to_string(), "auth http server did not send password");
        assert_eq!(AuthError::TimedOut.by("a:1").to_string(), "auth http server a:1 timed out");
    }
}
