//! Paths that stand alone: the parsers, and the choice of a peer.

use std::rc::Rc;

use bytes::BytesMut;
use tidegate_balancer::algorithm::least_conn::LeastConn;
use tidegate_balancer::algorithm::round_robin::RoundRobin;
use tidegate_balancer::{Ask, Balancer, Group, Outcome, Peer};
use tidegate_core::net::Address;
use tidegate_http_wire::h1::reply::ReplyParser;
use tidegate_http_wire::h1::request::{HeadLimits, RequestParser};

use crate::count::Meter;

/// As a browser sends it.
pub const REQUEST: &[u8] = b"GET /articles/2026/11/a-page.html?from=front&n=12 HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Referer: https://www.example.com/articles/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=1a2b3c4d5e6f708192a3b4c5d6e7f809; theme=dark\r\n\
    \r\n";

/// As an application sends it.
pub const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: application/1.0\r\n\
    Date: Wed, 25 Nov 2026 12:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 512\r\n\
    Cache-Control: max-age=60\r\n\
    ETag: \"5f2b-1a2b3c\"\r\n\
    Connection: keep-alive\r\n\
    \r\n";

/// A request's head is parsed.
pub fn request_head(meter: &Meter) {
    let make = || (RequestParser::new(HeadLimits::default()), BytesMut::from(REQUEST));
    meter.repeat(make, |(parser, input)| parser.parse(input).expect("a good head").expect("a whole head"));
}

/// A reply's head is parsed.
pub fn reply_head(meter: &Meter) {
    let make = || (ReplyParser::new(4096), BytesMut::from(REPLY));
    meter.repeat(make, |(parser, input)| parser.parse(input).expect("a good head").expect("a whole head"));
}

/// One of four peers is leased in turn, and does its work.
pub fn round_robin(meter: &Meter) {
    lease(meter, Box::new(RoundRobin));
}

/// One of four peers is leased by its connections, and does its work.
pub fn least_conn(meter: &Meter) {
    lease(meter, Box::new(LeastConn));
}

fn lease(meter: &Meter, method: Box<dyn Balancer>) {
    let peers = ["/a", "/b", "/c", "/d"].map(|path| Peer::new(Address::Unix(path.into())));
    let group = Rc::new(Group::new("group", peers.into(), method, None).expect("there is room"));
    let client = Address::Unix("".into());
    meter.repeat(
        || (),
        |()| {
            let lease = group.lease(&Ask { client: &client, tried: &[] }).expect("a peer");
            lease.report(Outcome::Success)
        },
    );
}
