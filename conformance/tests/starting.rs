//! From the command line to a server that serves, and what a start that fails leaves behind.

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
