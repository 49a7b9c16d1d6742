//! Client certificates: asked for in the handshake, judged after it.
//!
//! The handshake proves that the client holds the key of what it shows, and nothing else. Whether the certificate is
//! trusted is found out afterwards, so that a protocol can say in its own words what is wrong with it. The words for
//! that are OpenSSL's, which scripts and authentication servers know.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha1::{Digest, Sha1};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::conf::apply::Setup;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{ConfigError, Place, Setting, Word};
use crate::inherit;

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClient {
    /// No certificate is asked for.
    Off,
    /// A trusted one is demanded.
    On,
    /// One may be shown, and then must be trusted.
    Optional,
    /// A client may show a certificate, and an application behind the server judges it.
    OptionalNoCa,
}

/// The settings of one block.
#[derive(Default)]
pub struct ClientCertificateConf {
    verify_client: Setting<(VerifyClient, Place)>,
    verify_depth: Setting<u64>,
    client_certificate: Setting<Word>,
    trusted_certificate: Setting<Word>,
}

inherit!(ClientCertificateConf { verify_client, verify_depth, client_certificate, trusted_certificate });

/// `ssl_verify_client` and its neighbours: for protocols that ask [`ServerTls::objection`](super::ServerTls::objection)
pub struct ClientCertificates;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

impl Feature for ClientCertificates {
    type Conf = ClientCertificateConf;
    const NAME: &'static str = "ssl_verify_client";
    const DIRECTIVES: &'static [Directive<ClientCertificateConf>] = &[
        Directive {
            name: "ssl_verify_client",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let choice = match &*line.arg(0)?.bytes().to_ascii_lowercase() {
                    b"off" => VerifyClient::Off,
                    b"on" => VerifyClient::On,
                    b"optional" => VerifyClient::Optional,
                    b"optional_no_ca" => VerifyClient::OptionalNoCa,
                    _ => return Err(format!("invalid value \"{}\"", line.arg(0)?).into()),
                };
                conf.verify_client.set((choice, line.at().clone()))
            }),
            doc: "Whether clients are asked for a certificate, and whether it must be a trusted one.",
        },
        Directive {
            name: "ssl_verify_depth",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Number(|conf| &mut conf.verify_depth),
            doc: "How many certificates may stand between a client's and a trusted one.",
        },
        Directive {
            name: "ssl_client_certificate",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Word(|conf| &mut conf.client_certificate),
            doc: "Trusted certificates in PEM form; clients are told their names.",
        },
        Directive {
            name: "ssl_trusted_certificate",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Word(|conf| &mut conf.trusted_certificate),
            doc: "Trusted certificates in PEM form; clients are not told of them.",
        },
    ];
}

impl ClientCertificateConf {
    /// True when clients are asked for a certificate.
    pub fn asks(&self) -> bool {
        self.verify_client.get().is_some_and(|(verify, _)| *verify != VerifyClient::Off)
    }

    /// The demands on clients; `None` if the server asks for no certificate.
    ///
    /// # Errors
    /// A file that cannot be used, or none where one is needed.
    pub fn policy(&self, setup: &Setup) -> Result<Option<ClientPolicy>, ConfigError> {
        let Some((verify, at)) = self.verify_client.get().filter(|(verify, _)| *verify != VerifyClient::Off) else {
            return Ok(None);
        };
        let path = |word: &Setting<Word>| word.get().filter(|word| !word.is("")).map(|word| setup.conf_path(word));
        let (client, trusted) = (path(&self.client_certificate), path(&self.trusted_certificate));
        if *verify != VerifyClient::OptionalNoCa && client.is_none() && trusted.is_none() {
            let message = "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client";
            return Err(ConfigError::new(at, message));
        }
        let depth = usize::try_from(self.verify_depth.or(1)).unwrap_or(usize::MAX);
        ClientPolicy::load(*verify, depth, client.as_deref(), trusted.as_deref())
            .map(Some)
            .map_err(|message| ConfigError::new(at, message))
    }
}

/// The fault of a certificate: OpenSSL's number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyError {
    code: u16,
    text: &'static str,
}

impl VerifyError {
    const SELF_SIGNED: VerifyError = VerifyError { code: 18, text: "self-signed certificate" };
    const NO_ISSUER: VerifyError = VerifyError { code: 20, text: "unable to get local issuer certificate" };
    const NOTHING_ELSE: VerifyError = VerifyError { code: 21, text: "unable to verify the first certificate" };
    const EXPIRED: VerifyError = VerifyError { code: 10, text: "certificate has expired" };
    const NOT_YET: VerifyError = VerifyError { code: 9, text: "certificate is not yet valid" };

    /// The words, without the number.
    pub fn text(self) -> &'static str {
        self.text
    }

    /// True when only the trust is missing: what `optional_no_ca` lets pass.
    fn is_about_trust(self) -> bool {
        matches!(self.code, 18..=21 | 27)
    }

    fn of(error: &rustls::Error, alone: bool) -> VerifyError {
        let rustls::Error::InvalidCertificate(error) = error else {
            return VerifyError { code: 1, text: "unspecified certificate verification error" };
        };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::EXPIRED,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NOT_YET,
            CertificateError::UnknownIssuer if alone => Self::NOTHING_ELSE,
            CertificateError::UnknownIssuer => Self::NO_ISSUER,
            CertificateError::BadSignature => VerifyError { code: 7, text: "certificate signature failure" },
            CertificateError::Revoked => VerifyError { code: 23, text: "certificate revoked" },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                VerifyError { code: 26, text: "unsuitable certificate purpose" }
            }
            _ => VerifyError { code: 1, text: "unspecified certificate verification error" },
        }
    }
}

/// As nginx logs it: `18:self-signed certificate`.
impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code, self.text)
    }
}

/// Why a client must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Its certificate is not trusted.
    Untrusted(VerifyError),
    /// It has shown none.
    Missing,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Untrusted(error) => write!(f, "client SSL certificate verify error: ({error})"),
            Objection::Missing => f.write_str("client sent no required SSL certificate"),
        }
    }
}

/// The facts about a client's certificate; texts are empty where it has shown none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// `NONE`, `SUCCESS` or `FAILED:reason`.
    pub verify: String,
    /// The subject's name in the form of RFC 2253.
    pub subject: String,
    /// The issuer's name.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The SHA-1 digest in hexadecimal.
    pub fingerprint: String,
    /// The certificate in PEM.
    pub pem: String,
    error: Option<VerifyError>,
}

/// The demands of a server block on clients.
#[derive(Debug)]
pub struct ClientPolicy {
    verify: VerifyClient,
    depth: usize,
    trusted: Vec<CertificateDer<'static>>,
    hints: Vec<DistinguishedName>,
    chains: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientPolicy {
    /// A policy. `client` are the trusted certificates whose names clients are told, `quiet` those that they are not.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn load(
        verify: VerifyClient,
        depth: usize,
        client: Option<&Path>,
        quiet: Option<&Path>,
    ) -> Result<ClientPolicy, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        let mut hints = Vec::new();
        for (path, named) in [(client, true), (quiet, false)] {
            let Some(path) = path else { continue };
            let cannot = |why: String| format!("cannot load certificate \"{}\": {why}", path.display());
            for certificate in super::certificate::read_chain(path).map_err(cannot)? {
                roots.add(certificate.clone()).map_err(|error| cannot(error.to_string()))?;
                if named {
                    let name = roots.roots.last().map(|root| DistinguishedName::in_sequence(&root.subject));
                    hints.extend(
                        name.filter(|name| {
                            !hints.iter().any(|hint: &DistinguishedName| hint.as_ref() == name.as_ref())
                        }),
                    );
                }
                trusted.push(certificate);
            }
        }
        let chains = if trusted.is_empty() {
            None
        } else {
            let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            Some(built.map_err(|error| format!("cannot verify client certificates: {error}"))?)
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(ClientPolicy { verify, depth, trusted, hints, chains, algorithms })
    }

    /// Why a client with this certificate must not go on.
    pub fn objection(&self, certificate: &ClientCertificate) -> Option<Objection> {
        if let Some(error) = certificate.error
            && !(self.verify == VerifyClient::OptionalNoCa && error.is_about_trust())
        {
            return Some(Objection::Untrusted(error));
        }
        (self.verify == VerifyClient::On && certificate.pem.is_empty()).then_some(Objection::Missing)
    }

    /// Judges what a client has shown: its certificate first, then those that lead to a trusted one.
    pub fn examine(&self, chain: &[CertificateDer<'_>]) -> ClientCertificate {
        let Some((own, others)) = chain.split_first() else {
            return ClientCertificate { verify: "NONE".into(), ..ClientCertificate::default() };
        };
        let Ok((_, parsed)) = X509Certificate::from_der(own) else {
            let error = VerifyError { code: 1, text: "unspecified certificate verification error" };
            return ClientCertificate {
                verify: format!("FAILED:{}", error.text),
                pem: pem(own),
                error: Some(error),
                ..ClientCertificate::default()
            };
        };
        let error = self.check(own, others, &parsed).err();
        ClientCertificate {
            verify: error.map_or_else(|| "SUCCESS".into(), |error| format!("FAILED:{}", error.text)),
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            serial: hexadecimal(parsed.raw_serial()).to_ascii_uppercase(),
            fingerprint: hexadecimal(&Sha1::digest(own)),
            pem: pem(own),
            error,
        }
    }

    fn check(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        parsed: &X509Certificate<'_>,
    ) -> Result<(), VerifyError> {
        if parsed.subject().as_raw() == parsed.issuer().as_raw() {
            // As OpenSSL: such a certificate is its own authority, or has none.
            if !self.trusted.iter().any(|trusted| **trusted == **own) {
                return Err(VerifyError::SELF_SIGNED);
            }
            let validity = parsed.validity();
            let now = crate::clock::seconds();
            return match () {
                () if now < validity.not_before.timestamp() => Err(VerifyError::NOT_YET),
                () if now > validity.not_after.timestamp() => Err(VerifyError::EXPIRED),
                () => Ok(()),
            };
        }
        let alone = others.is_empty();
        let Some(chains) = &self.chains else {
            return Err(if alone { VerifyError::NOTHING_ELSE } else { VerifyError::NO_ISSUER });
        };
        let others = others.get(..self.depth).unwrap_or(others);
        let verified = chains.verify_client_cert(own, others, UnixTime::since_unix_epoch(crate::clock::wall()));
        verified.map(drop).map_err(|error| VerifyError::of(&error, alone))
    }

    /// True when whoever signed holds the key of the certificate. Unlike the library's own function this one takes
    /// certificates of version 1.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        let key = &parsed.public_key().subject_public_key.data;
        let known = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let valid = known.is_some_and(|(_, algorithms)| {
            algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, signed.signature()).is_ok())
        });
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }
}

/// In the handshake every certificate is welcome; see [`ClientPolicy::examine`].
impl ClientCertVerifier for ClientPolicy {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // RFC 8446, section 4.2.3: for certificates alone, not for handshakes.
        let old = [
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ];
        if old.contains(&signed.scheme) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// A name in the form of RFC 2253: the most specific part first, what is not printable as `\XX`.
fn name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |part: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let pairs: Vec<String> = part
            .iter()
            .map(|pair| {
                let oid = pair.attr_type();
                let short = x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry());
                let name = short.map_or_else(|_| oid.to_id_string(), str::to_owned);
                let value = pair.as_str().map_or_else(|_| pair.as_slice().to_vec(), |text| text.as_bytes().to_vec());
                format!("{name}={}", escape(&value))
            })
            .collect();
        pairs.join("+")
    };
    parts.into_iter().rev().map(part).collect::<Vec<_>>().join(",")
}

fn escape(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, byte) in value.iter().enumerate() {
        let edge = (at == 0 && matches!(byte, b' ' | b'#')) || (at + 1 == value.len() && *byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(*byte)]),
            _ if edge => out.extend(['\\', char::from(*byte)]),
            0x20..0x7f => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_rfc_2253_has_it() {
        for (value, expected) in [
            ("plain text", "plain text"),
            ("a,b+c", "a\\,b\\+c"),
            (" a ", "\\ a\\ "),
            ("#1", "\\#1"),
            ("a\r\nb", "a\\0D\\0Ab"),
            ("\u{e9}", "\\C3\\A9"),
        ] {
            assert_eq!(escape(value.as_bytes()), expected);
        }
    }

    #[test]
    fn who_may_go_on() {
        let shown = |error| ClientCertificate { pem: "x".into(), error, ..ClientCertificate::default() };
        let none = ClientCertificate::default();
        let untrusted = shown(Some(VerifyError::SELF_SIGNED));
        let expired = shown(Some(VerifyError::EXPIRED));
        let refused = |error| Some(Objection::Untrusted(error));
        for (verify, certificate, objection) in [
            (VerifyClient::On, &none, Some(Objection::Missing)),
            (VerifyClient::On, &shown(None), None),
            (VerifyClient::On, &untrusted, refused(VerifyError::SELF_SIGNED)),
            (VerifyClient::Optional, &none, None),
            (VerifyClient::Optional, &untrusted, refused(VerifyError::SELF_SIGNED)),
            (VerifyClient::OptionalNoCa, &untrusted, None),
            (VerifyClient::OptionalNoCa, &expired, refused(VerifyError::EXPIRED)),
        ] {
            let policy = ClientPolicy::load(verify, 1, None, None).unwrap();
            assert_eq!(policy.objection(certificate), objection, "{verify:?}");
        }
    }
}
