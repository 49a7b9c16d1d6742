//! Conditional requests: 304 and 412 instead of 200.

use tidegate_core::conf::ConfigError;
use tidegate_core::conf::directive::{Directive, Feature};
use tidegate_core::module::{Install, Module};
use tidegate_core::modules::builtin::NoConf;
use tidegate_http_wire::Known;
use tidegate_http_wire::conditional::{Validators, Verdict, evaluate};

use super::{Filter, Filtered};
use crate::answer::{Answer, Body};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// Conditional requests
pub struct NotModified;

impl Feature for NotModified {
    type Conf = NoConf;
    const NAME: &'static str = "conditional requests";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

impl Module<Exchange> for NotModified {
    fn install(_conf: &NoConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        plan.filters.push(Box::new(NotModified));
        Ok(())
    }
}

impl Filter for NotModified {
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered {
        let asked = &exchange.head.fields;
        let conditional = [Known::IfModifiedSince, Known::IfUnmodifiedSince, Known::IfMatch, Known::IfNoneMatch]
            .iter()
            .any(|known| asked.has(*known));
        if !conditional || answer.status != 200 || answer.passed_on {
            return Filtered::Pass;
        }
        let settings = exchange.plan().settings.clone();
        let validators = Validators { last_modified: answer.last_modified, etag: answer.fields.get(Known::ETag) };
        match evaluate(asked, &validators, settings.if_modified_since) {
            Verdict::Pass => Filtered::Pass,
            Verdict::NotModified => {
                answer.status = 304;
                answer.reason = None;
                answer.ranges = false;
                answer.fields.remove(Known::ContentType);
                answer.fields.remove(Known::ContentEncoding);
                answer.body = Body::Empty;
                Filtered::Pass
            }
            Verdict::PreconditionFailed => Filtered::Refuse(412),
        }
    }
}
