//! `set_real_ip_from`: the client's address as a trusted proxy in front has told it.

use std::rc::Rc;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Setting, Word, literal};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::net::Address;
use tidegate_core::net::address::Named;
use tidegate_core::net::forwarded::client_behind;
use tidegate_core::net::network::Network;
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Plan as _;

use crate::exchange::Exchange;
use crate::plan::Plan;

/// The settings of one block.
#[derive(Default)]
pub struct RealIpConf {
    trusted: Vec<Network>,
    field: Setting<Word>,
    recursive: Setting<bool>,
}

inherit!(RealIpConf { trusted, field, recursive });

/// `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`
pub struct RealIp;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

impl Feature for RealIp {
    type Conf = RealIpConf;
    const NAME: &'static str = "real ip";
    const DIRECTIVES: &'static [Directive<RealIpConf>] = &[
        Directive {
            name: "set_real_ip_from",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(trust),
            doc: "An address, a network, a host name or unix: whose word on its clients' addresses is taken.",
        },
        Directive {
            name: "real_ip_header",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let word = line.arg(0)?;
                if word.is("proxy_protocol") {
                    return Err("\"proxy_protocol\" is not supported yet".into());
                }
                literal::field_name(word)?;
                conf.field.set(word.clone())
            }),
            doc: "The field that tells the address: X-Real-IP by default, or X-Forwarded-For, or another one.",
        },
        Directive {
            name: "real_ip_recursive",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.recursive),
            doc: "Whether addresses of trusted proxies in that field are passed over, too.",
        },
    ];
}

fn trust(conf: &mut RealIpConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let unknown = || Refusal(format!("host not found in set_real_ip_from \"{word}\""));
    match Network::parse(&word.text()) {
        Some(Network::All) => return Err(unknown()),
        Some(network) => {
            if network.has_meaningless_bits() {
                line.warn(format!("low address bits of {word} are meaningless"));
            }
            conf.trusted.push(network);
        }
        None if word.bytes().contains(&b'/') => return Err(format!("invalid network \"{word}\"").into()),
        None => {
            let found = Named::parse(word.bytes()).and_then(|name| name.resolve(Some(0)));
            let found = found.map_err(|_| unknown())?;
            conf.trusted.extend(found.iter().filter_map(Address::ip).map(Network::only));
        }
    }
    Ok(())
}

impl Module<Exchange> for RealIp {
    const VARIABLES: &'static [Variable<Exchange>] = &[
        Variable {
            name: "realip_remote_addr",
            get: Get::Value(|exchange, out| {
                out.extend_from_slice(exchange.peer.client.host().as_bytes());
                true
            }),
            doc: "The address that the connection comes from.",
        },
        Variable {
            name: "realip_remote_port",
            get: Get::Value(|exchange, out| {
                if let Some(port) = exchange.peer.client.port() {
                    out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
                }
                true
            }),
            doc: "The port that the connection comes from.",
        },
    ];

    fn install(conf: &RealIpConf, plan: &mut Plan, _env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if !conf.trusted.is_empty() {
            let field = conf.field.get().map_or(&b"X-Real-IP"[..], Word::bytes);
            let told = Rc::new(Told {
                trusted: conf.trusted.clone(),
                field: field.into(),
                recursive: conf.recursive.or(false),
            });
            // nginx: as soon as the server is known, and where only the location says so, before anything is limited.
            plan.gate(Phase::PostAccept, Box::new(told.clone()));
            plan.gate(Phase::PreAccess, Box::new(told));
        }
        Ok(())
    }
}

/// By whom, and where, the address is told.
struct Told {
    trusted: Vec<Network>,
    field: Box<[u8]>,
    recursive: bool,
}

impl Gate<Exchange> for Rc<Told> {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        if exchange.real_client.get().is_none()
            && let Some(client) = self.client_of(exchange)
        {
            let _ = exchange.real_client.set(client);
        }
        Step::Now(Verdict::Continue)
    }
}

impl Told {
    fn client_of(&self, exchange: &Exchange) -> Option<Address> {
        let named = exchange.head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(&self.field));
        // nginx: a list may be told in several fields, of any other the first one counts.
        let is_list = self.field.eq_ignore_ascii_case(b"X-Forwarded-For");
        let values = named.map(|field| field.value).take(if is_list { usize::MAX } else { 1 });
        let notes = values.collect::<Vec<_>>().join(&b","[..]);
        client_behind(&exchange.peer.client, &notes, &self.trusted, self.recursive).map(Address::Inet)
    }
}
