//! What a backend does not take, the client keeps: uploads are stopped by the client's own windows, not kept in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Builder;
use tidegate_conformance::backend::TcpBackend;
use tidegate_conformance::client::{Body, Frames, Http2, exchange, frame, head, request};
use tidegate_conformance::message::parse_head;
use tidegate_conformance::proof::chance::{Compared, Content};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Wire, processes, wait_until};

/// What the kernel may keep on the way is a part of it.
const BODY: Content = Content { name: 1, length: 24_000_000 };

/// A backend that reads nothing behind the head of a request for so long, and then compares all that comes. For the first
/// connection it does not wait: what is made once, and what the binary's own pages take, is not what is measured.
fn late(pause: Duration) -> (TcpBackend, Arc<AtomicU64>) {
    let came = Arc::new(AtomicU64::new(0));
    let count = came.clone();
    let backend = TcpBackend::start(move |mut wire, number| {
        let Ok(Some(head)) = wire.try_head() else { return };
        if number > 0 {
            // This is what is tested.
            std::thread::sleep(pause);
        }
        let (_, fields) = parse_head(&head);
        let mut body = Compared::with(BODY);
        let read = read_body(&mut wire, fields.get("Content-Length").is_none(), &mut body, &count);
        let said = match read.and_then(|()| body.end()) {
            Ok(()) => "whole".to_owned(),
            Err(error) => error,
        };
        let _ = wire
            .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}", said.len()));
    });
    (backend, came)
}

fn read_body(wire: &mut Wire, is_chunked: bool, body: &mut Compared, came: &AtomicU64) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut left = if is_chunked { 0 } else { BODY.length as usize };
    loop {
        if is_chunked {
            let line = wire.try_line().map_err(failed)?.ok_or("the connection ended")?;
            left = usize::from_str_radix(line.trim(), 16).map_err(|_| format!("a chunk of {line:?}"))?;
        }
        let is_last = !is_chunked || left == 0;
        while left > 0 {
            let piece = wire.try_exactly(left.min(64 << 10)).map_err(failed)?;
            left -= piece.len();
            came.fetch_add(piece.len() as u64, Ordering::Relaxed);
            body.take(&piece)?;
        }
        if is_chunked {
            wire.try_line().map_err(failed)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

fn serve(backend: &TcpBackend) -> Server {
    Server::config(
        "worker_processes 1; events {} http { access_log off; client_max_body_size 0; server {
            listen 127.0.0.1:%%PORT_0%%; http2 on; location / { proxy_pass http://%%TO%%; proxy_http_version 1.1;
            proxy_request_buffering off; } } }",
    )
    .set("TO", backend.address())
    .start()
}

/// The most that a worker takes while something is done.
fn most_memory<T>(server: &Server, work: impl FnOnce() -> T) -> (u64, T) {
    let worker = server.workers()[0];
    let before = processes::resident_bytes(worker);
    let (stop, most) = (std::sync::atomic::AtomicBool::new(false), AtomicU64::new(before));
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(processes::resident_bytes(worker), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    });
    (most.into_inner() - before, done)
}

#[test]
fn an_upload_over_http_2_waits_for_its_backend() {
    if skip_on_nginx("nginx keeps what it has announced a window for in memory") {
        return;
    }
    let bytes = Bytes::from(BODY.piece(0, BODY.length as usize));
    let length = format!("Content-Length: {}", BODY.length);
    for (lines, pause) in [(&[][..], 3), (&[&*length], 1)] {
        let (backend, came) = late(Duration::from_secs(pause));
        let server = serve(&backend);
        let mut client = Http2::with(server.port(0), None, &Builder::new()).unwrap();
        let begun = Instant::now();
        let mut upload = || {
            client.run_within(Duration::from_secs(60), async |send| {
                let body = Body { bytes: Some(bytes.clone()), trailers: None };
                exchange(send, request("POST", "/", lines), body).await
            })
        };
        assert_eq!(upload().unwrap().response.text(), "whole", "{lines:?}");
        let (more, answer) = most_memory(&server, upload);
        println!("{lines:?}: {} KiB more, {:?}", more >> 10, begun.elapsed());
        assert_eq!(answer.unwrap().response.text(), "whole", "{lines:?}");
        assert_eq!(came.load(Ordering::Relaxed), 2 * BODY.length);
        assert!(more < 3 << 20, "{} KiB for a body that waits", more >> 10);
    }
}

/// A client that does not wait for its library sees that its window stays shut.
#[test]
fn the_window_of_a_stream_opens_as_the_backend_reads() {
    let (backend, came) = late(Duration::from_secs(2));
    // The first is not waited for.
    drop(Wire::try_connect(("127.0.0.1", backend.port())));
    wait_until("the first has come", || (backend.accepted() == 1).then_some(()));
    let server = serve(&backend);
    let mut client = Frames::over(server.connect(0), &[]);
    client.send(Frames::post(1, "/"));
    // RFC 9113: what a window is before any other is announced.
    let (mut stream, mut connection, mut sent) = (65_535_i64, 65_535_i64, 0);
    let mut stopped_at = 0;
    wait_until("the backend is asked", || (backend.accepted() == 2).then_some(()));
    while sent < BODY.length {
        let room = stream.min(connection).min(16_384).min((BODY.length - sent) as i64);
        if room > 0 {
            client.send(frame(0, u8::from(sent + room as u64 == BODY.length), 1, BODY.piece(sent, room as usize)));
            (stream, connection, sent) = (stream - room, connection - room, sent + room as u64);
            continue;
        }
        if came.load(Ordering::Relaxed) == 0 {
            stopped_at = sent;
        }
        let next = client.until(|frame| matches!(frame.kind, 4 | 8) && frame.flags == 0);
        match (next.kind, next.stream) {
            (4, _) => {
                for setting in next.payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                    stream += i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap())) - 65_535;
                }
                client.send(frame(4, 1, 0, []));
            }
            (_, 0) => connection += increment(&next.payload),
            _ => stream += increment(&next.payload),
        }
    }
    println!("stopped after {stopped_at} bytes");
    // The kernel keeps a few megabytes for the backend, and the server hardly more than a window.
    assert!(stopped_at > 0 && stopped_at < 20_000_000, "{stopped_at}");
    assert_eq!(client.status(1), 200);
    assert_eq!(client.until(|frame| frame.stream == 1 && frame.kind == 0).payload, b"whole");
}

fn increment(payload: &[u8]) -> i64 {
    i64::from(u32::from_be_bytes(payload.try_into().unwrap()))
}

/// Over HTTP/1 it is the socket that fills.
#[test]
fn an_upload_over_http_1_waits_for_its_backend() {
    let (backend, came) = late(Duration::from_secs(2));
    let server = serve(&backend);
    let upload = || {
        let mut http = server.http(0);
        http.send(head("POST", "/", &[&format!("Content-Length: {}", BODY.length)]));
        http.send(BODY.piece(0, BODY.length as usize));
        http.response()
    };
    assert_eq!(upload().text(), "whole");
    let (more, answer) = most_memory(&server, upload);
    println!("{} KiB more", more >> 10);
    assert_eq!((answer.text().as_str(), came.load(Ordering::Relaxed)), ("whole", 2 * BODY.length));
    assert!(more < 3 << 20, "{} KiB for a body that waits", more >> 10);
}
