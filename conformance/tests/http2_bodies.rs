//! Bodies over HTTP/2: every byte, both ways, through windows of any size, and each event when it comes.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use h2::client::Builder;
use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::{Body, Frames, Http2, Offer, exchange, frame, request};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Server, Setup, is_nginx};

fn serve(inside: &str) -> Setup {
    Server::config(&format!(
        "worker_processes 1; events {{}} http {{ access_log off; client_max_body_size 0;
         server {{ listen 127.0.0.1:%%PORT_0%%; http2 on; {inside} }}
         server {{ listen 127.0.0.1:%%PORT_1%% ssl; http2 on; ssl_certificate a.crt; ssl_certificate_key a.key; {inside} }} }}"
    ))
    .certificate("a", &Certificate::for_names(&["a.example"]))
}

/// Chance that can be had again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Bytes that are nowhere the same.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend((chance.below(1 << 31) * 0x1_0000_0001).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn sum(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

fn clients(server: &Server, builder: &Builder) -> [Http2; 2] {
    let secure = Offer::name("a.example").alpn(&["h2"]);
    [(0, None), (1, Some(&secure))].map(|(index, offer)| Http2::with(server.port(index), offer, builder).unwrap())
}

/// Sizes around every edge of frames, windows and buffers.
const SIZES: [usize; 20] = [
    0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 16_383, 16_384, 16_385, 32_768, 65_534, 65_535, 65_536, 65_537, 131_071,
    131_073, 3_000_000, 3_145_728,
];

#[test]
fn files_of_every_size_arrive_whole() {
    let mut setup = serve("root %%DIR%%/files; location /small/ { alias %%DIR%%/files/; http2_chunk_size 4000; }");
    for size in SIZES {
        setup = setup.file(&format!("files/{size}"), bytes(size, size as u64));
    }
    let server = setup.start();
    // The client's library takes so many small frames of an nginx for a flood.
    for window in [100, 65_535, 1 << 20].into_iter().skip(usize::from(is_nginx())) {
        for mut client in clients(&server, Builder::new().initial_window_size(window)) {
            for size in SIZES.into_iter().filter(|size| window > 1000 || *size < 70_000) {
                let body = client.get(&format!("/{size}")).body;
                assert_eq!(sum(&body), sum(&bytes(size, size as u64)), "{size} by a window of {window}");
            }
            if !is_nginx() {
                assert_eq!(sum(&client.get("/small/65537").body), sum(&bytes(65_537, 65_537)));
            }
            let part = client.ask("GET", "/3000000", &["Range: bytes=70000-2000000"]);
            assert_eq!(sum(&part.body), sum(&bytes(3_000_000, 3_000_000)[70_000..=2_000_000]));
        }
    }
}

/// Answers with what it was asked with.
fn mirror() -> HttpBackend {
    HttpBackend::start(|request| match request.target.starts_with("/chunked") {
        false => Reply::ok(&request.body),
        true => {
            let chunk = [format!("{:x}\r\n", request.body.len()).as_bytes(), &request.body, b"\r\n"].concat();
            let chunk = if request.body.is_empty() { Vec::new() } else { chunk };
            Reply::raw([&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &chunk, b"0\r\n\r\n"].concat())
        }
    })
}

const PROXY: &str = "proxy_http_version 1.1; location / { proxy_pass http://%%BACKEND%%; }
    location /unbuffered { proxy_pass http://%%BACKEND%%; proxy_buffering off; proxy_request_buffering off; }
    location /small { proxy_pass http://%%BACKEND%%; http2_chunk_size 4000; proxy_request_buffering off; }
    location /chunked { proxy_pass http://%%BACKEND%%; proxy_request_buffering off; }";

#[test]
fn proxied_bodies_arrive_whole_both_ways() {
    let backend = mirror();
    let server = serve(PROXY).set("BACKEND", backend.address()).start();
    let mut chance = Chance(7);
    for round in 0..3 {
        let window = u32::try_from(1000 + chance.below(100_000)).unwrap();
        let frame = u32::try_from(16_384 + chance.below(20_000)).unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(window).max_frame_size(frame).initial_connection_window_size(window.max(70_000));
        for mut client in clients(&server, &builder) {
            for target in ["/", "/unbuffered", "/small", "/chunked"] {
                for size in [1, 8192, 65_535, 65_536, chance.below(300_000) as usize] {
                    let sent = Bytes::from(bytes(size, size as u64 + round));
                    for lines in [&[][..], &[&*format!("Content-Length: {size}")]] {
                        let response = client.post(target, sent.clone(), lines);
                        assert_eq!(response.status, 200);
                        assert_eq!(sum(&response.body), sum(&sent), "{target} {size} by a window of {window}");
                    }
                }
            }
        }
    }
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    let backend = mirror();
    let server = serve(PROXY).set("BACKEND", backend.address()).start();
    let mut builder = Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 21);
    for (mut client, target) in clients(&server, &builder).into_iter().zip(["/unbuffered", "/"]) {
        let sent = Bytes::from(bytes(20_000_000, 20));
        assert_eq!(sum(&client.post(target, sent.clone(), &[]).body), sum(&sent));
    }
}

#[test]
fn many_bodies_at_once_are_not_mixed_up() {
    let backend = mirror();
    let server = serve(PROXY).set("BACKEND", backend.address()).start();
    let mut builder = Builder::new();
    builder.initial_window_size(30_000);
    for mut client in clients(&server, &builder) {
        let all = client.run(async |send| {
            let one = |number: u64| {
                let target = ["/", "/unbuffered", "/small", "/chunked"][number as usize % 4];
                let sent = Bytes::from(bytes(1000 * number as usize + 1, number));
                let body = Body { bytes: Some(sent.clone()), trailers: None };
                let asked = exchange(send.clone(), request("POST", target, &[]), body);
                async move { (sum(&sent), asked.await.map(|answer| sum(&answer.response.body)).ok()) }
            };
            futures_util::future::join_all((0..60).map(one)).await
        });
        all.into_iter().for_each(|(sent, got)| assert_eq!(got, Some(sent)));
    }
}

#[test]
fn trailers_of_a_backend_are_passed_on() {
    let backend = HttpBackend::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
    });
    let setup = serve("location / { proxy_http_version 1.1; proxy_pass http://%%BACKEND%%; proxy_pass_trailers on; }");
    let Some(server) = setup.set("BACKEND", backend.address()).start_if_supported() else { return };
    for mut client in clients(&server, &Builder::new()) {
        let answer = client.whole(request("GET", "/", &["TE: trailers"]), Body::default());
        assert_eq!((answer.response.text().as_str(), answer.trailers.get("x-sum")), ("abc", Some("7")));
    }
}

/// A backend whose answer is events, each with the time of its sending, this far apart.
fn events(count: usize, apart: Duration) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        let _ = wire.try_head();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let mut sent = wire.try_send(head);
        for _ in 0..count {
            // The rhythm is what is tested.
            std::thread::sleep(apart);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
            sent = sent.and_then(|()| wire.try_send(format!("data: {now}\n\n")));
        }
    })
}

#[test]
fn each_event_leaves_when_it_comes() {
    if skip_on_nginx("events wait for a buffer to fill") {
        return;
    }
    let backend = events(200, Duration::from_millis(7));
    let server = serve(
        "proxy_http_version 1.1; location /on { proxy_pass http://%%BACKEND%%; }
         location /off { proxy_pass http://%%BACKEND%%; proxy_buffering off; }",
    )
    .set("BACKEND", backend.address())
    .start();
    for target in ["/on", "/off"] {
        for (mut client, wire) in clients(&server, &Builder::new()).into_iter().zip(["clear", "TLS"]) {
            let mut delays = client.run(async |send| {
                let mut send = send.ready().await.unwrap();
                let (response, _) = send.send_request(request("GET", target, &[]), true).unwrap();
                let mut body = response.await.unwrap().into_body();
                let (mut delays, mut text) = (Vec::new(), String::new());
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
                    body.flow_control().release_capacity(data.len()).unwrap();
                    text.push_str(std::str::from_utf8(&data).unwrap());
                    while let Some((event, rest)) = text.split_once("\n\n") {
                        delays.push(now.saturating_sub(event.strip_prefix("data: ").unwrap().parse().unwrap()));
                        text = rest.to_owned();
                    }
                }
                delays
            });
            delays.sort_unstable();
            assert_eq!(delays.len(), 200);
            let (p50, p99) = (Duration::from_micros(delays[100]), Duration::from_micros(delays[198]));
            println!("{target}, {wire}: p50 {p50:?}, p99 {p99:?}");
            // Of an event that waits for others it would be hundreds; `tidegate-conformance events` has the strict bound.
            assert!(p50 <= Duration::from_millis(100), "{target}, {wire}: {p50:?}");
        }
    }
}

#[test]
fn answers_are_limited_in_rate_alone() {
    let server = serve(
        "location /slow { limit_rate 100k; return 200 $arg_a; } location /fast { return 200 well; }
         location /file { limit_rate 50k; root %%DIR%%; }",
    )
    .file("file", bytes(100_000, 1))
    .start();
    for mut client in clients(&server, &Builder::new()) {
        let begun = Instant::now();
        let (slow, fast) = client.run(async |send| {
            let slow = exchange(send.clone(), request("GET", "/file", &[]), Body::default());
            let fast = async {
                let answer = exchange(send.clone(), request("GET", "/fast", &[]), Body::default()).await;
                (answer.map(|answer| answer.response.text()).ok(), begun.elapsed())
            };
            futures_util::future::join(slow, fast).await
        });
        assert_eq!(sum(&slow.unwrap().response.body), sum(&bytes(100_000, 1)));
        let (text, time) = fast;
        assert_eq!(text.as_deref(), Some("well"));
        println!("limited: {:?}, beside it: {time:?}", begun.elapsed());
        // 100,000 bytes at 50 KiB a second, the first second's worth at once.
        assert!(time < begun.elapsed() / 2, "{time:?}");
        assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_stream_whose_window_stays_shut_is_reset_and_the_others_go_on() {
    let server = serve("send_timeout 300ms; location / { root %%DIR%%; } location /well { return 200 well; }")
        .file("file", bytes(100_000, 1))
        .start();
    // A window of 10 bytes for each stream.
    let mut client = Frames::over(server.connect(0), &[(4, 10)]);
    client.send(Frames::get(1, "/file"));
    assert_eq!(client.status(1), 200);
    let end = client.until(|frame| frame.stream == 1 && frame.kind == 3);
    println!("a shut window: reset with {:?}", end.code());
    client.send(Frames::get(3, "/well"));
    assert_eq!(client.outcome(3), Ok(200));
    server.wait_for_log("client timed out");
}

#[test]
fn a_body_that_does_not_come_times_out_alone() {
    let backend = mirror();
    let server = serve(&format!("client_body_timeout 300ms; {PROXY}")).set("BACKEND", backend.address()).start();
    for target in ["/", "/unbuffered"] {
        let mut client = Frames::over(server.connect(0), &[]);
        client.send([Frames::post(1, target), frame(0, 0, 1, "part"), Frames::get(3, "/other")].concat());
        let mut outcomes = vec![];
        while outcomes.len() < 2 {
            let end = client.until(|frame| matches!(frame.kind, 1 | 3));
            outcomes.push((end.stream, end.status(), end.code()));
        }
        println!("{target}: {outcomes:?}");
        assert!(outcomes.contains(&(3, Some(200), None)), "{target}: {outcomes:?}");
        let first = outcomes.iter().find(|(stream, ..)| *stream == 1).unwrap();
        assert!(matches!(first, (1, Some(408 | 400), _) | (1, None, Some(_))), "{target}: {outcomes:?}");
        assert!(client.is_alive());
    }
    server.wait_for_log("client timed out");
}

#[test]
fn half_a_head_times_out() {
    if skip_on_nginx("it logs the time-out, and the connection is open for longer") {
        return;
    }
    let server = serve("client_header_timeout 300ms; return 200;").start();
    let head = Frames::head("GET", "/", &[]);
    let halves: [(&str, Vec<u8>); 4] = [
        ("half a frame", Frames::get(1, "/")[..12].to_vec()),
        ("HEADERS without their end", frame(1, 1, 1, &head[..4])),
        ("half a CONTINUATION", [frame(1, 1, 1, &head[..4]), frame(9, 4, 1, &head[4..])[..11].to_vec()].concat()),
        ("nothing", Vec::new()),
    ];
    for (what, sent) in halves {
        let mut client = Frames::over(server.connect(0), &[]);
        client.send(&sent);
        if what == "nothing" {
            // It is idle, which is another time's business.
            assert!(client.is_alive());
            continue;
        }
        let begun = Instant::now();
        client.end();
        println!("{what}: {:?}", begun.elapsed());
        assert!(begun.elapsed() >= Duration::from_millis(200), "{what}: {:?}", begun.elapsed());
    }
    let mut half = server.connect(0);
    half.send(b"PRI * HTTP/2");
    assert!(half.at_end());
}
