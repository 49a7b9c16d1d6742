//! A generation: everything that one reading of the configuration gives. Loading has no effect until it is committed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Program;
use super::cli::Options;
use super::identity::Identity;
use super::pid_file;
use super::settings::{Events, Main, Settings};
use super::upgrade::Socket;
use crate::build::{Build, Chore, Helper, Made};
use crate::conf::apply::Setup;
use crate::conf::known::Known;
use crate::conf::{ConfigError, Errors, Levels, Place, Tables, Tree, Word};
use crate::file::folder::Folders;
use crate::log::error::ErrorLogs;
use crate::log::{ErrorLog, Level, Logger, Logs, Target};
use crate::net::Address;
use crate::net::holder;
use crate::net::listen::{self, Binding};
use crate::net::stale::{self, Abandoned};
use crate::zone::Zones;
use crate::zone::counters::Counters;

/// The sockets of one address that the master holds: one for all workers, or with `reuseport` one for each.
#[derive(Clone)]
pub struct Bound {
    address: Address,
    /// Another process has left it to us.
    inherited: bool,
    /// It is systemd's.
    foreign: bool,
    sockets: Vec<Rc<OwnedFd>>,
}

/// Everything that one reading of the configuration gives.
pub struct Generation {
    /// The settings of the processes.
    pub settings: Settings,
    /// What is to be listened on.
    pub bindings: Vec<Binding>,
    /// The sockets, in the order of `bindings`, once committed.
    pub sockets: Vec<Bound>,
    /// What runs beside the workers.
    pub helpers: Vec<Rc<dyn Helper>>,
    /// What each worker does beside serving.
    pub chores: Vec<Rc<dyn Chore>>,
    /// All log files.
    pub logs: Logs,
    /// The outermost error log.
    pub error_log: ErrorLog,
    /// All zones.
    pub zones: Zones,
    /// The folders of temporary files.
    pub folders: Folders,
    /// What all workers count.
    pub counters: Rc<Counters>,
    /// The files read, for `-T`.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl CommitError {
    /// All that is wrong.
    pub fn into_errors(self) -> Vec<ConfigError> {
        match self {
            CommitError::Failed(errors) => errors,
            CommitError::InUse => vec![ConfigError::general("an address is in use")],
        }
    }
}

impl Bound {
    /// The path of a socket in the file system, and whether another process has left it to us. `None` also where it is
    /// not ours to remove.
    pub fn path(&self) -> Option<(&Path, bool)> {
        match &self.address {
            Address::Unix(path) if !self.foreign => Some((path, self.inherited)),
            _ => None,
        }
    }

    /// True when systemd has opened it.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// The sockets that a worker accepts from, and whether each is its own. With `reuseport` every worker has one of its
    /// own; those that are left of a time with more workers, or with another setting, are everybody's.
    pub fn of_worker(&self, index: usize, reuse_port: bool, workers: usize) -> impl Iterator<Item = (&OwnedFd, bool)> {
        self.sockets.iter().enumerate().filter_map(move |(at, socket)| {
            let has_owner = reuse_port && at < workers;
            (!has_owner || at == index).then_some((&**socket, has_owner))
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.iter().map(|socket| &**socket)
    }
}

/// Whether to wait for an address that is in use.
///
/// nginx: it is tried again, five times, half a second apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Wait here, as long as that takes.
    Wait,
    /// Do not wait: the caller has other things to do meanwhile, and comes again with the number of the try.
    Return {
        /// The first is 1.
        attempt: u32,
    },
}

/// An address that is in use is tried so many times ..
const TRIES: u32 = 5;
/// .. so far apart.
pub const TRY_PAUSE: Duration = Duration::from_millis(500);

/// Why a generation could not be committed.
#[derive(Debug)]
pub enum CommitError {
    /// All that is wrong.
    Failed(Vec<ConfigError>),
    /// An address is in use, and may not be in [`TRY_PAUSE`].
    InUse,
}

/// Reads configurations.
pub struct Loader {
    /// The program.
    pub program: Program,
    /// Its command line.
    pub options: Options,
    core: Tables,
    setup: Setup,
    file: PathBuf,
}

impl Loader {
    /// A loader for this command line.
    ///
    /// Without `-p`, a `-c` that names a file from the current directory makes that directory the prefix; otherwise the
    /// prefix is `/etc/nginx`, as in nginx's own packages.
    pub fn new(program: Program, options: Options, known: Known) -> Self {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let named = options.configuration.clone();
        let prefix = match (&options.prefix, &named) {
            (Some(prefix), _) => here.join(prefix),
            (None, Some(file)) if file.is_relative() && here.join(file).exists() => here,
            _ => PathBuf::from("/etc/nginx"),
        };
        let file =
            prefix.join(named.unwrap_or_else(|| {
                PathBuf::from(if options.prefix.is_some() { "conf/nginx.conf" } else { "nginx.conf" })
            }));
        let conf_dir = file.parent().unwrap_or(Path::new("/")).to_owned();
        let core = core_tables();
        Loader { program, options, core, setup: Setup { prefix, conf_dir, known }, file }
    }

    /// The configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads, applies and installs the configuration. Nothing is bound and no log is opened. `zones` knows those of the
    /// generation before.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, zones: Zones) -> Result<(Generation, Errors), Errors> {
        let mut errors = Errors::default();
        let tree = Tree::read(&self.file, self.options.globals.as_deref(), &mut errors);
        let is_protocol = |name: &Word| self.program.protocols.iter().find(|protocol| name.is(protocol.name()));
        let (blocks, own): (Vec<_>, Vec<_>) =
            tree.nodes.into_iter().partition(|node| is_protocol(&node.name).is_some());
        let top = Word::new(*b"main", Place { file: self.file.to_string_lossy().into(), line: 1, column: 1 });
        let main = self.core.apply(&top, &[], Levels::MAIN, &own, &self.setup, &mut errors);
        if errors.is_empty() && main.children_named("events").next().is_none() {
            errors.push(ConfigError::general("no \"events\" section in configuration"));
        }
        if let Some(second) = main.children_named("events").nth(1) {
            errors.push(ConfigError::new(second.at(), "\"events\" directive is duplicate"));
        }
        let settings = Settings::of(&main, &self.setup);
        if settings.user.is_none()
            && !main.had("user")
            && let Err(message) = Identity::find(None)
        {
            errors.push(ConfigError::general(message));
        }
        let made = Made::with(zones);
        let error_log = main.confs.with::<ErrorLogs, _>(|conf| conf.build(&self.setup, &made.logs, &made.zones));
        let default = || self.default_error_target(&settings, &made.logs);
        let error_log = match errors.keep(error_log).flatten() {
            Some(log) => log.with_file(Level::Error, default),
            None => ErrorLog::new(vec![(Level::Error, default())]),
        };
        let mut build = Build::new(&self.setup, &made, &mut errors, &error_log);
        let mut seen: Vec<&Word> = Vec::new();
        for block in &blocks {
            let Some(protocol) = is_protocol(&block.name) else { continue };
            let refuse = |message: String| ConfigError::new(block.name.at(), message);
            if seen.iter().any(|name| name.bytes() == block.name.bytes()) {
                build.errors.push(refuse(format!("\"{}\" directive is duplicate", block.name)));
            } else if block.body.is_none() {
                build.errors.push(refuse(format!("directive \"{}\" has no opening \"{{\"", block.name)));
            } else if !block.args.is_empty() {
                build.errors.push(refuse(format!("invalid number of arguments in \"{}\" directive", block.name)));
            } else {
                protocol.load(block, &mut build);
            }
            seen.push(&block.name);
        }
        let bindings = listen::bindings(std::mem::take(&mut build.endpoints));
        let helpers = std::mem::take(&mut build.helpers);
        if settings.worker_connections <= bindings.len() {
            let (connections, sockets) = (settings.worker_connections, bindings.len());
            let message = format!("{connections} worker_connections are not enough for {sockets} listening sockets");
            let at = settings.worker_connections_at.as_ref();
            errors.push(at.map_or_else(|| ConfigError::general(&message), |at| ConfigError::new(at, &message)));
        }
        let Some(counters) = errors.keep(Counters::shared(&made.zones)).filter(|_| errors.is_empty()) else {
            return Err(errors);
        };
        let Made { logs, zones, folders, chores, registry } = made;
        let counters = Rc::new(counters);
        registry.add("", "process", counters.clone());
        zones.all().into_iter().for_each(|zone| registry.add("", zone.name(), zone.clone()));
        let (sockets, chores, files) = (Vec::new(), chores.all(), tree.files);
        let generation = Generation {
            settings,
            bindings,
            sockets,
            helpers,
            chores,
            logs,
            error_log,
            zones,
            folders,
            counters,
            files,
        };
        Ok((generation, errors))
    }

    /// Where errors go without `error_log`: what `-e` names; else, where nobody sees the standard error stream, a file.
    fn default_error_target(&self, settings: &Settings, logs: &Logs) -> Target {
        let named = match &self.options.error_log {
            Some(path) if path.as_os_str() == "stderr" => None,
            Some(path) => Some(path.clone()),
            None if !settings.daemon => None,
            None if self.options.prefix.is_some() => Some(PathBuf::from("logs/error.log")),
            None => Some(PathBuf::from("/var/log/nginx/error.log")),
        };
        Target::File(logs.file(named.map(|path| self.setup.prefix.join(path)).as_deref()))
    }
}

/// The directives of the main and events blocks.
pub fn core_tables() -> Tables {
    let mut core = Tables::new("core");
    core.add::<Main>();
    core.add::<Events>();
    core.add::<ErrorLogs>();
    core
}

impl Generation {
    /// Opens the logs and the sockets, taking over from `previous` the sockets that stay, and from `inherited` those that
    /// another process has left us.
    ///
    /// # Errors
    /// What could not be opened; everything opened for it is closed again.
    pub fn commit(
        &mut self,
        previous: &[Bound],
        inherited: &mut Vec<Socket>,
        patience: Patience,
    ) -> Result<(), CommitError> {
        let mut failed: Vec<ConfigError> = self.logs.open_first();
        failed.extend(self.make_folders());
        let mut in_use = false;
        for binding in &self.bindings {
            let count = if binding.options.reuse_port { self.settings.worker_processes } else { 1 };
            let open = |address: &Address| open(address, &binding.options, patience, &self.error_log);
            match bind(binding, count, previous, inherited, open) {
                Ok(bound) => self.sockets.push(bound),
                Err(Unbound::InUse) => in_use = true,
                Err(Unbound::Failed(message)) => failed.push(ConfigError::new(&binding.at, message)),
            }
        }
        if failed.is_empty() && !in_use {
            return Ok(());
        }
        // What was made for nothing would be in the way of the next attempt.
        let made: Vec<Bound> = self.sockets.drain(..).filter(|bound| !bound.inherited).collect();
        remove_sockets(&made, previous);
        // Something else that is wrong does not go away by waiting.
        Err(if failed.is_empty() { CommitError::InUse } else { CommitError::Failed(failed) })
    }
}

impl Generation {
    /// Opens the logs and the sockets for `-t`, and closes the sockets again. nginx: an address in use is no mistake here,
    /// since it is most often the running server that uses it; and `reuseport` is left out, so that no client of that
    /// server is given to us.
    pub fn try_out(&self) -> Vec<ConfigError> {
        let mut failed: Vec<ConfigError> = self.logs.open_first();
        failed.extend(self.make_folders());
        failed.extend(pid_file::try_out(&self.settings.pid).err().map(|error| self.settings.no_pid_file(&error)));
        for binding in &self.bindings {
            if let Address::Unix(path) = &binding.address {
                // One that is there is a server's that runs, or that is no more: neither is a mistake.
                let possible = if path.exists() { Ok(()) } else { pid_file::can_be_made(path) };
                let possible = possible.and_then(|()| binding.address.to_socket_address().map(drop));
                if let Err(error) = possible {
                    let (address, error) = (&binding.address, crate::log::os_error(&error));
                    failed.push(ConfigError::new(&binding.at, format!("bind() to {address} failed ({error})")));
                }
                continue;
            }
            let options = listen::SocketOptions { reuse_port: false, ..binding.options.clone() };
            match listen::open(&binding.address, &options) {
                Err((message, error)) if error.kind() != std::io::ErrorKind::AddrInUse => {
                    failed.push(ConfigError::new(&binding.at, message));
                }
                _ => {}
            }
        }
        failed
    }

    /// Makes the folders of temporary files, for the workers to use. nginx: also for `-t`.
    fn make_folders(&self) -> Vec<ConfigError> {
        let owner = Identity::find(self.settings.user.as_ref()).ok().flatten().map(|identity| identity.uid());
        self.folders.prepare(owner)
    }
}

/// Removes from the file system those of `sockets` that are not among `kept`.
pub fn remove_sockets(sockets: &[Bound], kept: &[Bound]) {
    for (path, _) in sockets.iter().filter_map(Bound::path) {
        if !kept.iter().any(|kept| kept.path().is_some_and(|(other, _)| other == path)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The sockets of a binding: those that are there already, then new ones.
fn bind(
    binding: &Binding,
    count: usize,
    previous: &[Bound],
    inherited: &mut Vec<Socket>,
    open: impl Fn(&Address) -> Result<OwnedFd, Unbound>,
) -> Result<Bound, Unbound> {
    let address = binding.address.clone();
    let known = previous.iter().find(|bound| bound.address == address);
    let mut bound = match known {
        // All of them, however many are asked for now: a socket takes with it whoever is in its queue.
        Some(bound) => bound.clone(),
        None => adopted(&address, inherited),
    };
    for socket in bound.all() {
        let socket = socket2::SockRef::from(socket);
        let kept = listen::configure(&socket, &binding.options);
        // Only then may further sockets be bound to the address.
        let shared = if binding.options.reuse_port { socket.set_reuse_port(true) } else { Ok(()) };
        if let Err(error) = kept.and(shared) {
            let error = crate::log::os_error(&error);
            return Err(Unbound::Failed(format!("setsockopt() for {address} failed ({error})")));
        }
    }
    while bound.sockets.len() < count {
        bound.sockets.push(Rc::new(open(&address)?));
    }
    Ok(bound)
}

/// The sockets of an address among those that another process has left us.
fn adopted(address: &Address, inherited: &mut Vec<Socket>) -> Bound {
    let wanted = address.to_socket_address().ok();
    let is_wanted = |socket: &Socket| {
        socket2::SockRef::from(&socket.descriptor).local_addr().is_ok_and(|local| Some(local) == wanted)
    };
    let (mut sockets, mut foreign) = (Vec::new(), false);
    while let Some(at) = inherited.iter().position(is_wanted) {
        let socket = inherited.remove(at);
        foreign |= socket.foreign;
        sockets.push(Rc::new(socket.descriptor));
    }
    Bound { address: address.clone(), inherited: !sockets.is_empty(), foreign, sockets }
}

/// Why there is no socket.
enum Unbound {
    /// The address is in use, and it has not been tried often enough.
    InUse,
    /// In words.
    Failed(String),
}

fn open(
    address: &Address,
    options: &listen::SocketOptions,
    patience: Patience,
    log: &ErrorLog,
) -> Result<OwnedFd, Unbound> {
    let mut attempt = if let Patience::Return { attempt } = patience { attempt } else { 1 };
    let mut seen = None;
    loop {
        let (message, error) = match listen::open(address, options) {
            Ok(socket) => return Ok(socket),
            Err(failed) => failed,
        };
        if error.kind() != std::io::ErrorKind::AddrInUse {
            return Err(Unbound::Failed(message));
        }
        if makes_way(address, &mut seen, log) {
            continue;
        }
        if attempt >= TRIES {
            return Err(Unbound::Failed(message + &address.port().map(holder::of_port).unwrap_or_default()));
        }
        if patience != Patience::Wait {
            return Err(Unbound::InUse);
        }
        attempt += 1;
        std::thread::sleep(TRY_PAUSE);
    }
}

/// Removes the local socket that is in the way, when nobody listens on it. `seen` is what was in the way before the pause.
fn makes_way(address: &Address, seen: &mut Option<Abandoned>, log: &ErrorLog) -> bool {
    let Address::Unix(path) = address else { return false };
    let found = stale::at(path);
    let before = std::mem::replace(seen, found);
    let Some(found) = found.filter(|found| found.is_old() || before == Some(*found)) else { return false };
    let removed = found.remove(path);
    if removed {
        crate::log!(Logger::new(log), Notice, "nobody listens on {address}, which is still there: it is replaced");
    }
    removed
}
