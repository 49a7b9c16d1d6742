//! A directive and a variable for http: `refuse_methods PUT DELETE;` answers 405, `$method_class` is `safe` or `unsafe`.
//!
//! 1. The settings of one block, with [`inherit!`] saying how an inner block takes over what it does not set.
//! 2. A [`Feature`]: the table of what the user can write. Places, numbers of arguments and duplicates are checked by it.
//! 3. A [`Module`]: the variables, and `install`, which adds to a block's plan what it really uses. Nothing that is not
//!    configured costs anything, and nothing is decided while a request waits that could be decided here.
//! 4. A [`Gate`]: asked for every exchange in its phase. Deciding is a function without I/O.
//!
//! It joins the others by a line in `http/src/lib.rs`, or from outside by [`Http::with`](tidegate_http::Http::with).

use tidegate_core::conf::{Arity, ConfigError, Directive, Feature, Levels, Line, Refusal, Set, Word};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Plan as _;
use tidegate_http::exchange::Exchange;
use tidegate_http::plan::Plan;
use tidegate_http_wire::Method;

/// The settings of one block.
#[derive(Default)]
pub struct RefuseConf {
    methods: Vec<Method>,
}

inherit!(RefuseConf { methods });

/// `refuse_methods`
pub struct RefuseMethods;

impl Feature for RefuseMethods {
    type Conf = RefuseConf;
    const NAME: &'static str = "refuse_methods";
    const DIRECTIVES: &'static [Directive<RefuseConf>] = &[Directive {
        name: "refuse_methods",
        levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
        arity: Arity::AtLeast(1),
        set: Set::With(refuse_methods),
        doc: "Methods that are answered with 405.",
    }];
}

fn refuse_methods(conf: &mut RefuseConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let method = |word: &Word| Method::parse(word.bytes()).ok_or_else(|| Refusal(format!("invalid method \"{word}\"")));
    conf.methods = line.args().iter().map(method).collect::<Result<_, _>>()?;
    Ok(())
}

impl Module<Exchange> for RefuseMethods {
    const VARIABLES: &'static [Variable<Exchange>] = &[Variable {
        name: "method_class",
        get: Get::Value(|exchange, out| {
            let is_safe = matches!(exchange.head.method, Method::Get | Method::Head | Method::Options);
            out.extend_from_slice(if is_safe { b"safe" } else { b"unsafe" });
            true
        }),
        doc: "safe for methods that change nothing, unsafe for others.",
    }];

    fn install(conf: &RefuseConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if !conf.methods.is_empty() {
            plan.gate(Phase::PreAccess, Box::new(Refused(conf.methods.clone())));
        }
        Ok(())
    }
}

struct Refused(Vec<Method>);

impl Gate<Exchange> for Refused {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        let refused = self.0.contains(&exchange.head.method);
        Step::Now(if refused { Verdict::Refuse(405) } else { Verdict::Continue })
    }
}

#[cfg(test)]
mod tests {
    use super::RefuseMethods;
    use crate::testing::{ask, load};
    use tidegate_http::Http;

    fn http() -> Http {
        Http::with(|modules| _ = modules.add::<RefuseMethods>())
    }

    fn answer(method: &str, target: &str) -> String {
        let text = "http { refuse_methods PUT DELETE; server { listen 127.0.0.1:80;
            location / { try_files /none =204; } location /open { refuse_methods PATCH; try_files /none =204; }
            location /class { return 200 $method_class; } } }";
        ask(&http(), text, &format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    }

    #[test]
    fn the_methods_named_are_refused() {
        for (method, target, status) in
            [("GET", "/", 204), ("PUT", "/", 405), ("DELETE", "/", 405), ("PUT", "/open", 204), ("PATCH", "/open", 405)]
        {
            let answer = answer(method, target);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {target}: {answer}");
        }
    }

    #[test]
    fn the_variable_tells_methods_apart() {
        assert!(answer("GET", "/class").ends_with("\r\n\r\nsafe"));
        assert!(answer("POST", "/class").ends_with("\r\n\r\nunsafe"));
    }

    #[test]
    fn what_is_no_method_is_told() {
        let error = load(&http(), "http { refuse_methods get; }").err();
        assert_eq!(error.as_deref(), Some("invalid method \"get\""));
    }
}
