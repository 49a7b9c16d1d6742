//! `allow`, `deny`: who may, by address.

use std::net::IpAddr;

use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Line, Refusal};
use crate::inherit;
use crate::module::{Install, Module};
use crate::net::Address;
use crate::phase::{Gate, Phase, Step, Verdict};
use crate::subject::{Plan, Subject};

/// Which clients a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    All,
    Network(IpAddr, u8),
    Local,
}

/// The settings of one block: rules in order, `true` allows.
#[derive(Default)]
pub struct AccessConf {
    rules: Vec<(bool, Who)>,
}

inherit!(AccessConf { rules });

/// `allow`, `deny`
pub struct Access;

const LEVELS: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION).or(Levels::LIMIT_EXCEPT);

impl Feature for Access {
    type Conf = AccessConf;
    const NAME: &'static str = "access";
    const DIRECTIVES: &'static [Directive<AccessConf>] = &[
        Directive {
            name: "allow",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| rule(conf, line, true)),
            doc: "Allows a client address, a network, unix: or all; the first rule that matches decides.",
        },
        Directive {
            name: "deny",
            levels: LEVELS,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| rule(conf, line, false)),
            doc: "Refuses a client address, a network, unix: or all; the first rule that matches decides.",
        },
    ];
}

fn rule(conf: &mut AccessConf, line: &mut Line<'_>, allow: bool) -> Result<(), Refusal> {
    let word = line.arg(0)?;
    let who = Who::parse(&word.text()).ok_or_else(|| {
        format!("invalid parameter \"{word}\", it must be an address, a network, \"unix:\" or \"all\"")
    })?;
    if let Who::Network(ip, bits) = who
        && mask(ip, bits) != ip
    {
        line.warn(format!("low address bits of {word} are meaningless"));
    }
    conf.rules.push((allow, who));
    Ok(())
}

impl Who {
    fn parse(text: &str) -> Option<Who> {
        match text {
            "all" => return Some(Who::All),
            "unix:" => return Some(Who::Local),
            _ => {}
        }
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok()).filter(|bits| *bits <= most)?;
        Some(Who::Network(ip, bits))
    }

    fn contains(self, client: &Address) -> bool {
        match (self, client) {
            (Who::All, _) | (Who::Local, Address::Unix(_)) => true,
            (Who::Network(network, bits), Address::Inet(client)) => {
                // An IPv4 client of an IPv6 socket is still the IPv4 client.
                let ip = client.ip().to_canonical();
                ip.is_ipv4() == network.is_ipv4() && mask(ip, bits) == mask(network, bits)
            }
            _ => false,
        }
    }
}

/// The address with all but its first `bits` bits cleared.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)).into())
        }
    }
}

impl<S: Subject> Module<S> for Access {
    fn install(conf: &AccessConf, plan: &mut S::Plan, _env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        if !conf.rules.is_empty() {
            plan.gate(Phase::Access, Box::new(Rules(conf.rules.clone())));
        }
        Ok(())
    }
}

struct Rules(Vec<(bool, Who)>);

impl<S: Subject> Gate<S> for Rules {
    fn check<'a>(&'a self, subject: &'a S) -> Step<'a> {
        let client = &subject.peer().client;
        Step::Now(match self.0.iter().find(|(_, who)| who.contains(client)) {
            None => Verdict::Continue,
            Some((true, _)) => Verdict::Allow,
            Some((false, _)) => {
                crate::log!(subject.logger(), Error, "access forbidden by rule");
                Verdict::Refuse(403)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (rule, client, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::1", "::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "127.0.0.1", false),
            ("all", "::1", true),
            ("unix:", "127.0.0.1", false),
        ] {
            let client = Address::Inet((client.parse::<IpAddr>().unwrap(), 1).into());
            assert_eq!(Who::parse(rule).unwrap().contains(&client), expected, "{rule} {client}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0", "localhost", ""] {
            assert_eq!(Who::parse(wrong), None, "{wrong}");
        }
    }
}
