//! The server under test: a configuration in a folder of its own, a process that runs it, and what can be seen of both.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::client::{Http, Wire};
use crate::pattern::Pattern;
use crate::port::Port;
use crate::processes;
use crate::wait::{PATIENCE, poll_for, wait_until};
use crate::{binary, is_nginx};

/// On the first line of every configuration, so that error messages keep their line numbers.
const GLOBALS: &str = "daemon off; pid nginx.pid; error_log error.log info; ";

/// A configuration being prepared.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    text: String,
    values: Vec<(String, String)>,
    ports: Vec<Port>,
    globals: &'static str,
    detached: bool,
    program: PathBuf,
    environment: Vec<(String, String)>,
    socket: Option<TcpListener>,
    umask: Option<u32>,
}

impl Setup {
    /// Starts from a configuration in which `%%PORT_0%%` and so on stand for free ports, `%%DIR%%` for the folder that
    /// holds it, and `%%NAME%%` for what [`Setup::set`] says.
    pub fn new(text: &str) -> Setup {
        processes::adopt_orphans();
        let folder = tempfile::Builder::new().prefix("tidegate-test-").tempdir().expect("a temporary folder");
        // Workers of a server started by root are `nobody`, and must come through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open the folder");
        fs::create_dir(folder.path().join("logs")).expect("create logs, where the default access log goes");
        Setup {
            folder,
            text: text.to_owned(),
            values: Vec::new(),
            ports: Vec::new(),
            globals: GLOBALS,
            detached: false,
            program: binary::path().to_owned(),
            environment: Vec::new(),
            socket: None,
            umask: None,
        }
    }

    /// Runs the binary whose `fault` directive does harm. `None`, saying so, when a binary from elsewhere is under test.
    pub fn faulty(mut self) -> Option<Setup> {
        let Some(path) = binary::faulty() else {
            println!("skipped: needs the workspace's own tidegate-faulty, and TIDEGATE_BINARY is set");
            return None;
        };
        self.program = path.to_owned();
        Some(self)
    }

    /// Puts nothing before the configuration: it says `daemon`, `pid` and `error_log` itself.
    pub fn bare(mut self) -> Setup {
        self.globals = "";
        self
    }

    /// The server goes to the background by itself (`daemon on` in a [`Setup::bare`] configuration).
    pub fn detached(mut self) -> Setup {
        self.detached = true;
        self.bare()
    }

    /// Runs a copy of the binary that lies in the folder as `name`, so that a test may replace it.
    pub fn copied(mut self, name: &str) -> Setup {
        self.program = self.folder.path().join(name);
        // By another process: a child that a test beside this one starts must not inherit a file that is being written,
        // since nobody could execute it until that child has gone on.
        let copied = Command::new("cp").arg(binary::path()).arg(&self.program).status().expect("cp runs");
        assert!(copied.success(), "copy the binary");
        self
    }

    /// Runs this binary.
    pub fn program(mut self, path: &Path) -> Setup {
        self.program = path.to_owned();
        self
    }

    /// Sets a variable of the environment; `%%DIR%%` in it stands for the folder.
    pub fn environment(mut self, name: &str, value: &str) -> Setup {
        let value = value.replace("%%DIR%%", &self.folder.path().display().to_string());
        self.environment.push((name.to_owned(), value));
        self
    }

    /// Hands the server a listening socket as descriptor 3, as systemd's socket activation does.
    pub fn socket(mut self, socket: TcpListener) -> Setup {
        self.socket = Some(socket);
        self
    }

    /// Starts the server with this mask for the modes of new files.
    pub fn umask(mut self, mask: u32) -> Setup {
        self.umask = Some(mask);
        self
    }

    /// Makes `%%NAME%%` stand for a value.
    pub fn set(mut self, name: &str, value: impl ToString) -> Setup {
        self.values.push((name.to_owned(), value.to_string()));
        self
    }

    /// Writes a file, making the folders on its way; placeholders are not replaced.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Setup {
        write(self.folder.path(), name, content.as_ref());
        self
    }

    /// Writes `<name>.crt` and `<name>.key`.
    pub fn certificate(self, name: &str, certificate: &Certificate) -> Setup {
        certificate.write(self.folder.path(), name);
        self
    }

    /// The folder of the configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the binary to its end on this configuration (`-t`, `-T`).
    pub fn run(mut self, arguments: &[&str]) -> Outcome {
        self.write_configuration();
        let output = self.command().args(arguments).output().expect("the binary runs");
        Outcome {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// As [`Setup::start`]; `None`, saying what is missing, when the binary knows a directive of the configuration but
    /// says that it does not support it yet. So the test comes alive by itself together with the feature.
    #[track_caller]
    pub fn start_if_supported(mut self) -> Option<Server> {
        (!self.is_unsupported()).then(|| self.start())
    }

    fn is_unsupported(&mut self) -> bool {
        if is_nginx() {
            return false;
        }
        self.write_configuration();
        let output = self.command().arg("-t").output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let missing = text.lines().find(|line| line.contains("not supported yet"));
        if let Some(what) = missing.and_then(|line| line.split('"').nth(1)) {
            println!("skipped: needs {what}");
        }
        missing.is_some()
    }

    /// Starts the server and waits until every address of the configuration accepts.
    #[track_caller]
    pub fn start(mut self) -> Server {
        self.write_configuration();
        let stdout = File::create(self.folder.path().join("stdout.log")).expect("create stdout.log");
        let stderr = File::create(self.folder.path().join("stderr.log")).expect("create stderr.log");
        let (mut command, stdin) = match self.socket.take() {
            None => (self.command(), Stdio::null()),
            Some(socket) => (self.command_with_socket(), Stdio::from(OwnedFd::from(socket))),
        };
        let child =
            command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn().expect("the binary runs");
        let listening = listening_ports(&self.text);
        let mut server = Server { setup: self, child, ended: None };
        server.wait_until_ready(&listening);
        server
    }

    /// The binary on this configuration.
    pub fn command(&self) -> Command {
        let folder = self.folder.path();
        let mut command = match self.umask {
            None => Command::new(&self.program),
            Some(mask) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!(r#"umask {mask:o}; exec "$0" "$@""#)]).arg(&self.program);
                shell
            }
        };
        let mut prefix = PathBuf::from(folder);
        prefix.push("");
        command.arg("-p").arg(prefix).args(["-c", "nginx.conf", "-e", "error.log"]).current_dir(folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The same behind a shell that moves the socket on its standard input to where it is announced.
    fn command_with_socket(&self) -> Command {
        let inner = self.command();
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn write_configuration(&mut self) {
        let text = format!("{}{}", self.globals, self.text);
        let text = self.expand(&text);
        write(self.folder.path(), "nginx.conf", text.as_bytes());
    }

    fn expand(&mut self, text: &str) -> String {
        let mut text = text.replace("%%DIR%%", &self.folder.path().display().to_string());
        for (name, value) in &self.values {
            text = text.replace(&format!("%%{name}%%"), value);
        }
        for index in 0.. {
            let name = format!("%%PORT_{index}%%");
            let wanted = text.contains(&name);
            if wanted {
                text = text.replace(&name, &self.port(index).to_string());
            } else if index > 20 {
                break;
            }
        }
        assert!(!text.contains("%%"), "a placeholder is left: {text}");
        text
    }

    fn port(&mut self, index: usize) -> u16 {
        while self.ports.len() <= index {
            self.ports.push(Port::claim());
        }
        self.ports[index].number()
    }
}

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// A running server. Dropping it kills every process of it and waits until they are gone.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Server {
    /// Prepares a configuration; see [`Setup::new`].
    pub fn config(text: &str) -> Setup {
        Setup::new(text)
    }

    /// Starts the server on a configuration that needs nothing else.
    #[track_caller]
    pub fn start(text: &str) -> Server {
        Setup::new(text).start()
    }

    /// The folder of the configuration, which is the server's prefix too.
    pub fn folder(&self) -> &Path {
        self.setup.folder.path()
    }

    /// The port that `%%PORT_<index>%%` stands for.
    pub fn port(&self, index: usize) -> u16 {
        self.setup.ports[index].number()
    }

    /// `127.0.0.1:<port>`, for templates and messages.
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.port(index))
    }

    /// Opens a connection that speaks HTTP/1.
    #[track_caller]
    pub fn http(&self, index: usize) -> Http {
        Http::over(self.connect(index))
    }

    /// Opens a connection.
    #[track_caller]
    pub fn connect(&self, index: usize) -> Wire {
        Wire::connect(self.port(index))
    }

    /// The text of a file in the folder, empty when there is none.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join(name)).unwrap_or_default()).into_owned()
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(self.folder(), name, content.as_ref());
    }

    /// The lines of the error log.
    pub fn log_lines(&self) -> Vec<String> {
        self.lines("error.log")
    }

    /// The lines of a file in the folder.
    pub fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    /// Waits for a line of the error log that matches a regular expression.
    #[track_caller]
    pub fn wait_for_log(&self, pattern: &str) -> String {
        self.wait_for_line("error.log", pattern)
    }

    /// Waits for a complete line of a file that matches a regular expression.
    #[track_caller]
    pub fn wait_for_line(&self, name: &str, pattern: &str) -> String {
        let regex = Pattern::new(pattern);
        wait_until(&format!("{name} has a line like {pattern}"), || {
            let text = self.read(name);
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            complete.lines().find(|line| regex.is_match(line)).map(str::to_owned)
        })
    }

    /// Waits until a file has this many complete lines, and returns them.
    #[track_caller]
    pub fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_until(&format!("{name} has {count} lines"), || {
            let text = self.read(name);
            (text.matches('\n').count() >= count).then(|| text.lines().map(str::to_owned).collect())
        })
    }

    /// The master's process id.
    pub fn pid(&self) -> i32 {
        if self.setup.detached { self.pid_in_file().unwrap_or(0) } else { self.child.id() as i32 }
    }

    /// The process id written in `nginx.pid`.
    pub fn pid_in_file(&self) -> Option<i32> {
        self.read("nginx.pid").trim().parse().ok()
    }

    /// The workers' process ids, in order; helpers of the cache are not among them.
    pub fn workers(&self) -> Vec<i32> {
        processes::children(self.pid()).into_iter().filter(|&pid| !processes::title(pid).contains("cache")).collect()
    }

    /// Stops every worker where it stands (SIGSTOP), and returns them: whoever connects from now on stays in the queue.
    #[track_caller]
    pub fn freeze_workers(&self) -> Vec<i32> {
        let workers = self.workers();
        for pid in &workers {
            signal_to(*pid, Signal::SIGSTOP);
            let is_stopped = || processes::process(*pid).is_some_and(|process| process.state == 'T');
            wait_until("the worker has stopped", || is_stopped().then_some(()));
        }
        workers
    }

    /// Replaces the configuration that the next reload will read.
    pub fn rewrite(&mut self, text: &str) {
        self.setup.text = text.to_owned();
        self.setup.write_configuration();
    }

    /// Replaces the configuration, asks for a reload and waits until new workers run and new addresses accept.
    #[track_caller]
    pub fn reload_with(&mut self, text: &str) {
        self.rewrite(text);
        self.reload();
    }

    /// Asks for a reload and waits until new workers run and every address accepts. Old workers may still be serving.
    #[track_caller]
    pub fn reload(&mut self) {
        let old = self.workers();
        self.signal(Signal::SIGHUP);
        wait_until("a reload brings new workers", || self.workers().iter().any(|pid| !old.contains(pid)).then_some(()));
        let listening = listening_ports(&self.setup.text);
        self.wait_until_ready(&listening);
    }

    /// Waits until none of these processes is left.
    #[track_caller]
    pub fn wait_until_gone(&self, pids: &[i32]) {
        wait_until("processes end", || (!pids.iter().any(|&pid| processes::is_alive(pid))).then_some(()));
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Runs the binary with the same prefix and configuration and other arguments (`-s reload`).
    pub fn control(&self, arguments: &[&str]) -> Outcome {
        let output = self.setup.command().args(arguments).output().expect("the binary runs");
        Outcome {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asks the server to end at once, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until the server has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until("the server ends", || self.child.try_wait().expect("wait for the server"));
        self.ended = Some(status);
        status
    }

    /// Whether the master runs.
    pub fn is_running(&mut self) -> bool {
        if self.setup.detached { processes::is_alive(self.pid()) } else { matches!(self.child.try_wait(), Ok(None)) }
    }

    #[track_caller]
    fn wait_until_ready(&mut self, listening: &[usize]) {
        let ready = poll_for(PATIENCE, || {
            if !self.setup.detached && !self.is_running() {
                return Some(false);
            }
            let accepts = listening.iter().all(|&index| processes::is_listening(self.setup.ports[index].number()));
            let wants_pid = self.setup.text.contains("pid ") || !self.setup.globals.is_empty();
            let has_pid = !wants_pid || self.pid_in_file().is_some();
            let single = self.setup.text.contains("master_process off");
            (accepts && has_pid && (single || !self.workers().is_empty())).then_some(true)
        });
        if ready != Some(true) {
            panic!("the server did not start:\n{}{}", self.read("stderr.log"), self.read("error.log"));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log_lines();
            let tail = log.len().saturating_sub(25);
            eprintln!("--- error.log of {} ends with:\n{}", self.folder().display(), log[tail..].join("\n"));
        }
        if self.setup.detached {
            // Each start in the background is a process group of its own, whatever the pid files say by now.
            let folder = self.folder().display().to_string();
            let ours = processes::all().into_iter().filter(|process| processes::title(process.pid).contains(&folder));
            let groups: BTreeSet<i32> = ours.map(|process| process.group).collect();
            let own = nix::unistd::getpgrp().as_raw();
            groups.into_iter().filter(|group| *group != own).for_each(processes::end_group);
        }
        processes::end_family(&mut self.child);
    }
}

/// Sends a signal to a process that may just have ended.
pub fn signal_to(pid: i32, signal: Signal) {
    assert!(pid > 1, "there is no process to signal");
    let _ = kill(Pid::from_raw(pid), signal);
}

/// How long a server may take to notice something that it only looks for now and then.
pub const SOON: Duration = Duration::from_secs(3);

fn write(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("create a folder");
    }
    // Written aside and moved into place, so that a server that reads meanwhile sees the old or the new.
    let aside = folder.join(format!("{name}.new"));
    fs::write(&aside, content).expect("write a file");
    fs::rename(&aside, &path).expect("move a file into place");
}

/// The indexes of the ports on which the configuration listens for TCP.
fn listening_ports(text: &str) -> Vec<usize> {
    let listen = Pattern::new(r"\blisten\s+[^;]*?%%PORT_(\d+)%%([^;]*);");
    let captures = listen.captures(text);
    let tcp = captures.iter().filter(|groups| !groups[2].contains("udp") && !groups[2].contains("quic"));
    tcp.filter_map(|groups| groups[1].parse().ok()).collect()
}

/// Whether the binary is a real nginx, and a test of a deliberate difference does not apply to it; prints that it is skipped.
pub fn skip_on_nginx(difference: &str) -> bool {
    if is_nginx() {
        println!("skipped: nginx differs: {difference}");
    }
    is_nginx()
}

/// Says that a test does not apply yet, for what no directive of its configuration tells. True unless on an nginx.
pub fn skip_without(feature: &str) -> bool {
    if !is_nginx() {
        println!("skipped: needs {feature}");
    }
    !is_nginx()
}
