//! Real servers to proxy to, when the machine has them. Each runs unprivileged, on loopback, in a folder of its own.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, chown, getegid, geteuid};
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::port::Port;
use crate::processes;
use crate::wait::{poll_for, wait_until};

const NOBODY: u32 = 65_534;

/// Where a program lies, looking at `PATH` and at the folders of system programs; prints that a test is skipped if
/// there is none.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: needs {program}");
    }
    found
}

/// A user and group without rights: ourselves, or `nobody` when we are root.
fn unprivileged() -> (Uid, Gid) {
    if geteuid().is_root() { (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)) } else { (geteuid(), getegid()) }
}

/// Makes a command run without rights, in a process group of its own.
fn unprivileged_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if geteuid().is_root() {
        // The standard library drops the supplementary groups along with the user.
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn unprivileged_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("tidegate-peer-").tempdir().expect("a temporary folder");
    let (user, group) = unprivileged();
    chown(folder.path(), Some(user), Some(group)).expect("give the folder away");
    folder
}

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: Port,
    _folder: TempDir,
}

impl Redis {
    /// Starts one, or says that the test is skipped.
    pub fn start() -> Option<Redis> {
        let program = find("redis-server")?;
        let (folder, port) = (unprivileged_folder(), Port::claim());
        let child = unprivileged_command(&program)
            .current_dir(folder.path())
            .args(["--bind", "127.0.0.1", "--port", &port.number().to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .spawn()
            .expect("redis-server runs");
        let redis = Redis { child, port, _folder: folder };
        wait_until("redis-server listens", || processes::is_listening(redis.port()).then_some(()));
        Some(redis)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        processes::end_family(&mut self.child);
    }
}

/// An nginx of the machine's own, to be compared with.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: Port,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one on a configuration in which `%%PORT_0%%` stands for its port, or says that the test is skipped.
    pub fn start(text: &str) -> Option<Nginx> {
        let program = find("nginx")?;
        processes::adopt_orphans();
        let folder = tempfile::Builder::new().prefix("tidegate-nginx-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open the folder");
        let port = Port::claim();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name}; ", folder.path().display()))
            .concat();
        let text = text.replace("%%PORT_0%%", &port.number().to_string()).replacen(
            "http {",
            &format!("http {{ {temporary}"),
            1,
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, format!("daemon off; pid nginx.pid; error_log error.log info; {text}"))
            .expect("write nginx.conf");
        let mut prefix = folder.path().to_owned();
        prefix.push("");
        let mut child = Command::new(program)
            .arg("-p")
            .arg(prefix)
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("nginx runs");
        wait_until("nginx listens", || {
            let ended = child.try_wait().ok().flatten();
            let log = || fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
            assert!(ended.is_none(), "nginx did not start: {}", log());
            processes::is_listening(port.number()).then_some(())
        });
        Some(Nginx { child, port, _folder: folder })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        processes::end_family(&mut self.child);
    }
}

/// A Dovecot server for IMAP, with the user `alice` whose password is `pw`.
#[derive(Debug)]
pub struct Dovecot {
    child: Child,
    imap: Port,
    folder: TempDir,
}

impl Dovecot {
    /// Starts one, or says that the test is skipped.
    pub fn start() -> Option<Dovecot> {
        let program = find("dovecot")?;
        let (folder, imap) = (unprivileged_folder(), Port::claim());
        write_dovecot_configuration(folder.path(), imap.number());
        let child = unprivileged_command(&program)
            .current_dir(folder.path())
            .arg("-F")
            .arg("-c")
            .arg(folder.path().join("dovecot.conf"))
            .spawn()
            .expect("dovecot runs");
        let dovecot = Dovecot { child, imap, folder };
        wait_until("dovecot listens", || processes::is_listening(dovecot.imap_port()).then_some(()));
        Some(dovecot)
    }

    /// The port on which it speaks IMAP.
    pub fn imap_port(&self) -> u16 {
        self.imap.number()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // Its children are in groups of their own; they end with it when it is asked to.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        poll_for(Duration::from_secs(5), || self.child.try_wait().ok().flatten());
        processes::end_family(&mut self.child);
    }
}

fn write_dovecot_configuration(folder: &Path, imap: u16) {
    Certificate::for_names(&["localhost"]).write(folder, "dovecot");
    let (uid, gid) = unprivileged();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let group = nix::unistd::Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
    let dir = folder.display();
    let text = format!(
        "base_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\nprotocols = imap\nlisten = 127.0.0.1\n\
         ssl = yes\nssl_cert = <{dir}/dovecot.crt\nssl_key = <{dir}/dovecot.key\ndisable_plaintext_auth = no\n\
         auth_mechanisms = plain login\nlogin_trusted_networks = 127.0.0.0/8\ndefault_internal_user = {user}\n\
         default_internal_group = {group}\ndefault_login_user = {user}\nfirst_valid_uid = 1\n\
         mail_location = maildir:{dir}/home/%u/Maildir\nmail_max_userip_connections = 1000\n\
         passdb {{\n  driver = passwd-file\n  args = scheme=PLAIN {dir}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid={uid} gid={gid} home={dir}/home/%u\n}}\n\
         service anvil {{\n  chroot =\n}}\nservice stats {{\n  chroot =\n}}\n\
         service imap-login {{\n  chroot =\n  inet_listener imap {{\n    port = {imap}\n  }}\n  \
         inet_listener imaps {{\n    port = 0\n  }}\n}}\n"
    );
    fs::write(folder.join("dovecot.conf"), text).expect("write dovecot.conf");
    fs::write(folder.join("users"), "alice:{PLAIN}pw\n").expect("write users");
    for name in ["run", "state", "home"] {
        fs::create_dir(folder.join(name)).expect("create a folder");
    }
    for name in ["", "run", "state", "home", "users", "dovecot.conf", "dovecot.crt", "dovecot.key"] {
        let path = folder.join(name);
        chown(&path, Some(uid), Some(gid)).expect("give a file away");
        let mode = if path.is_dir() { 0o755 } else { 0o600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set a mode");
    }
}
