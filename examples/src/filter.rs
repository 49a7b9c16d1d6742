//! An output filter: `upper_case on;` answers in capitals, whatever the content comes from and however it comes.
//!
//! 1. A [`Filter`] looks at the head of each answer, and gives a [`Transform`] when it wants to see the body. One that
//!    changes the length of the body must see to it that none is announced. What becomes a part of another answer is
//!    shown to it where it says so.
//! 2. A [`Transform`] takes a chunk and appends what becomes of it; it may hold something back until the end. It never
//!    waits: reading and writing are the driver's business. It may fail, as this one does when what is called text is none:
//!    it says so in the log, and the client gets no end of what it has got.
//! 3. A [`Module`] puts it into the plans that ask for it, and nowhere else. Filters see an answer in the order of the
//!    modules (`http/src/lib.rs`).

use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Set, Setting};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::subject::Subject;
use tidegate_http::answer::{Answer, Broken, Chunk};
use tidegate_http::exchange::Exchange;
use tidegate_http::filters::{Filter, Filtered, Transform};
use tidegate_http::plan::Plan;
use tidegate_http_wire::Known;

/// The settings of one block.
#[derive(Default)]
pub struct UpperCaseConf {
    on: Setting<bool>,
}

inherit!(UpperCaseConf { on });

/// `upper_case`
pub struct UpperCase;

impl Feature for UpperCase {
    type Conf = UpperCaseConf;
    const NAME: &'static str = "upper_case";
    const DIRECTIVES: &'static [Directive<UpperCaseConf>] = &[Directive {
        name: "upper_case",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::Exactly(1),
        set: Set::Flag(|conf| &mut conf.on),
        doc: "Answers text in capitals.",
    }];
}

impl Module<Exchange> for UpperCase {
    fn install(conf: &UpperCaseConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.on.or(false) {
            plan.filters.push(Box::new(Text));
        }
        Ok(())
    }
}

/// Lets through what is not text.
struct Text;

impl Filter for Text {
    fn head(&self, _exchange: &Exchange, answer: &mut Answer) -> Filtered {
        let is_text = answer.fields.get(Known::ContentType).is_some_and(|value| value.starts_with(b"text/"));
        if is_text { Filtered::Transform(Box::new(Capitals)) } else { Filtered::Pass }
    }

    fn sees_subrequests(&self) -> bool {
        true
    }
}

struct Capitals;

/// No text has it.
const BELL: u8 = 7;

impl Transform for Capitals {
    fn chunk(&mut self, exchange: &Exchange, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), Broken> {
        let Chunk::Data(pieces) = chunk else {
            out.push(chunk);
            return Ok(());
        };
        if pieces.iter().any(|piece| piece.contains(&BELL)) {
            log!(exchange.logger(), Error, "what is called text rings a bell, the response is broken off");
            return Err(Broken);
        }
        out.push(Chunk::Data(pieces.iter().map(|piece| piece.to_ascii_uppercase().into()).collect()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ask;
    use tidegate_http::Http;

    #[test]
    fn text_is_answered_in_capitals_where_asked_for() {
        let http = Http::with(|modules| _ = modules.add::<UpperCase>());
        let text = "http { default_type text/plain; server { listen 127.0.0.1:80; location /loud { upper_case on; return 200 $uri; }
            location /quiet { return 200 $uri; } location /image { upper_case on; default_type image/png; return 200 $uri; } } }";
        for (target, body) in [("/loud/a", "/LOUD/A"), ("/quiet/a", "/quiet/a"), ("/image/a", "/image/a")] {
            let answer = ask(&http, text, &format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            assert!(answer.contains("Content-Length: ") || answer.contains("Transfer-Encoding: chunked"), "{answer}");
            assert!(answer.contains(body), "{answer}");
        }
    }

    #[test]
    fn a_transform_that_fails_leaves_an_answer_without_an_end() {
        let http = Http::with(|modules| _ = modules.add::<UpperCase>());
        let text = "http { default_type text/plain; server { listen 127.0.0.1:80; upper_case on; return 200 $uri; } }";
        for (target, has_end) in [("/a", true), ("/a%07b", false), ("/%07", false), ("/a%0Ab", true)] {
            let answer = ask(&http, text, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.0\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 200"), "the head had left: {answer}");
            assert_eq!(answer.contains("0\r\n\r\n"), has_end, "{target}: {answer}");
            assert_eq!(answer.matches("HTTP/1.").count(), if has_end { 2 } else { 1 }, "nothing follows: {answer}");
        }
    }
}
