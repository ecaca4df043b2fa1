//! Encrypted connections: one configuration of rustls for all of an engine.
//!
//! Sessions of TLS are not resumed: each connection looks at the certificate again, so that one that has expired or whose
//! authority was taken away is noticed at the next connection. Connections live long, so this costs nothing.

mod encrypted;

pub(super) use encrypted::Encrypted;

use crate::tls::Tls;
use crate::tls::faults::Handshake;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

/// Makes encrypted connections. What it needs is read at the first of them.
pub struct Connector {
    tls: Arc<Tls>,
    trust: OnceCell<Trust>,
}

/// Whom all connections believe.
#[derive(Clone)]
struct Trust {
    provider: Arc<CryptoProvider>,
    /// `None` believes everybody.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tls.fmt(f)
    }
}

impl Connector {
    pub fn new(tls: Arc<Tls>) -> Self {
        Self { tls, trust: OnceCell::new() }
    }

    /// Encrypts a connection to `host`. The error is a reason without secrets.
    pub(super) async fn encrypt(&self, socket: TcpStream, host: &str) -> Result<Encrypted, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is not a name that a certificate can be for"))?;
        let trust = self.trust.get_or_try_init(|| self.trust()).await?;
        let witness = Arc::new(Witness {
            client: self.tls.client.clone(),
            own_authorities: self.tls.authorities.is_some(),
            ..Witness::default()
        });
        let config = trust.config(&witness).map_err(|error| error.to_string())?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
        Encrypted::shake_hands(socket, session, witness).await
    }

    async fn trust(&self) -> Result<Trust, String> {
        let provider = Arc::new(ring::default_provider());
        if self.tls.insecure {
            tracing::warn!(
                "REDIS_ALLOW_INSECURE_TLS is set: the certificates of Redis are not verified, so anybody on the way can read \
                 and change what is sent. This is for development alone."
            );
            return Ok(Trust { provider, verifier: None });
        }
        let roots = match &self.tls.authorities {
            Some(authorities) => authorities.clone(),
            // Reads some hundred files.
            None => tokio::task::spawn_blocking(system_authorities).await.map_err(|error| error.to_string())??,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        Ok(Trust { provider, verifier: Some(verifier.map_err(|error| error.to_string())?) })
    }
}

fn system_authorities() -> Result<Arc<RootCertStore>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // What the system holds may include some that nobody can read any more.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!("this system has no certificate authorities{why}; set REDIS_CA_CERT"));
    }
    Ok(Arc::new(roots))
}

impl Trust {
    /// The configuration of one connection, whose handshake `witness` sees.
    fn config(&self, witness: &Arc<Witness>) -> Result<ClientConfig, Error> {
        let verifier = Verifier { trust: self.clone(), witness: witness.clone() };
        // Explicit versions and an explicit provider: nothing here depends on a default of the process.
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(witness.clone());
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Sees what happens in the handshake of one connection, and shows our certificate to a server that asks for one.
#[derive(Default)]
struct Witness {
    client: Option<Arc<CertifiedKey>>,
    /// Authorities were named, so those of the system do not count.
    own_authorities: bool,
    /// The server has asked for a certificate.
    asked: AtomicBool,
    /// The server's certificate is its own authority.
    self_signed: AtomicBool,
}

impl Witness {
    /// What it has seen, for those who ask why it failed.
    fn seen(&self) -> Handshake {
        Handshake {
            authorities: "REDIS_CA_CERT",
            own_authorities: self.own_authorities,
            certificate: "REDIS_CLIENT_CERT",
            key: "REDIS_CLIENT_KEY",
            asked: self.asked.load(Relaxed),
            shown: self.client.is_some(),
            self_signed: self.self_signed.load(Relaxed),
        }
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Relaxed);
        self.client.clone()
    }

    fn has_certs(&self) -> bool {
        self.client.is_some()
    }
}

/// Believes whom it is told to.
struct Verifier {
    trust: Trust,
    witness: Arc<Witness>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.trust.verifier else { return Ok(ServerCertVerified::assertion()) };
        let verified = verifier.verify_server_cert(certificate, between, name, ocsp, now);
        if let Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) = verified {
            let own = webpki::EndEntityCert::try_from(certificate).is_ok_and(|cert| cert.issuer() == cert.subject());
            self.witness.self_signed.store(own, Relaxed);
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.trust.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.trust.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}
