//! The master: loads configurations, owns the sockets, forks and supervises workers. It is a plain single-threaded
//! program that never serves and never starts a runtime.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::brake::Death;
use super::children::{Child, Children, Role, Wanted};
use super::generation::{Bound, CommitError, Generation, Loader, Patience, TRY_PAUSE};
use super::identity::{self, Identity};
use super::upgrade::{self, Inherited};
use super::worker::Post;
use super::{generation, pid_file, readiness, worker};
use crate::conf::ConfigError;
use crate::log::file::Opening;
use crate::log::{ErrorLog, Level, LogFile, Logger, Target};
use crate::zone::{Zone, Zones};

/// How long workers may take to end on TERM before they are killed.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a reload the next one waits for so long, and takes with it all that are asked for meanwhile.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
/// After a fork that failed the next is tried so much later.
const FORK_PAUSE: Duration = Duration::from_millis(100);
/// That is complained about once in this time.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

const SIGNALS: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// Loads the configuration and does what the command line asks for.
pub fn start(loader: Loader) -> ExitCode {
    match begin(loader) {
        Ok(code) | Err(code) => code,
    }
}

/// The stages of a start, one after the other. `Err` where one of them has said why it goes no further.
fn begin(loader: Loader) -> Result<ExitCode, ExitCode> {
    if loader.options.test {
        let (generation, _) = load(&loader, &mut Inherited::take())?;
        return Ok(test_only(&loader, &generation));
    }
    let _ = early_signals().thread_block();
    let mut inherited = Inherited::take();
    let (mut generation, foreign) = load(&loader, &mut inherited)?;
    let identity = open(&loader, &mut generation, &mut inherited)?;
    settle(&loader, &generation, inherited.upgrading)?;
    announce(&loader, &generation, &foreign);
    if !generation.settings.master_process {
        return Ok(serve_alone(loader, generation));
    }
    Ok(Master::new(loader, generation, identity, inherited)?.run())
}

/// Reads the configuration. Also gives the names of zones of the old binary that cannot be gone on with.
fn load(loader: &Loader, inherited: &mut Inherited) -> Result<(Generation, Vec<String>), ExitCode> {
    let (program, test, quiet) = (loader.program.name, loader.options.test, loader.options.quiet);
    let zones = std::mem::take(&mut inherited.zones);
    let (adopted, foreign): (Vec<_>, Vec<_>) =
        zones.into_iter().map(|(name, file)| (Zone::adopt(&name, file), name)).partition(|(zone, _)| zone.is_some());
    let zones = Zones::after_upgrade(adopted.into_iter().filter_map(|(zone, _)| zone).collect());
    match loader.load(zones) {
        Ok((generation, notes)) => {
            if !(test && quiet) {
                notes.warnings().for_each(|warning| eprintln!("{program}: [warn] {warning}"));
            }
            Ok((generation, foreign.into_iter().map(|(_, name)| name).collect()))
        }
        Err(errors) => {
            errors.warnings().for_each(|warning| eprintln!("{program}: [warn] {warning}"));
            report(loader, errors.iter());
            if test && !quiet {
                eprintln!("{program}: configuration file {} test failed", loader.file().display());
            }
            Err(ExitCode::from(1))
        }
    }
}

/// Finds out whom workers are to run as, and opens logs and sockets.
fn open(loader: &Loader, generation: &mut Generation, inherited: &mut Inherited) -> Result<Option<Identity>, ExitCode> {
    let identity = Identity::find(generation.settings.user.as_ref())
        .map_err(|message| fail(loader, &[ConfigError::general(message)]))?;
    generation
        .commit(&[], &mut inherited.sockets, Patience::Wait)
        .map_err(|failed| fail(loader, &failed.into_errors()))?;
    // Whatever is left of them is configured no more.
    inherited.sockets.clear();
    Ok(identity)
}

/// Becomes what goes on: in the background if it is to, with its pid written and its log installed.
fn settle(loader: &Loader, generation: &Generation, upgrading: bool) -> Result<(), ExitCode> {
    // A new binary is in the background already.
    let starter = match generation.settings.daemon && !upgrading {
        true => Some(identity::detach().map_err(|error| {
            let message = format!("daemon() failed ({})", crate::log::os_error(&error));
            fail(loader, &[ConfigError::general(message)])
        })?),
        false => None,
    };
    // Whoever reads the pid may send a signal at once.
    let _ = signals().thread_block();
    pid_file::write(&generation.settings.pid)
        .map_err(|error| fail(loader, &[generation.settings.no_pid_file(&error)]))?;
    if let Some(starter) = starter {
        starter.tell();
    }
    if generation.settings.daemon {
        identity::silence();
        generation.logs.stderr_has_changed();
    }
    crate::log::error::install(generation.error_log.clone());
    Ok(())
}

/// Tells in the log who begins.
fn announce(loader: &Loader, generation: &Generation, foreign: &[String]) {
    let (log, program) = (Logger::new(&generation.error_log), &loader.program);
    crate::log!(log, Notice, "{}/{} (nginx/{})", program.name, program.version, program.nginx_version);
    for name in foreign {
        crate::log!(
            log,
            Notice,
            "shared memory zone \"{name}\" of the old binary has another layout and is begun anew"
        );
    }
    crate::log!(log, Notice, "start worker processes");
}

/// `master_process off`: this process serves.
fn serve_alone(loader: Loader, generation: Generation) -> ExitCode {
    let pid = generation.settings.pid.clone();
    let sockets = generation.sockets.iter().filter_map(Bound::path).map(|(path, _)| path.to_owned());
    let sockets: Vec<PathBuf> = sockets.collect();
    let code = worker::run(generation, Post::Alone(Box::new(loader)));
    // It has not come as far as removing them itself.
    pid_file::remove(&pid);
    sockets.iter().for_each(|path| drop(std::fs::remove_file(path)));
    code
}

/// Those of the signals that would end a process which is about to become a master and has not come to reading them: they
/// wait until it has. The others are to end it.
fn early_signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH].into_iter().collect()
}

/// What the master blocks: what it reads, and what comes of a log that has reached the limit on the size of files. Then
/// the write fails, that is all.
fn signals() -> SigSet {
    SIGNALS.into_iter().chain([Signal::SIGXFSZ]).collect()
}

/// Says what is wrong, and how the process ends therefore.
fn fail(loader: &Loader, errors: &[ConfigError]) -> ExitCode {
    report(loader, errors.iter());
    ExitCode::from(1)
}

fn report<'a>(loader: &Loader, errors: impl Iterator<Item = &'a ConfigError>) {
    let file = loader.options.error_log.as_ref().filter(|path| path.as_os_str() != "stderr").and_then(|path| {
        let prefix = std::env::current_dir().unwrap_or_default();
        let file = LogFile::new(Some(prefix.join(loader.options.prefix.clone().unwrap_or_default()).join(path)));
        let opened = file.open(Opening::Create).ok();
        opened.map(|()| ErrorLog::new(vec![(Level::Debug, Target::File(file.into()))]))
    });
    for error in errors {
        eprintln!("{}: [emerg] {error}", loader.program.name);
        if let Some(file) = &file {
            crate::log!(Logger::new(file), Emerg, "{error}");
        }
    }
}

fn test_only(loader: &Loader, generation: &Generation) -> ExitCode {
    use std::io::Write;
    let (program, file) = (loader.program.name, loader.file().display());
    if !loader.options.quiet {
        eprintln!("{program}: the configuration file {file} syntax is ok");
    }
    let failed = generation.try_out();
    if !failed.is_empty() {
        report(loader, failed.iter());
        eprintln!("{program}: configuration file {file} test failed");
        return ExitCode::from(1);
    }
    if !loader.options.quiet {
        eprintln!("{program}: configuration file {file} test is successful");
    }
    if loader.options.dump {
        let mut out = std::io::stdout().lock();
        for (path, text) in &generation.files {
            let _ = writeln!(out, "# configuration file {}:", path.display());
            let _ = out.write_all(text);
            let _ = writeln!(out);
        }
    }
    ExitCode::SUCCESS
}

enum Going {
    On,
    Down { kill_at: Option<Instant> },
}

struct Master {
    loader: Loader,
    generation: Generation,
    identity: Option<Identity>,
    children: Children,
    /// When to fork again after it has failed, and when that was last complained about.
    fork_at: Option<Instant>,
    fork_failed: Option<Instant>,
    /// When the configuration was last read again, and when it is to be.
    reloaded: Option<Instant>,
    reload_at: Option<Instant>,
    /// How often it has been tried, while an address that it wants is in use.
    reload_attempt: u32,
    /// Signals that came meanwhile, and are heeded after it.
    deferred: Vec<Signal>,
    going: Going,
    /// False after WINCH, until HUP: workers are not replaced.
    serving: bool,
    /// The master that USR2 has started.
    successor: Option<Pid>,
    /// The master that has started this one by USR2.
    predecessor: Option<Pid>,
    first_slot: usize,
    /// A pipe that nothing is ever written to. Only this process keeps its writing end, so that workers, which keep the
    /// other, see its end.
    alive: (OwnedFd, Option<OwnedFd>),
}

impl Master {
    fn new(
        loader: Loader,
        generation: Generation,
        identity: Option<Identity>,
        inherited: Inherited,
    ) -> Result<Master, ExitCode> {
        let (reading, writing) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|error| {
            let (log, error) = (Logger::new(&generation.error_log), crate::log::os_error(&error.into()));
            crate::log!(log, Emerg, "pipe2() failed ({error})");
            ExitCode::from(1)
        })?;
        Ok(Master {
            loader,
            generation,
            identity,
            children: Children::default(),
            fork_at: None,
            fork_failed: None,
            reloaded: None,
            reload_at: None,
            reload_attempt: 0,
            deferred: Vec::new(),
            going: Going::On,
            serving: true,
            successor: None,
            predecessor: inherited.upgrading.then_some(inherited.parent),
            first_slot: inherited.first_slot,
            alive: (reading, Some(writing)),
        })
    }

    fn run(mut self) -> ExitCode {
        let mask: SigSet = SIGNALS.into_iter().collect();
        let signals = match SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) {
            Ok(signals) => signals,
            Err(error) => {
                crate::log!(
                    Logger::new(&self.generation.error_log),
                    Emerg,
                    "signalfd() failed ({})",
                    crate::log::os_error(&error.into())
                );
                return ExitCode::from(1);
            }
        };
        self.top_up();
        readiness::ready();
        loop {
            let mut sources = [PollFd::new(std::os::fd::AsFd::as_fd(&signals), PollFlags::POLLIN)];
            let _ = poll(&mut sources, self.timeout());
            while let Ok(Some(info)) = signals.read_signal() {
                if let Some(signal) =
                    i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
                {
                    self.on_signal(signal);
                }
            }
            self.reap();
            self.on_time();
            if matches!(self.going, Going::Down { .. }) && self.children.is_empty() {
                crate::log!(Logger::new(&self.generation.error_log), Notice, "exit");
                pid_file::remove(&self.pid_file());
                let sockets = std::mem::take(&mut self.generation.sockets);
                self.remove_sockets(&sockets);
                return ExitCode::SUCCESS;
            }
        }
    }

    fn timeout(&self) -> PollTimeout {
        let at = match &self.going {
            Going::On => self.next_start().into_iter().chain(self.reload_at).min(),
            Going::Down { kill_at } => *kill_at,
        };
        let wait = at.map(|at| at.saturating_duration_since(Instant::now()));
        wait.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn on_signal(&mut self, signal: Signal) {
        let may_wait = matches!(signal, Signal::SIGHUP | Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH);
        if may_wait && self.reload_attempt > 0 {
            if !self.deferred.contains(&signal) {
                self.deferred.push(signal);
            }
            return;
        }
        let log = Logger::new(&self.generation.error_log);
        if signal != Signal::SIGCHLD {
            crate::log!(log, Notice, "signal {} ({signal}) received", signal as i32);
        }
        match signal {
            Signal::SIGTERM | Signal::SIGINT => {
                self.say_stopping();
                self.tell_all(Signal::SIGTERM);
                // As patient as the first time.
                let known = if let Going::Down { kill_at } = self.going { kill_at } else { None };
                self.going = Going::Down { kill_at: known.or(Some(Instant::now() + PATIENCE)) };
            }
            Signal::SIGQUIT => {
                self.say_stopping();
                self.tell_all(Signal::SIGQUIT);
                if matches!(self.going, Going::On) {
                    self.going = Going::Down { kill_at: None };
                }
                // Nobody accepts any more: new clients must be refused, not left waiting for the last session to end.
                let sockets = std::mem::take(&mut self.generation.sockets);
                self.remove_sockets(&sockets);
            }
            // nginx: a roll-back. The configuration may be the new binary's already.
            Signal::SIGHUP if matches!(self.going, Going::On) && self.successor.is_some() => {
                crate::log!(
                    log,
                    Notice,
                    "the new binary is running: workers are started, the configuration is not read"
                );
                self.serving = true;
                self.top_up();
            }
            Signal::SIGHUP if matches!(self.going, Going::On) => {
                let earliest = self.reloaded.map_or(Instant::now(), |at| at + RELOAD_PAUSE);
                self.reload_at.get_or_insert(earliest);
            }
            Signal::SIGUSR1 => self.reopen(),
            Signal::SIGUSR2 if matches!(self.going, Going::On) => self.upgrade(),
            Signal::SIGWINCH => {
                self.serving = false;
                self.reload_at = None;
                for pid in self.children.dismiss() {
                    let _ = kill(pid, Signal::SIGQUIT);
                }
            }
            _ => {}
        }
    }

    /// Tells systemd that the service ends, unless another master goes on with it or it has been told.
    fn say_stopping(&self) {
        let another = self.successor.is_some() || self.predecessor_lives();
        if matches!(self.going, Going::On) && !another {
            readiness::notify("STOPPING=1");
        }
    }

    fn predecessor_lives(&self) -> bool {
        self.predecessor.is_some_and(|pid| pid == nix::unistd::getppid())
    }

    fn tell_all(&mut self, signal: Signal) {
        self.children.dismiss();
        for child in self.children.iter() {
            let _ = kill(child.pid, signal);
        }
    }

    /// Reads the configuration again, and goes on with it if nothing is wrong. Where an address is in use, this comes
    /// again in a while: meanwhile workers that die are replaced.
    fn reload(&mut self) {
        if self.reload_attempt == 0 {
            crate::log!(Logger::new(&self.generation.error_log), Notice, "reconfiguring");
        }
        self.reload_attempt = self.reload_attempt.saturating_add(1);
        let patience = Patience::Return { attempt: self.reload_attempt };
        let loaded = self
            .loader
            .load(Zones::after(Some(&self.generation.zones)))
            .map_err(|errors| CommitError::Failed(errors.iter().cloned().collect()));
        let committed = loaded.and_then(|(mut generation, notes)| {
            let identity = Identity::find(generation.settings.user.as_ref())
                .map_err(|message| CommitError::Failed(vec![ConfigError::general(message)]))?;
            generation.commit(&self.generation.sockets, &mut Vec::new(), patience)?;
            Ok((generation, identity, notes))
        });
        let log = Logger::new(&self.generation.error_log);
        if matches!(committed, Err(CommitError::InUse)) {
            self.reload_at = Some(Instant::now() + TRY_PAUSE);
            return;
        }
        self.reload_attempt = 0;
        match committed.map_err(CommitError::into_errors) {
            Err(errors) => errors.iter().for_each(|error| crate::log!(log, Emerg, "{error}")),
            Ok((mut generation, identity, notes)) => {
                notes.warnings().for_each(|warning| crate::log!(log, Warn, "{warning}"));
                pid_file::move_to(&self.generation.settings.pid, &mut generation.settings.pid, &log);
                self.identity = identity;
                let old = self.children.dismiss();
                self.children.begin();
                let replaced = std::mem::replace(&mut self.generation, generation);
                self.remove_sockets(&replaced.sockets);
                // Dropped before any fork: a new worker must not hold sockets that are no longer configured.
                drop(replaced);
                crate::log::error::install(self.generation.error_log.clone());
                self.fork_at = None;
                self.serving = true;
                self.top_up();
                for pid in old {
                    let _ = kill(pid, Signal::SIGQUIT);
                }
            }
        }
    }

    fn reopen(&mut self) {
        let log = Logger::new(&self.generation.error_log);
        crate::log!(log, Notice, "reopening logs");
        // Before the workers are told: they open what is theirs then.
        let how = self.identity.as_ref().map_or(Opening::Create, |identity| Opening::CreateFor(identity.uid()));
        self.generation.logs.open_all(how).iter().for_each(|message| crate::log!(log, Emerg, "{message}"));
        for child in self.children.iter() {
            let _ = kill(child.pid, Signal::SIGUSR1);
        }
    }

    /// Starts the binary anew beside this process.
    fn upgrade(&mut self) {
        let log = Logger::new(&self.generation.error_log);
        if let Some(successor) = self.successor {
            crate::log!(log, Notice, "the new binary {successor} is running already, the signal is ignored");
            return;
        }
        // nginx: a third master would take the name of the first one's pid file.
        if let Some(predecessor) = self.predecessor.filter(|_| self.predecessor_lives()) {
            crate::log!(
                log,
                Notice,
                "the old binary {predecessor} is still running, the signal is ignored: end one of the two first"
            );
            return;
        }
        let (pid_file, old) = (&self.generation.settings.pid, upgrade::old_pid_file(&self.generation.settings.pid));
        if let Err(error) = std::fs::rename(pid_file, &old) {
            crate::log!(
                log,
                Alert,
                "rename() \"{}\" to \"{}\" failed ({}) before executing new binary process",
                pid_file.display(),
                old.display(),
                crate::log::os_error(&error)
            );
            return;
        }
        match upgrade::start(&self.generation, self.first_slot) {
            Ok(pid) => {
                crate::log!(log, Notice, "start new binary process {pid}");
                self.successor = Some(pid);
            }
            Err(error) => {
                crate::log!(log, Alert, "the new binary cannot be executed ({})", crate::log::os_error(&error));
                let _ = std::fs::rename(&old, pid_file);
            }
        }
    }

    /// The new binary has ended: this master is the only one again.
    fn successor_ended(&mut self) {
        self.successor = None;
        let pid_file = &self.generation.settings.pid;
        let _ = std::fs::rename(upgrade::old_pid_file(pid_file), pid_file);
        readiness::notify(&format!("MAINPID={}", std::process::id()));
        if !self.serving && matches!(self.going, Going::On) {
            self.serving = true;
            self.top_up();
        }
    }

    /// Where this master's pid is written now.
    fn pid_file(&self) -> std::path::PathBuf {
        match self.successor {
            Some(_) => upgrade::old_pid_file(&self.generation.settings.pid),
            None => self.generation.settings.pid.clone(),
        }
    }

    /// What is to be filled.
    fn wanted(&self) -> Wanted {
        match self.serving {
            true => {
                Wanted { workers: self.generation.settings.worker_processes, helpers: self.generation.helpers.len() }
            }
            false => Wanted { workers: 0, helpers: 0 },
        }
    }

    /// When somebody is to be started next.
    fn next_start(&self) -> Option<Instant> {
        let next = self.children.next_start(self.wanted());
        self.fork_at.map_or(next, |at| Some(next.map_or(at, |next| next.max(at))))
    }

    /// Forks until there are as many workers and helpers as configured, apart from those that are to wait.
    fn top_up(&mut self) {
        while let Some(role) = self.children.missing(self.wanted(), Instant::now()) {
            let slot = self.children.slot(self.first_slot);
            let (index, helper) = match role {
                Role::Worker(index) => (index, None),
                Role::Helper(place) => (0, self.generation.helpers.get(place).cloned()),
            };
            let name = helper.as_ref().map_or("worker process", |helper| helper.name());
            match identity::fork() {
                Ok(Some(pid)) => {
                    self.fork_at = None;
                    crate::log!(Logger::new(&self.generation.error_log), Notice, "start {name} {pid}");
                    self.children.add(Child { pid, slot, role, name, started: Instant::now(), leaving: false });
                }
                Ok(None) => {
                    let nothing = Generation {
                        settings: self.generation.settings.clone(),
                        bindings: Vec::new(),
                        sockets: Vec::new(),
                        helpers: Vec::new(),
                        chores: Vec::new(),
                        logs: crate::log::Logs::default(),
                        error_log: self.generation.error_log.clone(),
                        zones: crate::zone::Zones::default(),
                        folders: crate::file::folder::Folders::default(),
                        counters: self.generation.counters.clone(),
                        files: Vec::new(),
                    };
                    let generation = std::mem::replace(&mut self.generation, nothing);
                    crate::slot::set(slot, index);
                    self.alive.1 = None;
                    let (identity, master) = (self.identity.take(), self.alive.0.try_clone().ok());
                    let post = match helper {
                        Some(helper) => Post::Helper(identity, master, helper),
                        None => Post::Worker(identity, master),
                    };
                    let code = worker::run(generation, post);
                    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { worker::UNABLE });
                }
                Err(error) => {
                    let now = Instant::now();
                    if self.fork_failed.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT_PAUSE) {
                        self.fork_failed = Some(now);
                        let error = crate::log::os_error(&error);
                        crate::log!(Logger::new(&self.generation.error_log), Alert, "fork() failed ({error})");
                    }
                    self.fork_at = Some(now + FORK_PAUSE);
                    return;
                }
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, how) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Stopped(pid, _)) => {
                    self.have_others_look(pid);
                    continue;
                }
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ok(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Err(signal)),
                Err(Errno::EINTR) => continue,
                _ => return,
            };
            let log = Logger::new(&self.generation.error_log);
            if self.successor == Some(pid) {
                crate::log!(log, Notice, "new binary process {pid} has ended");
                self.successor_ended();
                continue;
            }
            let Some(child) = self.children.remove(pid) else { continue };
            match (how, child.role) {
                (Ok(worker::DONE), Role::Helper(place)) => {
                    crate::log!(log, Notice, "{} {pid} is done", child.name);
                    if !child.leaving {
                        self.children.set_done(place);
                    }
                }
                (Ok(code), _) => crate::log!(log, Notice, "{} {pid} exited with code {code}", child.name),
                (Err(signal), _) => crate::log!(log, Alert, "{} {pid} exited on signal {}", child.name, signal as i32),
            }
            for zone in self.generation.zones.release(u32::try_from(pid.as_raw()).unwrap_or(0)) {
                crate::log!(log, Alert, "shared memory zone \"{zone}\" was locked by {pid}");
            }
            if !self.children.uses(child.slot) {
                worker::forget_slot(&self.generation.zones, child.slot);
            }
            if !child.leaving {
                self.children.ended(&child, death(how), Instant::now());
            }
            // One that was leaving may have died before it has looked a last time itself.
            self.have_others_look(pid);
        }
    }

    /// A worker accepts no more, as it has died or was stopped (SIGSTOP). It may have been the only one that was woken for
    /// a client: the others look whether somebody waits.
    fn have_others_look(&self, pid: Pid) {
        let workers = self.children.iter().filter(|child| matches!(child.role, Role::Worker(_)) && child.pid != pid);
        workers.filter(|worker| !worker.leaving).for_each(|worker| _ = kill(worker.pid, Signal::SIGWINCH));
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if matches!(self.going, Going::On) && self.reload_at.is_some_and(|at| at <= now) {
            self.reload_at = None;
            if self.reload_attempt == 0 {
                readiness::reloading();
            }
            self.reload();
            if self.reload_at.is_none() {
                readiness::notify("READY=1");
                self.reloaded = Some(Instant::now());
                std::mem::take(&mut self.deferred).into_iter().for_each(|signal| self.on_signal(signal));
            }
        }
        match &mut self.going {
            Going::On if self.fork_at.is_none_or(|at| at <= now) => self.top_up(),
            Going::Down { kill_at } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                for child in self.children.iter() {
                    let _ = kill(child.pid, Signal::SIGKILL);
                }
            }
            _ => {}
        }
    }

    /// Removes sockets in the file system that the generation in force does not serve, unless another master goes on
    /// serving them: the one we have started, or the one that has started us.
    fn remove_sockets(&self, sockets: &[Bound]) {
        if self.successor.is_some() {
            return;
        }
        let predecessor_lives = self.predecessor_lives();
        let is_ours = |bound: &&Bound| !(predecessor_lives && bound.path().is_some_and(|(_, inherited)| inherited));
        let ours: Vec<Bound> = sockets.iter().filter(is_ours).cloned().collect();
        generation::remove_sockets(&ours, &self.generation.sockets);
    }
}

/// What ended a process, by its exit code or the signal that it died of.
fn death(how: Result<i32, Signal>) -> Death {
    match how {
        Ok(0 | worker::DONE) => Death::Killed,
        Ok(worker::UNABLE) => Death::Unable,
        Ok(_) => Death::Crashed,
        Err(
            Signal::SIGSEGV
            | Signal::SIGBUS
            | Signal::SIGILL
            | Signal::SIGFPE
            | Signal::SIGABRT
            | Signal::SIGSYS
            | Signal::SIGTRAP
            | Signal::SIGXCPU,
        ) => Death::Crashed,
        Err(_) => Death::Killed,
    }
}
