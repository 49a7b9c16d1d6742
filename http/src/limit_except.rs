//! `limit_except`: other settings for all methods but some.

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Block, ConfigError, Line, Refusal};
use tidegate_core::inherit;
use tidegate_core::module::Module;
use tidegate_http_wire::Method;

use crate::exchange::Exchange;

/// The settings of one block; the block's own plan is made with that of its location.
#[derive(Default)]
pub struct LimitConf {
    used: bool,
}

inherit!(LimitConf {} own { used });

/// `limit_except`
pub struct LimitExcept;

impl Feature for LimitExcept {
    type Conf = LimitConf;
    const NAME: &'static str = "limit_except";
    const DIRECTIVES: &'static [Directive<LimitConf>] = &[Directive {
        name: "limit_except",
        levels: Levels::LOCATION,
        arity: Arity::AtLeast(1),
        set: Set::BlockWith(Levels::LIMIT_EXCEPT, limit_except),
        doc: "Settings for all methods but these; GET includes HEAD.",
    }];
}

fn limit_except(conf: &mut LimitConf, _child: usize, line: &mut Line<'_>) -> Result<(), Refusal> {
    if std::mem::replace(&mut conf.used, true) {
        return Err("is duplicate".into());
    }
    for word in line.args() {
        method(word.bytes()).ok_or_else(|| format!("invalid method \"{word}\""))?;
    }
    Ok(())
}

/// The methods that a `limit_except` block is not for.
///
/// # Errors
/// Never for a block that has been applied.
pub fn methods(block: &Block) -> Result<Box<[Method]>, ConfigError> {
    let invalid = || ConfigError::new(block.at(), "invalid method");
    let mut methods = Vec::new();
    for word in &block.args {
        let method = method(word.bytes()).ok_or_else(invalid)?;
        if method == Method::Get {
            methods.push(Method::Head);
        }
        methods.push(method);
    }
    Ok(methods.into())
}

/// nginx knows these and no others here, in any case.
fn method(name: &[u8]) -> Option<Method> {
    match Method::parse(&name.to_ascii_uppercase())? {
        Method::Trace | Method::Connect | Method::Other(_) => None,
        method => Some(method),
    }
}

impl Module<Exchange> for LimitExcept {}
