//! Upgrades of the binary under load: the new one beside the old, back again, and for good.
//!
//! Figures are printed with `--nocapture`; debug builds run the same in a smaller size.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;
use tidegate_conformance::backend::EchoBackend;
use tidegate_conformance::load::{self, Load, Shape, sized};
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Server, Setup, processes, wait_until};

const CONFIG: &str = "daemon on; pid nginx.pid; error_log error.log info; worker_processes 2; events {}
    http { access_log off; keepalive_requests 1000000; limit_req_zone $arg_k zone=z:1m rate=1r/m;
    upstream app { zone app 256k; keepalive 16; server %%ONE%%; server %%TWO%%; }
    server { listen 127.0.0.1:%%PORT_0%% %%OPTION%%; listen unix:%%DIR%%/here.sock; add_header X-Worker $pid always;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }
        location = /pid { return 200 $pid; }
        location = /limited { limit_req zone=z; try_files /n =204; }
        location = /status { stub_status; } } }";

/// A server in the background, its backends, and the master that was there first.
struct Bench {
    server: Server,
    first: i32,
    totals: [u64; 3],
    _backends: [EchoBackend; 2],
}

impl Bench {
    fn with(change: impl FnOnce(Setup) -> Setup, option: &str) -> Bench {
        let backends = [EchoBackend::start(), EchoBackend::start()];
        let setup = Server::config(CONFIG)
            .set("ONE", backends[0].address())
            .set("TWO", backends[1].address())
            .set("OPTION", option)
            .detached();
        let mut server = change(setup).start();
        assert!(server.wait().success());
        let first = server.pid();
        let bench = Bench { server, first, totals: [0; 3], _backends: backends };
        wait_until("both workers run", || (bench.workers(first).len() == 2).then_some(()));
        assert_eq!(bench.get("/limited?k=a").0, 204);
        bench
    }

    fn start() -> Bench {
        Bench::with(|setup| setup, "")
    }

    /// The numbers in `nginx.pid` and in `nginx.pid.oldbin`.
    fn pid_files(&self) -> (Option<i32>, Option<i32>) {
        (self.server.pid_in_file(), self.server.read("nginx.pid.oldbin").trim().parse().ok())
    }

    /// Starts the new binary beside `old` and returns its master once it serves.
    fn upgrade(&mut self, old: i32) -> i32 {
        signal_to(old, Signal::SIGUSR2);
        let new = wait_until("the new master has written its pid", || {
            self.server.pid_in_file().filter(|&pid| pid != old && self.pid_files().1 == Some(old))
        });
        wait_until("the new master has workers", || (self.workers(new).len() == 2).then_some(()));
        wait_until("the new workers serve", || self.serves(new).then_some(()));
        new
    }

    /// Starts the new binary beside `old` and returns its master once it has workers.
    fn beside(&self, old: i32) -> i32 {
        signal_to(old, Signal::SIGUSR2);
        let new = wait_until("the new master has written its pid", || {
            self.server.pid_in_file().filter(|&pid| pid != old && self.pid_files().1 == Some(old))
        });
        wait_until("the new master has workers", || (self.workers(new).len() == 2).then_some(()));
        new
    }

    /// Whether one of this master's workers has answered.
    fn serves(&mut self, master: i32) -> bool {
        self.look();
        let pid = self.get("/pid").1.parse().ok();
        pid.is_some_and(|pid| self.workers(master).contains(&pid))
    }

    /// The workers of a master, which may be the parent of the new master as well.
    fn workers(&self, master: i32) -> Vec<i32> {
        let newest = self.server.pid_in_file();
        processes::children(master).into_iter().filter(|pid| Some(*pid) != newest).collect()
    }

    fn get(&self, target: &str) -> (u16, String) {
        let response = self.server.http(0).ask("GET", target, &["Connection: close"]);
        (response.status, response.text())
    }

    /// Checks what must go on whoever serves: a rate is still kept, and totals do not go back.
    fn look(&mut self) {
        assert_eq!(self.get("/limited?k=a").0, 503, "a key at its limit stays there");
        let text = self.get("/status").1;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let totals = [numbers[1], numbers[2], numbers[3]];
        assert!(
            totals.iter().zip(&self.totals).all(|(now, before)| now > before),
            "{totals:?} after {:?}",
            self.totals
        );
        self.totals = totals;
    }

    fn gone(&self, master: i32) {
        self.server.wait_until_gone(&[master]);
    }
}

/// Back and forth under load, each step looked at.
fn back_and_forth(option: &str) {
    let _alone = load::alone();
    let mut bench = Bench::with(|setup| setup, option);
    let first = bench.first;
    let load = Load::start(Shape::mixed(bench.server.port(0)));
    let enough = sized(1000, 100);
    load.wait_for(enough);

    load.mark();
    let second = bench.upgrade(first);
    assert_eq!(bench.pid_files(), (Some(second), Some(first)));
    load.wait_for(enough);

    signal_to(first, Signal::SIGWINCH);
    wait_until("the old workers are gone", || bench.workers(first).is_empty().then_some(()));
    assert!(processes::is_alive(first));
    assert_eq!(bench.pid_files(), (Some(second), Some(first)));
    (0..20).for_each(|_| assert!(bench.serves(second)));
    load.wait_for(enough);

    load.mark();
    signal_to(first, Signal::SIGHUP);
    wait_until("the old master has workers again", || (bench.workers(first).len() == 2).then_some(()));
    wait_until("they serve", || bench.serves(first).then_some(()));
    signal_to(second, Signal::SIGQUIT);
    bench.gone(second);
    wait_until("the pid files are as before", || (bench.pid_files() == (Some(first), None)).then_some(()));
    (0..20).for_each(|_| assert!(bench.serves(first)));
    load.wait_for(enough);

    load.mark();
    let third = bench.upgrade(first);
    signal_to(first, Signal::SIGWINCH);
    wait_until("the old workers are gone", || bench.workers(first).is_empty().then_some(()));
    signal_to(first, Signal::SIGQUIT);
    bench.gone(first);
    wait_until("only the new pid file is left", || (bench.pid_files() == (Some(third), None)).then_some(()));
    (0..20).for_each(|_| assert!(bench.serves(third)));
    load.wait_for(enough);

    let report = load.finish();
    println!("upgrade, back, and upgrade again ({option}): {report}");
    report.assert_clean();
}

#[test]
fn nothing_is_lost_by_an_upgrade_that_is_taken_back_and_made_again() {
    back_and_forth("");
}

#[test]
fn nothing_is_lost_when_workers_have_sockets_of_their_own() {
    back_and_forth("reuseport");
}

#[test]
fn three_upgrades_in_a_row_lose_nothing() {
    let _alone = load::alone();
    let mut bench = Bench::start();
    let load = Load::start(Shape::mixed(bench.server.port(0)));
    let mut master = bench.first;
    for _ in 0..3 {
        load.wait_for(sized(1000, 100));
        load.mark();
        let new = bench.upgrade(master);
        signal_to(master, Signal::SIGQUIT);
        bench.gone(master);
        wait_until("one pid file is left", || (bench.pid_files() == (Some(new), None)).then_some(()));
        master = new;
    }
    load.wait_for(sized(1000, 100));
    let report = load.finish();
    println!("three upgrades: {report}");
    report.assert_clean();
    bench.look();
}

/// Asks for an upgrade that fails, and waits until the old master is alone again.
fn failing_upgrade(mut bench: Bench, spoil: impl FnOnce(&mut Bench)) -> (Bench, Vec<String>) {
    let load = Load::start(Shape { kept: 8, fresh: 8, ..Shape::mixed(bench.server.port(0)) });
    load.wait_for(50);
    let workers = bench.workers(bench.first);
    spoil(&mut bench);
    let before = bench.server.log_lines().len();
    signal_to(bench.first, Signal::SIGUSR2);
    bench.server.wait_for_log("signal 12 .*received");
    wait_until("the upgrade has failed", || {
        let told = bench.server.log_lines()[before..].iter().any(|line| line.contains("new binary"));
        (told && bench.pid_files() == (Some(bench.first), None)).then_some(())
    });
    wait_until("the failed process is gone", || (processes::children(bench.first) == workers).then_some(()));
    load.wait_for(50);
    load.finish().assert_clean();
    bench.look();
    let lines = bench.server.log_lines().split_off(before);
    (bench, lines)
}

fn count(lines: &[String], pattern: &str) -> usize {
    lines.iter().filter(|line| tidegate_conformance::matches(pattern, line)).count()
}

#[test]
fn an_upgrade_to_a_wrong_configuration_changes_nothing() {
    let (bench, lines) = failing_upgrade(Bench::start(), |bench| {
        let text = bench.server.read("nginx.conf").replace("stub_status", "nonsense");
        bench.server.write("nginx.conf", text);
    });
    assert_eq!(count(&lines, r#"\[emerg\].*unknown directive "nonsense" in /.*/nginx.conf:8"#), 1, "{lines:#?}");
    assert_eq!(count(&lines, r"new binary process \d+ (has ended|exited with code 1)"), 1, "{lines:#?}");
    drop(bench);
}

#[test]
fn an_upgrade_to_a_binary_that_is_not_there_changes_nothing() {
    let bench = Bench::with(|setup| setup.copied("server"), "");
    let (_bench, lines) =
        failing_upgrade(bench, |bench| fs::remove_file(bench.server.folder().join("server")).unwrap());
    assert_eq!(count(&lines, r"\[alert\].*new binary.*\(2: No such file or directory\)"), 1, "{lines:#?}");
}

#[test]
fn an_upgrade_to_a_binary_that_fails_changes_nothing() {
    let bench = Bench::with(|setup| setup.copied("server"), "");
    let (_bench, lines) = failing_upgrade(bench, |bench| {
        let path = bench.server.folder().join("server");
        fs::remove_file(&path).unwrap();
        // Written by another process, as the binary is copied.
        let write = "printf '#!/bin/sh\\nexit 1\\n' > \"$0\" && chmod 755 \"$0\"";
        assert!(Command::new("sh").args(["-c", write]).arg(&path).status().unwrap().success());
    });
    assert_eq!(count(&lines, r"new binary process \d+ (has ended|exited with code 1)"), 1, "{lines:#?}");
}

#[test]
fn the_old_master_goes_on_alone_when_the_new_one_is_stopped() {
    let mut bench = Bench::start();
    let first = bench.first;
    let second = bench.upgrade(first);
    signal_to(first, Signal::SIGWINCH);
    wait_until("the old workers are gone", || bench.workers(first).is_empty().then_some(()));
    signal_to(second, Signal::SIGTERM);
    bench.gone(second);
    wait_until("the pid files are as before", || (bench.pid_files() == (Some(first), None)).then_some(()));
    if !skip_on_nginx("an old master whose workers are retired waits for HUP") {
        wait_until("the old master has workers again", || (bench.workers(first).len() == 2).then_some(()));
        assert!(bench.serves(first));
    }
}

fn answer_on_socket(bench: &Bench) -> String {
    let mut socket = UnixStream::connect(bench.server.folder().join("here.sock")).unwrap();
    socket.write_all(b"GET /pid HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_owned())
}

#[test]
fn a_local_socket_outlives_every_master_but_the_last() {
    let mut bench = Bench::start();
    let first = bench.first;
    let served_by = |bench: &Bench, master: i32| {
        wait_until("the local socket is served", || {
            answer_on_socket(bench).parse().is_ok_and(|pid| bench.workers(master).contains(&pid)).then_some(())
        });
    };
    served_by(&bench, first);
    let second = bench.upgrade(first);
    signal_to(second, Signal::SIGQUIT);
    bench.gone(second);
    wait_until("the pid files are as before", || (bench.pid_files() == (Some(first), None)).then_some(()));
    served_by(&bench, first);
    let third = bench.upgrade(first);
    signal_to(first, Signal::SIGQUIT);
    bench.gone(first);
    served_by(&bench, third);
    signal_to(third, Signal::SIGTERM);
    bench.gone(third);
    assert!(!bench.server.folder().join("here.sock").exists());
    assert_eq!(bench.pid_files(), (None, None));
}

/// Asks this master for a new binary, which it must refuse with a notice, leaving everything as it is.
fn refuses(bench: &Bench, master: i32) {
    let (files, before) = (bench.pid_files(), bench.server.log_lines().len());
    signal_to(master, Signal::SIGUSR2);
    wait_until("it says that it does not heed the signal", || {
        let lines = bench.server.log_lines();
        let told = lines[before..].iter().any(|line| {
            let own = line.contains(&format!(" {master}#"));
            own && line.contains("ignored")
        });
        told.then_some(())
    });
    assert_eq!(bench.pid_files(), files);
    let started = bench.server.log_lines()[before..].iter().filter(|line| line.contains("start new binary")).count();
    assert_eq!(started, 0, "a third master was started");
}

#[test]
fn a_third_master_is_never_started() {
    let bench = Bench::start();
    let first = bench.first;
    let second = bench.beside(first);
    // The new one, again; the old one, and again.
    for master in [second, second, first, first, second] {
        refuses(&bench, master);
    }
    // After the new one has died the old one starts another.
    signal_to(second, Signal::SIGKILL);
    bench.gone(second);
    wait_until("the pid files are as before", || (bench.pid_files() == (Some(first), None)).then_some(()));
    let third = bench.beside(first);
    refuses(&bench, third);
    // After the old one has been told to end, and has, the new one does.
    signal_to(first, Signal::SIGQUIT);
    bench.gone(first);
    wait_until("one pid file is left", || (bench.pid_files() == (Some(third), None)).then_some(()));
    let fourth = bench.beside(third);
    refuses(&bench, fourth);
    // The same when it has died.
    signal_to(third, Signal::SIGKILL);
    bench.gone(third);
    assert_eq!(bench.pid_files(), (Some(fourth), Some(third)), "it could not remove its file");
    let fifth = bench.beside(fourth);
    assert_eq!(bench.pid_files(), (Some(fifth), Some(fourth)));
    refuses(&bench, fifth);
}

/// A thing that an operator does while two masters run.
type Step<'a> = &'a dyn Fn(&Bench);

/// Whatever else is done while both run, the new master starts no third.
#[test]
fn nothing_that_is_done_between_makes_a_third_master() {
    let bench = Bench::start();
    let first = bench.first;
    let second = bench.beside(first);
    let test = |bench: &Bench| {
        let outcome = bench.server.control(&["-t"]);
        assert!(outcome.status.success(), "{}", outcome.stderr);
    };
    let retired = |bench: &Bench| {
        signal_to(first, Signal::SIGWINCH);
        wait_until("the old workers are gone", || bench.workers(first).is_empty().then_some(()));
    };
    let revived = |bench: &Bench| {
        signal_to(first, Signal::SIGHUP);
        wait_until("the old master has workers again", || (bench.workers(first).len() == 2).then_some(()));
    };
    let reloaded = |bench: &Bench, master: i32| {
        let before = bench.workers(master);
        signal_to(master, Signal::SIGHUP);
        wait_until("there are new workers", || {
            let now = bench.workers(master);
            (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
        });
    };
    let reopened = |bench: &Bench, master: i32| {
        std::fs::remove_file(bench.server.folder().join("error.log")).unwrap();
        signal_to(master, Signal::SIGUSR1);
        wait_until("there is a new log", || bench.server.folder().join("error.log").exists().then_some(()));
    };
    let steps: [(&str, Step<'_>); 7] = [
        ("nothing", &|_| ()),
        ("a test of the configuration", &test),
        ("a reload of the new master", &|bench| reloaded(bench, second)),
        ("the logs of the new master are opened anew", &|bench| reopened(bench, second)),
        ("the old workers are retired", &retired),
        ("the old master has workers again", &revived),
        ("another test of the configuration", &test),
    ];
    for (what, step) in steps {
        println!("{what}");
        step(&bench);
        assert_eq!(bench.pid_files(), (Some(second), Some(first)), "{what}");
        refuses(&bench, second);
    }
    signal_to(first, Signal::SIGQUIT);
    bench.gone(first);
    wait_until("one pid file is left", || (bench.pid_files() == (Some(second), None)).then_some(()));
    test(&bench);
    let third = bench.beside(second);
    assert_eq!(bench.pid_files(), (Some(third), Some(second)));
}

#[test]
fn two_signals_at_once_start_one_binary() {
    let bench = Bench::start();
    let first = bench.first;
    (0..5).for_each(|_| signal_to(first, Signal::SIGUSR2));
    let second =
        wait_until("the new master has written its pid", || bench.server.pid_in_file().filter(|&pid| pid != first));
    wait_until("the new master has workers", || (bench.workers(second).len() == 2).then_some(()));
    let lines = bench.server.log_lines();
    assert_eq!(lines.iter().filter(|line| line.contains("start new binary process")).count(), 1, "{lines:#?}");
    assert_eq!(bench.pid_files(), (Some(second), Some(first)));
}
