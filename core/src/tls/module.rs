//! The `ssl_*` directives of a server, for every protocol.

use std::sync::Arc;

use super::certificate::{self, Choice};
use super::client_certificate::ClientPolicy;
use super::hello;
use super::server::{Configs, ServerTls};
use crate::conf::apply::Setup;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{Check, ConfigError, Line, Refusal, Setting, Word, value};
use crate::inherit;

/// The settings of one block.
#[derive(Default)]
pub struct TlsConf {
    certificates: Vec<Word>,
    keys: Vec<Word>,
    protocols: Vec<Word>,
    handshake_timeout: Setting<std::time::Duration>,
    reject_handshake: Setting<bool>,
}

inherit!(TlsConf { certificates, keys, protocols, handshake_timeout, reject_handshake });

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Versions {
    tls12: bool,
    tls13: bool,
}

impl Versions {
    /// What is offered where these are asked for. What is obsolete never is; where nothing else is asked for, everything
    /// that is not obsolete is, since nobody could be served otherwise.
    fn of(words: &[Word]) -> Versions {
        let asks = |name: &str| words.iter().any(|word| word.is_like(name));
        let (tls12, tls13) = (asks("TLSv1.2"), asks("TLSv1.3"));
        let nothing = !tls12 && !tls13;
        Versions { tls12: tls12 || nothing, tls13: tls13 || nothing }
    }
}

/// `ssl_certificate` and its family
pub struct Tls;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

const fn unheeded(name: &'static str, arity: Arity, check: Check, doc: &'static str) -> Directive<TlsConf> {
    Directive { name, levels: ANYWHERE, arity, set: Set::Unheeded(check), doc }
}

impl Feature for Tls {
    type Conf = TlsConf;
    const NAME: &'static str = "ssl";
    const DIRECTIVES: &'static [Directive<TlsConf>] = &[
        Directive {
            name: "ssl_certificate",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                conf.certificates.push(line.arg(0)?.clone());
                no_variables(line.arg(0)?)
            }),
            doc: "A certificate chain in PEM form; repeat it for several key types.",
        },
        Directive {
            name: "ssl_certificate_key",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                conf.keys.push(line.arg(0)?.clone());
                no_variables(line.arg(0)?)
            }),
            doc: "The private key of the certificate, in PEM form.",
        },
        Directive {
            name: "ssl_protocols",
            levels: ANYWHERE,
            arity: Arity::AtLeast(1),
            set: Set::With(protocols),
            doc: "Protocol versions offered: TLSv1.2 and TLSv1.3.",
        },
        Directive {
            name: "ssl_reject_handshake",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.reject_handshake),
            doc: "Refuses handshakes for this server.",
        },
        unheeded(
            "ssl_ciphers",
            Arity::Exactly(1),
            Check::Once,
            "All cipher suites offered are modern ones; the list is not consulted.",
        ),
        unheeded(
            "ssl_prefer_server_ciphers",
            Arity::Exactly(1),
            Check::Flag,
            "The server's order of cipher suites is always used.",
        ),
        unheeded(
            "ssl_ecdh_curve",
            Arity::Exactly(1),
            Check::Once,
            "The key exchange groups offered are fixed: X25519MLKEM768, X25519, P-256, P-384.",
        ),
        unheeded(
            "ssl_dhparam",
            Arity::Exactly(1),
            Check::Once,
            "There is no key exchange with such parameters, and the file is not read.",
        ),
        unheeded(
            "ssl_session_cache",
            Arity::Between(1, 2),
            Check::With(session_cache),
            "Sessions are not resumed yet.",
        ),
        unheeded("ssl_session_tickets", Arity::Exactly(1), Check::Flag, "Sessions are not resumed yet."),
        unheeded("ssl_session_timeout", Arity::Exactly(1), Check::Seconds, "Sessions are not resumed yet."),
        Directive {
            name: "ssl_buffer_size",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Size),
            doc: "Records are as large as what is written.",
        },
    ];
}

/// `ssl_handshake_timeout`, which nginx has for streams alone
pub struct HandshakeTimeout;

impl Feature for HandshakeTimeout {
    type Conf = TlsConf;
    const NAME: &'static str = "ssl_handshake_timeout";
    const DIRECTIVES: &'static [Directive<TlsConf>] = &[Directive {
        name: "ssl_handshake_timeout",
        levels: ANYWHERE,
        arity: Arity::Exactly(1),
        set: Set::Time(|conf| &mut conf.handshake_timeout),
        doc: "Longest time for a handshake to finish.",
    }];
}

/// Reads `ssl_protocols`. nginx: each line adds to those before it.
fn protocols(conf: &mut TlsConf, line: &mut Line<'_>) -> Result<(), Refusal> {
    const OBSOLETE: [&str; 4] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1"];
    let mut obsolete = Vec::new();
    for word in line.args() {
        if OBSOLETE.iter().any(|name| word.is_like(name)) {
            obsolete.push(format!("\"{word}\""));
        } else if !word.is_like("TLSv1.2") && !word.is_like("TLSv1.3") {
            return Err(format!(
                "invalid value \"{word}\" in \"ssl_protocols\" directive, it must be \"TLSv1.2\" or \"TLSv1.3\""
            )
            .into());
        }
        if conf.protocols.iter().any(|other| other.is_like(&word.text())) {
            line.warn(format!("duplicate value \"{word}\""));
        }
        conf.protocols.push(word.clone());
    }
    if !obsolete.is_empty() {
        let remaining = match Versions::of(&conf.protocols) {
            Versions { tls12: true, tls13: true } => "\"TLSv1.2\" and \"TLSv1.3\" remain",
            Versions { tls12: true, .. } => "\"TLSv1.2\" remains",
            _ => "\"TLSv1.3\" remains",
        };
        let verb = if obsolete.len() == 1 { "is" } else { "are" };
        line.warn(format!("{} {verb} obsolete and never offered, {remaining}", obsolete.join(", ")));
    }
    Ok(())
}

/// `off`, `none`, `builtin[:number]`, `shared:name:size`
fn session_cache(line: &Line<'_>) -> Result<(), Refusal> {
    /// nginx: a shared cache takes at least this.
    const LEAST: u64 = 8 * 4096;
    for word in line.args() {
        let shared = |text: Word| {
            let (name, size) = text.bytes().split_at_checked(text.bytes().iter().position(|byte| *byte == b':')?)?;
            let size = value::size(&Word::new(size.get(1..)?, word.at().clone()))?;
            (!name.is_empty() && size >= LEAST).then_some(())
        };
        let right = word.is("off")
            || word.is("none")
            || word.is("builtin")
            || word.after("builtin:").is_some_and(|number| value::number(&number).is_some())
            || word.after("shared:").and_then(shared).is_some();
        if !right {
            return Err(format!("invalid session cache \"{word}\"").into());
        }
    }
    Ok(())
}

fn no_variables(word: &Word) -> Result<(), Refusal> {
    if word.bytes().contains(&b'$') {
        return Err("certificates named by variables are not supported yet".into());
    }
    Ok(())
}

impl TlsConf {
    /// True when a certificate is configured.
    pub fn has_certificate(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// The server side of TLS that these settings describe; `None` without a certificate, unless every handshake is to
    /// be rejected. `protocols` are the ALPN names offered.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate without its key.
    pub fn build(&self, setup: &Setup, protocols: &[&[u8]]) -> Result<Option<ServerTls>, ConfigError> {
        self.build_with(setup, protocols, None)
    }

    /// The same, with demands on clients. Whoever makes any must ask [`ServerTls::objection`] after each handshake.
    ///
    /// # Errors
    /// As [`TlsConf::build`].
    pub fn build_with(
        &self,
        setup: &Setup,
        protocols: &[&[u8]],
        clients: Option<ClientPolicy>,
    ) -> Result<Option<ServerTls>, ConfigError> {
        let timeout = self.handshake_timeout.or(std::time::Duration::from_secs(60));
        if self.reject_handshake.or(false) {
            return Ok(Some(ServerTls { config: None, clients: None, timeout }));
        }
        if self.certificates.iter().chain(&self.keys).any(|word| no_variables(word).is_err()) {
            // The errors of these files have been reported at the lines that name them.
            return Ok(None);
        }
        if let Some(lonely) = self.certificates.get(self.keys.len()) {
            return Err(ConfigError::new(
                lonely.at(),
                format!("no \"ssl_certificate_key\" is defined for certificate \"{lonely}\""),
            ));
        }
        let mut choice = Vec::new();
        for (certificate, key) in self.certificates.iter().zip(&self.keys) {
            let loaded = certificate::load(&setup.conf_path(certificate), &setup.conf_path(key));
            choice.push(Arc::new(loaded.map_err(|message| ConfigError::new(certificate.at(), message))?));
        }
        if choice.is_empty() {
            return Ok(None);
        }
        let versions = Versions::of(&self.protocols);
        let mut list = Vec::new();
        if versions.tls13 {
            list.push(&rustls::version::TLS13);
        }
        if versions.tls12 {
            list.push(&rustls::version::TLS12);
        }
        let clients = clients.map(Arc::new);
        let resolver = Arc::new(Choice(choice));
        let build = |provider| {
            let builder = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&list)
                .map_err(|error| ConfigError::general(format!("\"ssl_protocols\" leaves nothing to offer: {error}")))?;
            let builder = match &clients {
                Some(policy) => builder.with_client_cert_verifier(policy.clone()),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(resolver.clone());
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Arc::new(config))
        };
        let provider = rustls::crypto::aws_lc_rs::default_provider;
        let config = Configs { usual: build(provider())?, honest: build(hello::honest(provider()))? };
        Ok(Some(ServerTls { config: Some(config), clients, timeout }))
    }
}
