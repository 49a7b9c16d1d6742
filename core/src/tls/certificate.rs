//! Certificates and keys from PEM files, and the choice between several of them.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Loads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// Which file, and what is wrong with it, beginning in nginx's words: `cannot load certificate "PATH": ...`.
pub fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let cannot = |what: &str, path: &Path, why: String| format!("cannot load {what} \"{}\": {why}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| cannot("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(cannot("certificate", certificate, "no certificate in PEM form in the file".into()));
    }
    let der = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot("certificate key", key, error.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider
        .key_provider
        .load_private_key(der)
        .map_err(|error| cannot("certificate key", key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        // The comparison understands version 3 only, but version 1 is what `openssl req -x509` makes without extensions.
        Err(rustls::Error::InvalidCertificate(_)) if holds_key_of(&certified) => Ok(certified),
        Err(error) => Err(cannot(
            "certificate key",
            key,
            format!("it does not belong to the certificate \"{}\": {error}", certificate.display()),
        )),
    }
}

/// Whether the public key stands in the certificate, byte for byte.
fn holds_key_of(certified: &CertifiedKey) -> bool {
    match (certified.key.public_key(), certified.cert.first()) {
        (Some(key), Some(certificate)) => memchr::memmem::find(certificate, &key).is_some(),
        _ => false,
    }
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

    /// What `openssl req -x509` makes of a configuration without extensions: version 1.
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
