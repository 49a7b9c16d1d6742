//! Keys that sign by RSA-PSS alone (RFC 4055): the key is an RSA key, only its name and its signatures are special.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use super::der;

/// `id-RSASSA-PSS`, and `rsaEncryption` with its parameters, each as the value that stands in a key.
const RSASSA_PSS: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// A hash that the parameters of a key can name, and the schemes that sign with it: the usual one, which does the work,
/// and the one that says that the key is for nothing else (RFC 8446, section 4.2.3).
const HASHES: [(&[u8], SignatureScheme, u16); 3] = [
    (&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], SignatureScheme::RSA_PSS_SHA256, 0x0809),
    (&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], SignatureScheme::RSA_PSS_SHA384, 0x080a),
    (&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3], SignatureScheme::RSA_PSS_SHA512, 0x080b),
];

/// The signing key of a private key of any kind.
///
/// # Errors
/// The bytes are no key, or a key of a kind that this server cannot sign with.
pub fn signing_key(key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
    let provider = rustls::crypto::aws_lc_rs::default_provider().key_provider;
    let PrivateKeyDer::Pkcs8(pkcs8) = &key else { return provider.load_private_key(key) };
    match renamed(pkcs8.secret_pkcs8_der()) {
        None => provider.load_private_key(key),
        Some((der, restrictions)) => {
            let inner = provider.load_private_key(PrivatePkcs8KeyDer::from(der).into())?;
            Ok(Arc::new(PssKey { inner, restrictions }))
        }
    }
}

/// The same key under the name of a plain RSA key, and the parameters of its own; `None` if it is none of these.
fn renamed(key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let inside = der::inside(key)?;
    let version = inside.get(..der::length(inside)?)?;
    let rest = inside.get(version.len()..)?;
    let algorithm = der::inside(rest)?;
    let restrictions = algorithm.strip_prefix(RSASSA_PSS)?;
    let rest = rest.get(der::length(rest)?..)?;
    let inside = [version, &der::value(0x30, RSA_ENCRYPTION), rest].concat();
    Some((der::value(0x30, &inside), restrictions.to_vec()))
}

#[derive(Debug)]
struct PssKey {
    inner: Arc<dyn SigningKey>,
    /// The parameters; empty if any hash will do.
    restrictions: Vec<u8>,
}

impl SigningKey for PssKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let allowed =
            |hash: &[u8]| self.restrictions.is_empty() || memchr::memmem::find(&self.restrictions, hash).is_some();
        // Clients that offer the usual schemes understand these too, but for those that would refuse the certificate.
        let is_offered = |usual: SignatureScheme, own: u16| {
            offered.contains(&usual) || offered.contains(&SignatureScheme::from(own))
        };
        let (_, usual, own) =
            HASHES.into_iter().find(|(hash, usual, own)| allowed(hash) && is_offered(*usual, *own))?;
        let inner = self.inner.choose_scheme(&[usual])?;
        Some(Box::new(PssSigner { inner, scheme: SignatureScheme::from(own) }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.inner.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
}

#[derive(Debug)]
struct PssSigner {
    inner: Box<dyn Signer>,
    scheme: SignatureScheme,
}

impl Signer for PssSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.inner.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
