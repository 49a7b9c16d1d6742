//! Variables of an exchange.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidegate_balancer::attempts;
use tidegate_core::conf::directive::{Directive, Feature};
use tidegate_core::module::Module;
use tidegate_core::modules::builtin::NoConf;
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Subject;
use tidegate_http_wire::{Known, args, cookies, date};

use crate::content::files::Files;
use crate::exchange::Exchange;

/// Variables of an exchange
pub struct Variables;

impl Feature for Variables {
    type Conf = NoConf;
    const NAME: &'static str = "http variables";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

const fn row(name: &'static str, get: fn(&Exchange, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<Exchange> {
    Variable { name, get: Get::Value(get), doc }
}

/// Names that no configuration may define: single fields that nginx has as variables of their own beside the families
/// that they belong to here, and variables of nginx's that are not supported yet.
pub const RESERVED: &[&str] = &[
    "date_gmt",
    "date_local",
    "fastcgi_path_info",
    "fastcgi_script_name",
    "grpc_internal_trailers",
    "http_cookie",
    "http_host",
    "http_referer",
    "http_user_agent",
    "http_via",
    "http_x_forwarded_for",
    "is_request_port",
    "proxy_internal_body_length",
    "proxy_internal_chunked",
    "proxy_protocol_addr",
    "proxy_protocol_port",
    "proxy_protocol_server_addr",
    "proxy_protocol_server_port",
    "realpath_root",
    "request_id",
    "secure_link",
    "sent_http_cache_control",
    "sent_http_connection",
    "sent_http_content_length",
    "sent_http_content_type",
    "sent_http_keep_alive",
    "sent_http_last_modified",
    "sent_http_link",
    "sent_http_location",
    "sent_http_transfer_encoding",
    "slice_range",
    "tcpinfo_rcv_space",
    "tcpinfo_rtt",
    "tcpinfo_rttvar",
    "tcpinfo_snd_cwnd",
    "uid_got",
    "uid_set",
];

const fn family(
    name: &'static str,
    get: fn(&Exchange, &str, &mut Vec<u8>) -> bool,
    doc: &'static str,
) -> Variable<Exchange> {
    Variable { name, get: Get::Prefix(get), doc }
}

impl Module<Exchange> for Variables {
    const VARIABLES: &'static [Variable<Exchange>] = &[
        row("uri", |x, out| put(out, &x.target.borrow().path), "The path, decoded and normalised."),
        row("document_uri", |x, out| put(out, &x.target.borrow().path), "The same as $uri."),
        row("request_uri", |x, out| put(out, x.head.target.raw()), "The path and arguments as received."),
        Variable {
            name: "args",
            get: Get::Assigned(
                |x, out| put_some(out, &x.target.borrow().args),
                |x, value| {
                    let mut target = x.target.borrow_mut();
                    target.args = Bytes::copy_from_slice(value);
                    target.changed = true;
                },
            ),
            doc: "The arguments; may be set.",
        },
        row("query_string", |x, out| put_some(out, &x.target.borrow().args), "The same as $args."),
        row(
            "is_args",
            |x, out| put(out, if x.target.borrow().args.is_empty() { b"" } else { b"?" }),
            "? if there are arguments.",
        ),
        row("request", |x, out| put_some(out, x.head.line()), "The request line."),
        row(
            "request_method",
            |x, out| put(out, x.main_method().as_bytes()),
            "The client's method; GET where an error page asks.",
        ),
        row("request_length", |x, out| number(out, x.received.get()), "Bytes received, head and body."),
        row("request_time", |x, out| seconds(out, x.started.elapsed()), "Seconds since the first byte of the request."),
        row("request_filename", request_filename, "The file behind the path."),
        row(
            "request_completion",
            |x, out| put(out, if x.sent.bytes.get() > 0 { b"OK" } else { b"" }),
            "OK if the answer was sent.",
        ),
        row(
            "request_body",
            |x, out| put_some(out, &x.body.borrow().memory),
            "The body, as far as it is held in memory; absent where it is in a file.",
        ),
        row(
            "request_body_file",
            |x, out| match &x.body.borrow().file {
                Some((file, _)) => put_some(out, file.path().as_os_str().as_bytes()),
                None => false,
            },
            "The name of the file that the body is in; others can open it where client_body_in_file_only is on or clean.",
        ),
        row(
            "document_root",
            |x, out| Files::of(&x.plan()).is_some_and(|files| put(out, &files.root(x))),
            "The value of root or alias.",
        ),
        row("host", |x, out| put(out, x.host()), "The host asked for, or the server's name."),
        row(
            "request_port",
            |x, out| x.head.host.as_ref().and_then(|host| host.port).is_some_and(|port| number(out, port.into())),
            "The port asked for.",
        ),
        row("server_name", |x, out| put(out, x.server.name.as_bytes()), "The server's first name."),
        row("server_protocol", |x, out| put(out, x.head.protocol()), "The version of HTTP."),
        row("scheme", |x, out| put(out, x.scheme().as_bytes()), "http or https."),
        row("https", |x, out| put_some(out, if x.scheme() == "https" { b"on" } else { b"" }), "on with TLS."),
        row(
            "remote_user",
            remote_user,
            "The user that the client names by basic authentication; nobody has checked it.",
        ),
        row(
            "content_length",
            |x, out| field(out, x.head.fields.get(Known::ContentLength)),
            "The Content-Length of the request.",
        ),
        row(
            "content_type",
            |x, out| fields(out, x.head.fields.all(Known::ContentType), b", "),
            "The Content-Type of the request.",
        ),
        row(
            "body_bytes_sent",
            |x, out| number(out, x.sent.bytes.get().saturating_sub(x.sent.head.get())),
            "Bytes of the answer's body.",
        ),
        row(
            "pipe",
            |x, out| put(out, if x.pipelined { b"p" } else { b"." }),
            "p for a request that was pipelined, . if not.",
        ),
        row("connection_requests", |x, out| number(out, x.number), "Requests on the connection so far."),
        row(
            "connection_time",
            |x, out| seconds(out, x.peer.accepted.elapsed()),
            "Seconds since the connection was accepted.",
        ),
        row("proxy_add_x_forwarded_for", forwarded_for, "X-Forwarded-For with the client's address added."),
        row("upstream_status", attempts::status::<Exchange>, "The status of each reply."),
        row("upstream_header_time", attempts::first_byte_time::<Exchange>, "Seconds to the head of each reply."),
        row("upstream_response_time", attempts::total_time::<Exchange>, "Seconds to the end of each reply."),
        row("upstream_response_length", attempts::body_bytes::<Exchange>, "Bytes of the body of each reply."),
        family("arg_", |x, name, out| field(out, args::find(&x.target.borrow().args, name.as_bytes())), "An argument."),
        family("cookie_", |x, name, out| field(out, cookies::find(&x.head.fields, name.as_bytes())), "A cookie."),
        family(
            "http_",
            |x, name, out| fields(out, x.head.fields.variable(name), if name == "cookie" { b"; " } else { b", " }),
            "A field of the request.",
        ),
        family("sent_http_", sent, "A field of the answer."),
    ];
}

fn put(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

fn put_some(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    !value.is_empty()
}

fn field(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.map(|value| out.extend_from_slice(value)).is_some()
}

/// Writes values as one.
pub fn fields<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]>, separator: &[u8]) -> bool {
    let mut any = false;
    for value in values {
        if any {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value);
        any = true;
    }
    any
}

fn number(out: &mut Vec<u8>, number: u64) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    true
}

fn seconds(out: &mut Vec<u8>, time: std::time::Duration) -> bool {
    write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()).is_ok()
}

fn request_filename(exchange: &Exchange, out: &mut Vec<u8>) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let plan = exchange.plan();
    let path = Files::of(&plan).and_then(|files| files.path_of(exchange, &exchange.target.borrow().path));
    path.is_some_and(|path| put(out, path.as_os_str().as_bytes()))
}

fn remote_user(exchange: &Exchange, out: &mut Vec<u8>) -> bool {
    let Some((scheme, text)) =
        exchange.head.fields.get(Known::Authorization).and_then(|value| value.split_at_checked(6))
    else {
        return false;
    };
    let credentials = STANDARD.decode(text.trim_ascii()).unwrap_or_default();
    let user = credentials.iter().position(|byte| *byte == b':').and_then(|at| credentials.get(..at));
    user.filter(|_| scheme.eq_ignore_ascii_case(b"basic ")).is_some_and(|user| put_some(out, user))
}

fn forwarded_for(exchange: &Exchange, out: &mut Vec<u8>) -> bool {
    if fields(out, exchange.head.fields.all(Known::XForwardedFor), b", ") {
        out.extend_from_slice(b", ");
    }
    exchange.client().write_host(out);
    true
}

fn sent(exchange: &Exchange, name: &str, out: &mut Vec<u8>) -> bool {
    match name {
        "connection" if exchange.sent.status.get() == 101 => put(out, b"upgrade"),
        "connection" => put(out, if exchange.sent.keeps.get() { b"keep-alive" } else { b"close" }),
        "keep_alive" => match exchange.plan().settings.keepalive_header.filter(|_| exchange.sent.keeps.get()) {
            Some(told) => write!(out, "timeout={}", told.as_secs()).is_ok(),
            None => false,
        },
        "last_modified" if !exchange.sent.fields.borrow().has(Known::LastModified) => {
            exchange.sent.last_modified.get().is_some_and(|modified| put(out, &date::format(modified)))
        }
        "transfer_encoding" => exchange.sent.chunked.get() && put(out, b"chunked"),
        "content_length" => exchange.sent.length.get().is_some_and(|length| number(out, length)),
        _ => fields(out, exchange.sent.fields.borrow().variable(name), b", "),
    }
}
