//! What becomes of a reply's head: `X-Accel-Redirect`, `proxy_redirect`, hidden fields; then it is an answer.

use bytes::Bytes;
use tidegate_core::conf::{ConfigError, Line, Refusal, Word, literal};
use tidegate_core::log;
use tidegate_core::log::Shown;
use tidegate_core::module::Install;
use tidegate_core::script::regex::Matches;
use tidegate_core::script::{Regex, Template};
use tidegate_core::subject::Subject;
use tidegate_http_wire::uri::{Unescape, unescape};
use tidegate_http_wire::{Fields, Known, Method};

use super::ProxyPass;
use super::attempt::Arrived;
use super::cookies::{Cookies, define_groups, mention_text, pattern_in};
use super::module::Settings;
use super::spill::Spill;
use crate::answer::{Answer, Body};
use crate::content::Outcome;
use crate::exchange::Exchange;
use crate::limit_rate::Rate;
use crate::output::head::absolute;
use crate::plan::{Kind, Plan};

/// One `proxy_redirect` as it is written.
#[derive(Clone)]
pub enum WrittenRedirect {
    /// `default`
    Default,
    /// `off`
    Off,
    /// What is replaced, and by what.
    Pair(Word, Word),
}

impl WrittenRedirect {
    /// Reads the arguments of `proxy_redirect`. `pass` is what stands in the same block before it.
    ///
    /// # Errors
    /// One argument that is neither `default` nor `off`, or `default` without a `proxy_pass`.
    pub fn parse(line: &mut Line<'_>, pass: Option<&Word>) -> Result<WrittenRedirect, Refusal> {
        match line.args() {
            [word] if word.is("default") && pass.is_none() => {
                Err("\"proxy_redirect default\" should be placed after the \"proxy_pass\" directive".into())
            }
            [word] if word.is("default") => Ok(WrittenRedirect::Default),
            [word] if word.is("off") => Ok(WrittenRedirect::Off),
            [word] => Err(format!("invalid parameter \"{word}\"").into()),
            _ => {
                literal::one_line(line.arg(1)?)?;
                mention_text(line.arg(0)?, line);
                line.mention(line.arg(1)?);
                Ok(WrittenRedirect::Pair(line.arg(0)?.clone(), line.arg(1)?.clone()))
            }
        }
    }
}

impl WrittenRedirect {
    /// Makes the groups of its pattern known.
    pub fn define(&self, env: &mut Install<'_, Exchange>) {
        if let WrittenRedirect::Pair(from, _) = self {
            define_groups(from, env);
        }
    }
}

enum Redirect {
    Prefix(Template<Exchange>, Template<Exchange>),
    Pattern(Regex, Template<Exchange>),
}

/// A location's `proxy_redirect`s.
#[derive(Default)]
pub struct Redirects(Vec<Redirect>);

impl Redirects {
    /// Compiles them; without any, the default applies where it can.
    ///
    /// # Errors
    /// `default` where the location or `proxy_pass` allows none, or a bad pattern.
    pub fn build(
        written: &[WrittenRedirect],
        pass: &Word,
        plan: &Plan,
        env: &mut Install<'_, Exchange>,
    ) -> Result<Redirects, ConfigError> {
        if written.iter().any(|redirect| matches!(redirect, WrittenRedirect::Off)) {
            return Ok(Redirects::default());
        }
        let has_default = matches!(plan.kind, Kind::Prefix(_) | Kind::Exact) && !pass.bytes().contains(&b'$');
        let default = || {
            let mut url = pass.bytes().to_vec();
            if super::pass::has_uri(&url) {
                return Redirect::Prefix(Template::literal(&url), Template::literal(&plan.name));
            }
            // nginx: without a path of its own the upstream has the same paths as the server.
            url.push(b'/');
            Redirect::Prefix(Template::literal(&url), Template::literal(b"/"))
        };
        if written.is_empty() {
            return Ok(Redirects(if has_default { vec![default()] } else { Vec::new() }));
        }
        let mut list = Vec::new();
        for redirect in written {
            match redirect {
                WrittenRedirect::Off => {}
                WrittenRedirect::Default if has_default => list.push(default()),
                WrittenRedirect::Default => {
                    return Err(ConfigError::new(
                        pass.at(),
                        "\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive with variables, or in a location given by a pattern or a name",
                    ));
                }
                WrittenRedirect::Pair(from, to) => list.push(match pattern_in(from) {
                    Some((pattern, ignore_case)) => {
                        let regex = env.regex(pattern.bytes(), ignore_case, from.at())?;
                        Redirect::Pattern(regex, env.template(to)?)
                    }
                    None => Redirect::Prefix(env.template(from)?, env.template(to)?),
                }),
            }
        }
        Ok(Redirects(list))
    }

    /// The URL as the client should see it; `None` leaves it as it is.
    fn rewrite(&self, exchange: &Exchange, url: &[u8]) -> Matches<Option<Vec<u8>>> {
        for redirect in &self.0 {
            match redirect {
                Redirect::Prefix(from, to) => {
                    if let Some(rest) = url.strip_prefix(&*from.value(exchange)) {
                        return Ok(Some([&*to.value(exchange), rest].concat()));
                    }
                }
                Redirect::Pattern(regex, to) => {
                    if regex.matches(url, exchange.slots())? {
                        return Ok(Some(to.value(exchange)));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Makes an answer of a reply.
pub fn answer(arrived: Box<Arrived>, exchange: &Exchange, pass: &ProxyPass) -> Outcome {
    let Arrived { head, mut reply } = *arrived;
    let settings = &pass.settings;
    for line in head.ignored() {
        log!(
            exchange.logger(),
            Warn,
            "upstream sent duplicate header line: \"{}\", ignored while reading response header from upstream",
            Shown(line)
        );
    }
    limit_rate(exchange, settings, &head.fields);
    if let Some(target) =
        head.fields.get(Known::XAccelRedirect).filter(|_| !settings.ignored.has_known(Known::XAccelRedirect))
    {
        for field in head.fields.iter().filter(|field| is_kept(field.known)) {
            exchange.carry(field.known, field.value);
        }
        return internal_redirect(exchange, target);
    }
    let buffered = settings.buffers_reply(&head.fields);
    if !buffered {
        // nginx: what is not buffered leaves as it comes.
        exchange.state::<Rate>().0.set(Some(0));
    }
    let mut fields = head.fields;
    fields.retain(|field| !settings.hidden.has(field));
    for known in [Known::Location, Known::Refresh] {
        let Some(value) = fields.get(known) else { continue };
        let prefix = if known == Known::Refresh {
            value.windows(4).position(|four| four.eq_ignore_ascii_case(b"url=")).map_or(value.len(), |at| at + 4)
        } else {
            0
        };
        let (kept, url) = value.split_at_checked(prefix).unwrap_or((value, b""));
        let rewritten = match settings.redirects.rewrite(exchange, url) {
            Ok(rewritten) => rewritten,
            // The client must not see what may have been meant to be hidden.
            Err(failure) => {
                log!(exchange.logger(), Alert, "proxy_redirect {failure}");
                return Outcome::Status(500);
            }
        };
        if let Some(url) = rewritten.filter(|_| !url.is_empty()) {
            // nginx: what we have made of it is a location of our own.
            let absolute = if known == Known::Location { absolute(exchange, &url) } else { None };
            let rewritten = [kept, absolute.as_deref().unwrap_or(&url)].concat();
            fields.set(known, &rewritten);
        }
    }
    if !settings.cookies.is_empty() && fields.has(Known::SetCookie) {
        fields = match rewrite_cookies(exchange, &settings.cookies, &fields) {
            Ok(fields) => fields,
            Err(failure) => {
                log!(exchange.logger(), Alert, "rewriting a cookie: {failure}");
                return Outcome::Status(500);
            }
        };
    }
    let last_modified = fields.get(Known::LastModified).and_then(tidegate_http_wire::date::parse);
    let body = if reply.switches() {
        if !exchange.head.fields.has(Known::Upgrade) || !settings.sets_known(Known::Upgrade) {
            log!(
                exchange.logger(),
                Error,
                "upstream sent unexpected status 101 while reading response header from upstream"
            );
            return Outcome::Status(502);
        }
        Body::Tunnel(Box::new(reply))
    } else {
        match reply.try_whole(exchange) {
            Some(bytes) => whole_body(exchange, &fields, head.status, bytes),
            _ if buffered => {
                reply.set_reading(settings.reading(true), settings.limit_rate.of(exchange));
                let spills = settings.spill.most > 0;
                Body::Source(if spills { Box::new(Spill::new(reply)) } else { Box::new(reply) })
            }
            _ => {
                reply.set_reading(settings.reading(false), 0);
                Body::Source(Box::new(reply))
            }
        }
    };
    let reason = (!head.reason.is_empty()).then_some(head.reason);
    Outcome::Answer(Box::new(Answer {
        status: head.status,
        reason,
        fields,
        last_modified,
        ranges: false,
        passed_on: true,
        body,
        close: false,
    }))
}

/// `X-Accel-Limit-Rate`: how fast the answer leaves, whoever gives it in the end.
fn limit_rate(exchange: &Exchange, settings: &Settings, fields: &Fields) {
    let told = fields.get(Known::XAccelLimitRate).filter(|_| !settings.ignored.has_known(Known::XAccelLimitRate));
    let rate = told.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse().ok());
    if rate.is_some() {
        exchange.state::<Rate>().0.set(rate);
    }
}

fn rewrite_cookies(exchange: &Exchange, cookies: &Cookies, fields: &Fields) -> Matches<Fields> {
    let mut rewritten = Fields::new();
    for field in fields.iter() {
        let is_cookie = field.known == Known::SetCookie;
        let value = if is_cookie { cookies.rewrite(exchange, field.value)? } else { None };
        rewritten.push(field.name, value.as_deref().unwrap_or(field.value));
    }
    Ok(rewritten)
}

/// A body that has arrived. For HEAD the length announced is the upstream's.
fn whole_body(exchange: &Exchange, fields: &tidegate_http_wire::Fields, status: u16, bytes: Bytes) -> Body {
    let announced =
        fields.get(Known::ContentLength).and_then(|value| tidegate_http_wire::framing::content_length(value).ok());
    match announced {
        Some(length) if exchange.is_head() && status != 304 => Body::Announced(length),
        None if exchange.is_head() => Body::Unknown,
        _ => Body::Bytes(bytes),
    }
}

/// `X-Accel-Redirect`: the server answers with something else of its own.
fn internal_redirect(exchange: &Exchange, target: &[u8]) -> Outcome {
    exchange.attempts.current(|attempt| attempt.ends_group = true);
    if target.first() == Some(&b'@') {
        exchange.go_to_named(target);
        return Outcome::Restart;
    }
    let (path, args) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
        None => (target, &b""[..]),
    };
    let (path, _) = unescape(path, Unescape::All);
    if !is_safe(&path) {
        log!(exchange.logger(), Error, "upstream sent an unsafe X-Accel-Redirect \"{}\"", Shown(target));
        return Outcome::Status(404);
    }
    if exchange.head.method != Method::Head {
        exchange.as_get.set(true);
    }
    exchange.redirect(path, Bytes::copy_from_slice(args));
    Outcome::Restart
}

/// nginx: what the answer gets from the reply whose `X-Accel-Redirect` led to it.
fn is_kept(known: Known) -> bool {
    matches!(
        known,
        Known::ContentType
            | Known::SetCookie
            | Known::ContentDisposition
            | Known::CacheControl
            | Known::Expires
            | Known::AcceptRanges
    )
}

/// True when a path of an upstream's does not try to climb.
fn is_safe(path: &[u8]) -> bool {
    path.first() == Some(&b'/') && !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| part != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_not_safe() {
        for (path, expected) in [
            ("/a/b", true),
            ("/a..b/..c", true),
            ("", false),
            ("a", false),
            ("..", false),
            ("/a/..", false),
            ("/../a", false),
            ("/a\u{0}", false),
        ] {
            assert_eq!(is_safe(path.as_bytes()), expected, "{path:?}");
        }
    }
}
