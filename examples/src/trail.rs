//! State of a feature: `$trail` tells which locations a request, and what was asked for within it, has gone through.
//!
//! 1. A [`State`] is what the feature remembers of a request: a type of its own, which nobody else need know of. It takes no
//!    memory in requests that the feature has nothing to do with.
//! 2. `SHARED` says whether subrequests have it in common with their request. Otherwise each has one of its own.
//! 3. [`state`](Subject::state) gets it, and begins with the default; [`known_state`](Subject::known_state) only looks.

use std::cell::RefCell;

use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Set, Setting};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::{Plan as _, State, Subject};
use tidegate_http::exchange::Exchange;
use tidegate_http::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct TrailConf {
    on: Setting<bool>,
}

inherit!(TrailConf { on });

/// `trail`
pub struct Trail;

impl Feature for Trail {
    type Conf = TrailConf;
    const NAME: &'static str = "trail";
    const DIRECTIVES: &'static [Directive<TrailConf>] = &[Directive {
        name: "trail",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::Exactly(1),
        set: Set::Flag(|conf| &mut conf.on),
        doc: "Whether the location is remembered in $trail.",
    }];
}

/// The locations so far.
#[derive(Default)]
struct Visited(RefCell<Vec<u8>>);

impl State for Visited {
    const SHARED: bool = true;
}

impl Module<Exchange> for Trail {
    const VARIABLES: &'static [Variable<Exchange>] = &[Variable {
        name: "trail",
        get: Get::Value(|exchange, out| {
            let visited = exchange.known_state::<Visited>();
            visited.map(|visited| out.extend_from_slice(&visited.0.borrow())).is_some()
        }),
        doc: "The locations gone through, each behind a >.",
    }];

    fn install(conf: &TrailConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.on.or(false) {
            plan.gate(Phase::PreAccess, Box::new(Remembers));
        }
        Ok(())
    }
}

struct Remembers;

impl Gate<Exchange> for Remembers {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        let visited = exchange.state::<Visited>();
        let mut visited = visited.0.borrow_mut();
        visited.push(b'>');
        visited.extend_from_slice(&exchange.plan().name);
        Step::Now(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ask;
    use tidegate_http::Http;

    #[test]
    fn what_is_remembered_outlives_redirects_and_is_shared_with_subrequests() {
        let http = Http::with(|modules| _ = modules.add::<Trail>());
        let text = "http { trail on; add_header X-Trail $trail always; server { listen 127.0.0.1:80; root /nowhere;
            location = /a { error_page 404 /b; } location = /b { error_page 404 @c; recursive_error_pages on; } location @c { }
            location = /asks { auth_request /may; } location = /may { error_page 404 = @yes; } location @yes { return 204; }
            location = /silent { trail off; } } }";
        for (target, trail) in
            [("/a", Some(">/a>/b")), ("/b", Some(">/b>@c")), ("/asks", Some(">/asks>/may")), ("/silent", None)]
        {
            let answer = ask(&http, text, &format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n"));
            let found = answer.lines().find_map(|line| line.strip_prefix("X-Trail: "));
            assert_eq!(found, trail, "{target}: {answer}");
        }
    }
}
