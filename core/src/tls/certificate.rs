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
    if belong_together(&certified) {
        return Ok(certified);
    }
    let why = format!("it does not belong to the certificate \"{}\"", certificate.display());
    Err(cannot("certificate key", key, why))
}

/// False when the key is certainly not that of the certificate.
fn belong_together(certified: &CertifiedKey) -> bool {
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => true,
        Err(rustls::Error::InconsistentKeys(_)) => false,
        // A certificate that the library cannot read, such as one of X.509 version 1, is sent like any other; the
        // public key in it is looked for instead.
        Err(_) => certified
            .key
            .public_key()
            .zip(certified.cert.first())
            .is_none_or(|(key, certificate)| memchr::memmem::find(certificate.as_ref(), key.as_ref()).is_some()),
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

    /// Made with `openssl x509 -req`, which writes version 1 when no extensions are asked for.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBFjCBvQIUej8TzTOnlglRGXaIfMLHirAS8SowCgYIKoZIzj0EAwIwDTELMAkG\n\
        A1UEAwwCdjEwIBcNMjYxMTIxMjAyMDU3WhgPMjEyNjEwMjgyMDIwNTdaMA0xCzAJ\n\
        BgNVBAMMAnYxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVDPKr4k9RYsXMYng\n\
        x8Ony64elbVgv6v2vDao6OeiF4Xp2eaLK/NmBsUuPu182GgHkWkjZfpyU4x0powP\n\
        qc2HYTAKBggqhkjOPQQDAgNIADBFAiBrugb7ZeP0AUJVJ6+vUNbXJf1RM13PTz+k\n\
        BgLbCYq8pQIhAOFEjv8J0iqX3Eq/D82Gz8uyO54RPQLii9URy+MYyM/H\n\
        -----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgxu23lDVEqtU34lo8\n\
        MNerT9Kwq5V+C8FJNkQ73l79jN2hRANCAARUM8qviT1FixcxieDHw6fLrh6VtWC/\n\
        q/a8Nqjo56IXhenZ5osr82YGxS4+7XzYaAeRaSNl+nJTjHSmjA+pzYdh\n\
        -----END PRIVATE KEY-----\n";
    const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgV6Ye1rV0kl9aoPj2\n\
        d1i/2EFHh/VLNxUYvhBEBaIvRl+hRANCAARKb6R4tBgGK24eD325KV9hCoUWQ83Y\n\
        KX9SwU8bodrdVa9EZ+HOcX3FfoimOQZW3b5gvAAF6l1SvPhG8CUSD5cZ\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_certificate_of_version_1_is_served_with_its_own_key_only() {
        let dir = std::env::temp_dir().join(format!("tidegate-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (certificate, key, other) = (file("certificate", CERTIFICATE), file("key", KEY), file("other", OTHER_KEY));
        let (right, wrong) = (load(&certificate, &key), load(&certificate, &other));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(right.is_ok());
        assert!(wrong.unwrap_err().contains("it does not belong to the certificate"));
    }
}
