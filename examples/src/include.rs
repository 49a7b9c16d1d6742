//! A filter that includes: `append /footer;` puts the answer to another request behind every text.
//!
//! 1. A [`Transform`] gives a [`Chunk`] that stands for the answer to a subrequest ([`subrequest::include`]) where that is to
//!    be. It is asked when what is before it is on its way, and goes in order through the filters behind this one.
//! 2. There may be too many of them, or one may break off in the middle: then the client gets no end of the answer.
//! 3. Answers to subrequests are not shown to a filter unless it says so ([`Filter::sees_subrequests`]). This one would
//!    append to what it appends.

use bytes::Bytes;
use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Set, Setting, Word};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Template;
use tidegate_http::answer::{Answer, Broken, Chunk};
use tidegate_http::exchange::Exchange;
use tidegate_http::filters::{Filter, Filtered, Transform};
use tidegate_http::plan::Plan;
use tidegate_http::subrequest::{self, Request};
use tidegate_http_wire::Known;

/// The settings of one block.
#[derive(Default)]
pub struct AppendConf {
    path: Setting<Word>,
}

inherit!(AppendConf { path });

/// `append`
pub struct Append;

impl Feature for Append {
    type Conf = AppendConf;
    const NAME: &'static str = "append";
    const DIRECTIVES: &'static [Directive<AppendConf>] = &[Directive {
        name: "append",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::Exactly(1),
        set: Set::Word(|conf| &mut conf.path),
        doc: "The path whose answer is put behind text.",
    }];
}

impl Module<Exchange> for Append {
    fn install(conf: &AppendConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if let Some(path) = conf.path.get() {
            plan.filters.push(Box::new(Appended(env.template(path)?)));
        }
        Ok(())
    }
}

struct Appended(Template<Exchange>);

impl Filter for Appended {
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered {
        let is_text = answer.fields.get(Known::ContentType).is_some_and(|value| value.starts_with(b"text/"));
        if is_text { Filtered::Transform(Box::new(Behind(self.0.value(exchange)))) } else { Filtered::Pass }
    }
}

/// What comes behind the body.
struct Behind(Vec<u8>);

impl Transform for Behind {
    fn chunk(&mut self, exchange: &Exchange, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), Broken> {
        if matches!(chunk, Chunk::End(_)) {
            out.push(subrequest::include(exchange, Request::get(std::mem::take(&mut self.0), Bytes::new()))?);
        }
        out.push(chunk);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::UpperCase;
    use crate::testing::ask;
    use tidegate_http::Http;

    fn body(more: &str, target: &str) -> String {
        let http = Http::with(|modules| _ = modules.add::<Append>().add::<UpperCase>());
        let text = format!(
            "http {{ default_type text/plain; server {{ listen 127.0.0.1:80; location / {{ append /foot?; return 200 page; }}
             location /foot {{ return 200 -foot; }} {more} }} }}"
        );
        ask(&http, &text, &format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n"))
    }

    #[test]
    fn the_answer_to_a_subrequest_is_a_part_of_another() {
        for (more, target, expected) in [
            ("", "/", Some("page-foot")),
            (
                "location = /of { append /error; return 200 page; } location /error { return 503 -sorry; }",
                "/of",
                Some("page-sorry"),
            ),
            (
                "location = /of { append /a$arg_x; return 200 page; } location /ab { return 200 -ab; }",
                "/of?x=b",
                Some("page-ab"),
            ),
            // What is included goes through its own filters, and through those behind the one that has included it.
            ("location = /of { append /foot; upper_case on; return 200 page; }", "/of", Some("PAGE-FOOT")),
            (
                "location = /of { append /mine; return 200 page; } location /mine { add_header x y; append /foot; return 200 -mine; }",
                "/of",
                Some("page-mine"),
            ),
            // A file.
            (
                "location = /of { append /Cargo.toml; return 200 page; } location /Cargo.toml { root /nowhere; }",
                "/of",
                Some("</html>\r\n"),
            ),
            // Nobody can tell what is missing of an answer that breaks off.
            (
                "location = /of { append /bell; return 200 page; } location /bell { upper_case on; return 200 '\u{7}'; }",
                "/of",
                None,
            ),
        ] {
            let answer = body(more, target);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
            match expected {
                Some(expected) => assert!(body.ends_with(expected), "{more}: {answer}"),
                None => assert_eq!(body, "page", "{more}: {answer}"),
            }
        }
    }

    #[test]
    fn what_is_longer_than_the_pipe_arrives_whole_and_in_order() {
        let file = std::env::temp_dir().join(format!("tidegate-example-include-{}", std::process::id()));
        let content: String = (0..200_000).map(|number| format!("{number:07x},")).collect();
        std::fs::write(&file, &content).unwrap();
        let alias = file.display();
        // Filters behind the one that includes see each piece, too.
        let answers = ["off", "on"].map(|upper_case| {
            let more = format!(
                "location = /of {{ append /more; upper_case {upper_case}; return 200 page; }}
                 location = /more {{ append /twice; alias {alias}; }} location = /twice {{ alias {alias}; }}"
            );
            body(&more, "/of")
        });
        std::fs::remove_file(&file).unwrap();
        for (answer, expected) in
            answers.iter().zip([format!("page{content}"), format!("page{content}").to_uppercase()])
        {
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(body == expected, "{} bytes instead of {}", body.len(), expected.len());
        }
    }
}
