//! Certificates, as the environment names them.

pub mod faults;

use crate::error::{Error, Result};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::fmt;
use std::sync::Arc;

const AUTHORITIES: &str = "REDIS_CA_CERT";
const CERTIFICATE: &str = "REDIS_CLIENT_CERT";
const KEY: &str = "REDIS_CLIENT_KEY";

/// What PEM begins with.
const BEGIN: &str = "-----BEGIN ";

/// With or without padding: tools differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whom to believe and who we are, for every encrypted connection to Redis.
#[derive(Default)]
pub struct Tls {
    /// The authorities that are believed; those of the system if there are none.
    pub authorities: Option<Arc<RootCertStore>>,
    /// Our own certificate, and its key.
    pub client: Option<Arc<CertifiedKey>>,
    /// Accepts every certificate: for development.
    pub insecure: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.as_ref().map(|authorities| authorities.len()))
            .field("client", &self.client.as_ref().map(|_| "<secret>"))
            .field("insecure", &self.insecure)
            .finish()
    }
}

impl Tls {
    /// From base64 of PEM: `REDIS_CA_CERT`, which may hold several authorities, `REDIS_CLIENT_CERT`, which may hold those in
    /// between after our own, and `REDIS_CLIENT_KEY`. PEM itself is read as well.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], which names the variable and the fault, and never shows what it holds.
    pub fn try_new(ca: Option<&str>, cert: Option<&str>, key: Option<&str>, insecure: bool) -> Result<Self> {
        let client = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Arc::new(client(cert, key)?)),
            (Some(_), None) => return Err(wrong(CERTIFICATE, "is set without REDIS_CLIENT_KEY; both are needed.")),
            (None, Some(_)) => return Err(wrong(KEY, "is set without REDIS_CLIENT_CERT; both are needed.")),
        };
        let authorities = ca.map(authorities).transpose()?.map(Arc::new);
        Ok(Self { authorities, client, insecure })
    }
}

fn wrong(variable: &str, fault: impl fmt::Display) -> Error {
    Error::InvalidConfig(format!("{variable} {fault}"))
}

fn authorities(text: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(AUTHORITIES, text)?.into_iter().enumerate() {
        // The error of rustls may quote the certificate.
        store.add(certificate).map_err(|_| unreadable(AUTHORITIES, index))?;
    }
    Ok(store)
}

fn client(cert: &str, key: &str) -> Result<CertifiedKey> {
    let chain = certificates(CERTIFICATE, cert)?;
    let key = private_key(key)?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            wrong(KEY, "is not the key of the first certificate in REDIS_CLIENT_CERT.")
        }
        rustls::Error::InvalidCertificate(_) => unreadable(CERTIFICATE, 0),
        _ => wrong(
            KEY,
            "holds a key of a kind that cannot be used; ECDSA (P-256, P-384), Ed25519 and RSA (2048 bits or more) can.",
        ),
    })
}

fn unreadable(variable: &str, index: usize) -> Error {
    wrong(variable, format_args!("holds a certificate that cannot be read, which is number {} in it.", index + 1))
}

/// All certificates, of which there must be one.
fn certificates(variable: &str, text: &str) -> Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    for (kind, bytes) in sections(variable, text)? {
        if kind == SectionKind::Certificate {
            found.push(CertificateDer::from(bytes));
        }
    }
    if found.is_empty() {
        return Err(wrong(variable, "holds no certificate: there is no \"BEGIN CERTIFICATE\" in its PEM."));
    }
    Ok(found)
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>> {
    let keys = sections(KEY, text)?.into_iter().filter_map(|(kind, bytes)| PrivateKeyDer::from_pem(kind, bytes));
    let found: Vec<_> = keys.collect();
    match <[_; 1]>::try_from(found) {
        Ok([key]) => Ok(key),
        Err(none) if none.is_empty() => {
            Err(wrong(KEY, "holds no private key: there is no \"BEGIN PRIVATE KEY\" or the like in its PEM."))
        }
        Err(several) => Err(wrong(KEY, format_args!("holds {} private keys; it must be one.", several.len()))),
    }
}

/// The parts of a PEM, each with what it is.
fn sections(variable: &str, text: &str) -> Result<Vec<(SectionKind, Vec<u8>)>> {
    let text = pem(variable, text)?;
    if variable == KEY && text.contains("ENCRYPTED") {
        return Err(wrong(variable, "holds an encrypted key; decrypt it first, as openssl pkey does."));
    }
    let sections: std::result::Result<_, pem::Error> = PemObject::pem_slice_iter(text.as_bytes()).collect();
    // The error quotes what it does not understand.
    sections.map_err(|_| wrong(variable, "holds PEM that is broken."))
}

fn pem(variable: &str, text: &str) -> Result<String> {
    if text.contains(BEGIN) {
        // Line breaks survive in few places where variables are set.
        return Ok(text.replace("\\n", "\n"));
    }
    let dense: String = text.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let bytes = BASE64
        .decode(dense)
        .map_err(|_| wrong(variable, "is not base64; it must be base64 of PEM, and not the name of a file."))?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN));
    text.ok_or_else(|| wrong(variable, "is base64, but not of PEM, which begins with \"-----BEGIN\"."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256};

    struct Made {
        cert: String,
        key: String,
    }

    fn made() -> Made {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Made { cert: issuer.pem(), key: issuer.key().serialize_pem() }
    }

    fn base64(text: impl AsRef<[u8]>) -> String {
        BASE64.encode(text)
    }

    fn fault(ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> String {
        let error = Tls::try_new(ca, cert, key, false).unwrap_err();
        assert_eq!(error.code(), "ERR_INVALID_CONFIG");
        error.to_string()
    }

    #[test]
    fn certificates_and_keys_are_read_in_every_usual_spelling() {
        let (one, two) = (made(), made());
        let bundle = format!("# a comment\n{}\n{}", one.cert, two.cert);
        let unpadded = base64(&bundle).trim_end_matches('=').to_owned();
        let folded = base64(&bundle).as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).collect();
        let folded = String::from_utf8(folded).unwrap();
        for ca in [&base64(&bundle), &unpadded, &folded, &bundle, &bundle.replace('\n', "\\n")] {
            let tls = Tls::try_new(Some(ca), Some(&base64(&one.cert)), Some(&base64(&one.key)), false).unwrap();
            assert_eq!(tls.authorities.as_ref().unwrap().len(), 2);
            assert_eq!(format!("{tls:?}"), "Tls { authorities: Some(2), client: Some(\"<secret>\"), insecure: false }");
        }
        let none = Tls::try_new(None, None, None, true).unwrap();
        assert!(none.authorities.is_none() && none.client.is_none() && none.insecure);
    }

    #[test]
    fn each_fault_is_named_and_nothing_is_shown() {
        let (one, other) = (made(), made());
        let (cert, key) = (base64(&one.cert), base64(&one.key));
        let not_a_certificate = one.cert.replacen("MII", "AAA", 1);
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIhunter2\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (fault, expected) in [
            (fault(Some("/etc/ssl/hunter2.pem"), None, None), "REDIS_CA_CERT is not base64"),
            (fault(Some(&base64("hunter2")), None, None), "REDIS_CA_CERT is base64, but not of PEM"),
            (fault(Some(&key), None, None), "REDIS_CA_CERT holds no certificate"),
            (fault(Some(&one.cert[..200]), None, None), "REDIS_CA_CERT holds PEM that is broken"),
            (
                fault(Some(&not_a_certificate), None, None),
                "REDIS_CA_CERT holds a certificate that cannot be read, which is number 1",
            ),
            (fault(None, Some(&cert), None), "REDIS_CLIENT_CERT is set without REDIS_CLIENT_KEY"),
            (fault(None, None, Some(&key)), "REDIS_CLIENT_KEY is set without REDIS_CLIENT_CERT"),
            (fault(None, Some(&cert), Some(&cert)), "REDIS_CLIENT_KEY holds no private key"),
            (fault(None, Some(&key), Some(&key)), "REDIS_CLIENT_CERT holds no certificate"),
            (fault(None, Some(&cert), Some(&base64(encrypted))), "REDIS_CLIENT_KEY holds an encrypted key"),
            (fault(None, Some(&cert), Some(&(one.key.clone() + &other.key))), "REDIS_CLIENT_KEY holds 2 private keys"),
            (fault(None, Some(&cert), Some(&base64(&other.key))), "REDIS_CLIENT_KEY is not the key of"),
            (fault(None, Some(&not_a_certificate), Some(&key)), "REDIS_CLIENT_CERT holds a certificate that"),
            (
                fault(None, Some(&cert), Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")),
                "REDIS_CLIENT_KEY holds a key of a kind",
            ),
        ] {
            assert!(fault.starts_with(expected), "{fault} instead of {expected}");
            let secret =
                [&one.cert, &one.key, &other.key].iter().any(|pem| pem.lines().any(|line| fault.contains(line)));
            assert!(!secret && !fault.contains("hunter2"), "{fault}");
        }
    }
}
