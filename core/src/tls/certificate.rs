//! Certificates and keys from PEM files, and the choice between several of them.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{der, pss};

/// Loads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// Which file, and what is wrong with it, beginning in nginx's words: `cannot load certificate "PATH": ...`.
pub fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let cannot = |what: &str, path: &Path, why: String| format!("cannot load {what} \"{}\": {why}", path.display());
    let chain = read_chain(certificate).map_err(|why| cannot("certificate", certificate, why))?;
    let text = read(key).map_err(|why| cannot("certificate key", key, why))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| cannot("certificate key", key, described(error)))?;
    let signing = pss::signing_key(der).map_err(|error| cannot("certificate key", key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        // The comparison understands version 3 only, but version 1 is what `openssl req -x509` makes without extensions;
        // and it takes the name of the algorithm for part of the key.
        Err(_) if holds_key_of(&certified) => Ok(certified),
        Err(error) => Err(cannot(
            "certificate key",
            key,
            format!("it does not belong to the certificate \"{}\": {error}", certificate.display()),
        )),
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// The fault of a file.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).map(|der| der.map(first_value));
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(described)?;
    if chain.is_empty() { Err("no certificate in PEM form in the file".into()) } else { Ok(chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map(plain).map_err(|error| crate::log::os_error(&error))
}

fn described(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section of the file has no end".into(),
        pem::Error::NoItemsFound => "no private key in PEM form in the file".into(),
        other => other.to_string(),
    }
}

/// The text of a PEM file without what others write into it and the parser does not know: a byte order mark, and other
/// names of certificates.
fn plain(text: Vec<u8>) -> Vec<u8> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").map_or(text.clone(), <[u8]>::to_vec);
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let mut line = line.to_vec();
        for name in [&b"TRUSTED CERTIFICATE-----"[..], b"X509 CERTIFICATE-----"] {
            if line.starts_with(b"-----")
                && let Some(at) = memchr::memmem::find(&line, name)
            {
                line.drain(at..at + name.len() - b"CERTIFICATE-----".len());
            }
        }
        out.append(&mut line);
    }
    out
}

/// The first value of several: behind a trusted certificate stands what it is trusted for.
fn first_value(der: CertificateDer<'static>) -> CertificateDer<'static> {
    match der::length(&der) {
        Some(length) if length < der.len() => der.get(..length).map_or(der.clone(), |first| first.to_vec().into()),
        _ => der,
    }
}

/// Whether the public key stands in the certificate, byte for byte; what it is called may differ.
fn holds_key_of(certified: &CertifiedKey) -> bool {
    let Some((key, certificate)) = certified.key.public_key().zip(certified.cert.first()) else { return false };
    // A sequence of the algorithm's name and the key.
    let bare = der::inside(&key).and_then(|inside| inside.get(der::length(inside)?..)).unwrap_or(&key);
    memchr::memmem::find(certificate, bare).is_some()
}

/// Offers the first certificate whose key the client can verify.
#[derive(Debug)]
pub struct Choice(pub Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .iter()
            .find(|certified| certified.key.choose_scheme(hello.signature_schemes()).is_some())
            .or_else(|| self.0.first())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of version 1, as `openssl req -x509` makes it where the configuration has no extensions.
    const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBJjCBzQIUNWuizU3tyy2JGpwKm91FSJD/Hj8wCgYIKoZIzj0EAwIwFTETMBEG
A1UEAwwKdjEuZXhhbXBsZTAgFw0yNjExMjEyMDI1MzRaGA8yMTI2MTAyODIwMjUz
NFowFTETMBEGA1UEAwwKdjEuZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABKdIDBBgC1tD7qWqA5v7g7bruxB//Ii7yeCcQxeXYRboxBe1TbQokP0hY2fU
TJx8JwkwUE+Cj/vp0flOvsBwNqcwCgYIKoZIzj0EAwIDSAAwRQIhAMdlBNWNlACF
Yeu4UKAwkZUD9Ssac/UjhC6GANuLvCynAiBG3oVTf5g9tqXF3UJu1HmRGh+eFIAn
pHua4UKNhnt1sQ==
-----END CERTIFICATE-----
";
    const ITS_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfcNzFianMY5HqbRo
a1yHp8Qwmquq/T/GkcA0/DXHv56hRANCAASnSAwQYAtbQ+6lqgOb+4O267sQf/yI
u8ngnEMXl2EW6MQXtU20KJD9IWNn1EycfCcJMFBPgo/76dH5Tr7AcDan
-----END PRIVATE KEY-----
";
    const OTHER_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMfp5sgDbXrGGpe7l
Y5A7Mf5dRq/f6HhmrcDYoXgSRzWhRANCAARMocNlJ/qZVPWOHyRS4putc3M90MR7
B0pssnJGJ6N4Wx0BuKjrc5JKpWy8rwHSa0Kmghg3dF26brQO8W2ZaPrh
-----END PRIVATE KEY-----
";

    #[test]
    fn a_certificate_of_version_1_is_taken_with_its_own_key_only() {
        let dir = std::env::temp_dir().join(format!("tidegate-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = file("certificate", VERSION_1);
        let own = load(&certificate, &file("own", ITS_KEY));
        let other = load(&certificate, &file("other", OTHER_KEY));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(own.is_ok(), "{:?}", own.err());
        assert!(other.err().unwrap().contains("it does not belong to the certificate"));
    }
}
