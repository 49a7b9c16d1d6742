//! `root`, `alias`, `types`, `default_type`: files as answers.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tidegate_core::lookup::Lookup;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Line, Refusal, Setting, Word, literal, value};
use tidegate_core::file::{self, Asked, Opened};
use tidegate_core::inherit;
use tidegate_core::log::os_error;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_core::subject::Subject;
use tidegate_http_wire::uri::{Escape, escape_uri};
use tidegate_http_wire::{Known, Method, etag};

use crate::answer::{Answer, Body, FilePart};
use crate::content::waiting::waiting;
use crate::content::{Outcome, Produce, index};
use crate::exchange::Exchange;
use crate::plan::Plan;
use crate::route::location::glued;

/// The table from extensions, in lower case, to content types.
pub type Types = Lookup<Vec<u8>, Rc<[u8]>>;

/// The settings of one block.
#[derive(Default)]
pub struct FilesConf {
    /// The path, and what of the request's an `alias` replaces.
    root: Setting<(Word, Option<Alias>)>,
    types: Setting<Rc<Types>>,
    default_type: Setting<Word>,
}

inherit!(FilesConf { root, types, default_type });

/// `root`, `alias`, `types`, `default_type`
pub struct StaticFiles;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

impl Feature for StaticFiles {
    type Conf = FilesConf;
    const NAME: &'static str = "static files";
    const DIRECTIVES: &'static [Directive<FilesConf>] = &[
        Directive {
            name: "root",
            levels: ANYWHERE.or(Levels::LOCATION_IF),
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| root(conf, line, false)),
            doc: "The directory that paths are below.",
        },
        Directive {
            name: "alias",
            levels: Levels::LOCATION,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| root(conf, line, true)),
            doc: "The path that takes the place of the location's name.",
        },
        Directive {
            name: "types",
            levels: ANYWHERE,
            arity: Arity::Exactly(0),
            set: Set::Body(types),
            doc: "Content types by file name extension.",
        },
        Directive {
            name: "default_type",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                literal::one_line(line.arg(0)?)?;
                conf.default_type.set(line.arg(0)?.clone())
            }),
            doc: "The content type of everything else.",
        },
        Directive {
            name: "open_file_cache",
            levels: ANYWHERE,
            arity: Arity::Between(1, 2),
            set: Set::Checked(Check::Parameters(&[("max=", entries), ("inactive=", value::seconds)])),
            doc: "Files are opened for each request.",
        },
        Directive {
            name: "open_file_cache_valid",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Seconds),
            doc: "Files are opened for each request.",
        },
        Directive {
            name: "open_file_cache_min_uses",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Number),
            doc: "Files are opened for each request.",
        },
        Directive {
            name: "open_file_cache_errors",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Flag),
            doc: "Files are opened for each request.",
        },
        Directive {
            name: "aio",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::With(|line| match line.arg(0)? {
                word if word.is("on") || word.is("off") || word.is("threads") => Ok(()),
                word if word.after("threads=").is_some_and(|pool| !pool.bytes().is_empty()) => Ok(()),
                _ => Err("invalid value".into()),
            })),
            doc: "Files that are not cached are always read by the threads of the pool named default.",
        },
        Directive {
            name: "directio",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::With(|line| match line.arg(0)? {
                word if word.is("off") || value::offset(word).is_some() => Ok(()),
                _ => Err("invalid value".into()),
            })),
            doc: "Files are read through the page cache.",
        },
    ];
}

fn entries(word: &Word) -> Option<u64> {
    value::number(word).filter(|count| *count > 0)
}

fn root(conf: &mut FilesConf, line: &mut Line<'_>, alias: bool) -> Result<(), Refusal> {
    let path = line.arg(0)?;
    if let Some((_, earlier)) = conf.root.get() {
        return Err(if earlier.is_some() == alias {
            "is duplicate".into()
        } else {
            Refusal(format!(
                "\"{}\" directive is duplicate, \"{}\" directive was specified earlier",
                line.name(),
                if alias { "root" } else { "alias" }
            ))
        });
    }
    let alias = alias.then(|| Alias::of(line.around()));
    conf.root.set((path.clone(), alias))
}

/// What an `alias` replaces: the name of the location that it stands in, also for locations inside of it.
#[derive(Clone, Debug)]
enum Alias {
    /// The beginning of the path.
    Prefix(Box<[u8]>),
    /// All of it: the location is a pattern.
    Whole,
    /// The location has a name of its own, and paths have nothing of it.
    Named,
}

impl Alias {
    fn of(location: &[Word]) -> Alias {
        let (modifier, name) = match location {
            [modifier, name] => (modifier.text().into_owned(), name.clone()),
            [name] => glued(name),
            _ => return Alias::Whole,
        };
        match &*modifier {
            "~" | "~*" => Alias::Whole,
            _ if name.bytes().starts_with(b"@") => Alias::Named,
            _ => Alias::Prefix(name.bytes().into()),
        }
    }
}

fn types(conf: &mut FilesConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let mut table = conf.types.get().map(|types| (**types).clone()).unwrap_or_default();
    for row in line.body() {
        let content_type: Rc<[u8]> = row.name.bytes().into();
        for extension in &row.args {
            if table.insert(extension.bytes().to_ascii_lowercase(), content_type.clone()).is_some() {
                line.warn(format!(
                    "duplicate extension \"{extension}\", content type \"{}\" takes the place of the earlier",
                    row.name
                ));
            }
        }
    }
    conf.types = Setting::of(Rc::new(table));
    Ok(())
}

/// Where a location's files are and what they are.
pub struct Files {
    root: Template<Exchange>,
    /// `None` for `root`.
    alias: Option<Alias>,
    types: Rc<Types>,
    default_type: Rc<[u8]>,
}

impl Module<Exchange> for StaticFiles {
    fn install(conf: &FilesConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let (word, alias) = match conf.root.get() {
            Some((word, alias)) => (word.clone(), alias.clone()),
            None => (Word::new(*b"html", env.at.clone()), None),
        };
        if matches!(alias, Some(Alias::Named)) {
            return Err(ConfigError::new(
                word.at(),
                "the \"alias\" directive cannot be used inside the named location",
            ));
        }
        // A path that begins with a variable is whole already.
        let word = if word.bytes().starts_with(b"$") {
            word
        } else {
            Word::new(env.setup.path(&word).into_os_string().into_vec(), word.at().clone())
        };
        let default_type = conf.default_type.get().map_or_else(|| (*b"text/plain").into(), |word| word.bytes().into());
        plan.parts.put(Files {
            root: env.template(&word)?,
            alias,
            types: conf.types.get().cloned().unwrap_or_else(default_types),
            default_type,
        });
        Ok(())
    }
}

fn default_types() -> Rc<Types> {
    let rows: [(&[u8], &[u8]); 3] = [(b"html", b"text/html"), (b"gif", b"image/gif"), (b"jpg", b"image/jpeg")];
    Rc::new(rows.into_iter().map(|(extension, content_type)| (extension.to_vec(), content_type.into())).collect())
}

impl Files {
    /// Those of a location.
    pub fn of(plan: &Plan) -> Option<&Files> {
        plan.parts.get()
    }

    /// The file behind a path of this location. `None` when the path cannot be a file's.
    pub fn path_of(&self, exchange: &Exchange, path: &[u8]) -> Option<PathBuf> {
        let mut full = self.root.value(exchange);
        match &self.alias {
            None => {
                while full.last() == Some(&b'/') {
                    full.pop();
                }
                full.extend_from_slice(path);
            }
            Some(Alias::Whole | Alias::Named) if !exchange.target.borrow().below_alias => {}
            Some(Alias::Whole | Alias::Named) => full.extend_from_slice(path),
            Some(Alias::Prefix(prefix)) => {
                let rest = path.get(prefix.len()..)?;
                // nginx: an alias without the location's last slash would reach beside the directory it names.
                if rest.starts_with(b"../") || rest == b".." {
                    return None;
                }
                full.extend_from_slice(rest);
            }
        }
        (!full.contains(&0)).then(|| PathBuf::from(OsString::from_vec(full)))
    }

    /// The file behind what `try_files` names: below an `alias` it is the part that follows the location's name.
    pub fn try_path(&self, exchange: &Exchange, path: &[u8]) -> Option<PathBuf> {
        match &self.alias {
            None => self.path_of(exchange, path),
            Some(Alias::Prefix(prefix)) if path.starts_with(prefix) => self.path_of(exchange, path),
            Some(Alias::Prefix(prefix)) => self.path_of(exchange, &[prefix, path].concat()),
            Some(Alias::Whole | Alias::Named) => {
                let mut full = self.root(exchange);
                full.extend_from_slice(path);
                (!full.contains(&0)).then(|| PathBuf::from(OsString::from_vec(full)))
            }
        }
    }

    /// The path of the exchange once `try_files` has found `path`.
    pub fn tried(&self, path: &[u8]) -> Vec<u8> {
        match &self.alias {
            Some(Alias::Prefix(prefix)) if !path.starts_with(prefix) => [prefix, path].concat(),
            _ => path.to_vec(),
        }
    }

    /// True below the `alias` of a location given by a pattern.
    pub fn is_named_by_pattern(&self) -> bool {
        matches!(self.alias, Some(Alias::Whole))
    }

    /// The value of `root` or `alias`.
    pub fn root(&self, exchange: &Exchange) -> Vec<u8> {
        self.root.value(exchange)
    }

    fn content_type(&self, exchange: &Exchange) -> Rc<[u8]> {
        if let Some(carried) = &*exchange.carried.borrow()
            && let Some(content_type) = carried.get(Known::ContentType)
        {
            return content_type.into();
        }
        let target = exchange.target.borrow();
        let name = target.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let extension = name.iter().rposition(|byte| *byte == b'.').and_then(|at| name.get(at + 1..));
        let found =
            extension.filter(|extension| !extension.is_empty()).and_then(|extension| match self.types.get(extension) {
                Some(found) => Some(found),
                None => self.types.get(&extension.to_ascii_lowercase()),
            });
        found.unwrap_or(&self.default_type).clone()
    }
}

/// The content type of the exchange's path, unless what led there has named one.
pub fn content_type(exchange: &Exchange, plan: &Plan) -> Rc<[u8]> {
    Files::of(plan).map(|files| files.content_type(exchange)).unwrap_or_default()
}

/// Answers with the file behind the exchange's path.
pub fn answer<'a>(exchange: &'a Exchange) -> Produce<'a> {
    // nginx: what is posted may find no file, and an error page then stands in; only a file itself takes none.
    match exchange.method() {
        Method::Get | Method::Head | Method::Post => {}
        _ => return Produce::Now(Outcome::Status(405)),
    }
    let path = exchange.target.borrow().path.clone();
    if path.ends_with(b"/") {
        return index::answer(exchange);
    }
    let Some(full) = Files::of(&exchange.plan()).and_then(|files| files.path_of(exchange, &path)) else {
        return Produce::Now(unsafe_path(exchange, &path));
    };
    match file::open(&full) {
        Asked::Now(opened) => Produce::Now(found(exchange, &path, &full, opened)),
        Asked::Later(opening) => waiting(exchange, async move { found(exchange, &path, &full, opening.await) }),
    }
}

/// The answer that goes with what opening the file behind `path` has come to.
fn found(exchange: &Exchange, path: &[u8], full: &Path, opened: io::Result<Opened>) -> Outcome {
    let plan = exchange.plan();
    let (file, about) = match opened {
        Ok(opened) => opened,
        Err(error) => return refuse(exchange, &plan, full, &error),
    };
    if about.is_dir() {
        return Outcome::Status(exchange.send_to(301, &with_slash(exchange, path)));
    }
    if !about.is_file() {
        tidegate_core::log!(exchange.logger(), Crit, "\"{}\" is not a regular file", full.display());
        return Outcome::Status(404);
    }
    if exchange.method() == Method::Post {
        return Outcome::Status(405);
    }
    let body = Body::File(FilePart { file, range: 0..about.length });
    let mut answer = Answer::typed(200, &content_type(exchange, &plan), body);
    answer.last_modified = Some(about.modified);
    if plan.settings.etag {
        answer.fields.push_known(Known::ETag, &etag::of_file(about.modified, about.length));
    }
    answer.ranges = true;
    answer.into()
}

/// nginx: a file that could not be looked for counts as missing in `try_files` and `if`, which then go on. The log says so.
pub fn log_unseen(exchange: &Exchange, path: &Path, error: &io::Error) {
    if !file::is_missing(error) {
        tidegate_core::log!(exchange.logger(), Crit, "stat() \"{}\" failed ({})", path.display(), os_error(error));
    }
}

/// A path that leads out of the folder it is below, or holds a NUL.
pub fn unsafe_path(exchange: &Exchange, path: &[u8]) -> Outcome {
    tidegate_core::log!(exchange.logger(), Error, "\"{}\" leads to no file that may be served", path.escape_ascii());
    Outcome::Status(404)
}

/// Where a directory that was asked for by its name alone is found.
fn with_slash(exchange: &Exchange, path: &[u8]) -> Vec<u8> {
    let mut location = Vec::new();
    escape_uri(path, Escape::Uri, &mut location);
    location.push(b'/');
    let args = exchange.target.borrow().args.clone();
    if !args.is_empty() {
        location.push(b'?');
        location.extend_from_slice(&args);
    }
    location
}

fn refuse(exchange: &Exchange, plan: &Plan, full: &Path, error: &io::Error) -> Outcome {
    use nix::errno::Errno;
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => {
            if plan.settings.log_not_found {
                tidegate_core::log!(
                    exchange.logger(),
                    Error,
                    "open() \"{}\" failed ({})",
                    full.display(),
                    os_error(error)
                );
            }
            Outcome::Status(404)
        }
        Errno::EACCES | Errno::ELOOP => {
            tidegate_core::log!(exchange.logger(), Error, "open() \"{}\" failed ({})", full.display(), os_error(error));
            Outcome::Status(403)
        }
        _ => {
            tidegate_core::log!(exchange.logger(), Crit, "open() \"{}\" failed ({})", full.display(), os_error(error));
            Outcome::Status(500)
        }
    }
}
