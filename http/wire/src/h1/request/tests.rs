//! Request heads under every split, ended early everywhere, at and over every limit.

use bytes::BytesMut;
use tidegate_core_wire::testing::every_split;

use super::*;

/// Heads in an input, how the reading ended and what was left, whatever the pieces it came in.
fn run(limits: HeadLimits, input: &[u8]) -> (Vec<String>, Option<RequestError>, Vec<u8>) {
    every_split(input, |pieces| {
        let (mut parser, mut buffer, mut heads) = (RequestParser::new(limits), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match parser.parse(&mut buffer) {
                    Ok(Some(head)) => heads.push(describe(&head)),
                    Ok(None) => break,
                    Err(error) => return (heads, Some(error), Vec::new()),
                }
            }
        }
        match parser.end(&buffer) {
            Ok(()) => (heads, None, buffer.to_vec()),
            Err(error) => (heads, Some(error), buffer.to_vec()),
        }
    })
}

fn describe(head: &RequestHead) -> String {
    let host = head.host.as_ref().map_or(String::new(), |host| format!("{}:{:?}", host.name.escape_ascii(), host.port));
    format!(
        "{} {} {} {} {:?} {:?} -{}",
        head.method.as_bytes().escape_ascii(),
        head.target.path.escape_ascii(),
        head.protocol().escape_ascii(),
        host,
        head.fields,
        head.framing,
        head.ignored().count()
    )
}

fn default(input: &str) -> (Vec<String>, Option<RequestError>, Vec<u8>) {
    run(HeadLimits::default(), input.as_bytes())
}

#[test]
fn heads_are_read_under_every_split() {
    for (input, heads) in [
        ("", &[][..]),
        ("\r\n\n\r\r", &[]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &["GET / HTTP/1.1 a:None [Host: a] None -0"]),
        ("\r\n\r\nGET / HTTP/1.1\nHost:A.:80\n\n", &["GET / HTTP/1.1 a:Some(80) [Host: A.:80] None -0"]),
        ("GET   /a//b?c   HTTP/1.0  \r\n\r\n", &["GET /a/b HTTP/1.0  [] None -0"]),
        ("GET /x\r\n", &["GET /x   [] None -0"]),
        ("GET /x \n", &["GET /x   [] None -0"]),
        ("PURGE / HTTP/1.5\r\nHost: a\r\n\r\n", &["PURGE / HTTP/1.5 a:None [Host: a] None -0"]),
        ("GET http://H:8/p HTTP/1.1\r\nHost: b\r\n\r\n", &["GET /p HTTP/1.1 h:Some(8) [Host: b] None -0"]),
        ("CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n", &["CONNECT / HTTP/1.1 a:Some(443) [Host: b] None -0"]),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX_y: 1\r\nZ(: 2\r\n\r\n",
            &["POST / HTTP/1.1 a:None [Host: a, Content-Length: 0] Length(0) -2"],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nNoColon\r\nA:\r\n\r\n",
            &["GET / HTTP/1.1 a:None [Host: a, NoColon: , A: ] None -0"],
        ),
        (
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            &[
                "GET /1 HTTP/1.1 a:None [Host: a] None -0",
                "GET /2 HTTP/1.1 a:None [Host: a, Transfer-Encoding: Chunked] Chunked -0",
            ],
        ),
        ("GET /\u{e9} HTTP/1.0\r\n\r\n", &["GET /\\xc3\\xa9 HTTP/1.0  [] None -0"]),
    ] {
        let (found, error, _) = default(input);
        assert_eq!(error, None, "{input:?}");
        assert_eq!(found, heads, "{input:?}");
    }
}

#[test]
fn bad_request_lines_are_refused() {
    for (line, error) in [
        ("get / HTTP/1.1", RequestError::BadMethod),
        ("G3T / HTTP/1.1", RequestError::BadMethod),
        (" GET / HTTP/1.1", RequestError::BadMethod),
        ("GET", RequestError::BadMethod),
        ("GET\t/ HTTP/1.1", RequestError::BadMethod),
        ("\x16\x03\x01\x02", RequestError::BadMethod),
        ("GET ", RequestError::BadRequestLine),
        ("GET x HTTP/1.1", RequestError::BadRequestLine),
        ("GET ?x HTTP/1.1", RequestError::BadRequestLine),
        ("GET \t/ HTTP/1.1", RequestError::BadRequestLine),
        ("GET / HTTP/1.1 x", RequestError::BadRequestLine),
        ("GET /a b HTTP/1.1", RequestError::BadRequestLine),
        ("GET / HTTP/1.1\r\r", RequestError::BadRequestLine),
        ("GET / HTTP/1.1\t", RequestError::BadRequestLine),
        ("GET /\r HTTP/1.1", RequestError::BadRequestLine),
        ("GET /\0 HTTP/1.1", RequestError::BadRequestLine),
        ("GET /#a HTTP/1.1", RequestError::BadRequestLine),
        ("GET /%zz HTTP/1.1", RequestError::BadRequestLine),
        ("GET /../ HTTP/1.1", RequestError::BadRequestLine),
        ("GET / http/1.1", RequestError::BadRequestLine),
        ("GET / HTTP/1", RequestError::BadRequestLine),
        ("GET / HTTP/1.", RequestError::BadRequestLine),
        ("GET / HTTP/1.1111", RequestError::BadRequestLine),
        ("GET / HTTP/0.9", RequestError::BadRequestLine),
        ("GET / HTTP/1.x", RequestError::BadRequestLine),
        ("GET / HTTP/+1.1", RequestError::BadRequestLine),
        ("OPTIONS * HTTP/1.1", RequestError::BadRequestLine),
        ("CONNECT / HTTP/1.1", RequestError::BadRequestLine),
        ("GET / HTTP/2.0", RequestError::BadVersion),
        ("GET / HTTP/9", RequestError::BadVersion),
        ("GET / HTTP/11.1", RequestError::BadVersion),
        ("POST /", RequestError::BadHttp09Method),
        ("GET http:///x HTTP/1.1", RequestError::BadHostInLine),
        ("GET http://a..b/ HTTP/1.1", RequestError::BadHostInLine),
    ] {
        let (heads, found, _) = default(&format!("{line}\r\nHost: a\r\n\r\n"));
        assert_eq!((heads.len(), found), (0, Some(error)), "{line:?}");
    }
}

#[test]
fn bad_fields_are_refused() {
    let bad = |before: &str, byte| RequestError::BadHeader(before.into(), byte);
    let twice = |last: &str, first: &str| RequestError::DuplicateHeader(Box::new((last.into(), first.into())));
    for (lines, error) in [
        ("A : b\r\n", bad("A", b' ')),
        ("A: b\r\n folded\r\n", bad("", b' ')),
        ("A: b\r\n\tfolded\r\n", bad("", b'\t')),
        (": b\r\n", bad("", b':')),
        ("A: b\0\r\n", bad("A: b", 0)),
        ("A: b\rc\r\n", bad("A: b", b'\r')),
        ("A: \x1b\r\n", bad("A: ", 0x1b)),
        ("\r\r\n", bad("", b'\r')),
        ("host: b\r\n", twice("host: b", "Host: a")),
        ("Content-Length: 1\r\ncontent-length:  1\r\n", twice("content-length: 1", "Content-Length: 1")),
        ("Expect: a\r\nExpect: b\r\n", twice("Expect: b", "Expect: a")),
        ("Content-Length: +1\r\n", RequestError::Framing(BadFraming::ContentLength(b"+1".to_vec()))),
        ("Content-Length\r\n", RequestError::Framing(BadFraming::ContentLength(Vec::new()))),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", RequestError::Framing(BadFraming::Both)),
        ("Transfer-Encoding: gzip\r\n", RequestError::Framing(BadFraming::UnknownTransferEncoding(b"gzip".to_vec()))),
    ] {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(default(&input).1, Some(error), "{lines:?}");
    }
}

#[test]
fn a_head_is_judged_as_a_whole() {
    for (input, error) in [
        ("GET / HTTP/1.1\r\n\r\n", RequestError::NoHost),
        ("GET http://a/ HTTP/1.1\r\n\r\n", RequestError::NoHost),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", RequestError::BadHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", RequestError::BadHost),
        ("GET / HTTP/1.1\r\nHost: a,b/c\r\n\r\n", RequestError::BadHost),
        ("GET / HTTP/1.0\r\nHost: a:99999\r\n\r\n", RequestError::BadHost),
        ("GET http://a/ HTTP/1.1\r\nHost: /\r\n\r\n", RequestError::BadHost),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::Trace),
        ("CONNECT a:1 HTTP/1.0\r\n\r\n", RequestError::Connect),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", RequestError::ConnectWithBody),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", RequestError::Framing(BadFraming::ChunkedBefore11)),
    ] {
        assert_eq!(default(input).1, Some(error), "{input:?}");
    }
}

#[test]
fn an_early_end_is_noticed_everywhere() {
    let input = "GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    for cut in 1..input.len() {
        let (heads, error, rest) = run(HeadLimits::default(), &input.as_bytes()[..cut]);
        assert_eq!((heads.len(), error), (0, Some(RequestError::Closed)), "{cut}");
        assert_eq!(rest, &input.as_bytes()[..cut], "an incomplete head stays where it is");
    }
}

/// However slowly a head arrives: the next look at a line begins where the last one ended, and the lines before it are
/// kept.
#[test]
fn what_has_arrived_is_not_looked_at_again() {
    let long = "a".repeat(300);
    for (input, kept) in [
        ("A".repeat(300), 0),
        (format!("GET /{long}"), 0),
        (format!("GET /{long} HTTP/1.1\r\nHost: {long}"), 0),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{long}"), 1),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n B: {long}"), 2),
    ] {
        let (mut parser, mut buffer) = (RequestParser::new(HeadLimits::default()), BytesMut::new());
        for byte in input.bytes() {
            buffer.extend_from_slice(&[byte]);
            assert_eq!(parser.parse(&mut buffer).unwrap().map(|head| head.size()), None, "{input:?}");
            assert_eq!(parser.scanned, buffer.len(), "{input:?}");
            let letters = buffer.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
            assert_eq!(parser.letters, letters, "{input:?}");
        }
        assert_eq!(parser.line_start, input.rfind('\n').map_or(0, |end| end + 1), "{input:?}");
        assert_eq!(parser.begun.map_or(0, |head| head.fields.len()), kept, "{input:?}");
    }
}

#[test]
fn lines_are_limited_to_the_byte_and_before_their_end() {
    let line = "GET /aaaaaaaa HTTP/1.1\r\n";
    let field = "Host: aaaaaaaaaaaaaaaaaaaaaa\r\n";
    let limits = |line: usize, total: usize| HeadLimits { line, total, ..HeadLimits::default() };
    let whole = format!("{line}{field}\r\n");
    let run = |limits, input: &str| run(limits, input.as_bytes()).1;
    assert_eq!(run(limits(field.len(), 1000), &whole), None);
    let start = field.as_bytes()[..field.len() - 1].to_vec();
    assert_eq!(run(limits(field.len() - 1, 1000), &whole), Some(RequestError::HeaderLineTooLong(start)));
    assert_eq!(run(limits(line.len() - 1, 1000), &whole), Some(RequestError::RequestLineTooLong));
    assert_eq!(run(limits(1000, whole.len()), &whole), None);
    assert_eq!(run(limits(1000, whole.len() - 1), &whole), Some(RequestError::HeaderTooLarge));
    assert_eq!(run(limits(40, 1000), &"GET /aaaa".repeat(9)), Some(RequestError::RequestLineTooLong));
    assert_eq!(run(limits(40, 1000), &"A".repeat(50)), Some(RequestError::RequestLineTooLong));
    let drip = format!("{line}{}", "a".repeat(50));
    assert_eq!(run(limits(40, 1000), &drip), Some(RequestError::HeaderLineTooLong(vec![b'a'; 40])));
    assert_eq!(run(limits(40, 50), &drip), Some(RequestError::HeaderTooLarge));
}

#[test]
fn field_lines_are_counted_without_the_ignored() {
    let limits = HeadLimits { fields: 2, ..HeadLimits::default() };
    let head = |lines: &str| run(limits, format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes()).1;
    assert_eq!(head("A: b\r\nX_: c\r\n"), None);
    assert_eq!(head("A: b\r\nB: c\r\n"), Some(RequestError::TooManyHeaders));
}

#[test]
fn names_are_judged_as_configured() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX_y: 1\r\nZ(: 2\r\n\r\n";
    for (ignore_invalid, underscores, fields) in [
        (true, false, "[Host: a] None -2"),
        (true, true, "[Host: a, X_y: 1] None -1"),
        (false, false, "[Host: a, X_y: 1, Z(: 2] None -0"),
    ] {
        let heads = run(HeadLimits { ignore_invalid, underscores, ..HeadLimits::default() }, input).0;
        assert_eq!(heads, [format!("GET / HTTP/1.1 a:None {fields}")]);
    }
    let limits = HeadLimits { asterisk: true, ..HeadLimits::default() };
    assert_eq!(run(limits, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").1, None);
    assert_eq!(run(limits, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n").1, Some(RequestError::BadRequestLine));
}

#[test]
fn what_was_understood_survives_an_error() {
    for (input, path, host, line) in [
        ("GET /a HTTP/1.1\r\nHost: b\r\nA : c\r\n\r\n", "/a", Some("b"), "GET /a HTTP/1.1"),
        ("GET /a HTTP/1.1\r\nHost: b\r\nHost: c\r\n\r\n", "/a", Some("b"), "GET /a HTTP/1.1"),
        ("GET /a HTTP/1.1\r\n\r\n", "/a", None, "GET /a HTTP/1.1"),
        ("GET /%zz HTTP/1.1\r\n\r\n", "", None, "GET /%zz HTTP/1.1"),
        ("get", "", None, "get"),
        ("GET /a HTTP/9.9\r\n", "", None, "GET /a HTTP/9.9"),
        ("\u{16}\u{3}\u{1}\rx", "", None, "\u{16}\u{3}\u{1}"),
    ] {
        let mut parser = RequestParser::new(HeadLimits::default());
        let mut buffer = BytesMut::from(input);
        parser.parse(&mut buffer).unwrap_err();
        let head = parser.refused(&mut buffer);
        assert_eq!(head.target.path, path.as_bytes(), "{input:?}");
        let found = head.host.as_ref().map(|host| host.name.to_vec());
        assert_eq!(found, host.map(|host| host.as_bytes().to_vec()), "{input:?}");
        assert_eq!(head.line(), line.as_bytes(), "{input:?}");
    }
    let mut parser = RequestParser::new(HeadLimits::default());
    let mut buffer = BytesMut::from("GET /%zz HTTP/1.1\r\nHo");
    parser.parse(&mut buffer).unwrap_err();
    assert_eq!(parser.partial_line(&buffer), b"GET /%zz HTTP/1.1");
}

#[test]
fn errors_speak_as_nginx() {
    for (error, status, text) in [
        (RequestError::BadVersion, 505, "client sent invalid version"),
        (RequestError::RequestLineTooLong, 414, "client sent too long URI"),
        (RequestError::TooManyHeaders, 494, "client sent too many header lines"),
        (RequestError::HeaderLineTooLong(b"A: ".to_vec()), 494, "client sent too long header line: \"A: ...\""),
        (RequestError::BadHeader(b"A".to_vec(), 0), 400, "client sent invalid header line: \"A\\x00...\""),
        (
            RequestError::DuplicateHeader(Box::new((b"host: b".to_vec(), b"Host: a".to_vec()))),
            400,
            "client sent duplicate host header: \"host: b\", previous value: \"Host: a\"",
        ),
        (
            RequestError::DuplicateHeader(Box::new((b"Expect: b".to_vec(), b"Expect: a".to_vec()))),
            400,
            "client sent duplicate header line: \"Expect: b\", previous value: \"Expect: a\"",
        ),
        (RequestError::Trace, 405, "client sent TRACE method"),
        (
            RequestError::Framing(BadFraming::UnknownTransferEncoding(b"gzip".to_vec())),
            501,
            "client sent unknown \"Transfer-Encoding\": \"gzip\"",
        ),
    ] {
        assert_eq!((error.status(), error.to_string().as_str()), (status, text));
    }
    assert_eq!(RequestError::BadMethod.action(), "reading client request line");
    assert_eq!(RequestError::NoHost.action(), "reading client request headers");
}

/// httparse reads well-formed heads as we do, whatever the fields.
#[test]
fn a_second_opinion_agrees() {
    let names = ["Host", "accept", "X-1", "a-B-c"];
    let values = ["a", "a b", "", "  a", "a  ", "\u{e9}", "a\tb", ",;=", ":"];
    for first in values {
        for second in values {
            let lines = [(names[1], first), (names[2], second), (names[3], "last")];
            let text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let input = format!("GET /p?q HTTP/1.1\r\nHost: a\r\n{text}\r\n");
            let mut parser = RequestParser::new(HeadLimits::default());
            let head = parser.parse(&mut BytesMut::from(input.as_str())).unwrap().unwrap();
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut other = httparse::Request::new(&mut headers);
            assert!(other.parse(input.as_bytes()).unwrap().is_complete());
            let theirs: Vec<_> = other.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
            let ours: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
            assert_eq!(ours, theirs, "{input:?}");
        }
    }
}
