//! From the command line to a server that serves, and what a start that fails leaves behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Server, binary, processes, wait_until};

const ONE: &str =
    "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }";

#[test]
fn a_signal_may_come_as_soon_as_the_pid_can_be_read() {
    for _ in 0..20 {
        let setup = Server::config(&format!("worker_processes 1; {ONE}"));
        let folder = setup.folder().to_owned();
        let hup = std::thread::spawn(move || {
            let read = || std::fs::read_to_string(folder.join("nginx.pid")).ok()?.trim().parse::<i32>().ok();
            loop {
                if let Some(pid) = read() {
                    return signal_to(pid, Signal::SIGHUP);
                }
            }
        });
        let mut server = setup.start();
        hup.join().unwrap();
        assert!(server.is_running());
        assert_eq!(server.http(0).get("/").text(), "one");
    }
}

#[test]
fn a_start_that_fails_leaves_no_socket_in_the_file_system() {
    let text = |second: &str| {
        format!(
            "events {{}} http {{ access_log off; server {{ listen unix:local.sock; listen {second}; location / {{ return 200 one; }} }} }}"
        )
    };
    // The folder outlives the attempt.
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("local.sock");
    let outcome = Server::config(&text("192.0.2.1:1").replace("local.sock", &socket.display().to_string())).run(&[]);
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("bind() to 192.0.2.1:1 failed"), "{}", outcome.stderr);
    assert!(!socket.exists());
    // The same for a reload.
    let mut server = Server::start(&text("127.0.0.1:%%PORT_0%%").replace("listen unix:local.sock;", ""));
    let wrong = text("192.0.2.1:1").replace("local.sock", &server.folder().join("two.sock").display().to_string());
    server.rewrite(&wrong);
    server.signal(Signal::SIGHUP);
    server.wait_for_log("bind\\(\\) to 192.0.2.1:1 failed");
    wait_until("the socket is gone", || (!server.folder().join("two.sock").exists()).then_some(()));
    assert_eq!(server.http(0).get("/").text(), "one");
}

#[test]
fn a_daemon_that_does_not_come_up_is_a_failure_and_one_that_does_has_written_its_pid() {
    if skip_on_nginx("the process that was started does not wait for the daemon") {
        return;
    }
    let setup =
        Server::config(&format!("daemon on; pid missing/nginx.pid; error_log error.log info; {ONE}")).detached();
    let outcome = setup.run(&[]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("missing/nginx.pid\" failed (2: No such file or directory)"), "{}", outcome.stderr);

    let server =
        Server::config(&format!("daemon on; pid nginx.pid; error_log error.log info; {ONE}")).detached().start();
    assert!(processes::is_alive(server.pid_in_file().unwrap()));
}

#[test]
fn a_daemon_lets_go_of_the_error_stream_of_who_started_it() {
    let setup = Server::config(&format!("daemon on; pid nginx.pid; {ONE}")).detached();
    let folder = setup.folder().to_owned();
    let server = setup.start();
    let mut reload = Command::new(binary::path());
    reload.args(["-p", &format!("{}/", folder.display()), "-c", "nginx.conf", "-s", "stop"]);
    assert!(reload.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    wait_until("it has ended", || (!processes::is_alive(server.pid())).then_some(()));
    // The pipe ends when the last process that has it does.
    let mut start = Command::new("timeout");
    start.args(["10", "sh", "-c"]).arg(format!(
        "out=$({} -p {}/ -c nginx.conf 2>&1); echo done",
        binary::path().display(),
        folder.display()
    ));
    let output = start.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    wait_until("it runs", || server.pid_in_file().filter(|pid| processes::is_alive(*pid)));
}

const LOCAL: &str =
    "events {} http { access_log off; server { listen unix:%%DIR%%/local.sock; listen 127.0.0.1:%%PORT_0%%;
    location / { return 200 one; } } }";

fn ask(path: &Path) -> String {
    let mut socket = UnixStream::connect(path).expect("somebody listens");
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

#[test]
fn a_local_socket_that_nobody_listens_on_is_replaced() {
    if skip_on_nginx("what a killed master has left is in the way of the next") {
        return;
    }
    let setup = Server::config(LOCAL);
    let path = setup.folder().join("local.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut server = setup.start();
    server.wait_for_log(r"\[notice\].* nobody listens on unix:/.*/local.sock, which is still there: it is replaced");
    assert_eq!(ask(&path), "one");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    // A reload that wants another which is there already.
    let other = server.folder().join("other.sock");
    drop(UnixListener::bind(&other).unwrap());
    server.rewrite(&LOCAL.replace("listen 127", "listen unix:%%DIR%%/other.sock; listen 127"));
    server.signal(Signal::SIGHUP);
    wait_until("the other is served", || UnixStream::connect(&other).ok());
    assert_eq!((ask(&path), ask(&other)), ("one".to_owned(), "one".to_owned()));
    assert!(server.stop().success());
    assert!(!path.exists() && !other.exists());
}

#[test]
fn a_server_that_was_killed_starts_again_on_its_local_socket() {
    if skip_on_nginx("what a killed master has left is in the way of the next") {
        return;
    }
    let server = Server::config(&format!("daemon on; pid nginx.pid; error_log error.log info; {LOCAL}"));
    let mut server = server.detached().start();
    assert!(server.wait().success());
    let path = server.folder().join("local.sock");
    let all: Vec<i32> = server.workers().into_iter().chain([server.pid()]).collect();
    all.iter().rev().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
    server.wait_until_gone(&all);
    assert!(path.exists());
    assert!(server.control(&[]).status.success());
    assert_eq!(ask(&path), "one");
}

#[test]
fn what_somebody_listens_on_or_is_no_socket_stays() {
    type Make = fn(&Path) -> Option<Box<dyn std::any::Any>>;
    let cases: [(&str, Make); 4] = [
        ("another server's socket", |path| Some(Box::new(UnixListener::bind(path).unwrap()))),
        ("a socket for datagrams", |path| Some(Box::new(UnixDatagram::bind(path).unwrap()))),
        ("a file", |path| {
            fs::write(path, "kept").unwrap();
            None
        }),
        ("a folder", |path| {
            fs::create_dir(path).unwrap();
            None
        }),
    ];
    std::thread::scope(|scope| {
        for (what, make) in cases {
            scope.spawn(move || {
                let place = tempfile::tempdir().unwrap();
                let setup = Server::config(&LOCAL.replace("%%DIR%%", &place.path().display().to_string()));
                let path = place.path().join("local.sock");
                let _held = make(&path);
                let before = fs::symlink_metadata(&path).unwrap().ino();
                let outcome = setup.run(&[]);
                assert!(!outcome.status.success(), "{what}");
                assert!(outcome.stderr.contains("failed (98: Address already in use)"), "{what}: {}", outcome.stderr);
                assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before, "{what}");
            });
        }
    });
}

#[test]
fn a_worker_is_replaced_while_a_reload_waits_for_an_address() {
    if skip_on_nginx("its master waits for the address and for nothing else") {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = Server::start(ONE);
    let listen = format!("listen {}; listen 127", taken.local_addr().unwrap());
    server.rewrite(&ONE.replace("listen 127", &listen));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reconfiguring");
    let worker = server.workers()[0];
    signal_to(worker, Signal::SIGKILL);
    wait_until("another runs", || server.workers().iter().any(|pid| *pid != worker).then_some(()));
    let lines = server.log_lines();
    assert!(!lines.iter().any(|line| line.contains("Address already in use")), "it has given up before: {lines:#?}");
    // The address becomes free, and the reload goes on.
    drop(taken);
    wait_until("the reload is done", || {
        (server.workers().len() == 1 && server.log_lines().iter().any(|line| line.contains("gracefully"))).then_some(())
    });
    assert_eq!(server.http(0).get("/").text(), "one");
    let lines = server.log_lines();
    assert_eq!(lines.iter().filter(|line| line.contains("reconfiguring")).count(), 1, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("[emerg]")), "{lines:#?}");
}
