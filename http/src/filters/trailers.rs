//! `add_trailer`: fields behind the body of answers that go in chunks.

use tidegate_core::conf::ConfigError;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_http_wire::h1::write;
use tidegate_http_wire::{Fields, Version};

use super::headers::{Compiled, Written, is_usual};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct TrailersConf {
    added: Vec<Written>,
}

inherit!(TrailersConf { added });

/// `add_trailer`
pub struct AddTrailer;

impl Feature for AddTrailer {
    type Conf = TrailersConf;
    const NAME: &'static str = "trailers";
    const DIRECTIVES: &'static [Directive<TrailersConf>] = &[Directive {
        name: "add_trailer",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF),
        arity: Arity::Between(2, 3),
        set: Set::With(|conf, line| {
            conf.added.push(Written::parse(line)?);
            Ok(())
        }),
        doc: "A field behind the body of HTTP/1.1 answers: of successful ones and redirects, or always.",
    }];
}

impl Module<Exchange> for AddTrailer {
    const VARIABLES: &'static [Variable<Exchange>] = &[Variable {
        name: "sent_trailer_",
        get: Get::Prefix(|exchange, name, out| match &*exchange.sent.trailers.borrow() {
            Some(trailers) => crate::variables::fields(out, trailers.variable(name), b", "),
            None => false,
        }),
        doc: "A field behind the answer's body.",
    }];

    fn install(conf: &TrailersConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if !conf.added.is_empty() {
            let added = conf.added.iter().map(|written| written.compile(env));
            plan.parts.put(Trailers(added.collect::<Result<_, _>>()?));
        }
        Ok(())
    }
}

/// A location's trailers, if it adds any.
struct Trailers(Vec<Compiled>);

/// True when an answer of this status should be sent in a way that allows for trailers.
pub fn are_due(plan: &Plan, exchange: &Exchange, status: u16) -> bool {
    plan.parts.get::<Trailers>().is_some_and(|trailers| trailers.are_due(exchange, status))
}

/// The fields behind the body of an answer: those of its location, behind those that came with it.
pub fn of(exchange: &Exchange, came: Option<Box<Fields>>) -> Option<Box<Fields>> {
    match exchange.plan.borrow().parts.get::<Trailers>() {
        Some(trailers) => trailers.of(exchange, came),
        None => came,
    }
}

impl Trailers {
    fn are_due(&self, exchange: &Exchange, status: u16) -> bool {
        !exchange.is_subrequest()
            && exchange.head.version >= Version::Http11
            && (exchange.head.version == Version::Http2 || exchange.plan().settings.chunked_transfer_encoding)
            && self.0.iter().any(|(_, _, always)| *always || is_usual(status))
    }

    fn of(&self, exchange: &Exchange, came: Option<Box<Fields>>) -> Option<Box<Fields>> {
        let status = exchange.sent.status.get();
        if !self.are_due(exchange, status) {
            return came;
        }
        let mut trailers = came;
        for (name, template, always) in &self.0 {
            let value = write::in_one_line(template.value(exchange));
            if value.is_empty() || !(*always || is_usual(status)) {
                continue;
            }
            trailers.get_or_insert_default().push(name, &value);
            exchange.sent.trailers.borrow_mut().get_or_insert_default().push(name, &value);
        }
        trailers
    }
}
