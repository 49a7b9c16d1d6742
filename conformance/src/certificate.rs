//! Certificates, made when a test needs one.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A certificate and its key.
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
    /// Makes a self-signed certificate for these host names.
    pub fn for_names(names: &[&str]) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names).self_signed(&key).expect("a certificate");
        Certificate::new(&certificate, &key)
    }

    /// Writes `<name>.crt` and `<name>.key` into a folder.
    pub fn write(&self, folder: &Path, name: &str) {
        fs::write(folder.join(format!("{name}.crt")), &self.certificate).expect("write the certificate");
        fs::write(folder.join(format!("{name}.key")), &self.key).expect("write the key");
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Certificate {
        Certificate { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

/// An authority that vouches for certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate as PEM text, for those who trust it.
    pub certificate: String,
}

impl Authority {
    /// Founds an authority.
    pub fn named(name: &str) -> Authority {
        let mut params = params(&[name]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// Makes a certificate for these host names.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names).signed_by(&key, &self.issuer).expect("a certificate");
        Certificate::new(&certificate, &key)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let alternatives: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(alternatives).expect("host names");
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
    params
}
