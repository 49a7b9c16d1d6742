//! `index`: the file that answers for a directory.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Word};
use tidegate_core::file::{self, About, Next, Search};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::log::os_error;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_core::subject::Subject;

use crate::content::files::Files;
use crate::content::waiting::waiting;
use crate::content::{Outcome, Produce, files};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct IndexConf {
    files: Vec<Word>,
}

inherit!(IndexConf { files });

/// `index`
pub struct Index;

impl Feature for Index {
    type Conf = IndexConf;
    const NAME: &'static str = "index";
    const DIRECTIVES: &'static [Directive<IndexConf>] = &[Directive {
        name: "index",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::AtLeast(1),
        set: Set::With(|conf, line| {
            for word in line.args() {
                if word.bytes().is_empty() {
                    return Err(format!("index \"{word}\" in \"index\" directive is invalid").into());
                }
                conf.files.push(word.clone());
            }
            Ok(())
        }),
        doc: "Files tried for a path that ends with a slash; the last may be an absolute path.",
    }];
}

impl Module<Exchange> for Index {
    fn install(conf: &IndexConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        plan.parts.put(IndexFiles(if conf.files.is_empty() {
            vec![Template::literal(b"index.html")]
        } else {
            conf.files.iter().map(|word| env.template(word)).collect::<Result<_, _>>()?
        }));
        Ok(())
    }
}

/// `index` of a location.
struct IndexFiles(Vec<Template<Exchange>>);

/// Answers for a path that ends with a slash: goes to the first index file that exists.
pub fn answer<'a>(exchange: &'a Exchange) -> Produce<'a> {
    let path = exchange.target.borrow().path.clone();
    let mut tries = Tries { exchange, plan: exchange.plan(), path, position: 0, asked: Asked::Nothing };
    match file::search(move |answer| tries.next(answer)) {
        Search::Now(outcome) => Produce::Now(outcome),
        Search::Later(pending, next) => waiting(exchange, file::search_on(pending, next)),
    }
}

/// Goes through the index files.
struct Tries<'a> {
    exchange: &'a Exchange,
    plan: Rc<Plan>,
    path: Vec<u8>,
    /// Which one is next.
    position: usize,
    asked: Asked,
}

/// What has been asked last.
enum Asked {
    Nothing,
    /// The index file `target`, which is `full`.
    File {
        target: Vec<u8>,
        full: PathBuf,
    },
    /// The folder of the first one, `full`, which was missing.
    Folder {
        full: PathBuf,
        error: io::Error,
    },
}

impl Tries<'_> {
    fn next(&mut self, answer: Option<io::Result<About>>) -> Next<Outcome> {
        match (std::mem::replace(&mut self.asked, Asked::Nothing), answer) {
            (Asked::File { target, .. }, Some(Ok(about))) if about.is_file() => {
                let args = self.exchange.target.borrow().args.clone();
                self.exchange.redirect(target, args);
                Next::Done(Outcome::Restart)
            }
            (Asked::File { full, .. }, Some(Err(error))) => self.missing(full, error),
            (Asked::Folder { full, error }, Some(about)) if !about.as_ref().is_ok_and(About::is_dir) => {
                self.not_found(&full, &error)
            }
            _ => self.ask(),
        }
    }

    fn full(&self, path: &[u8]) -> Option<PathBuf> {
        Files::of(&self.plan)?.path_of(self.exchange, path)
    }

    fn ask(&mut self) -> Next<Outcome> {
        let Some(file) = self.plan.parts.get::<IndexFiles>().and_then(|files| files.0.get(self.position)) else {
            return self.forbidden();
        };
        self.position += 1;
        let name = file.value(self.exchange);
        if name.first() == Some(&b'/') {
            let args = self.exchange.target.borrow().args.clone();
            self.exchange.redirect(name, args);
            return Next::Done(Outcome::Restart);
        }
        let target = [&*self.path, &name].concat();
        let Some(full) = self.full(&target) else {
            return Next::Done(files::unsafe_path(self.exchange, &target));
        };
        self.asked = Asked::File { target, full: full.clone() };
        Next::Ask(full)
    }

    fn missing(&mut self, full: PathBuf, error: io::Error) -> Next<Outcome> {
        use nix::errno::Errno;
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            // If the folder itself is missing, no further index can be there.
            Errno::ENOENT if self.position == 1 => {
                let Some(folder) = full.parent().map(Path::to_owned) else { return self.ask() };
                self.asked = Asked::Folder { full, error };
                Next::Ask(folder)
            }
            Errno::ENOENT => self.ask(),
            Errno::ENOTDIR | Errno::ENAMETOOLONG => self.not_found(&full, &error),
            Errno::EACCES => {
                log!(self.exchange.logger(), Error, "\"{}\" is forbidden ({})", full.display(), os_error(&error));
                Next::Done(Outcome::Status(403))
            }
            Errno::ELOOP => Next::Done(Outcome::Status(403)),
            // A file that nobody could look for may or may not be there.
            _ => {
                log!(self.exchange.logger(), Crit, "stat() \"{}\" failed ({})", full.display(), os_error(&error));
                Next::Done(Outcome::Status(500))
            }
        }
    }

    fn not_found(&self, full: &Path, error: &io::Error) -> Next<Outcome> {
        if self.plan.settings.log_not_found {
            log!(self.exchange.logger(), Error, "\"{}\" is not found ({})", full.display(), os_error(error));
        }
        Next::Done(Outcome::Status(404))
    }

    fn forbidden(&self) -> Next<Outcome> {
        let directory = self.full(&self.path);
        log!(
            self.exchange.logger(),
            Error,
            "directory index of \"{}\" is forbidden",
            directory.map(|path| path.display().to_string()).unwrap_or_default()
        );
        Next::Done(Outcome::Status(403))
    }
}
