//! Variables that every subject has.

use std::io::Write;

use crate::clock;
use crate::conf::directive::{Directive, Feature};
pub use crate::hostname::hostname;
use crate::module::Module;
use crate::net::Address;
use crate::script::Variable;
use crate::script::variable::Get;
use crate::subject::Subject;
use crate::tls::ClientCertificate;
use crate::tls::session::TlsInfo;

/// No settings.
#[derive(Default)]
pub struct NoConf;

impl crate::conf::Inherit for NoConf {
    fn inherit(&mut self, _outer: &Self) {}
}

/// Built-in variables
pub struct BuiltIn;

impl Feature for BuiltIn {
    type Conf = NoConf;
    const NAME: &'static str = "variables";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

const fn row<S>(name: &'static str, get: fn(&S, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<S> {
    Variable { name, get: Get::Value(get), doc }
}

/// nginx lets a configuration set these.
const fn changeable<S>(name: &'static str, get: fn(&S, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<S> {
    Variable { name, get: Get::Changeable(get), doc }
}

impl<S: Subject> Module<S> for BuiltIn {
    const VARIABLES: &'static [Variable<S>] = &[
        row("remote_addr", remote_addr, "The client's address."),
        row(
            "remote_port",
            |s: &S, out| port(out, s.client().port()),
            "The client's port; empty for one of a local socket.",
        ),
        row("binary_remote_addr", binary_remote_addr, "The client's address in binary, 4 or 16 bytes."),
        row("server_addr", server_addr, "The address that accepted the client; of a local socket its path."),
        row(
            "server_port",
            |s: &S, out| port(out, s.peer().local.port()),
            "The port that accepted the client; empty for a local socket.",
        ),
        row("connection", |s: &S, out| number(out, s.peer().number), "The connection's number."),
        row("status", status, "The status, three digits."),
        row("bytes_sent", |s: &S, out| number(out, s.bytes_sent()), "Bytes sent to the client."),
        row("bytes_received", |s: &S, out| number(out, s.bytes_received()), "Bytes received from the client."),
        row("hostname", |_: &S, out| text(out, &hostname()), "The machine's name."),
        row("pid", |_: &S, out| number(out, std::process::id().into()), "The worker's process id."),
        row("msec", msec, "Seconds since the epoch, with milliseconds."),
        row(
            "nginx_version",
            |_: &S, out| text(out, NGINX_VERSION),
            "The version of nginx whose behaviour is followed.",
        ),
        row("time_local", |_: &S, out| now(out, clock::time_local), "Local time as access logs write it."),
        row("time_iso8601", |_: &S, out| now(out, clock::time_iso8601), "Local time in ISO 8601."),
        changeable("ssl_protocol", |s: &S, out| tls(s, out, |tls| Some(tls.protocol.as_bytes())), "The TLS version."),
        changeable("ssl_cipher", |s: &S, out| tls(s, out, |tls| Some(tls.cipher.as_bytes())), "The TLS cipher suite."),
        changeable(
            "ssl_server_name",
            |s: &S, out| tls(s, out, |tls| tls.server_name.as_deref()),
            "The name the client asked for by SNI.",
        ),
        changeable(
            "ssl_alpn_protocol",
            |s: &S, out| tls(s, out, |tls| tls.alpn.as_deref()),
            "The protocol agreed on by ALPN.",
        ),
        changeable("ssl_client_verify", client_verify, "NONE, SUCCESS or FAILED:reason."),
        changeable(
            "ssl_client_s_dn",
            |s: &S, out| client(s, out, |c| &c.subject),
            "The subject of the client's certificate.",
        ),
        changeable(
            "ssl_client_i_dn",
            |s: &S, out| client(s, out, |c| &c.issuer),
            "The issuer of the client's certificate.",
        ),
        changeable(
            "ssl_client_serial",
            |s: &S, out| client(s, out, |c| &c.serial),
            "The client's certificate's number.",
        ),
        changeable(
            "ssl_client_fingerprint",
            |s: &S, out| client(s, out, |c| &c.fingerprint),
            "The SHA-1 digest of the client's certificate.",
        ),
        changeable("ssl_client_raw_cert", |s: &S, out| client(s, out, |c| &c.pem), "The client's certificate in PEM."),
        changeable("ssl_client_cert", indented_client_certificate, "The same, every line but the first behind a tab."),
        changeable("ssl_client_escaped_cert", escaped_certificate, "The client's certificate in PEM, percent-encoded."),
        changeable(
            "ssl_session_reused",
            |s: &S, out| tls(s, out, |_| Some(b".")),
            "r if a session was resumed, . if not.",
        ),
    ];
}

/// The version of nginx whose behaviour is followed.
pub const NGINX_VERSION: &str = "1.31.5";

fn text(out: &mut Vec<u8>, text: &str) -> bool {
    out.extend_from_slice(text.as_bytes());
    true
}

fn remote_addr<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject.client().write_host(out);
    true
}

fn server_addr<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&subject.peer().local.accepting());
    true
}

fn number(out: &mut Vec<u8>, number: u64) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    true
}

/// nginx: where there is no port there is still a value, an empty one.
fn port(out: &mut Vec<u8>, port: Option<u16>) -> bool {
    port.is_none_or(|port| number(out, port.into()))
}

fn now(out: &mut Vec<u8>, write: fn(&mut Vec<u8>)) -> bool {
    write(out);
    true
}

fn status<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    write!(out, "{:03}", subject.status()).is_ok()
}

fn msec<S: Subject>(_: &S, out: &mut Vec<u8>) -> bool {
    let now = clock::wall();
    write!(out, "{}.{:03}", now.as_secs(), now.subsec_millis()).is_ok()
}

fn binary_remote_addr<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    match subject.client() {
        Address::Inet(client) => match client.ip() {
            std::net::IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        },
        Address::Unix(_) => out.extend_from_slice(b"unix:"),
    }
    true
}

fn tls<S: Subject>(subject: &S, out: &mut Vec<u8>, pick: fn(&TlsInfo) -> Option<&[u8]>) -> bool {
    let found = subject.peer().tls.get().and_then(|tls| pick(tls));
    found.map(|value| out.extend_from_slice(value)).is_some()
}

fn client<S: Subject>(subject: &S, out: &mut Vec<u8>, pick: fn(&ClientCertificate) -> &String) -> bool {
    let found = subject.peer().tls.get().and_then(|tls| tls.client.as_ref()).map(pick);
    found.is_some_and(|value| text(out, value) && !value.is_empty())
}

/// The certificate with each line but the first indented, so that it can go where lines are continued so.
fn indented_client_certificate<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    let found = subject.peer().tls.get().and_then(|tls| tls.client.as_ref()).filter(|client| !client.pem.is_empty());
    found.is_some_and(|client| text(out, &client.pem.trim_end().replace('\n', "\n\t")))
}

fn escaped_certificate<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    let Some(certificate) = subject.peer().tls.get().and_then(|tls| tls.client.as_ref()) else { return false };
    for byte in certificate.pem.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    !certificate.pem.is_empty()
}

fn client_verify<S: Subject>(subject: &S, out: &mut Vec<u8>) -> bool {
    subject.peer().tls.get().is_some_and(|tls| text(out, tls.client.as_ref().map_or("NONE", |client| &client.verify)))
}
