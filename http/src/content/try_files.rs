//! `try_files`: the first of several files that exists, or something else.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Word, value};
use tidegate_core::file::{self, Next, Search};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::Template;
use tidegate_core::subject::Plan as _;

use crate::content::files::{self, Files};
use crate::exchange::{Exchange, Target};
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct TryConf {
    words: Vec<Word>,
}

inherit!(TryConf {} own { words });

/// `try_files`
pub struct TryFiles;

impl Feature for TryFiles {
    type Conf = TryConf;
    const NAME: &'static str = "try_files";
    const DIRECTIVES: &'static [Directive<TryConf>] = &[Directive {
        name: "try_files",
        levels: Levels::SERVER.or(Levels::LOCATION),
        arity: Arity::AtLeast(2),
        set: Set::With(|conf, line| {
            if !conf.words.is_empty() {
                return Err("is duplicate".into());
            }
            conf.words = line.args().to_vec();
            Ok(())
        }),
        doc: "Files (or directories, with a slash at the end) tried in order; then a path, @name or =status.",
    }];
}

impl Module<Exchange> for TryFiles {
    fn install(conf: &TryConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let Some((last, files)) = conf.words.split_last() else { return Ok(()) };
        let fallback = match last.after("=") {
            Some(code) => {
                let code = value::number(&code).and_then(|code| u16::try_from(code).ok()).filter(|code| *code <= 999);
                Fallback::Status(code.ok_or_else(|| ConfigError::new(last.at(), format!("invalid code \"{last}\"")))?)
            }
            None if last.bytes().starts_with(b"@") => Fallback::Named(last.bytes().into()),
            None => Fallback::Path(env.template(last)?),
        };
        let file = |word: &Word| {
            let directory = word.bytes().ends_with(b"/");
            Ok((env.template(word)?, directory))
        };
        let files = files.iter().map(file).collect::<Result<Vec<_>, ConfigError>>()?;
        plan.gate(Phase::PreContent, Box::new(Tries { files, fallback }));
        Ok(())
    }
}

struct Tries {
    files: Vec<(Template<Exchange>, bool)>,
    fallback: Fallback,
}

enum Fallback {
    Status(u16),
    Named(Box<[u8]>),
    Path(Template<Exchange>),
}

impl Gate<Exchange> for Tries {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        let plan: Rc<Plan> = exchange.plan();
        let mut files = self.files.iter();
        let mut asked: Option<(Vec<u8>, PathBuf, bool)> = None;
        let search = file::search(move |answer| {
            if let Some((path, full, directory)) = asked.take() {
                match answer {
                    Some(Ok(about)) if about.is_dir() == directory => {
                        go_to(exchange, &plan, &path);
                        return Next::Done(Verdict::Continue);
                    }
                    // Too much waits for the threads: nobody can say whether the file is there.
                    Some(Err(error)) if error.raw_os_error().is_none() => return Next::Done(Verdict::Refuse(500)),
                    Some(Err(error)) => files::log_unseen(exchange, &full, &error),
                    _ => {}
                }
            }
            for (file, directory) in files.by_ref() {
                let mut path = file.value(exchange);
                if *directory && path.last() == Some(&b'/') {
                    path.pop();
                }
                let Some(full) = Files::of(&plan).and_then(|files| files.try_path(exchange, &path)) else { continue };
                asked = Some((path, full.clone(), *directory));
                return Next::Ask(full);
            }
            Next::Done(self.fallback.take(exchange))
        });
        match search {
            Search::Now(verdict) => Step::Now(verdict),
            Search::Later(pending, next) => Step::Later(Box::pin(file::search_on(pending, next))),
        }
    }
}

/// Makes a file that was found the target.
fn go_to(exchange: &Exchange, plan: &Plan, path: &[u8]) {
    let args = exchange.target.borrow().args.clone();
    let files = Files::of(plan);
    let path = files.map_or_else(|| path.to_vec(), |files| files.tried(path));
    let below_alias = files.is_some_and(Files::is_named_by_pattern);
    *exchange.target.borrow_mut() = Target { path, args, changed: true, below_alias, ..Target::default() };
}

impl Fallback {
    fn take(&self, exchange: &Exchange) -> Verdict {
        match self {
            Fallback::Status(code) => Verdict::Refuse(*code),
            Fallback::Named(name) => {
                exchange.go_to_named(name);
                Verdict::Restart
            }
            Fallback::Path(path) => {
                let target = path.value(exchange);
                let (path, args) = match target.iter().position(|byte| *byte == b'?') {
                    Some(at) => (
                        target.get(..at).unwrap_or_default().to_vec(),
                        Bytes::copy_from_slice(target.get(at + 1..).unwrap_or_default()),
                    ),
                    None => (target, exchange.target.borrow().args.clone()),
                };
                exchange.redirect(path, args);
                Verdict::Restart
            }
        }
    }
}
