//! The directives of connections and exchanges that have nothing but a value behind them.

use std::rc::Rc;
use std::time::Duration;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Line, Place, Refusal, Setting, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_http_wire::conditional::Since;
use tidegate_http_wire::h1::request::HeadLimits;

use super::{Browsers, Lingering, Settings, Tokens};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct SettingsConf {
    keepalive_timeout: Setting<(Duration, Option<Duration>)>,
    keepalive_requests: Setting<u64>,
    keepalive_time: Setting<Duration>,
    keepalive_min_timeout: Setting<Duration>,
    keepalive_disable: Setting<Browsers>,
    client_header_timeout: Setting<Duration>,
    client_header_buffer_size: Setting<u64>,
    large_client_header_buffers: Setting<(u64, u64, Place)>,
    connection_pool_size: Setting<(u64, Place)>,
    max_headers: Setting<u64>,
    client_body_timeout: Setting<Duration>,
    client_body_buffer_size: Setting<u64>,
    client_max_body_size: Setting<u64>,
    send_timeout: Setting<Duration>,
    lingering_close: Setting<Lingering>,
    lingering_time: Setting<Duration>,
    lingering_timeout: Setting<Duration>,
    ignore_invalid_headers: Setting<bool>,
    underscores_in_headers: Setting<bool>,
    merge_slashes: Setting<bool>,
    tcp_nodelay: Setting<bool>,
    sendfile: Setting<bool>,
    server_tokens: Setting<Tokens>,
    etag: Setting<bool>,
    if_modified_since: Setting<Since>,
    max_ranges: Setting<u64>,
    chunked_transfer_encoding: Setting<bool>,
    absolute_redirect: Setting<bool>,
    port_in_redirect: Setting<bool>,
    server_name_in_redirect: Setting<bool>,
    log_not_found: Setting<bool>,
    recursive_error_pages: Setting<bool>,
    log_subrequest: Setting<bool>,
    subrequest_output_buffer_size: Setting<u64>,
    reset_timedout_connection: Setting<bool>,
    satisfy_any: Setting<bool>,
}

inherit!(SettingsConf {
    keepalive_timeout,
    keepalive_requests,
    keepalive_time,
    keepalive_min_timeout,
    keepalive_disable,
    client_header_timeout,
    client_header_buffer_size,
    large_client_header_buffers,
    connection_pool_size,
    max_headers,
    client_body_timeout,
    client_body_buffer_size,
    client_max_body_size,
    send_timeout,
    lingering_close,
    lingering_time,
    lingering_timeout,
    ignore_invalid_headers,
    underscores_in_headers,
    merge_slashes,
    tcp_nodelay,
    sendfile,
    server_tokens,
    etag,
    if_modified_since,
    max_ranges,
    chunked_transfer_encoding,
    absolute_redirect,
    port_in_redirect,
    server_name_in_redirect,
    log_not_found,
    recursive_error_pages,
    log_subrequest,
    subrequest_output_buffer_size,
    reset_timedout_connection,
    satisfy_any,
});

/// Connection and exchange settings
pub struct Core;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);
const SERVERS: Levels = Levels::PROTOCOL.or(Levels::SERVER);

const fn row(
    name: &'static str,
    levels: Levels,
    arity: Arity,
    set: Set<SettingsConf>,
    doc: &'static str,
) -> Directive<SettingsConf> {
    Directive { name, levels, arity, set, doc }
}

const ONE: Arity = Arity::Exactly(1);

impl Feature for Core {
    type Conf = SettingsConf;
    const NAME: &'static str = "http core";
    const DIRECTIVES: &'static [Directive<SettingsConf>] = &[
        row(
            "keepalive_timeout",
            ANYWHERE,
            Arity::Between(1, 2),
            Set::With(keepalive_timeout),
            "How long an idle connection is kept; the second argument is told to the client.",
        ),
        row(
            "keepalive_requests",
            ANYWHERE,
            ONE,
            Set::Number(|c| &mut c.keepalive_requests),
            "Requests on one connection.",
        ),
        row(
            "keepalive_time",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.keepalive_time),
            "Longest life of a kept connection.",
        ),
        row(
            "keepalive_min_timeout",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.keepalive_min_timeout),
            "How long an idle connection is still served when its worker goes away; 1s by default.",
        ),
        row(
            "keepalive_disable",
            ANYWHERE,
            Arity::AtLeast(1),
            Set::With(keepalive_disable),
            "Browsers whose connections are not kept: msie6 behind a POST, safari, or none.",
        ),
        row(
            "client_header_timeout",
            SERVERS,
            ONE,
            Set::Time(|c| &mut c.client_header_timeout),
            "Longest time for a request head to arrive.",
        ),
        row(
            "client_header_buffer_size",
            SERVERS,
            ONE,
            Set::Size(|c| &mut c.client_header_buffer_size),
            "First buffer for a request head.",
        ),
        row(
            "large_client_header_buffers",
            SERVERS,
            Arity::Exactly(2),
            Set::With(large_buffers),
            "Number and size of further buffers; a line may not be larger than one.",
        ),
        row("max_headers", SERVERS, ONE, Set::Number(|c| &mut c.max_headers), "Fields in a request head."),
        row(
            "client_body_timeout",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.client_body_timeout),
            "Longest silence while a request body arrives.",
        ),
        row(
            "client_body_buffer_size",
            ANYWHERE,
            ONE,
            Set::Size(|c| &mut c.client_body_buffer_size),
            "Part of a request body that is held in memory; one that is longer goes to a file.",
        ),
        row(
            "client_max_body_size",
            ANYWHERE,
            ONE,
            Set::Offset(|c| &mut c.client_max_body_size),
            "Largest request body; 0 is any size.",
        ),
        row(
            "send_timeout",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.send_timeout),
            "Longest time between two successful writes to the client.",
        ),
        row(
            "lingering_close",
            ANYWHERE,
            ONE,
            Set::With(lingering_close),
            "Whether unread input is read before a connection is closed.",
        ),
        row(
            "lingering_time",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.lingering_time),
            "How long unread input is read at most.",
        ),
        row(
            "lingering_timeout",
            ANYWHERE,
            ONE,
            Set::Time(|c| &mut c.lingering_timeout),
            "Longest silence while unread input is read.",
        ),
        row(
            "ignore_invalid_headers",
            SERVERS,
            ONE,
            Set::Flag(|c| &mut c.ignore_invalid_headers),
            "Whether fields with strange names are dropped instead of refused.",
        ),
        row(
            "underscores_in_headers",
            SERVERS,
            ONE,
            Set::Flag(|c| &mut c.underscores_in_headers),
            "Whether underscores in field names are allowed.",
        ),
        row("merge_slashes", SERVERS, ONE, Set::Flag(|c| &mut c.merge_slashes), "Whether several slashes are one."),
        row(
            "tcp_nodelay",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.tcp_nodelay),
            "Whether small segments are sent at once.",
        ),
        row(
            "tcp_nopush",
            ANYWHERE,
            ONE,
            Set::Checked(Check::Flag),
            "The head and the beginning of a file always leave together.",
        ),
        row(
            "sendfile",
            ANYWHERE.or(Levels::LOCATION_IF),
            ONE,
            Set::Flag(|c| &mut c.sendfile),
            "Whether files are sent by the kernel itself.",
        ),
        row(
            "sendfile_max_chunk",
            ANYWHERE,
            ONE,
            Set::Checked(Check::Size),
            "Files are sent in pieces of at most 2 MiB, so that no client holds a worker up.",
        ),
        row("server_tokens", ANYWHERE, ONE, Set::With(server_tokens), "Whether the version is told."),
        row("etag", ANYWHERE, ONE, Set::Flag(|c| &mut c.etag), "Whether files get an ETag."),
        row("if_modified_since", ANYWHERE, ONE, Set::With(if_modified_since), "How If-Modified-Since is compared."),
        row("max_ranges", ANYWHERE, ONE, Set::Number(|c| &mut c.max_ranges), "Ranges in one request; 0 ignores them."),
        row(
            "chunked_transfer_encoding",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.chunked_transfer_encoding),
            "Whether bodies of unknown length are sent in chunks.",
        ),
        row(
            "absolute_redirect",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.absolute_redirect),
            "Whether redirects name scheme and host.",
        ),
        row(
            "port_in_redirect",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.port_in_redirect),
            "Whether redirects name the port.",
        ),
        row(
            "server_name_in_redirect",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.server_name_in_redirect),
            "Whether redirects name the server's first name instead of the host asked for.",
        ),
        row(
            "log_subrequest",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.log_subrequest),
            "Whether subrequests are told to the access log as well.",
        ),
        row(
            "subrequest_output_buffer_size",
            ANYWHERE,
            ONE,
            Set::Size(|c| &mut c.subrequest_output_buffer_size),
            "The longest answer of a subrequest that is kept in memory.",
        ),
        row("log_not_found", ANYWHERE, ONE, Set::Flag(|c| &mut c.log_not_found), "Whether files not found are logged."),
        row(
            "recursive_error_pages",
            ANYWHERE.or(Levels::LOCATION_IF),
            ONE,
            Set::Flag(|c| &mut c.recursive_error_pages),
            "Whether error pages may fail into further error pages.",
        ),
        row(
            "reset_timedout_connection",
            ANYWHERE,
            ONE,
            Set::Flag(|c| &mut c.reset_timedout_connection),
            "Whether connections that timed out are reset.",
        ),
        row(
            "satisfy",
            ANYWHERE,
            ONE,
            Set::With(|conf, line| {
                let any = line.choice(&[("all", false), ("any", true)])?;
                conf.satisfy_any.set(any)
            }),
            "Whether all that guard access must allow it, or any.",
        ),
        row(
            "server_names_hash_max_size",
            Levels::PROTOCOL,
            ONE,
            Set::Checked(Check::TableSize),
            "Tables size themselves.",
        ),
        row(
            "server_names_hash_bucket_size",
            Levels::PROTOCOL,
            ONE,
            Set::Checked(Check::TableSize),
            "Tables size themselves.",
        ),
        row("types_hash_max_size", ANYWHERE, ONE, Set::Checked(Check::TableSize), "Tables size themselves."),
        row("types_hash_bucket_size", ANYWHERE, ONE, Set::Checked(Check::TableSize), "Tables size themselves."),
        row(
            "connection_pool_size",
            SERVERS,
            ONE,
            Set::Noted(|conf, line| conf.connection_pool_size.set((pool_size(line)?, line.at().clone()))),
            "There are no such pools.",
        ),
        row(
            "request_pool_size",
            SERVERS,
            ONE,
            Set::Checked(Check::With(|line| pool_size(line).map(drop))),
            "There are no such pools.",
        ),
        row(
            "output_buffers",
            ANYWHERE,
            Arity::Exactly(2),
            Set::Checked(Check::Buffers),
            "Buffers are as large as what is read.",
        ),
        row(
            "postpone_output",
            ANYWHERE,
            ONE,
            Set::Checked(Check::Size),
            "Output is joined where it costs nothing and never held back.",
        ),
        row("read_ahead", ANYWHERE, ONE, Set::Checked(Check::Size), "Left to the kernel."),
        row("send_lowat", ANYWHERE, ONE, Set::Checked(Check::Size), "Has no effect on Linux, as in nginx."),
    ];
}

fn keepalive_timeout(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let time = value::time(line.arg(0)?).ok_or("invalid value")?;
    let told = line.args().get(1).map(|word| value::seconds(word).map(Duration::from_secs).ok_or("invalid value"));
    conf.keepalive_timeout.set((time, told.transpose()?))
}

/// nginx: what a pool is made of sets its least size and what its size is a multiple of.
fn pool_size(line: &Line<'_>) -> Result<u64, Refusal> {
    match value::size(line.arg(0)?) {
        None => Err("invalid value".into()),
        Some(size) if size < 112 => Err("the pool size must be no less than 112".into()),
        Some(size) if size % 16 != 0 => Err("the pool size must be a multiple of 16".into()),
        Some(size) => Ok(size),
    }
}

fn keepalive_disable(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let mut browsers = Browsers::default();
    for word in line.args() {
        match &*word.bytes().to_ascii_lowercase() {
            b"none" => {}
            b"msie6" => browsers.msie6 = true,
            b"safari" => browsers.safari = true,
            _ => return Err(format!("invalid value \"{word}\"").into()),
        }
    }
    conf.keepalive_disable.set(browsers)
}

fn large_buffers(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let number = value::number(line.arg(0)?).filter(|n| *n > 0).ok_or("invalid value")?;
    let size = value::size(line.arg(1)?).filter(|n| *n > 0).ok_or("invalid value")?;
    conf.large_client_header_buffers.set((number, size, line.at().clone()))
}

fn lingering_close(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let choice = line.choice(&[("off", Lingering::Off), ("on", Lingering::On), ("always", Lingering::Always)])?;
    conf.lingering_close.set(choice)
}

fn server_tokens(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let choice = line.choice(&[("on", Tokens::On), ("off", Tokens::Off), ("build", Tokens::On)])?;
    conf.server_tokens.set(choice)
}

fn if_modified_since(conf: &mut SettingsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let choice = line.choice(&[("off", Since::Off), ("exact", Since::Exact), ("before", Since::Before)])?;
    conf.if_modified_since.set(choice)
}

fn bytes(setting: &Setting<u64>, default: u64) -> usize {
    usize::try_from(setting.or(default)).unwrap_or(usize::MAX)
}

/// nginx's number and size of the large buffers, if nothing is said.
const LARGE_BUFFERS: (u64, u64) = (4, 8 << 10);
/// nginx's size of a connection's pool, if nothing is said.
const POOL: u64 = 512;

impl SettingsConf {
    /// nginx: a buffer that is larger than the pool is not of the pool, and can be given back.
    fn judge_buffers(&self) -> Result<(), ConfigError> {
        let (large, pool) = (self.large_client_header_buffers.get(), self.connection_pool_size.get());
        let size = large.map_or(LARGE_BUFFERS.1, |(_, size, _)| *size);
        let least = pool.map_or(POOL, |(size, _)| *size);
        match large.map(|(_, _, at)| at).or(pool.map(|(_, at)| at)) {
            Some(at) if size < least => {
                let message = format!(
                    "the \"large_client_header_buffers\" size must be equal to or greater than \"connection_pool_size\", {least}"
                );
                Err(ConfigError::new(at, message))
            }
            _ => Ok(()),
        }
    }

    /// The settings in force, with nginx's defaults.
    pub fn build(&self) -> Settings {
        let seconds = Duration::from_secs;
        let (keepalive_timeout, keepalive_header) = self.keepalive_timeout.or((seconds(75), None));
        let (number, size) =
            self.large_client_header_buffers.get().map_or(LARGE_BUFFERS, |(number, size, _)| (*number, *size));
        let first = self.client_header_buffer_size.or(1 << 10);
        let as_size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Settings {
            keepalive_timeout,
            keepalive_header,
            keepalive_requests: self.keepalive_requests.or(1000),
            keepalive_time: self.keepalive_time.or(seconds(3600)),
            keepalive_min_timeout: self.keepalive_min_timeout.or(seconds(1)),
            keepalive_disable: self.keepalive_disable.or(Browsers { msie6: true, safari: false }),
            client_header_timeout: self.client_header_timeout.or(seconds(60)),
            client_header_buffer_size: as_size(first),
            head: HeadLimits {
                line: as_size(size.max(first)),
                total: as_size(number.saturating_mul(size).saturating_add(first)),
                fields: bytes(&self.max_headers, 1000),
                ignore_invalid: self.ignore_invalid_headers.or(true),
                underscores: self.underscores_in_headers.or(false),
                merge_slashes: self.merge_slashes.or(true),
                asterisk: false,
            },
            client_body_timeout: self.client_body_timeout.or(seconds(60)),
            client_body_buffer_size: bytes(&self.client_body_buffer_size, 16 << 10),
            client_max_body_size: self.client_max_body_size.or(1 << 20),
            send_timeout: self.send_timeout.or(seconds(60)),
            lingering_close: self.lingering_close.or(Lingering::On),
            lingering_time: self.lingering_time.or(seconds(30)),
            lingering_timeout: self.lingering_timeout.or(seconds(5)),
            tcp_nodelay: self.tcp_nodelay.or(true),
            sendfile: self.sendfile.or(false),
            server_tokens: self.server_tokens.or(Tokens::On),
            etag: self.etag.or(true),
            if_modified_since: self.if_modified_since.or(Since::Exact),
            max_ranges: self.max_ranges.get().map(|n| as_size(*n)),
            chunked_transfer_encoding: self.chunked_transfer_encoding.or(true),
            absolute_redirect: self.absolute_redirect.or(true),
            port_in_redirect: self.port_in_redirect.or(true),
            server_name_in_redirect: self.server_name_in_redirect.or(false),
            log_not_found: self.log_not_found.or(true),
            recursive_error_pages: self.recursive_error_pages.or(false),
            log_subrequest: self.log_subrequest.or(false),
            subrequest_output_buffer_size: bytes(&self.subrequest_output_buffer_size, 4 << 10),
            reset_timedout_connection: self.reset_timedout_connection.or(false),
        }
    }
}

impl Module<Exchange> for Core {
    fn install(conf: &SettingsConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if env.level != Levels::PROTOCOL {
            conf.judge_buffers()?;
        }
        plan.settings = Rc::new(conf.build());
        plan.gates.any = conf.satisfy_any.or(false);
        Ok(())
    }
}
