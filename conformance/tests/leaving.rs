//! A client leaves at any stage of an exchange, on either wire and in whatever way: nothing of it is left.

use std::thread;
use std::time::Duration;

use tidegate_conformance::backend::{DeafBackend, TcpBackend};
use tidegate_conformance::client::{Frames, frame, head};
use tidegate_conformance::temporary::{self, temporary};
use tidegate_conformance::{Http, Server, is_nginx, processes, wait_until};

/// A server, and backends each of which goes so far and no further.
struct Scene {
    server: Server,
    /// Says nothing.
    silent: TcpBackend,
    /// Begins a body.
    half: TcpBackend,
    /// Sends for ever, but not as fast as it could.
    flowing: TcpBackend,
    /// Sends much, and ends.
    brief: TcpBackend,
    /// Agrees to switch protocols.
    tunnel: TcpBackend,
    /// Cannot be connected to.
    deaf: DeafBackend,
}

/// More than the kernel keeps for a client that does not read.
const LARGE: usize = 16 << 20;

impl Scene {
    fn set() -> Scene {
        let silent = TcpBackend::start(|mut wire, _| drop(wire.try_rest()));
        let half = TcpBackend::start(|mut wire, _| {
            let _ = wire.try_head();
            let _ = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
            let _ = wire.try_rest();
        });
        let flowing = TcpBackend::start(|mut wire, _| {
            let _ = wire.try_head();
            let mut sent = wire.try_send("HTTP/1.1 200 OK\r\n\r\n");
            while sent.is_ok() {
                thread::sleep(Duration::from_millis(2));
                sent = wire.try_send(vec![b'x'; 64 << 10]);
            }
        });
        let brief = TcpBackend::start(|mut wire, _| {
            let _ = wire.try_head();
            let _ = wire.try_send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let _ = wire.try_send(vec![b'x'; LARGE]);
        });
        let tunnel = TcpBackend::start(|mut wire, _| {
            let _ = wire.try_head();
            let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            let _ = wire.try_send(answer);
            let _ = wire.try_rest();
        });
        let deaf = DeafBackend::start();
        let server = Server::config(&format!(
            "worker_processes 1; events {{}} http {{ access_log off; client_max_body_size 0; {}
             proxy_http_version 1.1; proxy_read_timeout 600s; proxy_connect_timeout 600s; client_body_buffer_size 8k;
             limit_req_zone $arg_key zone=slow:1m rate=30r/m;
             server {{ listen 127.0.0.1:%%PORT_0%%; http2 on; root %%DIR%%;
               location = /status {{ stub_status; }}
               location /silent {{ proxy_pass http://%%SILENT%%; }}
               location /unbuffered {{ proxy_pass http://%%SILENT%%; proxy_request_buffering off; }}
               location /half {{ proxy_pass http://%%HALF%%; }}
               location /half-unbuffered {{ proxy_pass http://%%HALF%%; proxy_buffering off; }}
               location /flowing {{ proxy_pass http://%%FLOWING%%; }}
               location /flowing-unbuffered {{ proxy_pass http://%%FLOWING%%; proxy_buffering off; }}
               location /brief {{ proxy_pass http://%%BRIEF%%; }}
               location /deaf {{ proxy_pass http://%%DEAF%%; }}
               location /tunnel {{ proxy_pass http://%%TUNNEL%%; proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection upgrade; }}
               location /delayed {{ limit_req zone=slow burst=9; alias %%DIR%%/small; }}
               location /limited {{ limit_rate 1k; alias %%DIR%%/file; }}
               location /file {{ }} }} }}",
            temporary::PATHS
        ))
        .set("SILENT", silent.address())
        .set("HALF", half.address())
        .set("FLOWING", flowing.address())
        .set("BRIEF", brief.address())
        .set("DEAF", deaf.address())
        .set("TUNNEL", tunnel.address())
        .file("file", vec![b'x'; LARGE])
        .file("small", "small")
        .start();
        Scene { server, silent, half, flowing, brief, tunnel, deaf }
    }

    /// What `stub_status` says of this: connections that are there, and those of them with an exchange under way.
    fn standing(&self) -> (usize, usize) {
        let text = self.server.http(0).get("/status").text();
        let words: Vec<&str> = text.split_whitespace().collect();
        let behind = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse().ok()
        };
        (behind("connections:").expect("a count"), behind("Writing:").expect("a count"))
    }

    /// Connections to backends, among them those that are not made yet.
    fn upstream(&self) -> usize {
        let backends = [&self.silent, &self.half, &self.flowing, &self.brief, &self.tunnel];
        backends.iter().map(|backend| backend.open()).sum::<usize>() + self.deaf.connecting()
    }

    fn descriptors(&self) -> usize {
        processes::descriptors(self.server.workers()[0])
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Scene) -> bool) {
        wait_until(what, || is_so(self).then_some(()));
    }

    /// Nothing but the client that asks is there, and those that still are though none of their streams is.
    fn wait_until_nothing_is_left(&self, what: &str, clients: usize, descriptors: usize) {
        wait_until(&format!("nothing is left of {what}"), || {
            let left = (self.upstream(), temporary(&self.server), self.standing());
            (left == (0, 0, (1 + clients, 1)) && self.descriptors() <= descriptors + clients).then_some(())
        });
    }
}

/// A client on either wire.
enum Client {
    One(Http),
    Two(Frames),
}

impl Client {
    /// Asks for something, with this much of a body that is to be longer, if there is one.
    fn ask(&mut self, target: &str, part: Option<usize>) {
        let body = vec![b'x'; part.unwrap_or(0)];
        match (self, part) {
            (Client::One(http), None) => http.send(head("GET", target, &[])),
            (Client::One(http), Some(_)) => {
                http.send(head("POST", target, &["Content-Length: 1000000"]));
                http.send(body);
            }
            (Client::Two(frames), None) => frames.send(Frames::get(1, target)),
            (Client::Two(frames), Some(_)) => {
                frames.send(Frames::post(1, target));
                body.chunks(16_000).for_each(|piece| frames.send(frame(0, 0, 1, piece)));
            }
        }
    }

    /// Reads the head of the answer, and so much more.
    fn read(&mut self, count: usize) {
        match self {
            Client::One(http) => {
                assert!(http.wire.try_head().unwrap().unwrap().starts_with(b"HTTP/1.1 "));
                http.wire.exactly(count);
            }
            Client::Two(frames) => {
                frames.until(|frame| frame.stream == 1 && frame.kind == 1);
                let mut left = count;
                while left > 0 {
                    let data = frames.until(|frame| frame.stream == 1 && frame.kind == 0);
                    left = left.saturating_sub(data.payload.len());
                }
            }
        }
    }
}

/// How far an exchange has come, and how it comes to that.
type Stage = (&'static str, fn(&Scene, &mut Client));

const STAGES: &[Stage] = &[
    ("nothing is said", |_, _| {}),
    ("in the head", |_, client| match client {
        Client::One(http) => http.send("GET / HTTP/1.1\r\nHo"),
        Client::Two(frames) => frames.send(&Frames::get(1, "/")[..12]),
    }),
    ("in a body that is kept in memory", |scene, client| {
        client.ask("/silent", Some(100));
        scene.wait("the request is there", |scene| scene.standing().1 == 2);
    }),
    ("in a body that is kept in a file", |scene, client| {
        client.ask("/silent", Some(60_000));
        scene.wait("a file is begun", |scene| temporary(&scene.server) > 0);
    }),
    ("in a body that is passed on", |scene, client| {
        client.ask("/unbuffered", Some(50_000));
        scene.wait("the backend is asked", |scene| scene.silent.open() == 1);
    }),
    ("while a backend is connected to", |scene, client| {
        client.ask("/deaf", None);
        scene.wait("it is connected to", |scene| scene.deaf.connecting() > 0);
    }),
    ("before the backend answers", |scene, client| {
        client.ask("/silent", None);
        scene.wait("the backend is asked", |scene| scene.silent.open() == 1);
    }),
    ("in the body of an answer", |_, client| {
        client.ask("/half", None);
        client.read(4);
    }),
    ("in the body of an answer that is not buffered", |_, client| {
        client.ask("/half-unbuffered", None);
        client.read(4);
    }),
    ("while an answer waits for it", |scene, client| {
        client.ask("/flowing-unbuffered", None);
        scene.wait("it flows", |scene| scene.flowing.open() == 1);
        client.read(10_000);
    }),
    ("while a file is written", |scene, client| {
        client.ask("/flowing", None);
        scene.wait("a file is begun", |scene| temporary(&scene.server) > 0);
    }),
    ("while a file is read back", |scene, client| {
        client.ask("/brief", None);
        scene.wait("the file is written", |scene| temporary(&scene.server) > 0 && scene.brief.open() == 0);
        client.read(50_000);
    }),
    ("while it is delayed", |scene, client| {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let target = format!("/delayed?key={}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        assert_eq!(scene.server.http(0).get(&target).status, 200);
        client.ask(&target, None);
        scene.wait("it waits", |scene| scene.standing().1 == 2);
    }),
    ("in a file that it does not read", |_, client| {
        client.ask("/file", None);
        client.read(1000);
    }),
    ("in an answer that is limited in its rate", |_, client| {
        client.ask("/limited", None);
        client.read(500);
    }),
    ("in a tunnel", |scene, client| {
        match client {
            Client::One(http) => {
                http.send(head("GET", "/tunnel", &["Connection: upgrade", "Upgrade: websocket"]));
            }
            Client::Two(frames) => {
                let fields = [
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "http"),
                    (":path", "/tunnel"),
                    (":authority", "localhost"),
                ];
                frames.send(frame(1, 4, 1, Frames::block(&fields)));
            }
        }
        client.read(0);
        scene.wait("the tunnel is open", |scene| scene.tunnel.open() == 1);
    }),
    ("behind a whole answer", |_, client| {
        client.ask("/status", None);
        client.read(10);
    }),
];

/// How a client leaves. True when its connection is still there.
type Way = (&'static str, fn(Client) -> Option<Client>);

const WAYS: &[Way] = &[
    ("with a reset", |client| {
        match client {
            Client::One(http) => http.wire.abort(),
            Client::Two(frames) => frames.wire.abort(),
        }
        None
    }),
    ("in order", |_| None),
    ("from the stream alone", |client| match client {
        Client::One(_) => None,
        Client::Two(mut frames) => {
            frames.send(Frames::reset(1));
            Some(Client::Two(frames))
        }
    }),
];

fn leave_at_every_stage(connect: fn(&Server) -> Client) {
    let scene = Scene::set();
    // What is begun once, and kept, is no leak.
    scene.server.http(0).get("/file");
    let mut descriptors = None;
    for round in 0..2 {
        for (stage, reach) in STAGES {
            for (way, leave) in WAYS {
                let is_two = matches!(connect(&scene.server), Client::Two(_));
                let is_stream = *way == "from the stream alone";
                // A stream that is not open cannot be left, and within a frame nothing else can be said.
                if is_stream && (!is_two || ["nothing is said", "in the head"].contains(stage)) {
                    continue;
                }
                // nginx has no extended CONNECT.
                if is_nginx() && is_two && *stage == "in a tunnel" {
                    continue;
                }
                let mut client = connect(&scene.server);
                reach(&scene, &mut client);
                let left = leave(client);
                let most = descriptors.unwrap_or(usize::MAX - 1);
                scene.wait_until_nothing_is_left(&format!("leaving {stage} {way}"), usize::from(left.is_some()), most);
                if let Some(Client::Two(mut frames)) = left {
                    assert!(frames.is_alive(), "{stage} {way}");
                }
            }
        }
        if round == 0 {
            scene.wait_until_nothing_is_left("the first round", 0, usize::MAX - 1);
            descriptors = Some(scene.descriptors());
        }
    }
}

#[test]
fn nothing_is_left_of_a_client_of_http_1() {
    leave_at_every_stage(|server| Client::One(server.http(0)));
}

#[test]
fn nothing_is_left_of_a_client_of_http_2() {
    leave_at_every_stage(|server| Client::Two(Frames::over(server.connect(0), &[])));
}

/// The log has a line for each request whose client has left, whatever it was that it left.
#[test]
fn what_is_left_is_logged() {
    let silent = TcpBackend::start(|mut wire, _| drop(wire.try_rest()));
    let half = TcpBackend::start(|mut wire, _| {
        let _ = wire.try_head();
        let _ = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
        let _ = wire.try_rest();
    });
    let server = Server::config(
        "worker_processes 1; events {} http { log_format own '$request_uri $server_protocol $status';
         proxy_http_version 1.1; server { listen 127.0.0.1:%%PORT_0%%; http2 on; access_log access.log own;
         location /silent { proxy_pass http://%%SILENT%%; } location /half { proxy_pass http://%%HALF%%; } } }",
    )
    .set("SILENT", silent.address())
    .set("HALF", half.address())
    .start();
    let connects: [fn(&Server) -> Client; 2] =
        [|server| Client::One(server.http(0)), |server| Client::Two(Frames::over(server.connect(0), &[]))];
    let mut expected = Vec::new();
    for (connect, protocol) in connects.into_iter().zip(["HTTP/1.1", "HTTP/2.0"]) {
        for (way, leave) in WAYS {
            let target = format!("/silent?{}", way.replace(' ', "-"));
            let mut client = connect(&server);
            client.ask(&target, None);
            wait_until("the backend is asked", || (silent.open() == 1).then_some(()));
            let left = leave(client);
            expected.push(format!("{target} {protocol} 499"));
            wait_until("it is logged", || server.lines("access.log").contains(expected.last().unwrap()).then_some(()));
            drop(left);
            let target = format!("/half?{}", way.replace(' ', "-"));
            let mut client = connect(&server);
            client.ask(&target, None);
            client.read(4);
            let left = leave(client);
            expected.push(format!("{target} {protocol} 200"));
            wait_until("it is logged", || server.lines("access.log").contains(expected.last().unwrap()).then_some(()));
            drop(left);
        }
    }
    // Once each.
    let (mut lines, mut expected) = (server.wait_for_lines("access.log", expected.len()), expected);
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}
