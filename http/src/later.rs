//! Directives that are read and not acted on yet, where that costs speed and nothing else: each says so in a warning.
//!
//! A directive whose absence would change what is answered, or to whom, is an error instead.

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, Line, Refusal, Word, value};
use tidegate_core::module::Module;
use tidegate_core::modules::builtin::NoConf;
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;

use crate::exchange::Exchange;

/// Read and not acted on yet
pub struct Later;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF);

const fn row(name: &'static str, levels: Levels, arity: Arity, check: Check, doc: &'static str) -> Directive<NoConf> {
    Directive { name, levels, arity, set: Set::Later(check), doc }
}

/// nginx: a directive of an earlier version, of which only a warning is left.
const fn obsolete(name: &'static str, levels: Levels) -> Directive<NoConf> {
    let set = Set::With(|_, line: &mut Line<'_>| {
        let message = match instead(line.name().bytes()) {
            Some(instead) => {
                format!("the \"{}\" directive is obsolete, use the \"{instead}\" directive instead", line.name())
            }
            None => format!("the \"{}\" directive is obsolete, ignored", line.name()),
        };
        line.warn(message);
        Ok(())
    });
    Directive { name, levels, arity: ONE, set, doc: "Obsolete, as in nginx: a warning says so." }
}

/// The directive that has taken the place of an obsolete one.
fn instead(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"http2_max_requests" => "keepalive_requests",
        b"http2_max_field_size" | b"http2_max_header_size" => "large_client_header_buffers",
        b"http2_recv_timeout" => "client_header_timeout",
        b"http2_idle_timeout" => "keepalive_timeout",
        _ => return None,
    })
}

const SERVERS: Levels = Levels::PROTOCOL.or(Levels::SERVER);
const COMPRESSED: &str = "Not supported yet: answers are not compressed.";
const CACHED: &str = "Not supported yet: replies are not cached.";
const GZIP_PROXIED: [&str; 9] =
    ["off", "expired", "no-cache", "no-store", "private", "no_last_modified", "no_etag", "auth", "any"];
const USE_STALE: [&str; 12] = [
    "error",
    "timeout",
    "invalid_header",
    "updating",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_403",
    "http_404",
    "http_429",
    "off",
];
const ONE: Arity = Arity::Exactly(1);
const SOME: Arity = Arity::AtLeast(1);

impl Feature for Later {
    type Conf = NoConf;
    const NAME: &'static str = "later";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[
        row("gzip", ANYWHERE, ONE, Check::Flag, COMPRESSED),
        row("gzip_types", ANYWHERE, SOME, Check::Anything, COMPRESSED),
        row("gzip_comp_level", ANYWHERE, ONE, Check::Within(1, 9), COMPRESSED),
        row("gzip_min_length", ANYWHERE, ONE, Check::Size, COMPRESSED),
        row("gzip_vary", ANYWHERE, ONE, Check::Flag, COMPRESSED),
        row("gzip_proxied", ANYWHERE, SOME, Check::SomeOf(&GZIP_PROXIED), COMPRESSED),
        row("gzip_http_version", ANYWHERE, ONE, Check::OneOf(&["1.0", "1.1"]), COMPRESSED),
        row("gzip_disable", ANYWHERE, SOME, Check::Anything, COMPRESSED),
        row("gzip_buffers", ANYWHERE, Arity::Exactly(2), Check::Buffers, COMPRESSED),
        row("proxy_cache_path", Levels::PROTOCOL, Arity::AtLeast(2), Check::With(cache_path), CACHED),
        row("proxy_cache", ANYWHERE, ONE, Check::Once, CACHED),
        row("proxy_cache_key", ANYWHERE, ONE, Check::Once, CACHED),
        row("proxy_cache_valid", ANYWHERE, SOME, Check::With(cache_valid), CACHED),
        row("proxy_cache_bypass", ANYWHERE, SOME, Check::Anything, CACHED),
        row("proxy_cache_methods", ANYWHERE, SOME, Check::SomeOf(&["get", "head", "post"]), CACHED),
        row("proxy_cache_min_uses", ANYWHERE, ONE, Check::Number, CACHED),
        row("proxy_cache_lock", ANYWHERE, ONE, Check::Flag, CACHED),
        row("proxy_cache_use_stale", ANYWHERE, SOME, Check::SomeOf(&USE_STALE), CACHED),
        row("proxy_cache_revalidate", ANYWHERE, ONE, Check::Flag, CACHED),
        row("proxy_cache_background_update", ANYWHERE, ONE, Check::Flag, CACHED),
        row("proxy_no_cache", ANYWHERE, SOME, Check::Anything, CACHED),
        obsolete("http2_max_concurrent_pushes", SERVERS),
        obsolete("http2_push", SERVERS.or(Levels::LOCATION)),
        obsolete("http2_push_preload", SERVERS.or(Levels::LOCATION)),
        obsolete("http2_max_requests", SERVERS),
        obsolete("http2_max_field_size", SERVERS),
        obsolete("http2_max_header_size", SERVERS),
        obsolete("http2_recv_timeout", SERVERS),
        obsolete("http2_idle_timeout", SERVERS),
    ];
}

/// What nginx has to say of an exchange in which nothing was compressed, kept or spoken of the kind.
const fn nothing(name: &'static str, doc: &'static str) -> Variable<Exchange> {
    Variable { name, get: Get::Value(|_, _| false), doc }
}

impl Module<Exchange> for Later {
    const VARIABLES: &'static [Variable<Exchange>] = &[
        nothing("gzip_ratio", "Absent: answers are not compressed yet."),
        nothing("http3", "Absent: HTTP/3 is not spoken yet."),
        nothing("upstream_cache_status", "Absent: replies are not cached yet."),
        nothing("upstream_cache_last_modified", "Absent: replies are not cached yet."),
        nothing("upstream_cache_etag", "Absent: replies are not cached yet."),
    ];
}

/// `proxy_cache_path path [levels=] keys_zone=name:size [..]`
fn cache_path(line: &Line<'_>) -> Result<(), Refusal> {
    let flag = |word: &Word| value::flag(word).is_some();
    let is_zone = |word: &Word| {
        let colon = word.bytes().iter().position(|byte| *byte == b':');
        let parts = colon.and_then(|at| word.bytes().split_at_checked(at));
        parts.is_some_and(|(name, size)| {
            let size = Word::new(size.get(1..).unwrap_or_default(), word.at().clone());
            !name.is_empty() && value::size(&size).is_some_and(|size| size >= 8192)
        })
    };
    let mut zone = false;
    for word in line.args().iter().skip(1) {
        let value = |name: &str, right: &dyn Fn(&Word) -> bool| word.after(name).is_some_and(|value| right(&value));
        let number = |word: &Word| value::number(word).is_some();
        let time = |word: &Word| value::time(word).is_some();
        zone |= value("keys_zone=", &is_zone);
        let right = value("keys_zone=", &is_zone)
            || value("levels=", &|levels| {
                levels.bytes().split(|byte| *byte == b':').all(|level| matches!(level, b"1" | b"2"))
            })
            || value("use_temp_path=", &flag)
            || value("purger=", &flag)
            || value("inactive=", &|word| value::seconds(word).is_some())
            || value("max_size=", &|word| value::offset(word).is_some())
            || value("min_free=", &|word| value::offset(word).is_some())
            || ["manager_files=", "loader_files=", "purger_files="].iter().any(|name| value(name, &number))
            || [
                "manager_sleep=",
                "manager_threshold=",
                "loader_sleep=",
                "loader_threshold=",
                "purger_sleep=",
                "purger_threshold=",
            ]
            .iter()
            .any(|name| value(name, &time));
        if !right {
            return Err(format!("invalid parameter \"{word}\"").into());
        }
    }
    if zone { Ok(()) } else { Err("\"proxy_cache_path\" must have \"keys_zone\" parameter".into()) }
}

/// `proxy_cache_valid [code ..] time`
fn cache_valid(line: &Line<'_>) -> Result<(), Refusal> {
    let (Some(time), codes) = (line.args().last(), line.args()) else { return Ok(()) };
    if value::seconds(time).is_none() {
        return Err(format!("invalid time value \"{time}\"").into());
    }
    let codes = codes.iter().take(codes.len().saturating_sub(1));
    for code in codes {
        if !code.is("any") && !value::number(code).is_some_and(|code| (100..=599).contains(&code)) {
            return Err(format!("invalid status \"{code}\"").into());
        }
    }
    Ok(())
}
