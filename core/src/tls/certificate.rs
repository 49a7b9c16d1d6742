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
        Err(error) => Err(cannot(
            "certificate key",
            key,
            format!("it does not belong to the certificate \"{}\": {error}", certificate.display()),
        )),
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
