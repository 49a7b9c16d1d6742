//! The directives of the main and `events` blocks.

use std::path::PathBuf;
use std::time::Duration;

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{Block, Setting, Word, value};
use crate::inherit;

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
}

inherit!(MainConf {
    daemon,
    master_process,
    pid,
    user,
    worker_processes,
    worker_rlimit_nofile,
    worker_shutdown_timeout,
    working_directory
});

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
                conf.user.set(pair)
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
                if count == 0 {
                    return Err("invalid value".into());
                }
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
            Set::Word(|conf| &mut conf.working_directory),
            "The directory that the workers are in.",
        ),
        row("lock_file", Arity::Exactly(1), Set::Accepted, "Locks live in memory; no file is needed."),
        row(
            "timer_resolution",
            Arity::Exactly(1),
            Set::Accepted,
            "Reading the clock is cheap; there is nothing to save.",
        ),
        row("pcre_jit", Arity::Exactly(1), Set::Accepted, "Patterns are compiled to automata, not to machine code."),
        Directive {
            name: "events",
            levels: Levels::MAIN,
            arity: Arity::Exactly(0),
            set: Set::Block(Levels::EVENTS),
            doc: "How connections are processed.",
        },
    ];
}

/// The `events` block's settings.
#[derive(Default)]
pub struct EventsConf {
    worker_connections: Setting<u64>,
}

inherit!(EventsConf { worker_connections });

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
            set: Set::Number(|conf| &mut conf.worker_connections),
            doc: "How many client connections a worker holds at once.",
        },
        Directive {
            name: "use",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::With(|_, line| {
                if line.arg(0)?.is("epoll") {
                    Ok(())
                } else {
                    Err(format!("invalid event type \"{}\", only epoll is available", line.arg(0)?).into())
                }
            }),
            doc: "The event mechanism: epoll.",
        },
        Directive {
            name: "multi_accept",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Accepted,
            doc: "All waiting connections are always accepted.",
        },
        Directive {
            name: "accept_mutex",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Accepted,
            doc: "Workers accept without a mutex.",
        },
        Directive {
            name: "accept_mutex_delay",
            levels: Levels::EVENTS,
            arity: Arity::Exactly(1),
            set: Set::Accepted,
            doc: "Workers accept without a mutex.",
        },
    ];
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
    /// `user`: name, group.
    pub user: Option<(String, Option<String>)>,
    /// `worker_processes`
    pub worker_processes: usize,
    /// `worker_connections`
    pub worker_connections: usize,
    /// `worker_rlimit_nofile`
    pub open_files: Option<u64>,
    /// `worker_shutdown_timeout`
    pub shutdown_timeout: Option<Duration>,
    /// `working_directory`
    pub working_directory: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings out of the main block.
    pub fn of(main: &Block, setup: &crate::conf::apply::Setup) -> Settings {
        let events = main.children_named("events").next();
        let connections =
            events.map_or(512, |events| events.confs.with::<Events, _>(|conf| conf.worker_connections.or(512)));
        main.confs.with::<Main, _>(|conf| Settings {
            daemon: conf.daemon.or(true),
            master_process: conf.master_process.or(true),
            pid: conf.pid.get().map_or_else(|| PathBuf::from("/run/nginx.pid"), |word| setup.path(word)),
            user: conf.user.get().map(|(name, group)| (name.to_string(), group.as_ref().map(ToString::to_string))),
            worker_processes: conf.worker_processes.or(1),
            worker_connections: usize::try_from(connections).unwrap_or(usize::MAX),
            open_files: conf.worker_rlimit_nofile.get().copied(),
            shutdown_timeout: conf.worker_shutdown_timeout.get().copied().filter(|limit| !limit.is_zero()),
            working_directory: conf.working_directory.get().map(|word| setup.path(word)),
        })
    }
}
