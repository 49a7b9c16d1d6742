//! A content handler that asks others: `join /a /b;` answers with what these paths answer, one after the other.
//!
//! 1. A [`Content`] answers an exchange, at once or later.
//! 2. [`subrequest::ask`] asks within the exchange and waits. What is to be looked at before it goes on is kept in memory,
//!    up to `subrequest_output_buffer_size`; more is an error, not a part.
//! 3. What came of it, status, fields and what features remember of it, is in the exchange of the subrequest.

use std::rc::Rc;

use bytes::Bytes;
use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Set, Word};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::subject::Subject;
use tidegate_http::answer::{Answer, Body};
use tidegate_http::content::{Content, Outcome, Produce};
use tidegate_http::exchange::Exchange;
use tidegate_http::plan::Plan;
use tidegate_http::subrequest::{self, Failure, Request};

/// The settings of one block.
#[derive(Default)]
pub struct JoinConf {
    paths: Vec<Word>,
}

inherit!(JoinConf {} own { paths });

/// `join`
pub struct Join;

impl Feature for Join {
    type Conf = JoinConf;
    const NAME: &'static str = "join";
    const DIRECTIVES: &'static [Directive<JoinConf>] = &[Directive {
        name: "join",
        levels: Levels::LOCATION,
        arity: Arity::AtLeast(1),
        set: Set::With(|conf, line| {
            conf.paths = line.args().to_vec();
            Ok(())
        }),
        doc: "Answers with the answers of these paths, or with the first status of theirs that is an error.",
    }];
}

impl Module<Exchange> for Join {
    fn install(conf: &JoinConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if !conf.paths.is_empty() {
            plan.content = Some(Rc::new(Joined(conf.paths.iter().map(|path| path.bytes().to_vec()).collect())));
        }
        Ok(())
    }
}

struct Joined(Vec<Vec<u8>>);

impl Content for Joined {
    fn answer<'a>(&'a self, exchange: &'a Exchange) -> Produce<'a> {
        Produce::Later(Box::pin(self.join(exchange)))
    }
}

impl Joined {
    async fn join(&self, exchange: &Exchange) -> Outcome {
        let kept = subrequest::Body::Kept(exchange.plan().settings.subrequest_output_buffer_size);
        let mut joined = Vec::new();
        for path in &self.0 {
            match subrequest::ask(exchange, Request::get(path.clone(), Bytes::new()), kept).await {
                Ok(reply) if reply.exchange.status() >= 400 => return Outcome::Status(reply.exchange.status()),
                Ok(reply) => joined.extend_from_slice(&reply.body),
                Err(Failure::Gone) => return Outcome::Gone,
                Err(Failure::TooMany | Failure::Incomplete) => return Outcome::Status(500),
            }
        }
        Answer::typed(200, b"text/plain", Body::Bytes(joined.into())).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ask;
    use tidegate_http::Http;

    #[test]
    fn answers_are_joined_or_refused_whole() {
        let http = Http::with(|modules| _ = modules.add::<Join>());
        let text = "http { server { listen 127.0.0.1:80; location = /a { return 200 A; } location = /b { return 200 B; }
            location = /all { join /a /b /a; } location = /none { join /a /missing; } location = /missing { return 404; }
            location = /nested { join /all /b; } location = /circle { join /a /circle; }
            location = /long { subrequest_output_buffer_size 3; join /all /four; } location = /four { return 200 four; }
            location = /page { join /missing; error_page 404 /a; } } }";
        for (target, status, body) in [
            ("/all", 200, "ABA"),
            ("/none", 404, "</html>\r\n"),
            ("/nested", 200, "ABAB"),
            ("/circle", 500, "</html>\r\n"),
            ("/long", 500, "</html>\r\n"),
            ("/page", 404, "A"),
        ] {
            let answer = ask(&http, text, &format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
            assert!(answer.ends_with(body), "{target}: {answer}");
        }
    }
}
