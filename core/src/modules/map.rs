//! `map`: a variable whose value depends on the value of a template.

use std::rc::Rc;

use super::block::WrittenBlock;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{Check, ConfigError, Line, Refusal, Word};
use crate::inherit;
use crate::log;
use crate::module::{Install, Module};
use crate::script::names::{BadName, Names};
use crate::script::variable::Compute;
use crate::script::{PatternList, Source, Template};
use crate::subject::Subject;

/// The settings of one block.
#[derive(Default)]
pub struct MapConf {
    maps: Vec<WrittenBlock>,
}

inherit!(MapConf {} own { maps });

/// `map`
pub struct Map;

impl Feature for Map {
    type Conf = MapConf;
    const NAME: &'static str = "map";
    const DIRECTIVES: &'static [Directive<MapConf>] = &[
        Directive {
            name: "map",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(2),
            set: Set::Body(map),
            doc: "Makes a variable whose value is looked up by another value: exact, by host name pattern or by regular expression.",
        },
        Directive {
            name: "map_hash_max_size",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Noted(table_size),
            doc: "Tables size themselves.",
        },
        Directive {
            name: "map_hash_bucket_size",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Noted(table_size),
            doc: "Tables size themselves.",
        },
        Directive {
            name: "variables_hash_max_size",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::TableSize),
            doc: "Tables size themselves.",
        },
        Directive {
            name: "variables_hash_bucket_size",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::TableSize),
            doc: "Tables size themselves.",
        },
    ];
}

/// nginx: the first map settles the sizes of their tables.
fn table_size(conf: &mut MapConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    if line.repeats() || !conf.maps.is_empty() {
        return Err("is duplicate".into());
    }
    Check::TableSize.look(line)
}

fn map(conf: &mut MapConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    conf.maps.push(WrittenBlock::parse(line)?);
    Ok(())
}

impl<S: Subject> Module<S> for Map {
    fn define(conf: &MapConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for written in &conf.maps {
            let table = match Table::build(written, env) {
                Ok(table) => table,
                // The other maps are there all the same, and who uses this one has made no mistake.
                Err(error) => {
                    env.errors.push(error);
                    env.errors.excuse_name(&[b"$", written.variable.bytes()].concat());
                    continue;
                }
            };
            let volatile = table.volatile;
            let compute: Compute<S> = Box::new(move |subject, out| table.look_up(subject, out));
            let source = if volatile { Source::Always(compute) } else { Source::Once(env.variables.slot(), compute) };
            let defined = env.variables.define(&written.variable.text(), written.variable.at(), source);
            env.errors.keep(defined);
        }
        Ok(())
    }
}

struct Table<S: 'static> {
    variable: Word,
    source: Template<S>,
    /// Exact values in lower case, and host name patterns where `hostnames` allows them.
    names: Names<Rc<Template<S>>>,
    hostnames: bool,
    regexes: PatternList<Rc<Template<S>>>,
    default: Option<Rc<Template<S>>>,
    volatile: bool,
}

impl<S: Subject> Table<S> {
    fn build(written: &WrittenBlock, env: &mut Install<'_, S>) -> Result<Self, ConfigError> {
        let hostnames = written.says("hostnames");
        let source = written.key(env)?;
        let mut table = Table {
            variable: written.variable.clone(),
            source,
            names: Names::default(),
            hostnames,
            regexes: PatternList::default(),
            default: None,
            volatile: written.says("volatile"),
        };
        let mut exact: std::collections::HashMap<Vec<u8>, Rc<Template<S>>> = std::collections::HashMap::new();
        for line in &*written.lines {
            let refuse = |message: String| ConfigError::new(line.name.at(), message);
            let key = &line.name;
            let [value] = &*line.args else {
                if !(line.args.is_empty() && (key.is("hostnames") || key.is("volatile"))) {
                    env.errors.push(refuse("invalid number of the map parameters".to_owned()));
                }
                continue;
            };
            let value = Rc::new(env.template(value)?);
            if key.is("default") {
                if table.default.replace(value).is_some() {
                    env.errors.push(refuse("duplicate default map parameter".to_owned()));
                }
            } else if let Some(pattern) = key.after("~") {
                let (pattern, ignore_case) = pattern.after("*").map_or((pattern, false), |pattern| (pattern, true));
                let regex = env.regex(pattern.bytes(), ignore_case, key.at())?;
                table.regexes.push(Rc::new(regex), value);
            } else {
                // A backslash lets a value begin like a keyword or a pattern.
                let bytes = key.bytes().strip_prefix(b"\\").unwrap_or(key.bytes()).to_ascii_lowercase();
                let result = if hostnames {
                    table.names.add(&bytes, value)
                } else if exact.insert(bytes, value).is_some() {
                    Err(BadName::Conflict)
                } else {
                    Ok(())
                };
                match result {
                    Ok(()) => {}
                    Err(BadName::Conflict) => env.errors.push(refuse(format!("conflicting parameter \"{key}\""))),
                    Err(BadName::Invalid) => env.errors.push(refuse(format!("invalid hostname or wildcard \"{key}\""))),
                }
            }
        }
        table.names.add_exact(exact);
        table.regexes.prepare();
        Ok(table)
    }

    fn look_up(&self, subject: &S, out: &mut Vec<u8>) -> bool {
        let key = self.source.value(subject);
        let mut lower = key.to_ascii_lowercase();
        if self.hostnames && lower.last() == Some(&b'.') {
            lower.pop();
        }
        let found = self.names.find(&lower).or_else(|| self.by_pattern(subject, &key));
        if let Some(value) = found.or(self.default.as_ref()) {
            value.write(subject, out);
        }
        true
    }

    /// nginx: when a pattern cannot say, the default holds.
    fn by_pattern(&self, subject: &S, key: &[u8]) -> Option<&Rc<Template<S>>> {
        self.regexes.find(key, subject.slots()).unwrap_or_else(|failure| {
            log!(subject.logger(), Alert, "map \"${}\" {failure}, the default holds", self.variable);
            None
        })
    }
}
