//! Access logs that are rotated under load, on a disk that is full, and sent to a reader that does not read: every line
//! is whole and there once, or counted. Figures are printed with `--nocapture`.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::head;
use tidegate_conformance::pattern::Pattern;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Http, Port, Server, Setup, Wire, is_nginx, wait_until};

/// Rotations of the long test.
const ROTATIONS: usize = 1000;
const CLIENTS: usize = 4;

/// A server of two workers that logs the unique path of each request, in a frame that shows whether a line is whole.
fn logging(logs: &str) -> Setup {
    logging_in("", logs)
}

/// The same with more in the main block.
fn logging_in(main: &str, logs: &str) -> Setup {
    Server::config(&format!(
        "worker_processes 2; {main} events {{}} http {{ log_format framed '<$uri $status $pid>'; {logs}
            server {{ listen 127.0.0.1:%%PORT_0%%; keepalive_requests 10000000; location / {{ return 204; }} }} }}"
    ))
}

/// What clients saw who kept asking.
struct Seen {
    answers: usize,
    /// Sorted.
    times: Vec<Duration>,
}

impl Seen {
    fn percentile(&self, hundredth: usize) -> Duration {
        self.times[(self.times.len() * hundredth / 100).min(self.times.len() - 1)]
    }
}

/// Some clients ask for one unique path after the other as long as `during` runs; every request must be answered.
fn under_load<R>(server: &Server, run: &str, during: impl FnOnce(&AtomicUsize) -> R) -> (R, Seen) {
    let (port, done, count) = (server.port(0), AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let client = |client: usize| {
            let (done, count) = (&done, &count);
            move || {
                let mut http = Http::over(Wire::connect(port));
                let mut times = Vec::new();
                while !done.load(SeqCst) {
                    let asked = Instant::now();
                    assert_eq!(http.get(&format!("/{run}-{client}-{}", times.len())).status, 204);
                    times.push(asked.elapsed());
                    count.fetch_add(1, SeqCst);
                }
                times
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        // Also when `during` panics, the clients come to an end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(&count)));
        done.store(true, SeqCst);
        let mut times: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        times.sort_unstable();
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, Seen { answers: times.len(), times })
    })
}

/// Ends the server, when it has nothing left to do and everything is logged.
fn finish(server: &mut Server) {
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
}

/// The lines of all files in `folder` whose names begin so; each must be whole, and there only once.
fn whole_lines(folder: &Path, name: &str) -> usize {
    let frame = Pattern::new(r"^</\S+ 204 \d+>$");
    let mut lines = HashSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with(name) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends in a line", path.display());
        for line in text.lines() {
            assert!(frame.is_match(line), "{}: {line:?}", path.display());
            assert!(lines.insert(line.to_owned()), "twice: {line:?}");
        }
    }
    lines.len()
}

/// How many lines the error log says are lost of the log of this name.
fn told_lost(server: &Server, name: &str) -> usize {
    let told = Pattern::new(r" failed \(.*\).*, (\d+) lines are lost, \d+ in all logs so far");
    let lines = server.log_lines();
    let of_name = lines.iter().filter(|line| line.contains(name));
    of_name.flat_map(|line| told.captures(line)).map(|groups| groups[1].parse::<usize>().unwrap()).sum()
}

#[test]
fn a_thousand_rotations_lose_and_tear_nothing() {
    let mut server =
        logging("access_log plain.log framed; access_log buffered.log framed buffer=4k flush=50ms;").start();
    let workers = server.workers();
    let folder = server.folder().to_owned();
    let began = Instant::now();
    let ((), seen) = under_load(&server, "rotation", |_| {
        for number in 1..=ROTATIONS {
            for name in ["plain.log", "buffered.log"] {
                fs::rename(folder.join(name), folder.join(format!("{name}.{number}"))).unwrap();
            }
            server.signal(Signal::SIGUSR1);
            wait_until("the logs are there again", || {
                (folder.join("plain.log").exists() && folder.join("buffered.log").exists()).then_some(())
            });
        }
    });
    let took = began.elapsed();
    assert_eq!(server.workers(), workers);
    finish(&mut server);
    let (plain, buffered) = (whole_lines(&folder, "plain.log"), whole_lines(&folder, "buffered.log"));
    println!(
        "{ROTATIONS} rotations in {took:.1?}: {} requests answered, {plain} lines, {buffered} by way of a buffer; p99 {:?}",
        seen.answers,
        seen.percentile(99)
    );
    assert_eq!((plain, buffered), (seen.answers, seen.answers));
    let log = server.read("error.log");
    // nginx: a worker that opens a file before it is its own says so.
    assert!(is_nginx() || !log.contains("[emerg]") && !log.contains("[alert]"), "{log}");
}

#[test]
fn what_a_disk_takes_when_it_is_full_and_after_is_whole() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    if skip_on_nginx("it tears lines") {
        return;
    }
    // Mounts belong to a thread and its children, and go with them.
    thread::spawn(|| {
        let private = unshare(CloneFlags::CLONE_NEWNS).is_ok() && mount(&["--make-rprivate", "/"]);
        let setup = logging(
            "access_log disk/plain.log framed; access_log disk/buffered.log framed buffer=3k flush=50ms; error_log error.log info;",
        );
        let disk = setup.folder().join("disk");
        fs::create_dir(&disk).unwrap();
        if !private || !mount(&["-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", &disk.to_string_lossy()]) {
            println!("skipped: needs a mount namespace");
            return;
        }
        a_full_disk(setup, &disk);
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).status().is_ok_and(|status| status.success())
}

fn a_full_disk(setup: Setup, disk: &Path) {
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 900 << 10]).unwrap();
    let mut server = setup.start();
    let _mounted = Mounted(disk);
    let workers = server.workers();
    let ((), seen) = under_load(&server, "full", |count| {
        for name in ["plain.log", "buffered.log"] {
            server.wait_for_log(&format!(
                r#"\[alert\].* write\(\) to ".*/{name}" failed \(28: No space left on device\), \d+ lines are lost"#
            ));
        }
        let full = count.load(SeqCst);
        wait_until("a thousand requests more are answered", || (count.load(SeqCst) > full + 1000).then_some(()));
        // Several seconds, each with its attempt to write, and so with lines cut short.
        let since = Instant::now();
        wait_until("some seconds pass", || (since.elapsed() > Duration::from_secs(3)).then_some(()));
        let before = [whole_lines_so_far(disk, "plain.log"), whole_lines_so_far(disk, "buffered.log")];
        fs::remove_file(&ballast).unwrap();
        wait_until("lines are written again", || {
            let now = [whole_lines_so_far(disk, "plain.log"), whole_lines_so_far(disk, "buffered.log")];
            (now[0] > before[0] + 200 && now[1] > before[1] + 200).then_some(())
        });
    });
    assert_eq!(server.workers(), workers, "nobody has died of it");
    finish(&mut server);
    for name in ["plain.log", "buffered.log"] {
        let (lines, lost) = (whole_lines(disk, name), told_lost(&server, name));
        println!("{name}: {} requests answered, {lines} lines written, {lost} told to be lost", seen.answers);
        assert!(lost > 0);
        assert_eq!(lines + lost, seen.answers, "{name}");
    }
    println!("while the disk is full: p50 {:?}, p99 {:?}", seen.percentile(50), seen.percentile(99));
}

/// A mounted disk, which must go before the folder that it is in can.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Detached at once, gone when the last file in it is closed.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// The same while lines are being written: a line that has just begun does not count.
fn whole_lines_so_far(folder: &Path, name: &str) -> usize {
    fs::read_to_string(folder.join(name)).unwrap_or_default().matches(">\n").count()
}

#[test]
fn a_device_that_is_always_full_costs_lines_and_nothing_else() {
    if skip_on_nginx("it does not say how many lines are lost") {
        return;
    }
    let mut server = logging("access_log /dev/full framed;").start();
    let ((), seen) = under_load(&server, "device", |count| {
        wait_until("requests are answered", || (count.load(SeqCst) > 500).then_some(()));
    });
    finish(&mut server);
    assert_eq!(told_lost(&server, "/dev/full"), seen.answers);
}

#[test]
fn the_limit_on_the_size_of_files_ends_no_worker() {
    if skip_on_nginx("its workers end") {
        return;
    }
    // Limits can be set for processes of one's own.
    let mut server = logging_in("user root;", "access_log plain.log framed;").start();
    let (master, workers) = (server.pid(), server.workers());
    let limit = |size: &str| {
        let limited = [&[master], &workers[..]].concat().iter().all(|pid| {
            let arguments = ["--pid", &pid.to_string(), &format!("--fsize={size}:unlimited")].map(str::to_owned);
            Command::new("prlimit").args(arguments).status().is_ok_and(|status| status.success())
        });
        limited.then_some(())
    };
    if limit("5000").is_none() {
        println!("skipped: needs prlimit");
        return;
    }
    let ((), seen) = under_load(&server, "limit", |count| {
        wait_until("more is answered than fits", || (count.load(SeqCst) > 1000).then_some(()));
        assert!(whole_lines_so_far(server.folder(), "plain.log") < 5000 / "</limit-0-0 204 1>\n".len());
        limit("unlimited");
        wait_until("lines are written again", || {
            (whole_lines_so_far(server.folder(), "plain.log") > 1000).then_some(())
        });
    });
    assert_eq!((server.pid(), server.workers()), (master, workers));
    finish(&mut server);
    let (lines, lost) = (whole_lines(server.folder(), "plain.log"), told_lost(&server, "plain.log"));
    assert_eq!(lines + lost, seen.answers);
}

#[test]
fn a_syslog_reader_that_does_not_read_holds_up_nobody() {
    if skip_on_nginx("it does not say how many lines are lost") {
        return;
    }
    let setup = logging("access_log syslog:server=unix:%%DIR%%/reader,nohostname framed;");
    let path = setup.folder().join("reader");
    let reader = UnixDatagram::bind(&path).unwrap();
    // The workers may run as somebody else.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut server = setup.start();
    let workers = server.workers();
    let wait = |count: &AtomicUsize| {
        let before = count.load(SeqCst);
        wait_until("requests are answered", || (count.load(SeqCst) > before + 3000).then_some(()));
    };
    let ((), stuck) = under_load(&server, "stuck", wait);
    let held = drain(&reader);
    assert!(held > 0 && held < stuck.answers / 2, "{held} messages are held for {} requests", stuck.answers);

    // A reader that has gone, and one that has come instead.
    drop(reader);
    let ((), gone) = under_load(&server, "gone", wait);
    fs::remove_file(&path).unwrap();
    let reader = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(server.http(0).get("/back").status, 204);
    // A client has its answer a moment before the line is sent, so lines of the last requests may be there too.
    let messages: Vec<String> =
        std::iter::from_fn(|| Some(receive(&reader))).take_while(|text| !text.contains("/back")).collect();
    let form = r"^<190>\w{3} [ \d]\d \d\d:\d\d:\d\d nginx: </gone-\d-\d+ 204 \d+>$";
    assert!(messages.iter().all(|message| tidegate_conformance::matches(form, message)), "{messages:?}");

    assert_eq!(server.workers(), workers);
    finish(&mut server);
    let late = messages.len() + drain(&reader);
    let lost = told_lost(&server, "syslog");
    println!(
        "{} requests to a stuck reader, p99 {:?}; {} to none, p99 {:?}; {held} messages held, {lost} told to be lost",
        stuck.answers,
        stuck.percentile(99),
        gone.answers,
        gone.percentile(99)
    );
    // What was still on its way to the first reader when that went is gone with it: a line for each client at most.
    let (known, asked) = (held + late + lost, stuck.answers + gone.answers);
    assert!(known <= asked && known + CLIENTS >= asked, "{known} of {asked} lines are accounted for");
    assert!(stuck.percentile(99) < Duration::from_millis(200), "{:?}", stuck.percentile(99));
}

fn receive(reader: &UnixDatagram) -> String {
    let mut message = [0; 512];
    let length = reader.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..length]).into_owned()
}

/// How many messages are there to be read.
fn drain(reader: &UnixDatagram) -> usize {
    reader.set_nonblocking(true).unwrap();
    let mut buffer = [0; 512];
    std::iter::from_fn(|| reader.recv(&mut buffer).ok()).count()
}

#[test]
fn a_log_in_a_pipe_waits_for_its_reader_and_nobody_else_does() {
    if skip_on_nginx("it waits for a reader when it starts") {
        return;
    }
    let setup = logging("access_log pipe framed;");
    let path = setup.folder().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let mut server = setup.start();
    let ((), seen) = under_load(&server, "pipe", |count| {
        // More than a pipe holds.
        wait_until("requests are answered", || (count.load(SeqCst) > 5000).then_some(()));
    });
    // Opened while the server still has it open, for a pipe that nobody has open holds nothing.
    let reading = fs::OpenOptions::new().read(true).open(&path).unwrap();
    finish(&mut server);
    let text = std::io::read_to_string(reading).unwrap();
    let lines = text.lines().count();
    assert!(text.ends_with(">\n") && text.lines().all(|line| line.starts_with('<') && line.ends_with('>')));
    assert!(lines > 500, "{lines}");
    assert_eq!(lines + told_lost(&server, "pipe"), seen.answers);
}

/// One request and one line.
const ONE: &str = "events {} http { %%LOGS%% server { listen 127.0.0.1:%%PORT_0%%; location / { return 204; } } }";

fn one(logs: &str) -> Setup {
    Server::config(&ONE.replace("%%LOGS%%", logs))
}

#[test]
fn collected_lines_are_written_by_time_by_usr1_and_at_the_end() {
    let mut server =
        one("access_log timed.log combined buffer=64k flush=100ms; access_log full.log combined buffer=64k;
        access_log off.log combined buffer=64k if=$arg_x;")
        .start();
    server.http(0).get("/first");
    let asked = Instant::now();
    server.wait_for_line("timed.log", "/first");
    println!("flush=100ms after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    assert_eq!(server.read("full.log"), "");
    fs::rename(server.folder().join("full.log"), server.folder().join("full.log.1")).unwrap();
    server.signal(Signal::SIGUSR1);
    server.wait_for_line("full.log.1", "/first");
    wait_until("the log is there again", || server.folder().join("full.log").exists().then_some(()));
    server.http(0).get("/second");
    server.wait_for_line("timed.log", "/second");
    assert_eq!(server.read("full.log") + &server.read("off.log"), "");
    assert!(server.stop().success());
    let last = server.read("full.log") + &server.read("full.log.1");
    assert!(last.contains("/second"), "{last}");
}

#[test]
fn logs_opened_anew_belong_to_the_user_of_the_workers() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let server = one("access_log access.log;").start();
    let path = server.folder().join("access.log");
    assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "nobody has to be able to open it yet");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_until("the workers write to it", || {
        server.http(0).get("/");
        (!server.read("access.log").is_empty()).then_some(())
    });
    let file = fs::metadata(&path).unwrap();
    assert_ne!(file.uid(), 0);
    assert_eq!(file.mode() & 0o777, 0o640);
    let log = server.read("error.log");
    assert!(!log.contains("[emerg]"), "{log}");
}

#[test]
fn without_its_folder_a_log_stays_where_it_is() {
    let setup = one("access_log there/access.log;");
    fs::create_dir(setup.folder().join("there")).unwrap();
    let server = setup.start();
    let folder = server.folder().to_owned();
    fs::rename(folder.join("there"), folder.join("moved")).unwrap();
    server.signal(Signal::SIGUSR1);
    server.wait_for_log(r#"\[emerg\].*open\(\) ".*/there/access.log" failed \(2: No such file or directory\)"#);
    server.http(0).get("/meanwhile");
    server.wait_for_line("moved/access.log", "/meanwhile");
    fs::rename(folder.join("moved"), folder.join("there")).unwrap();
    fs::rename(folder.join("there/access.log"), folder.join("there/old.log")).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_until("new lines are in the new file", || {
        server.http(0).get("/after");
        server.read("there/access.log").contains("/after").then_some(())
    });
    assert!(server.read("there/old.log").contains("/meanwhile"));
}

#[test]
fn a_link_is_followed_also_to_another_file() {
    let setup = one("access_log link.log;");
    let folder = setup.folder().to_owned();
    symlink(folder.join("first.log"), folder.join("link.log")).unwrap();
    let server = setup.start();
    server.http(0).get("/first");
    server.wait_for_line("first.log", "/first");
    fs::remove_file(folder.join("link.log")).unwrap();
    symlink(folder.join("second.log"), folder.join("link.log")).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_until("lines are where the link leads now", || {
        server.http(0).get("/second");
        server.read("second.log").contains("/second").then_some(())
    });
    assert!(fs::symlink_metadata(folder.join("link.log")).unwrap().is_symlink());
}

#[test]
fn a_worker_that_is_finishing_opens_its_logs_anew_too() {
    let gate = Port::claim();
    let backend = HttpBackend::start({
        let gate = gate.address();
        move |_| {
            wait_until("the gate opens", || std::net::TcpStream::connect(gate).ok());
            Reply::ok("at last")
        }
    });
    let mut server = Server::config(
        "events {} http { access_log access.log; server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let old = server.workers();
    let mut slow = server.http(0);
    slow.send(head("GET", "/slow", &[]));
    wait_until("the backend is asked", || (!backend.requests().is_empty()).then_some(()));
    server.reload();
    server.wait_for_log(&format!(r"{}#.*gracefully shutting down", old[0]));
    fs::rename(server.folder().join("access.log"), server.folder().join("access.log.1")).unwrap();
    let renamed = server.folder().join("access.log.1");
    server.signal(Signal::SIGUSR1);
    wait_until("the old worker has let the old file go", || {
        let open = fs::read_dir(format!("/proc/{}/fd", old[0])).unwrap().flatten();
        (!open.flat_map(|entry| fs::read_link(entry.path())).any(|target| target == renamed)).then_some(())
    });
    let _open = TcpBackend::start_on(&gate, |_, _| {});
    assert_eq!(slow.response().text(), "at last");
    server.wait_until_gone(&old);
    assert!(server.read("access.log").contains("/slow") && !server.read("access.log.1").contains("/slow"));
}
