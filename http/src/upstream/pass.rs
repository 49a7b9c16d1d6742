//! `proxy_pass`: which group, and which target there.

use std::rc::Rc;

use tidegate_balancer::Group;
use tidegate_core::conf::{ConfigError, Word};
use tidegate_core::log::Shown;
use tidegate_core::module::Install;
use tidegate_core::script::Template;
use tidegate_http_wire::uri::{Escape, escape_uri, needs_escape};

use super::{Pool, Shared};
use crate::exchange::Exchange;
use crate::plan::{Kind, Plan};

/// Where requests go.
pub enum Pass {
    /// To a fixed group.
    Fixed(Destination),
    /// To what variables say.
    Variable(Template<Exchange>),
}

/// A group and what is asked of it.
#[derive(Clone)]
pub struct Destination {
    /// The group.
    pub group: Rc<Group>,
    /// Its idle connections.
    pub pool: Rc<Pool>,
    /// What `Host` says: `$proxy_host`.
    pub host: Rc<[u8]>,
    /// The path that takes the place of the location's name; `None` passes the client's own.
    pub uri: Option<Rc<[u8]>>,
    /// The path is whole: nothing of the client's is appended.
    pub whole: bool,
    /// How long the part of the path is that `uri` replaces.
    pub replaced: usize,
}

/// The parts of an `http://` URL.
struct Url<'a> {
    /// A host, an address or the path of a local socket, which may have any bytes.
    authority: &'a [u8],
    uri: &'a [u8],
}

fn split(url: &[u8]) -> Result<Url<'_>, String> {
    let shown = || url.escape_ascii();
    if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https://")) {
        return Err(format!("TLS to upstreams is not supported yet: \"{}\"", shown()));
    }
    let rest = url
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case(b"http://"))
        .and_then(|_| url.get(7..))
        .ok_or("invalid URL prefix")?;
    let (authority, uri) = if rest.starts_with(b"unix:") {
        // `unix:/path/to/socket:/uri`
        let colon = rest.get(5..).and_then(|tail| tail.iter().position(|byte| *byte == b':')).map(|at| at + 5);
        let (authority, uri) = rest.split_at_checked(colon.unwrap_or(rest.len())).unwrap_or((rest, b""));
        (authority, uri.strip_prefix(b":").unwrap_or(uri))
    } else {
        let at = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        rest.split_at_checked(at).unwrap_or((rest, b""))
    };
    if authority.is_empty() {
        return Err(format!("no host in upstream \"{}\"", shown()));
    }
    Ok(Url { authority, uri })
}

/// True when a `proxy_pass` has a path of its own, which takes the place of the location's name.
pub fn has_uri(url: &[u8]) -> bool {
    split(url).is_ok_and(|url| !url.uri.is_empty())
}

/// What stands in front of the first variable must be the beginning of an URL that can be used.
fn beginning(literal: &[u8]) -> Result<(), &'static str> {
    let literal = literal.to_ascii_lowercase();
    let fits = |scheme: &[u8]| literal.iter().zip(scheme).all(|(have, want)| have == want);
    match (fits(b"http://"), fits(b"https://")) {
        (true, _) => Ok(()),
        (_, true) => Err("TLS to upstreams is not supported yet"),
        _ => Err("invalid URL prefix"),
    }
}

impl Pass {
    /// Compiles the argument of `proxy_pass`.
    ///
    /// # Errors
    /// nginx's words for a URL that cannot be used here.
    pub fn compile(
        word: &Word,
        plan: &Plan,
        shared: &Shared,
        env: &Install<'_, Exchange>,
    ) -> Result<Pass, ConfigError> {
        let template = env.template(word)?;
        if template.constant().is_none() {
            let literal = word.bytes().split(|byte| *byte == b'$').next().unwrap_or_default();
            beginning(literal).map_err(|why| ConfigError::new(word.at(), format!("{why} in \"{word}\"")))?;
            return Ok(Pass::Variable(template));
        }
        let refuse = |message: String| ConfigError::new(word.at(), message);
        let url = split(word.bytes()).map_err(refuse)?;
        let replaces = matches!(plan.kind, Kind::Exact | Kind::Prefix(_));
        if !url.uri.is_empty() && !replaces {
            return Err(refuse("\"proxy_pass\" cannot have URI part in location given by regular expression, or inside named location, or inside \"if\" statement, or inside \"limit_except\" block".into()));
        }
        let group = shared
            .groups
            .borrow_mut()
            .find_or_resolve(url.authority, Some(80))
            .map_err(|why| ConfigError::missing(word.at(), why, without_port(url.authority)))?;
        let uri = (!url.uri.is_empty())
            .then(|| if url.uri.starts_with(b"?") { [b"/", url.uri].concat() } else { url.uri.to_vec() });
        Ok(Pass::Fixed(Destination {
            pool: shared.pool(&group),
            group,
            host: host_of(url.authority),
            uri: uri.map(Into::into),
            whole: false,
            replaced: plan.name.len(),
        }))
    }

    /// Where an exchange goes.
    ///
    /// # Errors
    /// Variables gave no usable URL.
    pub fn destination(&self, exchange: &Exchange, shared: &Shared) -> Result<Destination, String> {
        let template = match self {
            Pass::Fixed(destination) => return Ok(destination.clone()),
            Pass::Variable(template) => template,
        };
        let value = template.value(exchange);
        let url = split(&value)
            .map_err(|why| format!("{why} in \"{}\" while evaluating \"proxy_pass\"", value.escape_ascii()))?;
        let known = shared.groups.borrow().find(url.authority);
        let (group, pool) = match known {
            Some(group) => (group.clone(), shared.pool(&group)),
            None => written_out(url.authority, shared)?,
        };
        let uri = (!url.uri.is_empty()).then(|| url.uri.into());
        Ok(Destination { pool, group, host: host_of(url.authority), uri, whole: true, replaced: 0 })
    }
}

/// A group for an address that is written out. Names would need a resolver, which must not block.
fn written_out(authority: &[u8], shared: &Shared) -> Result<super::Pooled, String> {
    let unknown = |_| format!("no resolver defined to resolve {}", Shown(without_port(authority)));
    shared.written_out(authority).map_err(unknown)
}

fn without_port(authority: &[u8]) -> &[u8] {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    colon.and_then(|at| authority.get(..at)).unwrap_or(authority)
}

fn host_of(authority: &[u8]) -> Rc<[u8]> {
    if authority.starts_with(b"unix:") { (*b"localhost").into() } else { authority.into() }
}

impl Destination {
    /// Writes the target of the request to the upstream; what cannot stand in a request line is escaped.
    pub fn write_target(&self, exchange: &Exchange, out: &mut Vec<u8>) {
        let start = out.len();
        self.write_parts(exchange, out);
        if needs_escape(out.get(start..).unwrap_or_default(), Escape::Line) {
            let target = out.split_off(start);
            escape_uri(&target, Escape::Line, out);
        }
    }

    fn write_parts(&self, exchange: &Exchange, out: &mut Vec<u8>) {
        let target = exchange.target.borrow();
        match &self.uri {
            Some(uri) if self.whole => out.extend_from_slice(uri),
            None if !target.changed => out.extend_from_slice(exchange.head.target.raw()),
            uri => {
                let mut rest = &*target.path;
                if let Some(uri) = uri.as_ref().filter(|_| !target.left_location) {
                    out.extend_from_slice(uri);
                    rest = rest.get(self.replaced..).unwrap_or_default();
                }
                if exchange.head.target.quoted || exchange.internal.get() || target.changed {
                    escape_uri(rest, Escape::Uri, out);
                } else {
                    out.extend_from_slice(rest);
                }
                if !target.args.is_empty() {
                    out.push(b'?');
                    out.extend_from_slice(&target.args);
                }
            }
        }
        if out.last() == Some(&b' ') {
            out.push(b'/');
        }
    }
}
