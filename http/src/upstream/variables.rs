//! What variables may ask of the proxying of an exchange.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_core::script::Variable;
use tidegate_core::script::variable::{Get, Variables};
use tidegate_core::subject::{State, Subject};
use tidegate_http_wire::{Fields, cookies};

use crate::exchange::Exchange;
use crate::variables::fields;

/// What is remembered of the proxying of an exchange, where a variable asks for it.
#[derive(Default)]
pub struct Proxied {
    /// The host that `proxy_pass` names.
    pub host: RefCell<Option<Rc<[u8]>>>,
    /// The fields of the last reply.
    pub fields: RefCell<Fields>,
}

impl State for Proxied {}

/// Which of it is to be remembered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Some variable asks for the host.
    pub host: bool,
    /// Some variable asks for fields.
    pub fields: bool,
}

impl Asked {
    /// What the variables of a configuration ask for.
    pub fn by(variables: &Variables<Exchange>) -> Asked {
        Asked {
            host: ROWS.iter().any(|row| row.name.starts_with("proxy_") && variables.is_used(row.name)),
            fields: ROWS.iter().any(|row| row.name.starts_with("upstream_") && variables.is_used(row.name)),
        }
    }
}

/// The variables.
pub const ROWS: &[Variable<Exchange>] = &[
    // nginx lets a configuration set the first two.
    Variable {
        name: "proxy_host",
        get: Get::Changeable(|exchange, out| with_host(exchange, |host| out.extend_from_slice(host))),
        doc: "The host of proxy_pass.",
    },
    Variable {
        name: "proxy_port",
        get: Get::Changeable(|exchange, out| with_host(exchange, |host| out.extend_from_slice(port_of(host)))),
        doc: "The port of proxy_pass.",
    },
    Variable {
        name: "upstream_http_",
        get: Get::Prefix(|exchange, name, out| {
            let proxied = exchange.known_state::<Proxied>();
            proxied.is_some_and(|proxied| fields(out, proxied.fields.borrow().variable(name), b", "))
        }),
        doc: "A field of the upstream's reply.",
    },
    Variable {
        name: "upstream_cookie_",
        get: Get::Prefix(|exchange, name, out| {
            let Some(proxied) = exchange.known_state::<Proxied>() else { return false };
            let fields = proxied.fields.borrow();
            cookies::find_set(&fields, name.as_bytes()).map(|value| out.extend_from_slice(value)).is_some()
        }),
        doc: "A cookie that the upstream's reply sets.",
    },
];

fn with_host(exchange: &Exchange, write: impl FnOnce(&[u8])) -> bool {
    let host = exchange.known_state::<Proxied>().and_then(|proxied| proxied.host.borrow().clone());
    host.map(|host| write(&host)).is_some()
}

fn port_of(host: &[u8]) -> &[u8] {
    let colon = host.iter().rposition(|byte| *byte == b':');
    let port = colon.and_then(|at| host.get(at + 1..)).filter(|port| port.iter().all(u8::is_ascii_digit));
    port.unwrap_or(b"80")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_host() {
        for (host, port) in [
            ("example.com", "80"),
            ("example.com:8080", "8080"),
            ("[::1]", "80"),
            ("[::1]:81", "81"),
            ("group", "80"),
            ("localhost", "80"),
        ] {
            assert_eq!(port_of(host.as_bytes()), port.as_bytes(), "{host}");
        }
    }
}
