//! `add_header`: fields added to answers.

use std::rc::Rc;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Word, literal};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_http_wire::Known;
use tidegate_http_wire::h1::write;

use super::{Filter, Filtered, value};
use crate::answer::Answer;
use crate::exchange::Exchange;
use crate::plan::Plan;

/// One `add_header` or `add_trailer` as it is written.
#[derive(Clone)]
pub struct Written {
    name: Word,
    value: Word,
    always: bool,
}

/// Its name, its value, and whether every answer gets it.
pub type Compiled = (Rc<[u8]>, Template<Exchange>, bool);

impl Written {
    /// Reads the arguments: name, value, `always`.
    ///
    /// # Errors
    /// A third argument that is not `always`, or what no field can be.
    pub fn parse(line: &Line<'_>) -> Result<Written, Refusal> {
        let always = match line.args().get(2) {
            None => false,
            Some(word) if word.is("always") => true,
            Some(word) => return Err(format!("invalid parameter \"{word}\"").into()),
        };
        literal::field_name(line.arg(0)?)?;
        literal::folded(line.arg(1)?)?;
        Ok(Written { name: line.arg(0)?.clone(), value: line.arg(1)?.clone(), always })
    }

    /// The run-time form.
    ///
    /// # Errors
    /// The value is no template.
    pub fn compile(&self, env: &Install<'_, Exchange>) -> Result<Compiled, ConfigError> {
        Ok((self.name.bytes().into(), env.template(&self.value)?, self.always))
    }
}

/// The settings of one block.
#[derive(Default)]
pub struct HeadersConf {
    added: Vec<Written>,
}

inherit!(HeadersConf { added });

/// `add_header`
pub struct AddHeader;

impl Feature for AddHeader {
    type Conf = HeadersConf;
    const NAME: &'static str = "headers";
    const DIRECTIVES: &'static [Directive<HeadersConf>] = &[Directive {
        name: "add_header",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF),
        arity: Arity::Between(2, 3),
        set: Set::With(|conf, line| {
            conf.added.push(Written::parse(line)?);
            Ok(())
        }),
        doc: "A field added to answers: to successful ones and redirects, or always.",
    }];
}

impl Module<Exchange> for AddHeader {
    fn install(conf: &HeadersConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.added.is_empty() {
            return Ok(());
        }
        let added = conf.added.iter().map(|written| written.compile(env)).collect::<Result<_, _>>()?;
        plan.filters.push(Box::new(Added(added)));
        Ok(())
    }
}

/// nginx: the statuses of answers that fields are added to without `always`.
pub fn is_usual(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

struct Added(Vec<Compiled>);

impl Filter for Added {
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered {
        let usual = is_usual(answer.status);
        for (name, template, always) in &self.0 {
            if !usual && !always {
                continue;
            }
            let value = write::in_one_line(value(template, exchange, answer));
            let known = Known::of(name);
            // nginx: these have one value only, and an empty one removes them.
            if matches!(known, Known::LastModified | Known::ETag | Known::Date) {
                answer.fields.remove(known);
                if known == Known::LastModified {
                    answer.last_modified = tidegate_http_wire::date::parse(&value);
                    if answer.last_modified.is_some() {
                        continue;
                    }
                }
            }
            // An answer that the range filter has turned into 416 has been here before.
            let again = answer.status == 416
                && answer.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name) && field.value == value);
            if !value.is_empty() && !again {
                answer.fields.push(name, &value);
            }
        }
        Filtered::Pass
    }
}
