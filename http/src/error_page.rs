//! `error_page`: what is answered instead of an error.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Word, literal, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_core::subject::{State, Subject};
use tidegate_http_wire::Method;

use crate::answer::Answer;
use crate::exchange::Exchange;
use crate::plan::Plan;

/// What status an error page's answer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// That of the error.
    Original,
    /// That of the page: `=`
    Page,
    /// This one: `=200`
    Fixed(u16),
}

/// One `error_page`.
#[derive(Clone)]
struct Written {
    codes: Vec<u16>,
    status: Status,
    target: Word,
}

/// The settings of one block.
#[derive(Default)]
pub struct ErrorPageConf {
    pages: Vec<Written>,
}

inherit!(ErrorPageConf { pages });

/// `error_page`
pub struct ErrorPage;

impl Feature for ErrorPage {
    type Conf = ErrorPageConf;
    const NAME: &'static str = "error_page";
    const DIRECTIVES: &'static [Directive<ErrorPageConf>] = &[Directive {
        name: "error_page",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF),
        arity: Arity::AtLeast(2),
        set: Set::With(error_page),
        doc: "The path, named location or URL that answers instead of these errors.",
    }];
}

fn error_page(conf: &mut ErrorPageConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let Some((target, mut words)) = line.args().split_last() else {
        return Err("invalid number of arguments in \"error_page\" directive".into());
    };
    let mut status = Status::Original;
    if let Some((last, rest)) = words.split_last()
        && let Some(code) = last.after("=")
    {
        status = match value::number(&code) {
            _ if code.bytes().is_empty() => Status::Page,
            Some(code) => Status::Fixed(u16::try_from(code).map_err(|_| format!("invalid value \"{last}\""))?),
            None => return Err(format!("invalid value \"{last}\"").into()),
        };
        words = rest;
    }
    let code = |word: &Word| {
        let code = value::number(word).and_then(|code| u16::try_from(code).ok());
        match code {
            Some(499) => Err(Refusal("value \"499\" must not be used: the client is gone by then".into())),
            Some(code @ 300..=599) => Ok(code),
            _ => Err(Refusal(format!("value \"{word}\" must be between 300 and 599"))),
        }
    };
    let codes = words.iter().map(code).collect::<Result<Vec<u16>, Refusal>>()?;
    if codes.is_empty() {
        return Err("no status codes in the \"error_page\" directive".into());
    }
    literal::one_line(target)?;
    conf.pages.push(Written { codes, status, target: target.clone() });
    Ok(())
}

impl Module<Exchange> for ErrorPage {
    fn install(conf: &ErrorPageConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let mut pages = Vec::new();
        for written in &conf.pages {
            let page = Rc::new(Page { status: written.status, target: env.template(&written.target)? });
            pages.extend(written.codes.iter().map(|code| (*code, page.clone())));
        }
        if !pages.is_empty() {
            plan.parts.put(ErrorPages { pages });
        }
        Ok(())
    }
}

struct Page {
    status: Status,
    target: Template<Exchange>,
}

/// What an error page leaves in the exchange that it is asked for in.
#[derive(Default)]
pub struct Replaced {
    /// The status that the answer gets whatever gives it.
    pub status: Cell<Option<u16>>,
    /// A page has been asked for.
    pub by_page: Cell<bool>,
    /// Further errors have their own pages: `recursive_error_pages` was off where the first was handled.
    is_last: Cell<bool>,
}

impl State for Replaced {}

/// A location's error pages, if it has any.
struct ErrorPages {
    pages: Vec<(u16, Rc<Page>)>,
}

/// What an error page leads to.
pub enum Handled {
    /// No page: the error's own.
    No,
    /// The exchange's target has been changed: start again.
    Restart,
    /// A redirect for the client.
    Answer(Box<Answer>),
}

/// True when a page is configured for this status.
pub fn covers(plan: &Plan, status: u16) -> bool {
    let pages = plan.parts.get::<ErrorPages>();
    pages.is_some_and(|pages| pages.pages.iter().any(|(code, _)| *code == status))
}

/// Puts a page in the place of an error of `exchange`, if one is configured.
pub fn handle(plan: &Plan, exchange: &Exchange, status: u16) -> Handled {
    match plan.parts.get::<ErrorPages>() {
        Some(pages) => pages.handle(exchange, status),
        None => Handled::No,
    }
}

impl ErrorPages {
    fn handle(&self, exchange: &Exchange, status: u16) -> Handled {
        let replaced = exchange.state::<Replaced>();
        if replaced.is_last.get() {
            return Handled::No;
        }
        replaced.is_last.set(!exchange.plan().settings.recursive_error_pages);
        let Some((_, page)) = self.pages.iter().find(|(code, _)| *code == status) else { return Handled::No };
        replaced.by_page.set(true);
        let target = page.target.value(exchange);
        match (page.status, status) {
            (Status::Original, 494..=497) => replaced.status.set(Some(400)),
            (Status::Original, status) => replaced.status.set(Some(status)),
            (Status::Page, _) => replaced.status.set(None),
            (Status::Fixed(code), _) => replaced.status.set(Some(code)),
        }
        if target.first() == Some(&b'/') {
            let (path, args) = match target.iter().position(|byte| *byte == b'?') {
                Some(at) => (
                    target.get(..at).unwrap_or_default().to_vec(),
                    Bytes::copy_from_slice(target.get(at + 1..).unwrap_or_default()),
                ),
                None => (target, exchange.target.borrow().args.clone()),
            };
            if exchange.head.method != Method::Head {
                exchange.as_get.set(true);
            }
            exchange.redirect(path, args);
            return Handled::Restart;
        }
        if target.first() == Some(&b'@') {
            exchange.go_to_named(&target);
            return Handled::Restart;
        }
        let code = match page.status {
            Status::Fixed(code @ (301..=303 | 307 | 308)) => code,
            _ => 302,
        };
        replaced.status.set(None);
        let tokens = exchange.plan().settings.server_tokens;
        Handled::Answer(Box::new(Answer::page(exchange.send_to(code, &target), tokens)))
    }
}
