//! WebSockets over HTTP/2 (RFC 8441): refused, idle, left by either side, and full in both directions.

use std::time::{Duration, Instant};

use tidegate_conformance::backend::TcpBackend;
use tidegate_conformance::client::{Frames, frame};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Wire, processes, wait_until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// A backend that answers the head of a request so, and then does something.
fn backend(answer: &'static str, then: fn(&mut Wire)) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        if let Ok(Some(_)) = wire.try_head() {
            let _ = wire.try_send(answer);
            then(&mut wire);
        }
    })
}

fn serve(backend: &TcpBackend, more: &str) -> Server {
    Server::config(&format!(
        "worker_processes 1; events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%%; http2 on;
            location / {{ proxy_pass http://%%TO%%; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade; {more} }} location /well {{ return 200 well; }} }} }}"
    ))
    .set("TO", backend.address())
    .start()
}

/// A client that has asked for a WebSocket on stream 1.
fn asking(server: &Server) -> Frames {
    let mut client = Frames::over(server.connect(0), &[(4, 10_000_000)]);
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "localhost"),
    ];
    client.send([Frames::window(0, 10_000_000), frame(HEADERS, 4, 1, Frames::block(&fields))].concat());
    client
}

/// The connection goes on, and nothing is left of the tunnel.
fn is_over(server: &Server, client: &mut Frames, backend: &TcpBackend, descriptors: usize) {
    wait_until("the backend is left", || (backend.open() == 0).then_some(()));
    client.send(Frames::get(3, "/well"));
    assert_eq!(client.outcome(3), Ok(200));
    let worker = server.workers()[0];
    wait_until("the descriptors are back", || (processes::descriptors(worker) <= descriptors + 1).then_some(()));
}

fn idle_descriptors(server: &Server) -> usize {
    assert_eq!(server.http(0).get("/well").text(), "well");
    let worker = server.workers()[0];
    wait_until("the client has gone", || {
        let before = processes::descriptors(worker);
        std::thread::sleep(Duration::from_millis(20));
        (processes::descriptors(worker) == before).then_some(before)
    })
}

#[test]
fn a_backend_refuses() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", 403),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 404),
        // It has not understood that it was to switch.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", 200),
        ("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nno\r\n0\r\n\r\n", 503),
        ("", 502),
    ] {
        let backend = backend(answer, |_| {});
        let server = serve(&backend, "");
        let descriptors = idle_descriptors(&server);
        let mut client = asking(&server);
        let head = client.until(|frame| frame.stream == 1 && frame.kind == HEADERS);
        assert_eq!(head.status(), Some(status), "{answer}");
        if !head.is_end() {
            client.until(|frame| frame.stream == 1 && frame.is_end());
        }
        is_over(&server, &mut client, &backend, descriptors);
    }
}

#[test]
fn a_tunnel_that_is_idle_ends() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    let backend = backend(SWITCHED, |wire| drop(wire.try_rest()));
    let server = serve(&backend, "proxy_read_timeout 300ms;");
    let descriptors = idle_descriptors(&server);
    let mut client = asking(&server);
    assert_eq!(client.status(1), 200);
    let begun = Instant::now();
    client.until(|frame| frame.stream == 1 && (frame.is_end() || frame.kind == RST_STREAM));
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    is_over(&server, &mut client, &backend, descriptors);
}

#[test]
fn what_moves_keeps_a_tunnel_open() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    let backend = backend(SWITCHED, |wire| {
        while let Ok(Some(line)) = wire.try_line() {
            let _ = wire.try_send(format!("{line}\n"));
        }
    });
    let server = serve(&backend, "proxy_read_timeout 2s;");
    let mut client = asking(&server);
    assert_eq!(client.status(1), 200);
    // For longer than the time that may be idle.
    for _ in 0..12 {
        client.send(frame(DATA, 0, 1, "ping\n"));
        let answer = client.until(|frame| frame.stream == 1 && frame.kind != HEADERS);
        assert_eq!((answer.kind, answer.payload.as_slice()), (DATA, &b"ping\n"[..]));
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[test]
fn either_side_leaves() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    type Backend = fn(&mut Wire);
    type Leave = fn(&mut Frames);
    let waits: Backend = |wire| drop(wire.try_rest());
    let cases: [(&str, Backend, Leave); 5] = [
        ("the client ends its side", waits, |client| client.send(frame(DATA, 1, 1, []))),
        ("the client ends its side with the last of its data", waits, |client| client.send(frame(DATA, 1, 1, "bye"))),
        ("the client resets", waits, |client| client.send(Frames::reset(1))),
        ("the backend closes", |_| {}, |_| {}),
        ("the backend closes behind its last data", |wire| drop(wire.try_send("bye")), |_| {}),
    ];
    for (name, then, leave) in cases {
        let backend = backend(SWITCHED, then);
        let server = serve(&backend, "proxy_read_timeout 600s;");
        let descriptors = idle_descriptors(&server);
        let mut client = asking(&server);
        assert_eq!(client.status(1), 200, "{name}");
        leave(&mut client);
        if name.starts_with("the backend") {
            let mut heard = Vec::new();
            loop {
                let next = client.until(|frame| frame.stream == 1 && matches!(frame.kind, DATA | RST_STREAM));
                assert_eq!(next.kind, DATA, "{name}");
                heard.extend_from_slice(&next.payload);
                if next.is_end() {
                    break;
                }
            }
            assert_eq!(heard, if name.contains("last") { &b"bye"[..] } else { b"" }, "{name}");
        }
        is_over(&server, &mut client, &backend, descriptors);
    }
}

#[test]
fn both_directions_are_full_and_nothing_is_lost() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    const LENGTH: usize = 3_000_000;
    let backend = backend(SWITCHED, |wire| {
        let mut left = LENGTH;
        while left > 0 {
            let Ok(piece) = wire.try_exactly(left.min(10_000)) else { return };
            left -= piece.len();
            if wire.try_send(piece).is_err() {
                return;
            }
        }
    });
    let server = serve(&backend, "");
    let mut client = asking(&server);
    assert_eq!(client.status(1), 200);
    let byte = |at: usize| u8::try_from(at % 251).unwrap();
    let (mut sent, mut window, mut heard) = (0, 65_000_usize, 0);
    while heard < LENGTH {
        while sent < LENGTH && window > 0 {
            let count = window.min(16_000).min(LENGTH - sent);
            client.send(frame(DATA, 0, 1, (sent..sent + count).map(byte).collect::<Vec<u8>>()));
            (sent, window) = (sent + count, window - count);
        }
        let next = client.until(|frame| frame.stream == 1 && matches!(frame.kind, DATA | RST_STREAM | 8));
        match next.kind {
            8 => window += u32::from_be_bytes(next.payload.try_into().unwrap()) as usize,
            DATA => {
                assert!(next.payload.iter().enumerate().all(|(at, found)| *found == byte(heard + at)), "{heard}");
                heard += next.payload.len();
            }
            _ => panic!("reset after {heard}"),
        }
    }
}
