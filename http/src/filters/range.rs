//! Range requests on bodies that parts can be had of.

use tidegate_core::conf::ConfigError;
use tidegate_core::conf::directive::{Directive, Feature};
use tidegate_core::module::{Install, Module};
use tidegate_core::modules::builtin::NoConf;
use tidegate_http_wire::Known;
use tidegate_http_wire::conditional::{Validators, if_range};
use tidegate_http_wire::range::{self, Multipart, Ranges};

use super::{Filter, Filtered};
use crate::answer::{Answer, Body, Piece};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// Range requests
pub struct RangeFilter;

impl Feature for RangeFilter {
    type Conf = NoConf;
    const NAME: &'static str = "ranges";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

impl Module<Exchange> for RangeFilter {
    fn install(_conf: &NoConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        plan.filters.push(Box::new(RangeFilter));
        Ok(())
    }
}

/// True for a field that tells of the body that parts were asked of.
fn is_of_the_body(known: Known) -> bool {
    matches!(
        known,
        Known::ContentType | Known::ETag | Known::LastModified | Known::AcceptRanges | Known::ContentEncoding
    )
}

impl Filter for RangeFilter {
    fn head(&self, exchange: &Exchange, answer: &mut Answer) -> Filtered {
        let settings = exchange.plan().settings.clone();
        if !answer.ranges || answer.status != 200 || settings.max_ranges == Some(0) {
            return Filtered::Pass;
        }
        let Some(length) = answer.body.length() else { return Filtered::Pass };
        let asked = &exchange.head.fields;
        let wanted = asked.get(Known::Range).filter(|_| {
            let validators = Validators { last_modified: answer.last_modified, etag: answer.fields.get(Known::ETag) };
            !asked.has(Known::IfRange) || if_range(asked, &validators)
        });
        match wanted.map_or(Ranges::Ignored, |value| range::parse(value, length, settings.max_ranges)) {
            Ranges::Ignored => answer.fields.push_known(Known::AcceptRanges, b"bytes"),
            Ranges::Unsatisfiable => {
                // nginx: what filters have added so far stays, what the page says of itself takes the place of the rest.
                let mut kept = std::mem::take(&mut answer.fields);
                kept.retain(|field| !is_of_the_body(field.known));
                kept.set(Known::ContentRange, range::unsatisfied_range(length).as_bytes());
                *exchange.carried.borrow_mut() = Some(Box::new(kept));
                return Filtered::Refuse(416);
            }
            Ranges::One(part) => {
                let Some(piece) = answer.body.part(&part) else { return Filtered::Pass };
                answer.status = 206;
                answer.fields.set(Known::ContentRange, range::content_range(&part, length).as_bytes());
                answer.body = match piece {
                    Piece::Bytes(bytes) => Body::Bytes(bytes),
                    Piece::File(part) => Body::File(part),
                };
            }
            Ranges::Many(parts) => {
                let content_type = answer.fields.get(Known::ContentType).unwrap_or_default().to_vec();
                let multipart = Multipart::new(
                    exchange.peer.number.wrapping_mul(1_000_003).wrapping_add(exchange.number),
                    &content_type,
                    length,
                );
                let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
                for part in &parts {
                    pieces.push(Piece::Bytes(multipart.before(part).into()));
                    let Some(piece) = answer.body.part(part) else { return Filtered::Pass };
                    pieces.push(piece);
                }
                pieces.push(Piece::Bytes(multipart.after().into()));
                answer.status = 206;
                answer.fields.set(Known::ContentType, multipart.content_type().as_bytes());
                answer.body = Body::Pieces(pieces);
            }
        }
        Filtered::Pass
    }
}
