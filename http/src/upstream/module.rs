//! The directives of the proxy.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Line, Refusal, Setting, Word, literal};
use tidegate_core::file::folder::{Folder, WrittenFolder};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::{Template, Variable};
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::{Field, Fields, Known, Version};

use super::attempt::Fault;
use super::attempt::local_address;
use super::buffers::BuffersConf;
use super::cookies::{Cookies, CookiesConf};
use super::pass::Pass;
use super::redirect::{Redirects, WrittenRedirect};
use super::request::NameSet;
use super::{ProxyPass, Shared};
use crate::exchange::Exchange;
use crate::held_body::{self, BodyPlace};
use crate::limit_rate::Size;
use crate::plan::{Kind, Plan};

/// `proxy_next_upstream`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextUpstream {
    /// Errors of the connection.
    pub error: bool,
    /// Timeouts.
    pub timeout: bool,
    /// Replies that are no replies.
    pub invalid_header: bool,
    /// Requests that are not idempotent too.
    pub non_idempotent: bool,
    /// One bit for each status that the directive can name.
    pub statuses: u16,
}

/// The fields that `proxy_ignore_headers` can name.
const IGNORABLE: [&str; 9] = [
    "X-Accel-Redirect",
    "X-Accel-Expires",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
    "Expires",
    "Cache-Control",
    "Set-Cookie",
    "Vary",
];

/// What `proxy_next_upstream` can name besides statuses.
const CONDITIONS: [&str; 6] = ["error", "timeout", "invalid_header", "non_idempotent", "updating", "off"];

/// The statuses that `proxy_next_upstream` can name.
const STATUSES: [(&str, u16); 7] = [
    ("http_500", 500),
    ("http_502", 502),
    ("http_504", 504),
    ("http_503", 503),
    ("http_403", 403),
    ("http_404", 404),
    ("http_429", 429),
];

impl Default for NextUpstream {
    fn default() -> Self {
        NextUpstream { error: true, timeout: true, invalid_header: false, non_idempotent: false, statuses: 0 }
    }
}

impl NextUpstream {
    /// `off`
    const NOTHING: NextUpstream =
        NextUpstream { error: false, timeout: false, invalid_header: false, non_idempotent: false, statuses: 0 };

    /// What these words ask for; the default without any. nginx: `off` outdoes all others.
    fn of(words: &[Word]) -> NextUpstream {
        if words.is_empty() {
            return NextUpstream::default();
        }
        let mut next = NextUpstream::NOTHING;
        for word in words {
            match &*word.bytes().to_ascii_lowercase() {
                b"off" => return NextUpstream::NOTHING,
                b"error" => next.error = true,
                b"timeout" => next.timeout = true,
                b"invalid_header" => next.invalid_header = true,
                b"non_idempotent" => next.non_idempotent = true,
                name => {
                    if let Some(bit) = STATUSES.iter().position(|(text, _)| text.as_bytes() == name) {
                        next.statuses |= 1 << bit;
                    }
                }
            }
        }
        next
    }

    /// True when a reply of this status is reason to ask another peer.
    pub fn status(&self, status: u16) -> bool {
        STATUSES.iter().enumerate().any(|(bit, (_, code))| *code == status && self.statuses & (1 << bit) != 0)
    }

    /// True when this fault is.
    pub fn fault(&self, fault: &Fault) -> bool {
        match fault {
            Fault::ConnectTimeout | Fault::SendTimeout | Fault::ReadTimeout => self.timeout,
            Fault::Connect(_) | Fault::Send(_) | Fault::Read(_) | Fault::Closed => self.error,
            Fault::Reply(_) | Fault::TooManyInterim => self.invalid_header,
            Fault::Status(status) => self.status(*status),
            Fault::BadRequest | Fault::ClientGone | Fault::ClientBody(_) | Fault::HeldBody(_) => false,
        }
    }
}

/// The settings of one block.
#[derive(Default)]
pub struct ProxyConf {
    pass: Setting<Word>,
    set_header: Vec<(Word, Word)>,
    http_version: Setting<Version>,
    method: Setting<Word>,
    set_body: Setting<Word>,
    pass_request_headers: Setting<bool>,
    pass_request_body: Setting<bool>,
    pass_trailers: Setting<bool>,
    connect_timeout: Setting<Duration>,
    send_timeout: Setting<Duration>,
    read_timeout: Setting<Duration>,
    next_upstream: Vec<Word>,
    next_upstream_tries: Setting<u64>,
    next_upstream_timeout: Setting<Duration>,
    buffering: Setting<bool>,
    request_buffering: Setting<bool>,
    buffers: BuffersConf,
    hide_header: Vec<Word>,
    pass_header: Vec<Word>,
    redirect: Vec<WrittenRedirect>,
    intercept_errors: Setting<bool>,
    ignore_client_abort: Setting<bool>,
    ignore_headers: Vec<Word>,
    cookies: CookiesConf,
    bind: Setting<Word>,
    limit_rate: Setting<Word>,
    temp_path: Setting<WrittenFolder>,
}

inherit!(ProxyConf {
    set_header, http_version, method, set_body, pass_request_headers, pass_request_body, pass_trailers, connect_timeout, send_timeout,
    read_timeout, next_upstream, next_upstream_tries, next_upstream_timeout, buffering, request_buffering, buffers,
    hide_header, pass_header, redirect, intercept_errors, ignore_client_abort, ignore_headers, cookies, bind,
    limit_rate, temp_path,
} own { pass });

/// `proxy_pass` and its family
pub struct Proxy;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);
const ONE: Arity = Arity::Exactly(1);

const fn row(name: &'static str, arity: Arity, set: Set<ProxyConf>, doc: &'static str) -> Directive<ProxyConf> {
    Directive { name, levels: ANYWHERE, arity, set, doc }
}

impl Feature for Proxy {
    type Conf = ProxyConf;
    const NAME: &'static str = "proxy";
    const DIRECTIVES: &'static [Directive<ProxyConf>] = &[
        Directive {
            name: "proxy_pass",
            levels: Levels::LOCATION.or(Levels::LOCATION_IF).or(Levels::LIMIT_EXCEPT),
            arity: ONE,
            set: Set::Word(|c| &mut c.pass),
            doc: "The server or group that answers: http://host[:port][/uri], with variables if need be.",
        },
        row(
            "proxy_set_header",
            Arity::Exactly(2),
            Set::With(|c, line| {
                literal::field_name(line.arg(0)?)?;
                literal::one_line(line.arg(1)?)?;
                line.mention(line.arg(1)?);
                c.set_header.push((line.arg(0)?.clone(), line.arg(1)?.clone()));
                Ok(())
            }),
            "A field of the request to the upstream; an empty value removes it.",
        ),
        row(
            "proxy_http_version",
            ONE,
            Set::With(|c, line| {
                if line.arg(0)?.is("2") {
                    return Err("HTTP/2 to upstreams is not supported yet".into());
                }
                let version = line.choice(&[("1.1", Version::Http11), ("1.0", Version::Http10)])?;
                c.http_version.set(version)
            }),
            "The version spoken to the upstream: 1.1 or 1.0.",
        ),
        row(
            "proxy_method",
            ONE,
            Set::With(|c, line| {
                literal::method(line.arg(0)?)?;
                line.mention(line.arg(0)?);
                c.method.set(line.arg(0)?.clone())
            }),
            "The method of the request to the upstream.",
        ),
        row("proxy_set_body", ONE, Set::Template(|c| &mut c.set_body), "The body of the request to the upstream."),
        row(
            "proxy_pass_request_headers",
            ONE,
            Set::Flag(|c| &mut c.pass_request_headers),
            "Whether the client's fields are passed on.",
        ),
        row(
            "proxy_pass_request_body",
            ONE,
            Set::Flag(|c| &mut c.pass_request_body),
            "Whether the client's body is passed on.",
        ),
        row(
            "proxy_pass_trailers",
            ONE,
            Set::Flag(|c| &mut c.pass_trailers),
            "Whether what upstreams send behind a body in chunks is passed on.",
        ),
        row("proxy_connect_timeout", ONE, Set::Time(|c| &mut c.connect_timeout), "Longest time to connect."),
        row(
            "proxy_send_timeout",
            ONE,
            Set::Time(|c| &mut c.send_timeout),
            "Longest time between two successful writes to the upstream.",
        ),
        row("proxy_read_timeout", ONE, Set::Time(|c| &mut c.read_timeout), "Longest silence of the upstream."),
        row("proxy_next_upstream", Arity::AtLeast(1), Set::With(next_upstream), "What makes the next peer be tried."),
        row(
            "proxy_next_upstream_tries",
            ONE,
            Set::Number(|c| &mut c.next_upstream_tries),
            "Peers tried for one request; 0 is all.",
        ),
        row(
            "proxy_next_upstream_timeout",
            ONE,
            Set::Time(|c| &mut c.next_upstream_timeout),
            "Time in which a next peer may be tried; 0 is any.",
        ),
        row(
            "proxy_buffering",
            ONE,
            Set::Flag(|c| &mut c.buffering),
            "Whether replies are read ahead of the client, within proxy_buffers, and then into a file.",
        ),
        row(
            "proxy_request_buffering",
            ONE,
            Set::Flag(|c| &mut c.request_buffering),
            "Whether the whole body of a request is read before the upstream is asked.",
        ),
        row("proxy_buffer_size", ONE, Set::With(|c, line| c.buffers.first(line)), "The largest head of a reply."),
        row(
            "proxy_buffers",
            Arity::Exactly(2),
            Set::With(|c, line| c.buffers.buffers(line)),
            "Number and size of the buffers a reply is read ahead into.",
        ),
        row(
            "proxy_hide_header",
            ONE,
            Set::With(|c, line| {
                literal::field_name(line.arg(0)?)?;
                c.hide_header.push(line.arg(0)?.clone());
                Ok(())
            }),
            "A field of replies that the client does not see.",
        ),
        row(
            "proxy_pass_header",
            ONE,
            Set::With(|c, line| {
                literal::field_name(line.arg(0)?)?;
                c.pass_header.push(line.arg(0)?.clone());
                Ok(())
            }),
            "A field of replies that the client sees although it would not by default.",
        ),
        row(
            "proxy_redirect",
            Arity::Between(1, 2),
            Set::With(|c, line| {
                let redirect = WrittenRedirect::parse(line, c.pass.get())?;
                let is_off = |redirect: &WrittenRedirect| matches!(redirect, WrittenRedirect::Off);
                if c.redirect.iter().any(is_off) || (is_off(&redirect) && !c.redirect.is_empty()) {
                    return Err("is duplicate".into());
                }
                c.redirect.push(redirect);
                Ok(())
            }),
            "How Location and Refresh of replies are rewritten.",
        ),
        row(
            "proxy_cookie_domain",
            Arity::Between(1, 2),
            Set::With(|c, line| c.cookies.domain(line)),
            "How the Domain of cookies in replies is rewritten; off leaves it.",
        ),
        row(
            "proxy_cookie_path",
            Arity::Between(1, 2),
            Set::With(|c, line| c.cookies.path(line)),
            "How the Path of cookies in replies is rewritten; off leaves it.",
        ),
        row(
            "proxy_cookie_flags",
            Arity::Between(1, 5),
            Set::With(|c, line| c.cookies.flags(line)),
            "Flags that cookies in replies get or lose: secure, httponly, samesite=, or with no in front.",
        ),
        row(
            "proxy_bind",
            Arity::Between(1, 2),
            Set::With(|c, line| {
                if line.args().get(1).is_some() {
                    return Err("the \"transparent\" parameter is not supported yet".into());
                }
                let word = line.arg(0)?;
                let literal = !word.is("off") && !word.bytes().contains(&b'$');
                if literal && local_address(word.bytes()).is_none() {
                    return Err(format!("invalid address \"{word}\"").into());
                }
                line.mention(word);
                c.bind.set(word.clone())
            }),
            "The local address of connections to the upstream, which are not kept then; off leaves it to the system.",
        ),
        row(
            "proxy_intercept_errors",
            ONE,
            Set::Flag(|c| &mut c.intercept_errors),
            "Whether error_page applies to replies.",
        ),
        row(
            "proxy_ignore_client_abort",
            ONE,
            Set::Flag(|c| &mut c.ignore_client_abort),
            "Whether the upstream is listened to although the client has gone.",
        ),
        row(
            "proxy_ignore_headers",
            Arity::AtLeast(1),
            Set::With(|c, line| {
                if let Some(word) = line.args().iter().find(|word| !IGNORABLE.iter().any(|name| word.is_like(name))) {
                    return Err(format!("invalid value \"{word}\"").into());
                }
                c.ignore_headers.extend(line.args().iter().cloned());
                Ok(())
            }),
            "X-Accel fields of replies that have no effect.",
        ),
        row(
            "proxy_limit_rate",
            ONE,
            Set::Word(|c| &mut c.limit_rate),
            "Bytes a second that a reply is read with where it is buffered; 0 for as fast as it comes.",
        ),
        row(
            "proxy_busy_buffers_size",
            ONE,
            Set::With(|c, line| c.buffers.busy(line)),
            "How much of a reply that is in a file the client is given at a time, as long as the upstream sends.",
        ),
        row(
            "proxy_temp_path",
            Arity::Between(1, 4),
            Set::With(|c, line| c.temp_path.set(WrittenFolder::parse(line)?)),
            "The folder of replies that slow clients have yet to take, and the lengths of the levels below it.",
        ),
        row(
            "proxy_max_temp_file_size",
            ONE,
            Set::With(|c, line| c.buffers.file(line)),
            "The largest such file; the upstream waits for the client beyond it. 0 is none.",
        ),
        row(
            "proxy_temp_file_write_size",
            ONE,
            Set::With(|c, line| c.buffers.file_write(line)),
            "How much is written to such a file at a time.",
        ),
        row("proxy_headers_hash_max_size", ONE, Set::Checked(Check::TableSize), "Tables size themselves."),
        row("proxy_headers_hash_bucket_size", ONE, Set::Checked(Check::TableSize), "Tables size themselves."),
    ];
}

/// nginx: each line adds to those before it.
fn next_upstream(conf: &mut ProxyConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    for word in line.args() {
        let is_status = STATUSES.iter().any(|(name, _)| word.is_like(name));
        if !is_status && !CONDITIONS.iter().any(|name| word.is_like(name)) {
            return Err(format!("invalid value \"{word}\"").into());
        }
        if conf.next_upstream.iter().any(|other| other.is_like(&word.text())) {
            line.warn(format!("duplicate value \"{word}\""));
        }
        conf.next_upstream.push(word.clone());
    }
    Ok(())
}

/// The settings in force.
pub struct Settings {
    /// `proxy_set_header Host`; `None` where nothing sets it.
    pub host: Option<Template<Exchange>>,
    /// `proxy_set_header`, without `Host`, the framing and those that are removed.
    pub set_headers: Vec<(Rc<[u8]>, Template<Exchange>)>,
    set_names: NameSet,
    /// `proxy_http_version`
    pub http_version: Version,
    /// `proxy_method`
    pub method: Option<Template<Exchange>>,
    /// `proxy_set_body`
    pub set_body: Option<Template<Exchange>>,
    /// `proxy_pass_request_headers`
    pub pass_request_headers: bool,
    /// `proxy_pass_trailers`
    pub pass_trailers: bool,
    /// `proxy_pass_request_body`
    pub pass_request_body: bool,
    /// `proxy_connect_timeout`
    pub connect_timeout: Duration,
    /// `proxy_send_timeout`
    pub send_timeout: Duration,
    /// `proxy_read_timeout`
    pub read_timeout: Duration,
    /// `proxy_next_upstream`
    pub next_upstream: NextUpstream,
    /// `proxy_next_upstream_tries`
    pub next_upstream_tries: Option<usize>,
    /// `proxy_next_upstream_timeout`
    pub next_upstream_timeout: Option<Duration>,
    /// `proxy_request_buffering`
    pub request_buffering: bool,
    /// `proxy_buffer_size`
    pub buffer_size: usize,
    /// `proxy_buffering`
    buffering: bool,
    /// `proxy_buffers`, all of them.
    buffers: usize,
    /// `proxy_limit_rate`
    pub limit_rate: Size,
    /// Where a reply goes that the client has yet to take.
    pub spill: SpillSettings,
    /// Where request bodies go that are read whole.
    pub bodies: BodyPlace,
    /// Fields that the client does not see.
    pub hidden: NameSet,
    /// `proxy_redirect`
    pub redirects: Redirects,
    /// `proxy_intercept_errors`
    pub intercept_errors: bool,
    ignore_client_abort: bool,
    /// `proxy_ignore_headers`
    pub ignored: NameSet,
    /// `proxy_cookie_*`
    pub cookies: Cookies,
    /// `proxy_bind`
    pub bind: Option<Template<Exchange>>,
}

impl Settings {
    /// True when the configuration says what this field of the request is.
    pub fn sets(&self, field: Field<'_>) -> bool {
        self.set_names.has(field)
    }

    /// As [`sets`](Self::sets), of a known name.
    pub fn sets_known(&self, known: Known) -> bool {
        self.set_names.has_known(known)
    }

    /// True when the upstream is asked to the end although the client has gone.
    pub fn ignores_abort(&self) -> bool {
        self.ignore_client_abort
    }

    /// True when the whole body is read first. nginx: also where it is not passed on, and where an HTTP/1.0 peer would need
    /// to know chunks.
    pub fn holds_body(&self, exchange: &Exchange) -> bool {
        let needs_length = self.http_version == Version::Http10 && exchange.head.framing == Framing::Chunked;
        self.request_buffering || self.set_body.is_some() || !self.pass_request_body || needs_length
    }

    /// Whether a reply is buffered: what it says itself counts more than the configuration.
    pub fn buffers_reply(&self, fields: &Fields) -> bool {
        let told = fields.get(Known::XAccelBuffering).filter(|_| !self.ignored.has_known(Known::XAccelBuffering));
        match told {
            Some(value) if value.eq_ignore_ascii_case(b"no") => false,
            Some(value) if value.eq_ignore_ascii_case(b"yes") => true,
            _ => self.buffering,
        }
    }

    /// How a reply is read.
    pub fn reading(&self, buffered: bool) -> Reading {
        let limit = if buffered { self.buffers } else { self.buffer_size };
        Reading { limit, piece: limit.clamp(LEAST_READ, MOST_READ) }
    }
}

/// What one read of a reply takes at least, and at most.
pub const LEAST_READ: usize = 4096;
const MOST_READ: usize = 64 << 10;

/// How a reply is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What may be read ahead of the client.
    pub limit: usize,
    /// What one read takes.
    pub piece: usize,
}

/// Where a reply goes that the client has yet to take.
pub struct SpillSettings {
    /// `proxy_temp_path`
    pub folder: Arc<Folder>,
    /// `proxy_max_temp_file_size`
    pub most: u64,
    /// `proxy_temp_file_write_size`
    pub write: usize,
    /// `proxy_busy_buffers_size`
    pub busy: usize,
}

/// nginx: fields of replies that are the proxy's own business.
const HIDDEN: [&str; 8] = [
    "Date",
    "Server",
    "X-Pad",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
];

impl Module<Exchange> for Proxy {
    const VARIABLES: &'static [Variable<Exchange>] = super::variables::ROWS;

    fn define(conf: &ProxyConf, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        conf.redirect.iter().for_each(|redirect| redirect.define(env));
        conf.cookies.define(env);
        Ok(())
    }

    fn install(conf: &ProxyConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        // nginx: servers and what is in them are looked at, what they inherit from has been completed by then.
        if env.level != Levels::PROTOCOL {
            conf.buffers.judge()?;
        }
        let Some(word) = conf.pass.get() else {
            if let Some(written) = conf.temp_path.get() {
                env.folders.find(Some(written), TEMP, env.setup)?;
            }
            return Ok(());
        };
        let shared = plan.parts.get::<Rc<Shared>>().cloned().unwrap_or_default();
        let pass = Pass::compile(word, plan, &shared, env)?;
        if matches!(plan.kind, Kind::Prefix(_)) && plan.name.ends_with(b"/") {
            plan.auto_redirect = true;
        }
        let settings = Rc::new(conf.build(word, plan, env)?);
        plan.content = Some(Rc::new(ProxyPass { pass, settings, shared }));
        Ok(())
    }
}

/// nginx: the folder that nobody has named.
const TEMP: &str = "proxy_temp";

/// The framing is ours to say, whatever the configuration sets.
fn is_framing(name: &[u8]) -> bool {
    matches!(Known::of(name), Known::ContentLength | Known::TransferEncoding)
}

impl ProxyConf {
    /// Where `proxy_pass` of the block says that requests go.
    pub fn pass(&self) -> Option<&Word> {
        self.pass.get()
    }

    /// What requests of the block are passed on with.
    ///
    /// # Errors
    /// What the configuration got wrong.
    pub fn build(&self, pass: &Word, plan: &Plan, env: &mut Install<'_, Exchange>) -> Result<Settings, ConfigError> {
        let seconds = Duration::from_secs;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let redirects = Redirects::build(&self.redirect, pass, plan, env)?;
        let cookies = self.cookies.build(env)?;
        let template = |setting: &Setting<Word>| setting.get().map(|word| env.template(word)).transpose();
        let mut set_names = NameSet::default();
        let mut set_headers = Vec::new();
        let mut host = None;
        for (name, value) in &self.set_header {
            set_names.add(name.bytes());
            if name.bytes().eq_ignore_ascii_case(b"host") {
                // nginx: of several the last.
                host = Some(env.template(value)?);
            } else if !value.bytes().is_empty() {
                let template = env.template(value)?;
                if !is_framing(name.bytes()) {
                    set_headers.push((name.bytes().into(), template));
                }
            }
        }
        let mut hidden = NameSet::default();
        HIDDEN.iter().for_each(|name| hidden.add(name.as_bytes()));
        self.hide_header.iter().for_each(|name| hidden.add(name.bytes()));
        self.pass_header.iter().for_each(|name| hidden.remove(name.bytes()));
        let mut ignored = NameSet::default();
        self.ignore_headers.iter().for_each(|name| ignored.add(name.bytes()));
        let buffer_size = size(self.buffers.first_size()).max(64);
        Ok(Settings {
            host,
            set_headers,
            set_names,
            http_version: self.http_version.or(Version::Http11),
            method: template(&self.method)?,
            set_body: template(&self.set_body)?,
            pass_request_headers: self.pass_request_headers.or(true),
            pass_request_body: self.pass_request_body.or(true),
            pass_trailers: self.pass_trailers.or(false),
            connect_timeout: self.connect_timeout.or(seconds(60)),
            send_timeout: self.send_timeout.or(seconds(60)),
            read_timeout: self.read_timeout.or(seconds(60)),
            next_upstream: NextUpstream::of(&self.next_upstream),
            next_upstream_tries: self.next_upstream_tries.get().filter(|n| **n > 0).map(|n| size(*n)),
            next_upstream_timeout: self.next_upstream_timeout.get().copied(),
            request_buffering: self.request_buffering.or(true),
            buffer_size,
            buffering: self.buffering.or(true),
            buffers: size(self.buffers.total()),
            limit_rate: self.limit_rate.get().map_or(Ok(Size::Fixed(0)), |word| Size::compile(word, env))?,
            spill: SpillSettings {
                folder: env.folders.find(self.temp_path.get(), TEMP, env.setup)?,
                most: self.buffers.file_size(),
                write: size(self.buffers.file_write_size()),
                busy: size(self.buffers.busy_size()),
            },
            bodies: held_body::place(plan, env)?,
            hidden,
            redirects,
            intercept_errors: self.intercept_errors.or(false),
            ignore_client_abort: self.ignore_client_abort.or(false),
            ignored,
            cookies,
            bind: self.bind.get().filter(|word| !word.is("off")).map(|word| env.template(word)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::conf::Place;

    #[test]
    fn what_makes_the_next_peer_be_asked_adds_up_unless_it_is_off() {
        let at = Place { file: "f".into(), line: 1, column: 1 };
        for (text, error, timeout, bad_gateway) in [
            ("", true, true, false),
            ("error", true, false, false),
            ("TIMEOUT http_502", false, true, true),
            ("error timeout http_502", true, true, true),
            ("updating", false, false, false),
            ("off error", false, false, false),
            ("error http_502 off", false, false, false),
        ] {
            let words: Vec<Word> = text.split_whitespace().map(|word| Word::new(word.as_bytes(), at.clone())).collect();
            let next = NextUpstream::of(&words);
            assert_eq!((next.error, next.timeout, next.status(502)), (error, timeout, bad_gateway), "{text}");
        }
    }
}
