//! Heads that are taken, heads that are refused, at and over every limit; anything at all does no harm.

use bytes::BytesMut;

use super::super::fault::Remedy;
use super::super::limits::Code;
use super::super::testing::Noise;
use super::*;
use crate::h1::{HeadLimits, RequestParser};
use crate::uri::Form;

type Line<'a> = (&'a str, &'a str);

const GET: [Line<'_>; 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];

fn read_lines(lines: &[Line<'_>], ended: bool, limits: &RequestLimits) -> Result<Request, Box<Refused>> {
    read(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), ended, limits)
}

fn default(lines: &[Line<'_>]) -> Result<Request, Box<Refused>> {
    read_lines(lines, true, &RequestLimits::default())
}

/// A GET with more fields.
fn with<'a>(more: &[Line<'a>]) -> Vec<Line<'a>> {
    [&GET, more].concat()
}

fn fault(lines: &[Line<'_>], ended: bool, limits: &RequestLimits) -> RequestFault {
    match read_lines(lines, ended, limits) {
        Ok(request) => panic!("{lines:?} is taken: {request:?}"),
        Err(refused) => refused.fault,
    }
}

#[test]
fn a_head_becomes_what_http_1_would_have_made_of_it() {
    let request = default(&[
        (":path", "/a/../b%20c?x=1"),
        (":scheme", "https"),
        (":method", "GET"),
        (":authority", "A.Example.:8443"),
        ("user-agent", "t"),
        ("cookie", "a=1"),
        ("x-own", ""),
        ("cookie", "b=2"),
        ("te", "Trailers"),
    ])
    .unwrap();
    let head = &request.head;
    assert_eq!(head.line(), b"GET /a/../b%20c?x=1 HTTP/2.0");
    assert_eq!((head.protocol(), head.version), (&b"HTTP/2.0"[..], Version::Http2));
    assert_eq!((&head.target.path[..], &head.target.args()[..]), (&b"/b c"[..], &b"x=1"[..]));
    assert_eq!((head.target.raw(), head.target.form), (&b"/a/../b%20c?x=1"[..], Form::Origin));
    let host = head.host.as_ref().unwrap();
    assert_eq!((&host.name[..], host.port), (&b"a.example"[..], Some(8443)));
    let fields: Vec<_> = head.fields.iter().map(|field| format!("{field:?}")).collect();
    assert_eq!(fields, ["user-agent: t", "x-own: ", "te: Trailers", "cookie: a=1; b=2", "host: A.Example.:8443"]);
    assert_eq!((head.method.clone(), head.framing), (Method::Get, Framing::None));
    assert_eq!((&request.scheme[..], request.protocol), (&b"https"[..], None));

    // the same through the parser of HTTP/1
    let mut input = BytesMut::from("GET /a/../b%20c?x=1 HTTP/1.1\r\nHost: A.Example.:8443\r\nX-Own:\r\n\r\n");
    let other = RequestParser::new(HeadLimits::default()).parse(&mut input).unwrap().unwrap();
    assert_eq!((&other.target.path, &other.target.args()), (&head.target.path, &head.target.args()));
    assert_eq!((other.target.raw(), other.target.changed), (head.target.raw(), head.target.changed));
    assert_eq!((other.host, other.framing), (head.host.clone(), head.framing));
}

#[test]
fn hosts_come_from_either_field() {
    for (lines, host) in [
        (vec![(":authority", "a"), (":path", "/")], "a"),
        (vec![(":path", "/"), ("host", "a")], "a"),
        (vec![(":authority", "A:80"), (":path", "/"), ("host", "A:80")], "a"),
        (vec![(":authority", "[::1]:443"), (":path", "/")], "[::1]"),
    ] {
        let request = default(&[&[(":method", "GET"), (":scheme", "http")], lines.as_slice()].concat()).unwrap();
        assert_eq!(request.head.host.unwrap().name, host);
        assert_eq!(request.head.fields.count(Known::Host), 1);
    }
}

#[test]
fn bodies_are_announced() {
    for (length, ended, framing) in [
        (None, true, Framing::None),
        (None, false, Framing::Chunked),
        (Some("0"), true, Framing::Length(0)),
        (Some("0"), false, Framing::Length(0)),
        (Some("007"), false, Framing::Length(7)),
        (Some("9223372036854775807"), false, Framing::Length(9_223_372_036_854_775_807)),
    ] {
        let lines: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
        let request = read_lines(&with(&lines), ended, &RequestLimits::default()).unwrap();
        assert_eq!(request.head.framing, framing, "{length:?} {ended}");
    }
}

#[test]
fn connect_has_its_own_forms() {
    let limits = RequestLimits { connect: true, extended_connect: true, ..RequestLimits::default() };
    let plain = read_lines(&[(":method", "CONNECT"), (":authority", "a:443")], false, &limits).unwrap();
    assert_eq!((plain.head.target.form, plain.head.framing), (Form::Authority, Framing::None));
    assert_eq!((plain.head.host.unwrap().port, &plain.head.target.path[..]), (Some(443), &b"/"[..]));
    assert_eq!((plain.protocol, &plain.scheme[..]), (None, &b""[..]));

    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat?x"),
        (":authority", "a"),
        ("sec-websocket-version", "13"),
    ];
    let request = read_lines(&extended, false, &RequestLimits { connect: false, ..limits }).unwrap();
    assert_eq!(request.protocol.as_deref(), Some(&b"websocket"[..]));
    assert_eq!((request.head.method.clone(), request.head.framing), (Method::Connect, Framing::None));
    assert_eq!((&request.head.target.path[..], &request.head.target.args()[..]), (&b"/chat"[..], &b"x"[..]));
    assert_eq!(request.head.line(), b"CONNECT /chat?x HTTP/2.0");

    for (without, missing) in [(":scheme", Pseudo::Scheme), (":path", Pseudo::Path), (":authority", Pseudo::Authority)]
    {
        let lines: Vec<_> = extended.into_iter().filter(|(name, _)| *name != without).collect();
        assert_eq!(fault(&lines, false, &limits), RequestFault::MissingPseudo(missing));
    }
    for (lines, expected) in [
        (vec![(":method", "CONNECT")], RequestFault::MissingPseudo(Pseudo::Authority)),
        (
            vec![(":method", "CONNECT"), (":authority", "a:1"), (":scheme", "http")],
            RequestFault::PseudoInConnect(Pseudo::Scheme),
        ),
        (
            vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
            RequestFault::PseudoInConnect(Pseudo::Path),
        ),
        (vec![(":method", "CONNECT"), (":authority", "a")], RequestFault::BadPseudo(Pseudo::Authority, b"a".to_vec())),
        (
            vec![(":method", "CONNECT"), (":authority", "a:1"), ("content-length", "1")],
            RequestError::ConnectWithBody.into(),
        ),
        (with(&[]).into_iter().chain([(":protocol", "websocket")]).collect(), RequestFault::ProtocolWithoutConnect),
        (
            vec![(":method", "CONNECT"), (":protocol", "web socket")],
            RequestFault::BadPseudo(Pseudo::Protocol, b"web socket".to_vec()),
        ),
        (vec![(":method", "CONNECT"), (":protocol", "")], RequestFault::EmptyPseudo(Pseudo::Protocol)),
    ] {
        assert_eq!(fault(&lines, false, &limits), expected, "{lines:?}");
    }
    let refused = fault(&extended, false, &RequestLimits { connect: true, ..RequestLimits::default() });
    assert_eq!(refused, RequestFault::UnknownPseudo(b"protocol".to_vec()), "it was not announced");
    let refused = fault(&[(":method", "CONNECT"), (":authority", "a:443")], true, &RequestLimits::default());
    assert_eq!((refused.remedy(), refused), (Remedy::Status(405), RequestError::Connect.into()));
}

#[test]
fn malformed_heads_are_refused() {
    use RequestFault as F;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let duplicate = |one: &str, two: &str| F::Shared(RequestError::DuplicateHeader(Box::new((bytes(two), bytes(one)))));
    let field = |name, value| with(&[(name, value)]);
    let without = |name: &str| GET.into_iter().filter(|line| line.0 != name).collect::<Vec<_>>();
    let set = |name: &str, value: &'static str| {
        GET.into_iter().map(|line| if line.0 == name { (line.0, value) } else { line }).collect::<Vec<_>>()
    };
    let table: Vec<(Vec<Line<'_>>, F)> = vec![
        // pseudo-fields
        (without(":method"), F::MissingPseudo(Pseudo::Method)),
        (without(":scheme"), F::MissingPseudo(Pseudo::Scheme)),
        (without(":path"), F::MissingPseudo(Pseudo::Path)),
        (without(":authority"), F::NoHost),
        (vec![], F::MissingPseudo(Pseudo::Method)),
        (field(":method", "GET"), F::DuplicatePseudo(Pseudo::Method)),
        (field(":scheme", "https"), F::DuplicatePseudo(Pseudo::Scheme)),
        (field(":path", "/"), F::DuplicatePseudo(Pseudo::Path)),
        (field(":authority", "a.example"), F::DuplicatePseudo(Pseudo::Authority)),
        (set(":method", ""), F::EmptyPseudo(Pseudo::Method)),
        (set(":scheme", ""), F::EmptyPseudo(Pseudo::Scheme)),
        (set(":path", ""), F::EmptyPseudo(Pseudo::Path)),
        (set(":authority", ""), F::BadPseudo(Pseudo::Authority, Vec::new())),
        (field(":status", "200"), F::UnknownPseudo(bytes("status"))),
        (field(":protocol", "websocket"), F::UnknownPseudo(bytes("protocol"))),
        (field(":Method", "GET"), F::UnknownPseudo(bytes("Method"))),
        (field(":", "x"), F::UnknownPseudo(Vec::new())),
        (with(&[("a", "b"), (":path", "/")]), F::PseudoOutOfOrder),
        (with(&[("a", "b"), (":nonsense", "/")]), F::PseudoOutOfOrder),
        ([("a", "b")].into_iter().chain(GET).collect(), F::MissingPseudo(Pseudo::Method)),
        (set(":method", "get"), F::BadPseudo(Pseudo::Method, bytes("get"))),
        (set(":method", "GE T"), F::BadPseudo(Pseudo::Method, bytes("GE T"))),
        (set(":method", "GET\r\n"), F::BadPseudo(Pseudo::Method, bytes("GET\r\n"))),
        (set(":scheme", "1http"), F::BadPseudo(Pseudo::Scheme, bytes("1http"))),
        (set(":scheme", "ht tp"), F::BadPseudo(Pseudo::Scheme, bytes("ht tp"))),
        (set(":scheme", "http://x"), F::BadPseudo(Pseudo::Scheme, bytes("http://x"))),
        (set(":path", "a"), F::BadPseudo(Pseudo::Path, bytes("a"))),
        (set(":path", "*"), F::BadPseudo(Pseudo::Path, bytes("*"))),
        (set(":path", "http://a/"), F::BadPseudo(Pseudo::Path, bytes("http://a/"))),
        (set(":path", "/a b"), F::BadPseudo(Pseudo::Path, bytes("/a b"))),
        (set(":path", "/ HTTP/1.1\r\nx: y"), F::BadPseudo(Pseudo::Path, bytes("/ HTTP/1.1\r\nx: y"))),
        (set(":path", "/%zz"), F::BadPseudo(Pseudo::Path, bytes("/%zz"))),
        (set(":path", "/.."), F::BadPseudo(Pseudo::Path, bytes("/.."))),
        (set(":path", "/a#b"), F::BadPseudo(Pseudo::Path, bytes("/a#b"))),
        (set(":authority", "user@a"), F::BadPseudo(Pseudo::Authority, bytes("user@a"))),
        (set(":authority", "a b"), F::BadPseudo(Pseudo::Authority, bytes("a b"))),
        (set(":authority", "a/b"), F::BadPseudo(Pseudo::Authority, bytes("a/b"))),
        (set(":authority", "a:99999"), F::BadPseudo(Pseudo::Authority, bytes("a:99999"))),
        // names and values
        (field("", "x"), F::EmptyName),
        (field("X-Upper", "x"), F::BadName(bytes("X-Upper"))),
        (field("Cookie", "x"), F::BadName(bytes("Cookie"))),
        (field("a b", "x"), F::BadName(bytes("a b"))),
        (field("a:b", "x"), F::BadName(bytes("a:b"))),
        (field("a\r\nb", "x"), F::BadName(bytes("a\r\nb"))),
        (field("a\0", "x"), F::BadName(bytes("a\0"))),
        (field("\u{e9}", "x"), F::BadName(bytes("\u{e9}"))),
        (field("a\u{7f}", "x"), F::BadName(bytes("a\u{7f}"))),
        (field("a", "x\0"), F::BadValue(bytes("a"), bytes("x\0"))),
        (field("a", "x\r\ny: z"), F::BadValue(bytes("a"), bytes("x\r\ny: z"))),
        (field("a", "x\ny"), F::BadValue(bytes("a"), bytes("x\ny"))),
        (field("a", " x"), F::BadValue(bytes("a"), bytes(" x"))),
        (field("a", "x\t"), F::BadValue(bytes("a"), bytes("x\t"))),
        (field("cookie", "a\n"), F::BadValue(bytes("cookie"), bytes("a\n"))),
        // connection fields
        (field("connection", "close"), F::ConnectionField(Known::Connection)),
        (field("connection", ""), F::ConnectionField(Known::Connection)),
        (field("keep-alive", "timeout=5"), F::ConnectionField(Known::KeepAlive)),
        (field("proxy-connection", "close"), F::ConnectionField(Known::ProxyConnection)),
        (field("transfer-encoding", "chunked"), F::ConnectionField(Known::TransferEncoding)),
        (field("transfer-encoding", "identity"), F::ConnectionField(Known::TransferEncoding)),
        (field("upgrade", "h2c"), F::ConnectionField(Known::Upgrade)),
        (field("te", "gzip"), F::BadTe),
        (field("te", "trailers, gzip"), F::BadTe),
        (field("te", ""), F::BadTe),
        (with(&[("te", "trailers"), ("te", "trailers")]), F::BadTe),
        // hosts
        (field("host", "b.example"), F::HostDiffers),
        (field("host", "A.example"), F::HostDiffers),
        (field("host", "a.example:443"), F::HostDiffers),
        (field("host", ""), RequestError::BadHost.into()),
        (field("host", "a/b"), RequestError::BadHost.into()),
        (with(&[("host", "a.example"), ("host", "b")]), duplicate("host: a.example", "host: b")),
        // what may come once
        (
            with(&[("content-length", "0"), ("content-length", "0")]),
            duplicate("content-length: 0", "content-length: 0"),
        ),
        (with(&[("if-range", "a"), ("if-range", "b")]), duplicate("if-range: a", "if-range: b")),
        (with(&[("authorization", "a"), ("authorization", "b")]), duplicate("authorization: a", "authorization: b")),
        // lengths
        (field("content-length", "5"), F::EndedEarly),
        (field("content-length", "-1"), RequestError::Framing(bad_length("-1")).into()),
        (field("content-length", "+5"), RequestError::Framing(bad_length("+5")).into()),
        (field("content-length", "0, 0"), RequestError::Framing(bad_length("0, 0")).into()),
        (field("content-length", ""), RequestError::Framing(bad_length("")).into()),
        (
            field("content-length", "9223372036854775808"),
            RequestError::Framing(bad_length("9223372036854775808")).into(),
        ),
        (set(":method", "TRACE"), RequestError::Trace.into()),
    ];
    for (lines, expected) in table {
        let refused = default(&lines).expect_err(&format!("{lines:?}"));
        assert_eq!(refused.fault, expected, "{lines:?}");
        let remedy = match expected {
            F::EmptyName => Remedy::GoAway(Code::ProtocolError),
            F::Shared(RequestError::Trace) => Remedy::Status(405),
            _ => Remedy::Status(400),
        };
        assert_eq!(refused.fault.remedy(), remedy, "{lines:?}");
        assert_eq!(refused.fault.reset(), Code::ProtocolError);
        let text = refused.fault.to_string();
        assert!(text.starts_with("client ") && !text.contains(['\n', '\0']), "{text}");
        assert_eq!(refused.head.version, Version::Http2);
    }
}

fn bad_length(value: &str) -> framing::BadFraming {
    framing::BadFraming::ContentLength(value.as_bytes().to_vec())
}

#[test]
fn a_refused_head_still_says_what_was_understood() {
    let refused = default(&with(&[("x-one", "1"), ("connection", "close")])).unwrap_err();
    assert_eq!(refused.head.line(), b"GET / HTTP/2.0");
    assert_eq!(refused.head.host.as_ref().unwrap().name, "a.example");
    assert_eq!(refused.head.fields.find(b"x-one"), Some(&b"1"[..]));
    let refused = default(&[(":method", "POST"), (":authority", "a"), (":path", "b")]).unwrap_err();
    assert_eq!((refused.head.line(), &refused.head.host.as_ref().unwrap().name[..]), (&b""[..], &b"a"[..]));
}

#[test]
fn invalid_names_are_ignored_or_not() {
    let lines = with(&[("x_own", "1"), ("x(y", "2"), ("x-own", "3")]);
    for (ignore_invalid, underscores, fields, ignored) in
        [(true, false, 2, 2), (true, true, 3, 1), (false, false, 4, 0), (false, true, 4, 0)]
    {
        let limits = RequestLimits { ignore_invalid, underscores, ..RequestLimits::default() };
        let head = read_lines(&lines, true, &limits).unwrap().head;
        assert_eq!((head.fields.len(), head.ignored().count()), (fields, ignored), "{ignore_invalid} {underscores}");
    }
}

#[test]
fn options_may_ask_for_everything() {
    let lines = [(":method", "OPTIONS"), (":scheme", "http"), (":authority", "a"), (":path", "*")];
    let taken = read_lines(&lines, true, &RequestLimits { asterisk: true, ..RequestLimits::default() }).unwrap();
    assert_eq!(taken.head.target.form, Form::Asterisk);
    assert!(default(&lines).is_err(), "nginx refuses it");
}

#[test]
fn every_limit_holds_at_one_more() {
    let taken: usize = GET.iter().map(|(name, value)| name.len() + value.len()).sum();
    let limits = RequestLimits { total: taken + 100, fields: 5, crumbs: 3, ..RequestLimits::default() };
    let long = "v".repeat(100);
    let of = |size| long.get(..size).unwrap();
    for (more, expected) in [
        (vec![("a", of(98))], None),
        (vec![("a", of(99))], None),
        (vec![("a", of(100))], Some(RequestFault::TooLarge)),
        (vec![("a", of(49)), ("b", of(49))], None),
        (vec![("a", of(49)), ("b", of(50))], Some(RequestFault::TooLarge)),
        (vec![("x_y", of(98))], Some(RequestFault::TooLarge)),
        (vec![("cookie", of(94))], None),
        (vec![("cookie", of(95))], Some(RequestFault::TooLarge)),
        (vec![("a", ""); 4], None),
        (vec![("a", ""); 5], None),
        (vec![("a", ""); 6], Some(RequestError::TooManyHeaders.into())),
        (vec![("a_", ""); 6], Some(RequestError::TooManyHeaders.into())),
        (vec![("cookie", "a"); 2], None),
        (vec![("cookie", "a"); 3], None),
        (vec![("cookie", "a"); 4], Some(RequestFault::TooManyCrumbs)),
    ] {
        let found = read_lines(&with(&more), true, &limits).map(|_| ()).map_err(|refused| refused.fault);
        assert_eq!(found, expected.map_or(Ok(()), Err), "{more:?}");
    }
    assert_eq!(RequestFault::TooLarge.remedy(), Remedy::GoAway(Code::EnhanceYourCalm));
    assert_eq!(RequestFault::TooManyCrumbs.remedy(), Remedy::Status(494));
    assert_eq!(RequestFault::from(RequestError::TooManyHeaders).remedy(), Remedy::Status(494));
}

#[test]
fn a_bomb_of_references_is_refused_before_it_is_copied() {
    let value = "v".repeat(4000);
    let mut given = 0;
    let bomb = std::iter::repeat_with(|| {
        given += 1;
        (&b"cookie"[..], value.as_bytes())
    });
    let lines = GET.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).chain(bomb.take(1_000_000));
    let refused = read(lines, true, &RequestLimits::default()).unwrap_err();
    assert_eq!(refused.fault, RequestFault::TooLarge);
    assert!(given < 10, "{given} lines were looked at");
    assert!(refused.head.size() < 1000);
}

#[test]
fn trailers_have_fields_only() {
    let limits = RequestLimits { fields: 2, ..RequestLimits::default() };
    let trailers = |lines: &[Line<'_>]| {
        read_trailers(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), &limits)
    };
    let fields = trailers(&[("grpc-status", "0"), ("x-sum", "a b")]).unwrap();
    assert_eq!(format!("{fields:?}"), "[grpc-status: 0, x-sum: a b]");
    assert_eq!(trailers(&[]).unwrap().len(), 0);
    for (line, expected) in [
        ((":path", "/"), RequestFault::PseudoOutOfOrder),
        ((":status", "200"), RequestFault::PseudoOutOfOrder),
        (("content-length", "5"), RequestFault::InTrailers(b"content-length".to_vec())),
        (("host", "b"), RequestFault::InTrailers(b"host".to_vec())),
        (("transfer-encoding", "chunked"), RequestFault::ConnectionField(Known::TransferEncoding)),
        (("X-Upper", "x"), RequestFault::BadName(b"X-Upper".to_vec())),
        (("a", "b\r\nc"), RequestFault::BadValue(b"a".to_vec(), b"b\r\nc".to_vec())),
        (("", ""), RequestFault::EmptyName),
    ] {
        assert_eq!(trailers(&[("x-sum", "1"), line]), Err(expected), "{line:?}");
    }
    assert_eq!(trailers(&[("a", ""); 3]), Err(RequestError::TooManyHeaders.into()));
}

#[test]
fn anything_at_all_does_no_harm() {
    const NAMES: &[&str] = &[
        ":method",
        ":scheme",
        ":authority",
        ":path",
        ":protocol",
        "host",
        "cookie",
        "te",
        "content-length",
        "x-a",
        "a_b",
        "",
        "A",
        "\u{ff}",
    ];
    const VALUES: &[&str] =
        &["GET", "CONNECT", "https", "a", "a:80", "/", "/%41?b", "*", "trailers", "0", "5", "", "\u{ff}", "\n", "x=y"];
    let mut noise = Noise::new(7);
    let mut pick = |from: &[&'static str]| from[usize::try_from(noise.below(from.len() as u64)).unwrap()];
    let limits = RequestLimits {
        total: 90,
        fields: 3,
        crumbs: 2,
        connect: true,
        extended_connect: true,
        asterisk: true,
        ..RequestLimits::default()
    };
    let mut taken = 0;
    for round in 0..100_000u32 {
        let mut lines = if round % 3 == 0 { GET.to_vec() } else { Vec::new() };
        lines.extend((0..round / 3 % 9).map(|_| (pick(NAMES), pick(VALUES))));
        match read_lines(&lines, round % 2 == 0, &limits) {
            Ok(request) => {
                taken += 1;
                assert!(request.head.host.is_some() && request.head.line().ends_with(b" HTTP/2.0"));
                assert!(!request.head.line().contains(&b'\n'));
            }
            Err(refused) => assert!(!refused.fault.to_string().contains('\n')),
        }
    }
    assert!(taken > 1000, "{taken}");
}
