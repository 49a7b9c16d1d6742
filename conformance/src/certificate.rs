//! Self-signed certificates, made when a test needs one.

use std::fs;
use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};

/// A self-signed certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate as PEM text.
    pub certificate: String,
    /// The private key as PEM text.
    pub key: String,
    /// The certificate as a TLS client sees it.
    pub der: Vec<u8>,
}

impl Certificate {
    /// Makes a certificate for these host names.
    pub fn for_names(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
        Certificate { certificate: cert.pem(), key: signing_key.serialize_pem(), der: cert.der().to_vec() }
    }

    /// Writes `<name>.crt` and `<name>.key` into a folder.
    pub fn write(&self, folder: &Path, name: &str) {
        fs::write(folder.join(format!("{name}.crt")), &self.certificate).expect("write the certificate");
        fs::write(folder.join(format!("{name}.key")), &self.key).expect("write the key");
    }
}
