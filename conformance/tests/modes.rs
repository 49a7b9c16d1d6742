//! The modes of the files that the server makes: whatever the umask of its caller, before and after reloads,
//! rotations and upgrades.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;
use tidegate_conformance::{Server, is_nginx, processes, wait_until};

const CONFIG: &str = "pid nginx.pid; error_log error.log info; worker_processes 1; events {}
    http { access_log access.log; limit_req_zone $arg_k zone=z:64k rate=1r/s;
    server { listen 127.0.0.1:%%PORT_0%%; listen unix:%%DIR%%/first.sock; location / { return 200 one; } } }";

fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

#[track_caller]
fn assert_mode(server: &Server, name: &str, expected: u32) {
    let path = server.folder().join(name);
    let found = wait_until(&format!("{name} is there"), || mode(&path));
    assert_eq!(found, expected, "{name} has mode {found:o}, not {expected:o}");
}

/// Shared memory shows in /proc, where any user can open it whom its mode allows.
fn assert_memory_is_private(pid: i32) {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let of_memory = descriptors
        .map(|entry| entry.path())
        .filter(|path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:")));
    let modes: Vec<u32> = of_memory.filter_map(|path| mode(&path)).collect();
    assert!(is_nginx() || !modes.is_empty() && modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
}

/// Looks at every file that a server makes which starts under this umask.
fn files(daemon: bool, umask: u32) {
    println!("daemon {daemon}, umask {umask:o}");
    let config = format!("daemon {}; {CONFIG}", if daemon { "on" } else { "off" });
    let setup = Server::config(&config).umask(umask);
    let mut server = if daemon { setup.detached() } else { setup.bare() }.start();
    let first = server.pid();
    // The logs are opened before the server goes to the background, and from there on the umask of the caller does not matter.
    let at_start = 0o644 & !umask;
    let later = if daemon { 0o644 } else { at_start };
    assert_mode(&server, "nginx.pid", later);
    assert_mode(&server, "error.log", at_start);
    assert_mode(&server, "access.log", at_start);
    assert_mode(&server, "first.sock", 0o666);
    assert_memory_is_private(first);

    let text = config.replace("first.sock;", "first.sock; listen unix:%%DIR%%/second.sock;");
    let text = text.replace("access_log access.log;", "access_log access.log; access_log second.log;");
    server.reload_with(&text.replace("zone=z:64k", "zone=y:64k"));
    assert_mode(&server, "second.log", later);
    wait_until("the second socket is there", || server.folder().join("second.sock").exists().then_some(()));
    assert_mode(&server, "second.sock", 0o666);
    assert_memory_is_private(first);

    for name in ["access.log", "error.log"] {
        fs::rename(server.folder().join(name), server.folder().join("old.log")).unwrap();
        server.signal(Signal::SIGUSR1);
        assert_mode(&server, name, later | 0o600);
    }

    if is_nginx() && !daemon {
        // There it takes the shell for the old master, and starts none.
        return;
    }
    server.signal(Signal::SIGUSR2);
    let second = wait_until("the new master has written its pid", || server.pid_in_file().filter(|pid| *pid != first));
    assert_mode(&server, "nginx.pid", later);
    assert_mode(&server, "nginx.pid.oldbin", later);
    wait_until("it has workers", || (!processes::children(second).is_empty()).then_some(()));
    assert_memory_is_private(second);
    for name in ["first.sock", "second.sock"] {
        assert_mode(&server, name, 0o666);
    }
}

#[test]
fn a_daemon_of_a_careless_caller_makes_no_file_that_others_may_write() {
    files(true, 0);
}

#[test]
fn a_daemon_of_a_careful_caller_makes_files_that_can_be_read() {
    files(true, 0o077);
}

#[test]
fn in_the_foreground_a_careless_caller_gets_no_more() {
    files(false, 0);
}

#[test]
fn in_the_foreground_a_careful_caller_gets_what_it_asks_for() {
    files(false, 0o077);
}

#[test]
fn a_pid_file_that_was_open_to_all_is_so_no_longer() {
    if is_nginx() {
        return println!("skipped: nginx differs: what is there keeps its mode");
    }
    let setup = Server::config(&format!("daemon off; {CONFIG}")).bare().file("nginx.pid", "1\n");
    fs::set_permissions(setup.folder().join("nginx.pid"), fs::Permissions::from_mode(0o666)).unwrap();
    let server = setup.start();
    wait_until("the pid is written", || (server.pid_in_file() == Some(server.pid())).then_some(()));
    assert_mode(&server, "nginx.pid", 0o644);
}

/// Every kind of file and socket that a configuration can ask for. `%%USER%%` is a line with `user`, or none.
const OWNED: &str = "%%USER%% pid nginx.pid; error_log error.log info; worker_processes 1; events {}
    http { access_log access.log; access_log held.log combined buffer=4k flush=1s;
      server { listen 127.0.0.1:%%PORT_0%%; listen unix:%%DIR%%/http.sock; error_log server.log; return 200 one; } }
    stream { log_format s '$remote_addr'; access_log stream.log s;
      server { listen unix:%%DIR%%/stream.sock; return x; } }
    mail { auth_http 127.0.0.1:1; server { listen unix:%%DIR%%/mail.sock; protocol imap; } }";

/// Whose something is when it is made, and when the logs have been opened anew.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// The master's, always.
    Master,
    /// The master's until the workers have to open it: then the user's they run as, with the group that it had.
    Workers,
}

const MADE: [(&str, Owner); 9] = [
    ("nginx.pid", Owner::Master),
    ("http.sock", Owner::Master),
    ("stream.sock", Owner::Master),
    ("mail.sock", Owner::Master),
    ("error.log", Owner::Workers),
    ("server.log", Owner::Workers),
    ("access.log", Owner::Workers),
    ("held.log", Owner::Workers),
    ("stream.log", Owner::Workers),
];

#[track_caller]
fn assert_owner(server: &Server, name: &str, user: u32, when: &str) {
    let path = server.folder().join(name);
    let group = nix::unistd::Gid::effective().as_raw();
    let found = || fs::metadata(&path).ok().map(|about| (about.uid(), about.gid()));
    // A file is made first and given away then.
    wait_until(&format!("{name} is {user}:{group} {when}, not {:?}", found()), || {
        found().filter(|owner| *owner == (user, group))
    });
}

/// What the master makes belongs to root, and what the workers must be able to open to their user, as with nginx.
#[test]
fn files_and_sockets_belong_to_whom_they_are_for() {
    if !nix::unistd::Uid::effective().is_root() {
        return println!("skipped: needs root");
    }
    for (line, user) in [
        ("user daemon;", "daemon"),
        ("user daemon games;", "daemon"),
        ("user games daemon;", "games"),
        ("user root;", "root"),
        ("", "nobody"),
    ] {
        let uid_of = |name: &str| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let Some(workers) = uid_of(user) else {
            println!("skipped: needs the user {user}");
            continue;
        };
        let text = OWNED.replace("%%USER%%", line);
        let mut server = Server::config(&format!("daemon on; {text}")).detached().start();
        let first = server.pid();
        for (name, _) in MADE {
            assert_owner(&server, name, 0, "at the start");
        }

        let text = text.replace("http.sock;", "http.sock; listen unix:%%DIR%%/second.sock;");
        let text = text.replace("access_log access.log;", "access_log access.log; access_log second.log;");
        server.reload_with(&format!("daemon on; {text}"));
        let made: Vec<_> =
            MADE.into_iter().chain([("second.sock", Owner::Master), ("second.log", Owner::Workers)]).collect();
        for (name, _) in &made {
            assert_owner(&server, name, 0, "after a reload");
        }

        // Some are still there, some are not.
        for name in ["error.log", "access.log", "stream.log"] {
            fs::rename(server.folder().join(name), server.folder().join("old.log")).unwrap();
        }
        server.signal(Signal::SIGUSR1);
        let owner = |owner: &Owner| if matches!(owner, Owner::Workers) { workers } else { 0 };
        for (name, whose) in &made {
            assert_owner(&server, name, owner(whose), "after the logs were opened anew");
        }

        server.signal(Signal::SIGUSR2);
        let second =
            wait_until("the new master has written its pid", || server.pid_in_file().filter(|pid| *pid != first));
        wait_until("it has workers", || (!processes::children(second).is_empty()).then_some(()));
        for (name, whose) in made.iter().chain([&("nginx.pid.oldbin", Owner::Master)]) {
            assert_owner(&server, name, owner(whose), "after an upgrade");
        }
        // Whoever the files belong to, the workers are whom they should be.
        let worker = processes::children(second)[0];
        let runs_as = |user: u32| fs::metadata(format!("/proc/{worker}")).unwrap().uid() == user;
        // It begins as a copy of the master.
        wait_until(&format!("the worker has given up root, {line}"), || runs_as(workers).then_some(()));
    }
}
