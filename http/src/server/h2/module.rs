//! `http2`: whether HTTP/2 is spoken, and what a client may do on one connection.

use std::rc::Rc;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Line, Refusal, Setting, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_http_wire::Version;
use tidegate_http_wire::h2::Limits;

use super::settings::{ChunkSize, Settings};
use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct Http2Conf {
    on: Setting<bool>,
    streams: Setting<u32>,
    window: Setting<u32>,
    chunk: Setting<u32>,
    limits: Setting<Limits>,
}

inherit!(Http2Conf { on, streams, window, chunk, limits });

const SERVERS: Levels = Levels::PROTOCOL.or(Levels::SERVER);
/// The most that a window may be (RFC 9113 section 6.9.1).
const LARGEST_WINDOW: u64 = 0x7fff_ffff;

/// `http2`
pub struct Http2;

impl Feature for Http2 {
    type Conf = Http2Conf;
    const NAME: &'static str = "http2";
    const DIRECTIVES: &'static [Directive<Http2Conf>] = &[
        Directive {
            name: "http2",
            levels: SERVERS,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.on),
            doc: "Offers HTTP/2: by ALPN under TLS, and to clients that begin with its preface without.",
        },
        Directive {
            name: "http2_max_concurrent_streams",
            levels: SERVERS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let number = value::number(line.arg(0)?).and_then(|number| u32::try_from(number).ok());
                conf.streams.set(number.filter(|number| *number > 0).ok_or("invalid number")?)
            }),
            doc: "Requests that a client may have under way at once on one connection.",
        },
        Directive {
            name: "http2_body_preread_size",
            levels: SERVERS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let size = value::size(line.arg(0)?).filter(|size| *size <= LARGEST_WINDOW);
                conf.window.set(size.and_then(|size| u32::try_from(size).ok()).ok_or("invalid value")?)
            }),
            doc: "What a client may send of a body before anything has asked for it.",
        },
        Directive {
            name: "http2_chunk_size",
            levels: SERVERS.or(Levels::LOCATION),
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let size = value::size(line.arg(0)?).ok_or("invalid value")?;
                // nginx: a frame holds no more than this by default, and no less than one byte.
                conf.chunk.set(u32::try_from(size.clamp(1, 16_384)).unwrap_or(16_384))
            }),
            doc: "The most that one DATA frame carries, so that answers take turns.",
        },
        Directive {
            name: "http2_limits",
            levels: SERVERS,
            arity: Arity::AtLeast(1),
            set: Set::With(limits),
            doc: "What a client may do on one connection besides asking, each as name=number: see the operators' page.",
        },
        Directive {
            name: "http2_recv_buffer_size",
            levels: Levels::PROTOCOL,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Size),
            doc: "Buffers are as large as what arrives.",
        },
        Directive {
            name: "http2_pool_size",
            levels: SERVERS,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Size),
            doc: "There are no pools.",
        },
        Directive {
            name: "http2_streams_index_size",
            levels: SERVERS,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Number),
            doc: "Streams are found in a table that grows.",
        },
    ];
}

/// `http2_limits name=number ..`
fn limits(conf: &mut Http2Conf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let mut limits = Limits::default();
    for word in line.args() {
        let (name, number) =
            word.text().split_once('=').map(|(name, number)| (name.to_owned(), number.to_owned())).unwrap_or_default();
        let number = number.parse::<u32>().map_err(|_| format!("invalid parameter \"{word}\""))?;
        if !limits.set(&name, number) {
            let known = Limits::NAMES.join(", ");
            return Err(format!("unknown limit \"{word}\", there are {known}").into());
        }
    }
    conf.limits.set(limits)
}

impl Module<Exchange> for Http2 {
    const VARIABLES: &'static [Variable<Exchange>] = &[Variable {
        name: "http2",
        get: Get::Value(|exchange, out| {
            if exchange.head.version != Version::Http2 {
                return false;
            }
            let spoken: &[u8] = if exchange.peer.tls.get().is_some() { b"h2" } else { b"h2c" };
            out.extend_from_slice(spoken);
            true
        }),
        doc: "h2 over TLS, h2c without; empty unless HTTP/2 is spoken.",
    }];

    fn install(conf: &Http2Conf, plan: &mut Plan, _: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if let Some(chunk) = conf.chunk.get() {
            plan.parts.put(ChunkSize(usize::try_from(*chunk).unwrap_or(usize::MAX)));
        }
        Ok(())
    }
}

impl Http2Conf {
    /// How the server speaks HTTP/2, if it does: by `http2 on`, or because an address that it listens on says so.
    pub fn build(&self, is_listened_for: bool) -> Option<Rc<Settings>> {
        if !(self.on.or(false) || is_listened_for) {
            return None;
        }
        let streams = self.streams.or(128);
        let mut limits = self.limits.get().cloned().unwrap_or_default();
        limits.concurrent_streams = streams;
        Some(Rc::new(Settings { streams, window: self.window.or(65_536), chunk: self.chunk.or(8192), limits }))
    }
}
