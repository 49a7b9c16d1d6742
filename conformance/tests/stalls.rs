//! What holds a worker up is named; and a file system that hangs does not hold it up.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::fuse::{self, CONTENT, Fuse, with_own_mounts};
use tidegate_conformance::processes::descriptors;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::wait::poll_for;
use tidegate_conformance::{Http, Server, wait_until};

fn blocking(directives: &str, time: &str) -> Option<Server> {
    let text = format!(
        "{directives} events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%%; server_name site;
            location / {{ return 200 well; }}
            location /block {{ fault block={time}; try_files /none =204; }} }} }}"
    );
    Server::config(&text).faulty().map(tidegate_conformance::Setup::start)
}

fn stalls(server: &Server) -> Vec<String> {
    server.log_lines().into_iter().filter(|line| line.contains("held up")).collect()
}

#[test]
fn what_blocks_the_worker_is_named() {
    let Some(server) = blocking("", "500ms") else { return };
    assert_eq!(server.http(0).get("/block?it").status, 204);
    let line = server.wait_for_log("held up");
    println!("{line}");
    let said = "while running phase handlers, client: 127.0.0.1, server: site, request: \"GET /block?it HTTP/1.1\"";
    assert!(line.contains("[warn]") && line.contains(said), "{line}");
    let time = line.split("held up for ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(time.parse::<u64>().unwrap() >= 490, "{line}");
}

#[test]
fn stalls_are_logged_once_a_second_at_most() {
    let Some(server) = blocking("", "250ms") else { return };
    let begun = Instant::now();
    let mut client = server.http(0);
    (0..8).for_each(|_| assert_eq!(client.get("/block").status, 204));
    // The log is written before the worker turns to what comes next.
    assert_eq!(client.get("/").text(), "well");
    let most = begun.elapsed().as_secs() + 1;
    let lines = stalls(&server);
    assert!((1..=most).contains(&(lines.len() as u64)), "at most {most}: {lines:?}");
    assert!(lines.len() < 8, "{lines:?}");
}

#[test]
fn the_watchdog_can_be_turned_off() {
    let Some(server) = blocking("worker_stall_threshold off;", "500ms") else { return };
    let mut client = server.http(0);
    assert_eq!(client.get("/block").status, 204);
    assert_eq!(client.get("/").text(), "well");
    assert_eq!(stalls(&server), Vec::<String>::new());
}

const FILES: &str = "worker_processes 1; worker_shutdown_timeout 1s; events { worker_connections 1024; }
    http { access_log off; keepalive_requests 1000000; keepalive_time 1h; root %%DIR%%/local;
        server { listen 127.0.0.1:%%PORT_0%%;
            location / { }
            location /return { return 200 well; }
            location /status { stub_status; }
            location /tried { try_files /none /file.txt =404; }
            location /far/ { alias %%DIR%%/far/; }
            location /far-tried/ { alias %%DIR%%/far/; try_files $uri =404; }
            location /far-if/ { if (-f %%DIR%%/far/lookup-if) { return 200 there; } return 404; }
            location /far-index/ { alias %%DIR%%/far/; index lookup-index; } } }";

/// A server with files of its own, cached, and the folder where the file system that hangs belongs.
fn file_server() -> Server {
    let setup = Server::config(FILES).file("local/file.txt", "near\n").file("local/large.bin", vec![b'x'; 100_000]);
    fs::create_dir(setup.folder().join("far")).unwrap();
    let server = setup.start();
    for target in ["/file.txt", "/large.bin", "/tried"] {
        assert_eq!(server.http(0).get(target).status, 200, "{target}");
    }
    server
}

/// How many descriptors the worker has when it has no connection.
fn idle_descriptors(server: &Server) -> usize {
    let mut client = server.http(0);
    let is_alone = |text: String| text.contains("Active connections: 1 ").then_some(());
    wait_until("no other connection is left", || is_alone(client.get("/status").text()));
    descriptors(server.workers()[0]) - 1
}

/// The 99th percentile of the times that requests take, by four clients at a time.
fn p99(server: &Server, target: &str) -> Duration {
    let one = || {
        let mut client = server.http(0);
        let timed = |_| {
            let begun = Instant::now();
            assert_eq!(client.get(target).status, 200);
            begun.elapsed()
        };
        (0..100).map(timed).collect::<Vec<_>>()
    };
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// The 99th percentiles of two servers, and the first's in proportion to the second's. They are measured in turns, and the
/// middle of the turns counts: what else runs on the machine changes from one moment to the next. Where it is more than
/// `most`, more turns show whether that was by chance.
fn compare(server: &Server, other: &Server, target: &str, most: f64) -> (Duration, Duration, f64) {
    let ratio = |(one, other): &(Duration, Duration)| one.as_secs_f64() / other.as_secs_f64();
    let mut turns = Vec::new();
    loop {
        turns.extend((0..9).map(|_| (p99(server, target), p99(other, target))));
        turns.sort_unstable_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let middle = turns[turns.len() / 2];
        if ratio(&middle) <= most || turns.len() > 60 {
            return (middle.0, middle.1, ratio(&middle));
        }
    }
}

const NEAR: [&str; 4] = ["/file.txt", "/large.bin", "/tried", "/return"];

/// Asks for a target and leaves the answer to come.
fn ask(server: &Server, target: &str) -> Http {
    let mut client = server.http(0);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    client
}

fn is_served(server: &Server, target: &str) -> bool {
    server.http(0).get(target).status == 200
}

/// Hangs as many requests as `targets` and says what becomes of the others, and of these when the file system is gone.
fn others_go_on(what: &str, targets: &[String], held: usize) {
    let (server, calm) = (file_server(), file_server());
    let worker = server.workers()[0];
    let baseline = idle_descriptors(&server);
    let mut far = Fuse::mount(&server.folder().join("far"));
    let mut hung: Vec<Http> = targets.iter().map(|target| ask(&server, target)).collect();
    wait_until("the requests hang", || (far.held() >= held).then_some(()));

    for target in NEAR {
        let (during, without, ratio) = compare(&server, &calm, target, 2.0);
        println!("{what}: {} requests hang, p99 of {target}: {during:?}, without them {without:?}", targets.len());
        assert!(ratio <= 2.0, "{target}: {during:?}, without them {without:?}");
    }

    far.abort();
    for client in &mut hung {
        // Whose answer has begun is cut off.
        if let Ok(response) = client.try_response_to("GET") {
            assert!(matches!(response.status, 404 | 500), "{}", response.status);
        }
    }
    drop(hung);
    wait_until("all descriptors are closed", || (descriptors(worker) <= baseline).then_some(()));
    assert_eq!(server.workers(), [worker]);
}

fn targets(form: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("/far/{form}-{number}")).collect()
}

#[test]
fn a_name_that_is_never_found_holds_up_nobody_else() {
    with_own_mounts(|| others_go_on("lookup", &targets("lookup", 20), 20));
}

#[test]
fn a_file_that_is_never_opened_holds_up_nobody_else() {
    with_own_mounts(|| others_go_on("open", &targets("open", 20), 20));
}

#[test]
fn a_file_that_is_never_read_holds_up_nobody_else() {
    with_own_mounts(|| others_go_on("read", &targets("read", 20), 20));
}

#[test]
fn when_all_threads_hang_cached_files_are_served() {
    with_own_mounts(|| others_go_on("all threads", &targets("lookup", 50), 32));
}

#[test]
fn everything_that_looks_for_files_leaves_it_to_threads() {
    with_own_mounts(|| {
        let server = file_server();
        let far = Fuse::mount(&server.folder().join("far"));
        let targets = ["/far/lookup", "/far-tried/lookup-tried", "/far-if/", "/far-index/"];
        let _hung: Vec<Http> = targets.iter().map(|target| ask(&server, target)).collect();
        wait_until("the requests hang", || (far.held() == targets.len()).then_some(()));
        assert!(NEAR.iter().all(|target| is_served(&server, target)));
    });
}

/// What the kernel knows of a file spares it no question about its content: the names here are cached.
#[test]
fn a_known_name_is_no_reason_to_wait() {
    with_own_mounts(|| {
        let server = file_server();
        let far = Fuse::mount(&server.folder().join("far"));
        for (number, name) in ["open", "read", "flush"].into_iter().enumerate() {
            assert!(fs::metadata(server.folder().join("far").join(name)).is_ok());
            let mut client = ask(&server, &format!("/far/{name}"));
            wait_until("the request hangs", || (far.held() == number + 1).then_some(()));
            assert!(NEAR.iter().all(|target| is_served(&server, target)), "{name}");
            if name == "flush" {
                assert_eq!(client.response().body, CONTENT);
            }
        }
    });
}

#[test]
fn files_from_afar_are_served() {
    with_own_mounts(|| {
        let server = file_server();
        let _far = Fuse::mount(&server.folder().join("far"));
        for target in ["/far/file", "/far/file", "/far-tried/file"] {
            let response = server.http(0).get(target);
            assert_eq!((response.status, response.body.as_slice()), (200, CONTENT), "{target}");
        }
        assert_eq!(server.http(0).ask("GET", "/far/file", &["Range: bytes=5-"]).body, &CONTENT[5..]);
    });
}

/// A server whose threads hang.
fn hung_server() -> (Server, Fuse, Vec<Http>) {
    let server = file_server();
    let far = Fuse::mount(&server.folder().join("far"));
    let hung = (0..40).map(|number| ask(&server, &format!("/far/lookup-{number}"))).collect();
    wait_until("all threads hang", || (far.held() == 32).then_some(()));
    (server, far, hung)
}

#[test]
fn term_ends_a_worker_whose_threads_hang() {
    with_own_mounts(|| {
        let (mut server, _far, _hung) = hung_server();
        let workers = server.workers();
        let begun = Instant::now();
        server.stop();
        server.wait_until_gone(&workers);
        println!("TERM with 32 threads that hang: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

#[test]
fn quit_ends_a_worker_whose_threads_hang_when_its_time_is_over() {
    with_own_mounts(|| {
        let (mut server, _far, _hung) = hung_server();
        let workers = server.workers();
        let begun = Instant::now();
        server.signal(Signal::SIGQUIT);
        server.wait();
        server.wait_until_gone(&workers);
        println!("QUIT with 32 threads that hang and worker_shutdown_timeout 1s: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

#[test]
fn clients_that_leave_take_their_requests_with_them() {
    if skip_on_nginx("nginx waits for the file") {
        return;
    }
    with_own_mounts(|| {
        let server = file_server();
        let worker = server.workers()[0];
        let baseline = idle_descriptors(&server);
        let far = Fuse::mount(&server.folder().join("far"));
        let hung: Vec<Http> = targets("lookup", 10).iter().map(|target| ask(&server, target)).collect();
        wait_until("the requests hang", || (far.held() == 10).then_some(()));
        assert!(descriptors(worker) >= baseline + 10);
        drop(hung);
        // For a minute the kernel answers in the place of a client that has closed.
        let closed = poll_for(Duration::from_secs(90), || (descriptors(worker) <= baseline).then_some(()));
        assert!(closed.is_some(), "{} descriptors, {baseline} before", descriptors(worker));
        assert_eq!(far.held(), 10, "the file system has answered");
    });
}

#[test]
fn clients_that_send_no_more_get_their_answers_however_late() {
    with_own_mounts(|| {
        let server = file_server();
        let mut far = Fuse::mount(&server.folder().join("far"));
        let targets = ["/far/lookup-a", "/far-tried/lookup-b", "/far-if/", "/far-index/"];
        let mut hung: Vec<Http> = targets.iter().map(|target| ask(&server, target)).collect();
        wait_until("the requests hang", || (far.held() == targets.len()).then_some(()));
        hung.iter_mut().for_each(|client| client.wire.finish());
        // Nobody but the clients says whether they are there, and they say so to whoever asks for longer than this.
        thread::sleep(Duration::from_secs(13));
        far.abort();
        for (client, target) in hung.iter_mut().zip(targets) {
            assert!(matches!(client.response().status, 404 | 500), "{target}");
        }
    });
}

#[test]
fn a_full_queue_is_an_error_of_the_request() {
    if skip_on_nginx("nginx has the queue for reading only") {
        return;
    }
    with_own_mounts(|| {
        let text = format!("thread_pool default threads=2 max_queue=3; {FILES}");
        let setup = Server::config(&text).file("local/file.txt", "near\n");
        fs::create_dir(setup.folder().join("far")).unwrap();
        let server = setup.start();
        let far = Fuse::mount(&server.folder().join("far"));
        assert!(is_served(&server, "/file.txt"));
        let hang = |number: usize| ask(&server, &format!("/far/lookup-{number}"));
        let mut hung: Vec<Http> = (0..2).map(hang).collect();
        wait_until("both threads hang", || (far.held() == 2).then_some(()));
        // Whichever finds the queue full is refused at once.
        hung.extend((2..5).map(hang));
        let refused = wait_until("a request finds no place", || {
            let mut client = hang(hung.len());
            client.wire.set_patience(Duration::from_millis(200));
            let response = client.try_response_to("GET").ok();
            if response.is_none() {
                hung.push(client);
            }
            response
        });
        assert_eq!(refused.status, 500);
        server.wait_for_log("thread pool \"default\" queue overflow: 3 tasks waiting");
        assert!(is_served(&server, "/return"));
    });
}

#[test]
fn thread_pools_are_checked() {
    for (directive, complaint) in [
        ("thread_pool default max_queue=1;", "must have \"threads\" parameter"),
        ("thread_pool default threads=0;", "invalid threads value \"threads=0\""),
        ("thread_pool default threads=2 max_queue=x;", "invalid max_queue value \"max_queue=x\""),
        ("thread_pool a threads=2; thread_pool a threads=3;", "duplicate thread pool \"a\""),
        ("thread_pool a threads=2 more=1;", "invalid parameter \"more=1\""),
    ] {
        let outcome = Server::config(&format!("{directive} events {{}}")).run(&["-t"]);
        assert!(!outcome.status.success() && outcome.stderr.contains(complaint), "{directive}: {}", outcome.stderr);
    }
    let outcome =
        Server::config("thread_pool a threads=2; thread_pool default threads=4 max_queue=9; events {}").run(&["-t"]);
    assert!(outcome.status.success(), "{}", outcome.stderr);
}

#[test]
fn the_folder_is_left_clean() {
    let mounted = |folder: &Path| {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        table.contains(&folder.display().to_string())
    };
    with_own_mounts(|| {
        let folder = tempfile::tempdir().unwrap();
        let far = fuse::Fuse::mount(folder.path());
        assert!(mounted(folder.path()));
        drop(far);
        assert!(!mounted(folder.path()));
    });
}
