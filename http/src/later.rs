//! Directives that are read and not acted on yet, where that costs speed and nothing else: each says so in a warning.
//!
//! A directive whose absence would change what is answered, or to whom, is an error instead.

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::module::Module;
use tidegate_core::modules::builtin::NoConf;

use crate::exchange::Exchange;

/// Read and not acted on yet
pub struct Later;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LOCATION_IF);

const fn row(name: &'static str, levels: Levels, arity: Arity, doc: &'static str) -> Directive<NoConf> {
    let set = Set::With(|_, line| {
        let name = line.name();
        line.warn(format!("directive \"{name}\" is known to nginx, but not supported yet and has no effect"));
        Ok(())
    });
    Directive { name, levels, arity, set, doc }
}

const COMPRESSED: &str = "Not supported yet: answers are not compressed.";
const CACHED: &str = "Not supported yet: replies are not cached.";
const ONE: Arity = Arity::Exactly(1);
const SOME: Arity = Arity::AtLeast(1);

impl Feature for Later {
    type Conf = NoConf;
    const NAME: &'static str = "later";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[
        row("gzip", ANYWHERE, ONE, COMPRESSED),
        row("gzip_types", ANYWHERE, SOME, COMPRESSED),
        row("gzip_comp_level", ANYWHERE, ONE, COMPRESSED),
        row("gzip_min_length", ANYWHERE, ONE, COMPRESSED),
        row("gzip_vary", ANYWHERE, ONE, COMPRESSED),
        row("gzip_proxied", ANYWHERE, SOME, COMPRESSED),
        row("gzip_http_version", ANYWHERE, ONE, COMPRESSED),
        row("gzip_disable", ANYWHERE, SOME, COMPRESSED),
        row("gzip_buffers", ANYWHERE, Arity::Exactly(2), COMPRESSED),
        row("proxy_cache_path", Levels::PROTOCOL, Arity::AtLeast(2), CACHED),
        row("proxy_cache", ANYWHERE, ONE, CACHED),
        row("proxy_cache_key", ANYWHERE, ONE, CACHED),
        row("proxy_cache_valid", ANYWHERE, SOME, CACHED),
        row("proxy_cache_bypass", ANYWHERE, SOME, CACHED),
        row("proxy_cache_methods", ANYWHERE, SOME, CACHED),
        row("proxy_cache_min_uses", ANYWHERE, ONE, CACHED),
        row("proxy_cache_lock", ANYWHERE, ONE, CACHED),
        row("proxy_cache_use_stale", ANYWHERE, SOME, CACHED),
        row("proxy_cache_revalidate", ANYWHERE, ONE, CACHED),
        row("proxy_cache_background_update", ANYWHERE, ONE, CACHED),
        row("proxy_no_cache", ANYWHERE, SOME, CACHED),
        row("http2", Levels::PROTOCOL.or(Levels::SERVER), ONE, "Not supported yet: clients are offered HTTP/1.1 only."),
        row(
            "http2_max_concurrent_streams",
            Levels::PROTOCOL.or(Levels::SERVER),
            ONE,
            "Not supported yet: clients are offered HTTP/1.1 only.",
        ),
    ];
}

impl Module<Exchange> for Later {}
