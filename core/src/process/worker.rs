//! A worker: gives up privileges, builds its runtime, accepts and serves until told to go.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tokio::io::unix::AsyncFd;
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinHandle, spawn_local};

use super::accept::{Acceptor, Listener};
use super::generation::{Bound, CommitError, Generation, Loader, Patience, TRY_PAUSE, remove_sockets};
use super::housekeeping;
use super::identity::Identity;
use super::row::Positions;
use super::turn::Turn;
use super::{pid_file, readiness};
use crate::build::{Helper, chores};
use crate::conf::ConfigError;
use crate::file;
use crate::log::file::Opening;
use crate::log::{ErrorLog, Logger};
use crate::net::{Connections, Timer, adopt};
use crate::slot::index;
use crate::zone::Zones;
use crate::zone::counters::{self, Total};

/// Longest time for connections that are cut to tell their logs.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Takes out of the zones what a worker that has ended left in its slot.
pub(super) fn forget_slot(zones: &Zones, slot: usize) {
    for zone in zones.all() {
        zone.forget(slot);
    }
}

/// The exit code of a helper that has done its work.
pub const DONE: i32 = 3;
/// The exit code of a process that could not begin its work, and of a helper that has panicked.
pub const UNABLE: i32 = 2;

/// What a process that serves is to the others.
pub enum Post {
    /// One of the workers. The descriptor can be read from when the master has died.
    Worker(Option<Identity>, Option<OwnedFd>),
    /// Beside the workers: it does its work and accepts nothing.
    Helper(Option<Identity>, Option<OwnedFd>, Rc<dyn Helper>),
    /// The only process (`master_process off`): it reads the configuration again by itself.
    Alone(Box<Loader>),
}

/// Serves to the end of the process: it returns only if something went wrong.
pub fn run(generation: Generation, mut post: Post) -> ExitCode {
    crate::log::error::install(generation.error_log.clone());
    counters::install(generation.counters.clone());
    std::panic::set_hook(Box::new(|panic| {
        counters::of_worker().count(Total::Panics);
        crate::log::error::of_process(|log| match chores::doing() {
            Some(chore) => crate::log!(log, Alert, "panic in {chore}, which is begun again: {panic}"),
            None => crate::log!(log, Alert, "panic, one connection is lost: {panic}"),
        });
    }));
    let log = generation.error_log.clone();
    let emerg = |what: &str, error: std::io::Error| {
        crate::log!(Logger::new(&log), Emerg, "{what} failed ({})", crate::log::os_error(&error));
        ExitCode::from(2)
    };
    raise_file_limit(&generation);
    place_on_processors(&generation);
    if let Post::Worker(identity, _) | Post::Helper(identity, _, _) = &mut post
        && let Some(identity) = identity.take()
        && let Err(error) = identity.assume()
    {
        return emerg("giving up root", error);
    }
    if let Some(directory) = &generation.settings.working_directory
        && let Err(error) = std::env::set_current_dir(directory)
    {
        return emerg(&format!("chdir(\"{}\")", directory.display()), error);
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let threads = generation.settings.threads;
    match file::pool::runtime(&mut builder, threads).enable_all().build_local(LocalOptions::default()) {
        Err(error) => emerg("the event loop", error),
        Ok(runtime) => runtime.block_on(serve(generation, post)).unwrap_or_else(|error| emerg("starting", error)),
    }
}

fn raise_file_limit(generation: &Generation) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let log = Logger::new(&generation.error_log);
    if let Some(limit) = generation.settings.open_files {
        if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, limit, limit) {
            crate::log!(
                log,
                Alert,
                "setrlimit(RLIMIT_NOFILE, {limit}) failed ({})",
                crate::log::os_error(&error.into())
            );
        }
        return;
    }
    // Each client may need an upstream connection or a file besides its own.
    let wanted =
        u64::try_from(generation.settings.worker_connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(64);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < wanted && (setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_err() || hard < wanted) {
        crate::log!(
            log,
            Warn,
            "{} worker_connections exceed open file resource limit: {hard}",
            generation.settings.worker_connections
        );
    }
}

/// `worker_cpu_affinity`, `worker_priority`, `worker_rlimit_core`; a refusal is logged and no reason to end.
fn place_on_processors(generation: &Generation) {
    use nix::sched::{CpuSet, sched_setaffinity};
    use nix::sys::resource::{Resource, setrlimit};
    let log = Logger::new(&generation.error_log);
    let complain = |what: &str, error: nix::errno::Errno| {
        crate::log!(log, Alert, "{what} failed ({})", crate::log::os_error(&error.into()));
    };
    if let Some(processors) = generation.settings.processors(index()) {
        let mut set = CpuSet::new();
        let chosen = processors.into_iter().try_for_each(|cpu| set.set(cpu));
        if let Err(error) = chosen.and_then(|()| sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)) {
            complain("sched_setaffinity()", error);
        }
    }
    if let Some(priority) = generation.settings.priority
        && let Err(error) = rustix::process::setpriority_process(None, priority)
    {
        crate::log!(log, Alert, "setpriority({priority}) failed ({})", crate::log::os_error(&error.into()));
    }
    if let Some(limit) = generation.settings.core_file
        && let Err(error) = setrlimit(Resource::RLIMIT_CORE, limit, limit)
    {
        complain("setrlimit(RLIMIT_CORE)", error);
    }
}

async fn serve(generation: Generation, post: Post) -> std::io::Result<ExitCode> {
    file::start(generation.settings.threads);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    listen_for(SignalKind::terminate(), Told::Leave, &tell)?;
    listen_for(SignalKind::interrupt(), Told::Leave, &tell)?;
    listen_for(SignalKind::quit(), Told::Finish, &tell)?;
    listen_for(SignalKind::user_defined1(), Told::Reopen, &tell)?;
    listen_for(SignalKind::hangup(), Told::Reload(1), &tell)?;
    // The last is for a log that has reached the limit on the size of files: the write fails, that is all.
    let file_size = SignalKind::from_raw(nix::libc::SIGXFSZ);
    listen_for(SignalKind::window_change(), Told::Look, &tell)?;
    for ignored in [SignalKind::user_defined2(), file_size] {
        listen_for(ignored, Told::Nothing, &tell)?;
    }
    // The master blocks its signals; what came since the fork is delivered to the handlers above now.
    SigSet::all().thread_unblock()?;
    let mut serving = Serving::begin(generation);
    let mut retired: Vec<Past> = Vec::new();
    let mut finishing = false;
    // A process without a master opens its logs as a master does.
    let (loader, reopening) = match post {
        Post::Worker(_, master) => {
            serving.accept()?;
            serving.sockets.clear();
            watch_master(master, &serving)?;
            (None, Opening::Follow)
        }
        Post::Helper(_, master, helper) => {
            serving.sockets.clear();
            watch_master(master, &serving)?;
            spawn_local(help(helper, tell.clone()));
            (None, Opening::Follow)
        }
        Post::Alone(loader) => {
            serving.accept()?;
            readiness::ready();
            (Some(loader), Opening::Create)
        }
    };
    while let Some(what) = told.recv().await {
        let log = Logger::new(&serving.generation.error_log);
        match what {
            Told::Leave => break,
            Told::Done => {
                serving.generation.logs.finish(&serving.generation.error_log);
                std::process::exit(DONE);
            }
            Told::Fail => {
                crate::log!(log, Emerg, "a helper has panicked");
                return Ok(ExitCode::from(2));
            }
            Told::Nothing => {}
            Told::Look => serving.acceptors.iter().for_each(|(acceptor, _)| acceptor.look_again()),
            Told::Reopen => {
                let logs = retired.iter().map(|past| &past.generation).chain([&serving.generation]);
                let failed = logs.flat_map(|generation| generation.logs.open_all(reopening));
                failed.for_each(|message| crate::log!(log, Emerg, "{message}"));
            }
            Told::Reload(_) if finishing => {}
            Told::Reload(attempt) => {
                let again = || drop(spawn_local(reload_later(attempt.saturating_add(1), tell.clone())));
                if let Some(next) = loader.as_ref().and_then(|loader| reload(loader, &serving, attempt, again)) {
                    let old = std::mem::replace(&mut serving, next);
                    retired.retain(|past| !past.connections.is_empty());
                    retired.push(Past { generation: old.generation.clone(), connections: old.connections.clone() });
                    spawn_local(old.retire());
                }
            }
            Told::Finish if finishing => {}
            Told::Finish => {
                finishing = true;
                crate::log!(log, Notice, "gracefully shutting down");
                if loader.is_some() {
                    readiness::notify("STOPPING=1");
                    remove_sockets(&serving.sockets, &[]);
                }
                serving.stop();
                let past = retired.iter().map(|past| &past.connections);
                let connections = past.chain([&serving.connections]).cloned().collect();
                spawn_local(finish(connections, serving.generation.settings.shutdown_timeout, tell.clone()));
            }
        }
    }
    crate::log!(Logger::new(&serving.generation.error_log), Notice, "exiting");
    for generation in retired.iter().map(|past| &past.generation).chain([&serving.generation]) {
        generation.logs.finish(&generation.error_log);
    }
    if loader.is_some() {
        pid_file::remove(&serving.generation.settings.pid);
        remove_sockets(&serving.sockets, &[]);
    }
    // What is still open is closed by the end of the process, not one by one, and threads that hang are not waited for.
    std::process::exit(0)
}

/// A generation whose last connections are still there.
struct Past {
    generation: Rc<Generation>,
    connections: Rc<Connections>,
}

/// A generation that this process serves.
struct Serving {
    generation: Rc<Generation>,
    /// The listening sockets, as long as more than the acceptors need them: nobody must be left waiting at a socket that
    /// is not accepted from.
    sockets: Vec<Bound>,
    connections: Rc<Connections>,
    acceptors: Vec<(Rc<Acceptor>, JoinHandle<()>)>,
    /// What is done beside serving.
    running: chores::Running,
}

impl Serving {
    fn begin(mut generation: Generation) -> Serving {
        let sockets = std::mem::take(&mut generation.sockets);
        let generation = Rc::new(generation);
        let connections = Connections::new(generation.settings.worker_connections);
        let mut running = chores::Running::default();
        running.start(housekeeping::of(&generation, &connections));
        Serving { generation, sockets, connections, acceptors: Vec::new(), running }
    }

    /// Accepts whatever is this worker's to accept, and does what is to be done in each worker.
    fn accept(&mut self) -> std::io::Result<()> {
        let Generation { settings, bindings, counters, error_log, .. } = &*self.generation;
        let turn = settings.accept_mutex_delay.map(|delay| Turn::new(counters.clone(), delay));
        let (positions, mut shared, mut acceptors) = (Positions::default(), Vec::new(), Vec::new());
        for (binding, bound) in bindings.iter().zip(&self.sockets) {
            for (socket, own) in bound.of_worker(index(), binding.options.reuse_port, settings.worker_processes) {
                let listener = Rc::new(Listener::new(socket.try_clone()?)?);
                let own = own || settings.worker_processes == 1 || !settings.master_process;
                if !own && turn.is_none() {
                    shared.push(listener.clone());
                }
                acceptors.push(Acceptor {
                    binding: binding.clone(),
                    listener,
                    positions: positions.clone(),
                    own,
                    connections: self.connections.clone(),
                    counters: counters.clone(),
                    turn: turn.clone(),
                    multi_accept: settings.multi_accept,
                    stall_threshold: settings.stall_threshold,
                    debugged: settings.debugged.clone(),
                    log: error_log.clone(),
                    turns: Cell::new(0),
                });
            }
        }
        positions.give(&shared);
        let start = |acceptor: Acceptor| {
            let acceptor = Rc::new(acceptor);
            (acceptor.clone(), spawn_local(acceptor.run()))
        };
        self.acceptors.extend(acceptors.into_iter().map(start));
        self.running.start(self.generation.chores.iter().cloned());
        Ok(())
    }

    /// Accepts nothing more, and has all connections finish.
    fn stop(&mut self) {
        for (acceptor, task) in self.acceptors.drain(..) {
            task.abort();
            acceptor.last_call();
        }
        self.sockets.clear();
        self.running.retire();
        self.connections.stop();
    }

    /// Finishes beside the generation that has come after this one.
    async fn retire(mut self) {
        self.stop();
        end(&self.connections, self.generation.settings.shutdown_timeout).await;
        self.generation.logs.finish(&self.generation.error_log);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.acceptors.iter().for_each(|(_, task)| task.abort());
    }
}

async fn reload_later(attempt: u32, tell: UnboundedSender<Told>) {
    tokio::time::sleep(TRY_PAUSE).await;
    let _ = tell.send(Told::Reload(attempt));
}

/// The next generation of a process without a master; `None`, with a word in the log, when something is wrong with it.
/// Where an address is in use it is tried `again`.
fn reload(loader: &Loader, serving: &Serving, attempt: u32, again: impl FnOnce()) -> Option<Serving> {
    let old = &serving.generation;
    let log = Logger::new(&old.error_log);
    if attempt == 1 {
        crate::log!(log, Notice, "reconfiguring");
        readiness::reloading();
    }
    let loaded = loader
        .load(Zones::after(Some(&old.zones)))
        .map_err(|errors| CommitError::Failed(errors.iter().cloned().collect()));
    let begun = loaded.and_then(|(mut generation, notes)| {
        generation.commit(&serving.sockets, &mut Vec::new(), Patience::Return { attempt })?;
        pid_file::move_to(&old.settings.pid, &mut generation.settings.pid, &log);
        let mut next = Serving::begin(generation);
        next.accept().map_err(|error| {
            let error = crate::log::os_error(&error);
            let message = format!("the event loop takes no further listening sockets ({error})");
            CommitError::Failed(vec![ConfigError::general(message)])
        })?;
        Ok((next, notes))
    });
    if matches!(begun, Err(CommitError::InUse)) {
        again();
        return None;
    }
    readiness::notify("READY=1");
    match begun.map_err(CommitError::into_errors) {
        Err(errors) => {
            errors.iter().for_each(|error| crate::log!(log, Emerg, "{error}"));
            None
        }
        Ok((next, notes)) => {
            notes.warnings().for_each(|warning| crate::log!(log, Warn, "{warning}"));
            remove_sockets(&serving.sockets, &next.sockets);
            crate::log::error::install(next.generation.error_log.clone());
            Some(next)
        }
    }
}

fn watch_master(master: Option<OwnedFd>, serving: &Serving) -> std::io::Result<()> {
    if let Some(master) = master {
        spawn_local(notice_death(adopt::watch(master)?, serving.generation.error_log.clone()));
    }
    Ok(())
}

async fn help(helper: Rc<dyn Helper>, tell: UnboundedSender<Told>) {
    let ended = spawn_local(async move { helper.run().await }).await;
    let _ = tell.send(if ended.is_ok() { Told::Done } else { Told::Fail });
}

/// What the worker is told to do.
#[derive(Clone, Copy)]
enum Told {
    Leave,
    Done,
    Fail,
    Finish,
    Reopen,
    /// The number of the try.
    Reload(u32),
    /// Another worker has died: somebody may be waiting of whom only that one knew.
    Look,
    Nothing,
}

fn listen_for(kind: SignalKind, what: Told, tell: &UnboundedSender<Told>) -> std::io::Result<()> {
    let (mut signals, tell) = (signal(kind)?, tell.clone());
    spawn_local(async move { while signals.recv().await.is_some() && tell.send(what).is_ok() {} });
    Ok(())
}

/// As nginx's, a worker whose master has died goes on serving; unlike nginx's it says so, since nobody else can.
async fn notice_death(master: AsyncFd<OwnedFd>, log: ErrorLog) {
    if master.readable().await.is_ok() {
        crate::log!(
            Logger::new(&log),
            Alert,
            "the master process has died: this worker goes on serving, but nobody replaces it or reloads; \
             it ends on SIGQUIT or SIGTERM"
        );
    }
}

/// Leaves when the last connection has ended, or when the time for that is over and the rest have been told.
async fn finish(all: Vec<Rc<Connections>>, limit: Option<Duration>, tell: UnboundedSender<Told>) {
    let mut ending: Vec<JoinHandle<()>> = Vec::new();
    for connections in all {
        ending.push(spawn_local(async move { end(&connections, limit).await }));
    }
    for end in ending {
        let _ = end.await;
    }
    let _ = tell.send(Told::Leave);
}

/// Waits for the last connection to end, and cuts them when the time for that is over.
async fn end(connections: &Connections, limit: Option<Duration>) {
    let mut timer = Timer::default();
    if timer.limit(limit.unwrap_or(Duration::MAX), all_gone(connections)).await.is_err() {
        connections.cut();
        let _ = timer.limit(LAST_WORDS, all_gone(connections)).await;
    }
}

async fn all_gone(connections: &Connections) {
    while !connections.is_empty() {
        connections.room().await;
    }
}
