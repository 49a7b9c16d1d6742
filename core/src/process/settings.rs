//! The directives of the main and `events` blocks.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::identity::Identity;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{Block, Check, ConfigError, Line, Place, Refusal, Setting, Word, others, value};
use crate::file::pool::Limits;
use crate::inherit;
use crate::net::address::Named;
use crate::net::network::Network;

/// The main block's settings.
#[derive(Default)]
pub struct MainConf {
    daemon: Setting<bool>,
    master_process: Setting<bool>,
    pid: Setting<Word>,
    user: Setting<(Word, Option<Word>)>,
    worker_processes: Setting<usize>,
    worker_rlimit_nofile: Setting<u64>,
    worker_shutdown_timeout: Setting<Duration>,
    working_directory: Setting<Word>,
    worker_stall_threshold: Setting<Option<Duration>>,
    worker_priority: Setting<i32>,
    worker_rlimit_core: Setting<u64>,
    worker_cpu_affinity: Setting<Affinity>,
    env: Vec<Word>,
    thread_pools: Vec<(Word, Limits)>,
}

/// `worker_cpu_affinity`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// One processor after the other, among those of the mask if there is one.
    Auto(Option<Vec<usize>>),
    /// The processors of each worker; the last goes for all further ones.
    Masks(Vec<Vec<usize>>),
}

inherit!(MainConf {
    daemon,
    master_process,
    pid,
    user,
    worker_processes,
    worker_rlimit_nofile,
    worker_shutdown_timeout,
    working_directory,
    worker_stall_threshold,
    worker_priority,
    worker_rlimit_core,
    worker_cpu_affinity,
    env,
    thread_pools,
});

/// More threads than this are a mistake: each has a stack, and waits for a device that serves few at a time.
const MOST_THREADS: usize = 4096;

/// `worker_processes` and its neighbours
pub struct Main;

const fn row(name: &'static str, arity: Arity, set: Set<MainConf>, doc: &'static str) -> Directive<MainConf> {
    Directive { name, levels: Levels::MAIN, arity, set, doc }
}

impl Feature for Main {
    type Conf = MainConf;
    const NAME: &'static str = "core";
    const DIRECTIVES: &'static [Directive<MainConf>] = &[
        row("daemon", Arity::Exactly(1), Set::Flag(|conf| &mut conf.daemon), "Whether to detach from the terminal."),
        row(
            "master_process",
            Arity::Exactly(1),
            Set::Flag(|conf| &mut conf.master_process),
            "Whether workers are forked; off is for debugging.",
        ),
        row("pid", Arity::Exactly(1), Set::Word(|conf| &mut conf.pid), "The file that holds the master's process id."),
        row(
            "user",
            Arity::Between(1, 2),
            Set::With(|conf, line| {
                let pair = (line.arg(0)?.clone(), line.args().get(1).cloned());
                conf.user.set(pair)?;
                if !nix::unistd::Uid::effective().is_root() {
                    line.warn("the \"user\" directive makes sense only if the master process runs as root, ignored");
                    return Ok(());
                }
                let names = (line.arg(0)?.to_string(), line.args().get(1).map(ToString::to_string));
                Identity::find(Some(&names)).map(drop).map_err(Refusal)
            }),
            "Whom the workers run as, when the master is root.",
        ),
        row(
            "worker_processes",
            Arity::Exactly(1),
            Set::With(|conf, line| {
                let word = line.arg(0)?;
                let count = if word.is("auto") {
                    std::thread::available_parallelism().map_or(1, usize::from)
                } else {
                    value::number(word).and_then(|n| usize::try_from(n).ok()).ok_or("invalid value")?
                };
                conf.worker_processes.set(count)
            }),
            "How many workers; auto is one per core.",
        ),
        row(
            "worker_rlimit_nofile",
            Arity::Exactly(1),
            Set::Number(|conf| &mut conf.worker_rlimit_nofile),
            "The limit on open files of each worker.",
        ),
        row(
            "worker_shutdown_timeout",
            Arity::Exactly(1),
            Set::Time(|conf| &mut conf.worker_shutdown_timeout),
            "How long a worker may take to finish its connections when it is told to go.",
        ),
        row(
            "working_directory",
            Arity::Exactly(1),
            Set::With(|conf, line| {
                let word = line.arg(0)?;
                let path = line.setup().path(word);
                let error = match std::fs::metadata(&path) {
                    Ok(about) if about.is_dir() => return conf.working_directory.set(word.clone()),
                    Ok(_) => nix::errno::Errno::ENOTDIR.into(),
                    Err(error) => error,
                };
                Err(format!("chdir(\"{}\") failed ({})", path.display(), crate::log::os_error(&error)).into())
            }),
            "The directory that the workers are in.",
        ),
        row(
            "worker_stall_threshold",
            Arity::Exactly(1),
            Set::With(|conf, line| {
                let word = line.arg(0)?;
                let threshold = if word.is("off") { None } else { Some(value::time(word).ok_or("invalid value")?) };
                conf.worker_stall_threshold.set(threshold.filter(|threshold| !threshold.is_zero()))
            }),
            "The time after which a worker that one connection holds up is logged; off turns it off.",
        ),
        row(
            "worker_priority",
            Arity::Exactly(1),
            Set::With(|conf, line| {
                let word = line.arg(0)?;
                let (sign, digits) = word.after("-").map_or((1, word.clone()), |digits| (-1, digits));
                let number = value::number(&digits).ok_or("invalid value")?;
                // The system takes what is beyond its limits for these.
                let most = i32::try_from(number.min(20)).unwrap_or(20);
                conf.worker_priority.set(sign * most)
            }),
            "The scheduling priority of the workers, from -20 to 20.",
        ),
        row(
            "worker_rlimit_core",
            Arity::Exactly(1),
            Set::Offset(|conf| &mut conf.worker_rlimit_core),
            "The largest core file of a worker.",
        ),
        row(
            "worker_cpu_affinity",
            Arity::AtLeast(1),
            Set::With(|conf, line| {
                let mask =
                    |word: &Word| cpu_mask(word.bytes()).ok_or_else(|| format!("invalid character in \"{word}\""));
                let affinity = match line.args() {
                    [auto] if auto.is("auto") => Affinity::Auto(None),
                    [auto, word] if auto.is("auto") => Affinity::Auto(Some(mask(word)?)),
                    words => Affinity::Masks(words.iter().map(mask).collect::<Result<_, _>>()?),
                };
                conf.worker_cpu_affinity.set(affinity)
            }),
            "The processors that each worker may run on: masks, or auto.",
        ),
        row(
            "env",
            Arity::Exactly(1),
            Set::With(|conf, line| {
                conf.env.push(line.arg(0)?.clone());
                Ok(())
            }),
            "A variable of the environment that is kept, or set with NAME=value, for new binaries.",
        ),
        row(
            "thread_pool",
            Arity::Between(2, 3),
            Set::With(thread_pool),
            "The threads=number that wait for files, and max_queue=number of tasks that may wait for them; only the pool \
             named default is used.",
        ),
        row(
            "load_module",
            Arity::Exactly(1),
            Set::With(|_, line| {
                let word = line.arg(0)?;
                let note = others::missing_module(&word.text());
                line.warn(note.unwrap_or_else(|| format!("the module of \"{word}\" is built in, nothing is loaded")));
                Ok(())
            }),
            "Nothing is loaded: modules are built in, or their directives are refused.",
        ),
        row(
            "debug_points",
            Arity::Exactly(1),
            Set::Checked(Check::OneOf(&["stop", "abort"])),
            "There are no debug points.",
        ),
        row("lock_file", Arity::Exactly(1), Set::Accepted, "Locks live in memory; no file is needed."),
        row(
            "timer_resolution",
            Arity::Exactly(1),
            Set::Checked(Check::Time),
            "Reading the clock is cheap; there is nothing to save.",
        ),
        row("pcre_jit", Arity::Exactly(1), Set::Checked(Check::Flag), "Patterns are not compiled to machine code."),
        Directive {
            name: "events",
            levels: Levels::MAIN,
            arity: Arity::Exactly(0),
            set: Set::Block(Levels::EVENTS),
            doc: "How connections are processed.",
        },
    ];
}

fn thread_pool(conf: &mut MainConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let name = line.arg(0)?.clone();
    if conf.thread_pools.iter().any(|(other, _)| other.bytes() == name.bytes()) {
        return Err(format!("duplicate thread pool \"{name}\"").into());
    }
    let mut limits = Limits { threads: 0, ..Limits::default() };
    for word in line.args().iter().skip(1) {
        let number = |value: Word| value::number(&value).and_then(|number| usize::try_from(number).ok());
        if let Some(value) = word.after("threads=") {
            limits.threads = number(value)
                .filter(|threads| (1..=MOST_THREADS).contains(threads))
                .ok_or_else(|| format!("invalid threads value \"{word}\", it must be between 1 and {MOST_THREADS}"))?;
        } else if let Some(value) = word.after("max_queue=") {
            limits.queue = number(value).ok_or_else(|| format!("invalid max_queue value \"{word}\""))?;
        } else {
            return Err(format!("invalid parameter \"{word}\"").into());
        }
    }
    if limits.threads == 0 {
        return Err("must have \"threads\" parameter".into());
    }
    conf.thread_pools.push((name, limits));
    Ok(())
}

/// The `events` block's settings.
#[derive(Default)]
pub struct EventsConf {
    worker_connections: Setting<(u64, Place)>,
    multi_accept: Setting<bool>,
    accept_mutex: Setting<bool>,
    accept_mutex_delay: Setting<Duration>,
    debugged: Vec<Network>,
}

inherit!(EventsConf { worker_connections, multi_accept, accept_mutex, accept_mutex_delay, debugged });

/// `events`
pub struct Events;

impl Feature for Events {
    type Conf = EventsConf;
    const NAME: &'static str = "events";
    const DIRECTIVES: &'static [Directive<EventsConf>] = &[
        Directive {
            name: "worker_connections",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let number = value::number(line.arg(0)?).ok_or("invalid number")?;
                conf.worker_connections.set((number, line.at().clone()))
            }),
            doc: "How many client connections a worker holds at once.",
        },
        Directive {
            name: "use",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::With(|_, line| {
                if line.repeats() {
                    Err("is duplicate".into())
                } else if line.arg(0)?.is("epoll") {
                    Ok(())
                } else {
                    Err(format!("invalid event type \"{}\", only epoll is available", line.arg(0)?).into())
                }
            }),
            doc: "The event mechanism: epoll.",
        },
        Directive {
            name: "debug_connection",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::With(debug_connection),
            doc: "Clients, by address, network, name or unix:, of whom everything is logged, whatever error_log says.",
        },
        Directive {
            name: "multi_accept",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.multi_accept),
            doc: "Whether all who wait are let in at once, or one at a time with other work in between.",
        },
        Directive {
            name: "accept_mutex",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.accept_mutex),
            doc: "Whether one worker accepts at a time; without it workers that are ahead stand back for others.",
        },
        Directive {
            name: "accept_mutex_delay",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Time(|conf| &mut conf.accept_mutex_delay),
            doc: "After what time a worker looks again whether it may accept; 500ms.",
        },
    ];
}

fn debug_connection(conf: &mut EventsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let text = word.text();
    if let Some(network) = Network::parse(&text).filter(|network| *network != Network::All) {
        if network.has_meaningless_bits() {
            line.warn(format!("low address bits of {word} are meaningless"));
        }
        conf.debugged.push(network);
        return Ok(());
    }
    // A port is only asked for because addresses have one here.
    let addresses = Named::Host(text.clone().into_owned(), Some(1)).resolve(None);
    let addresses = addresses.map_err(|_| format!("host not found in debug_connection \"{word}\""))?;
    conf.debugged.extend(addresses.iter().filter_map(|address| address.ip()).map(Network::only));
    Ok(())
}

/// The settings of the processes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `daemon`
    pub daemon: bool,
    /// `master_process`
    pub master_process: bool,
    /// `pid`
    pub pid: PathBuf,
    /// Where that stands, if it does.
    pub pid_at: Option<Place>,
    /// `user`: name, group.
    pub user: Option<(String, Option<String>)>,
    /// `worker_processes`
    pub worker_processes: usize,
    /// `worker_connections`
    pub worker_connections: usize,
    /// Where that stands, if it does.
    pub worker_connections_at: Option<Place>,
    /// `multi_accept`
    pub multi_accept: bool,
    /// `accept_mutex_delay`, where `accept_mutex` is on and there are several workers to take turns.
    pub accept_mutex_delay: Option<Duration>,
    /// `debug_connection`
    pub debugged: Rc<[Network]>,
    /// `worker_rlimit_nofile`
    pub open_files: Option<u64>,
    /// `worker_shutdown_timeout`
    pub shutdown_timeout: Option<Duration>,
    /// `working_directory`
    pub working_directory: Option<PathBuf>,
    /// `worker_stall_threshold`
    pub stall_threshold: Option<Duration>,
    /// `worker_priority`
    pub priority: Option<i32>,
    /// `worker_rlimit_core`
    pub core_file: Option<u64>,
    affinity: Option<Affinity>,
    /// `env`: names kept, and values set.
    pub environment: Vec<(String, Option<String>)>,
    /// `thread_pool default`
    pub threads: Limits,
}

/// The processors of a mask such as `0101`: the last digit is processor 0.
fn cpu_mask(text: &[u8]) -> Option<Vec<usize>> {
    let digits = text.iter().filter(|byte| **byte != b' ').rev().enumerate();
    let set = digits.map(|(cpu, digit)| match digit {
        b'0' => Some(None),
        b'1' => Some(Some(cpu)),
        _ => None,
    });
    Some(set.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

impl Settings {
    /// The processors that the worker with this index may run on; `None` is all.
    pub fn processors(&self, worker: usize) -> Option<Vec<usize>> {
        match self.affinity.as_ref()? {
            Affinity::Masks(masks) => masks.get(worker).or(masks.last()).cloned(),
            Affinity::Auto(mask) => {
                let all = || (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
                let among: Vec<usize> = mask.clone().unwrap_or_else(all);
                among.get(worker % among.len().max(1)).map(|cpu| vec![*cpu])
            }
        }
    }

    /// The pid file cannot be written.
    pub fn no_pid_file(&self, error: &std::io::Error) -> ConfigError {
        let message = format!("open() \"{}\" failed ({})", self.pid.display(), crate::log::os_error(error));
        self.pid_at.as_ref().map_or_else(|| ConfigError::general(&message), |at| ConfigError::new(at, &message))
    }

    /// Reads the settings out of the main block.
    pub fn of(main: &Block, setup: &crate::conf::apply::Setup) -> Settings {
        let events = main.children_named("events").next();
        let (connections, multi_accept, delay) = events.map_or((None, false, None), |events| {
            events.confs.with::<Events, _>(|conf| {
                let delay = conf.accept_mutex_delay.or(Duration::from_millis(500));
                (
                    conf.worker_connections.get().cloned(),
                    conf.multi_accept.or(false),
                    conf.accept_mutex.or(false).then_some(delay),
                )
            })
        });
        let debugged = events.map(|events| events.confs.with::<Events, _>(|conf| conf.debugged.clone()));
        // nginx: an empty name is none.
        let named = |word: &&Word| !word.is("");
        main.confs.with::<Main, _>(|conf| Settings {
            daemon: conf.daemon.or(true),
            master_process: conf.master_process.or(true),
            pid: conf.pid.get().filter(named).map_or_else(|| PathBuf::from("/run/nginx.pid"), |word| setup.path(word)),
            pid_at: conf.pid.get().filter(named).map(|word| word.at().clone()),
            user: conf.user.get().map(|(name, group)| (name.to_string(), group.as_ref().map(ToString::to_string))),
            worker_processes: conf.worker_processes.or(1),
            worker_connections: usize::try_from(connections.as_ref().map_or(512, |(number, _)| *number))
                .unwrap_or(usize::MAX),
            worker_connections_at: connections.as_ref().map(|(_, at)| at.clone()),
            multi_accept,
            accept_mutex_delay: delay.filter(|_| conf.worker_processes.or(1) > 1),
            debugged: debugged.unwrap_or_default().into(),
            open_files: conf.worker_rlimit_nofile.get().copied(),
            shutdown_timeout: conf.worker_shutdown_timeout.get().copied().filter(|limit| !limit.is_zero()),
            working_directory: conf.working_directory.get().map(|word| setup.path(word)),
            stall_threshold: conf.worker_stall_threshold.or(Some(Duration::from_millis(200))),
            priority: conf.worker_priority.get().copied(),
            core_file: conf.worker_rlimit_core.get().copied(),
            affinity: conf.worker_cpu_affinity.get().cloned(),
            threads: conf
                .thread_pools
                .iter()
                .find(|(name, _)| name.is("default"))
                .map_or_else(Limits::default, |(_, limits)| *limits),
            environment: conf.env.iter().map(|word| name_and_value(&word.text())).collect(),
        })
    }
}

fn name_and_value(text: &str) -> (String, Option<String>) {
    text.split_once('=').map_or((text.to_owned(), None), |(name, value)| (name.to_owned(), Some(value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_count_from_the_right() {
        for (text, expected) in [("1", Some(vec![0])), ("0101", Some(vec![0, 2])), ("00", Some(vec![])), ("12", None)] {
            assert_eq!(cpu_mask(text.as_bytes()), expected, "{text}");
        }
    }
}
