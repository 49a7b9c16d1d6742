//! `index`: the file that answers for a directory.

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Word};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;

use crate::content::Outcome;
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
        plan.files.index = if conf.files.is_empty() {
            vec![Template::literal(b"index.html")]
        } else {
            conf.files.iter().map(|word| env.template(word)).collect::<Result<_, _>>()?
        };
        Ok(())
    }
}

/// Answers for a path that ends with a slash: goes to the first index file that exists.
pub fn answer(exchange: &Exchange) -> Outcome {
    let plan = exchange.plan();
    let path = exchange.target.borrow().path.clone();
    for (position, file) in plan.files.index.iter().enumerate() {
        let name = file.value(exchange);
        if name.first() == Some(&b'/') {
            let args = exchange.target.borrow().args.clone();
            exchange.redirect(name, args);
            return Outcome::Restart;
        }
        let target = [&*path, &name].concat();
        let Some(full) = plan.files.path_of(exchange, &target) else { return Outcome::Status(500) };
        match std::fs::metadata(&full) {
            Ok(meta) if meta.is_file() => {
                let args = exchange.target.borrow().args.clone();
                exchange.redirect(target, args);
                return Outcome::Restart;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tidegate_core::log!(
                    tidegate_core::subject::Subject::logger(exchange),
                    Error,
                    "\"{}\" is forbidden ({})",
                    full.display(),
                    tidegate_core::log::os_error(&error)
                );
                return Outcome::Status(403);
            }
            // The directory itself is missing: no further index can be there.
            Err(error)
                if position == 0
                    && matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                if full.parent().is_some_and(|parent| !parent.is_dir()) {
                    if plan.settings.log_not_found {
                        tidegate_core::log!(
                            tidegate_core::subject::Subject::logger(exchange),
                            Error,
                            "\"{}\" is not found ({})",
                            full.display(),
                            tidegate_core::log::os_error(&error)
                        );
                    }
                    return Outcome::Status(404);
                }
            }
            Err(_) => {}
        }
    }
    let directory = plan.files.path_of(exchange, &path);
    tidegate_core::log!(
        tidegate_core::subject::Subject::logger(exchange),
        Error,
        "directory index of \"{}\" is forbidden",
        directory.map(|path| path.display().to_string()).unwrap_or_default()
    );
    Outcome::Status(403)
}
