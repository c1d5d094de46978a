//! What handshakes may agree on.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_rustls::TlsAcceptor;

use crate::authorities::{Authorities, AuthoritiesThen};
use crate::certificate::{AddressCertificate, CertificateError, ServingCertificate};

/// What a listener agrees to in a handshake. By default TLS 1.2 and 1.3 with all cipher suites that are safe, HTTP/2 and HTTP/1.1.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Refuses TLS 1.2. Upstream's flag is `--tls-min-version`.
    pub only_tls13: bool,
    /// The cipher suites of TLS 1.2 by IANA's names; empty for all. Those of TLS 1.3 are not chosen. Upstream's flag is
    /// `--tls-cipher-suites`.
    pub cipher_suites: Vec<String>,
    /// HTTP/1.1 alone. Upstream's flag is `--disable-http2-serving`.
    pub without_http2: bool,
}

impl TlsOptions {
    /// Those of the names that a server cannot speak: unknown ones, and ones that are not safe any more (CBC, RC4, plain RSA).
    pub fn unsupported_cipher_suites(&self) -> Vec<&str> {
        let known = provider();
        let is_known = |name: &str| known.cipher_suites.iter().any(|suite| suite_is(*suite, name));
        self.cipher_suites.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = (*provider()).clone();
        if !self.cipher_suites.is_empty() {
            let wanted = |suite: SupportedCipherSuite| {
                suite.tls13().is_some() || self.cipher_suites.iter().any(|name| suite_is(suite, name))
            };
            provider.cipher_suites.retain(|suite| wanted(*suite));
        }
        provider
    }

    fn config(
        &self,
        certificate: Arc<dyn ResolvesServerCert>,
        clients: Vec<DistinguishedName>,
    ) -> Result<ServerConfig, CertificateError> {
        let versions: &[&rustls::SupportedProtocolVersion] =
            if self.only_tls13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let verifier = AnyCertificate { algorithms: provider().signature_verification_algorithms, hints: clients };
        let mut config = ServerConfig::builder_with_provider(self.provider().into())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !self.without_http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(config)
    }
}

/// Shakes hands: with what a certificate is at that time, and naming whose certificates clients may show at that time.
#[derive(Debug)]
pub struct Handshakes {
    options: TlsOptions,
    certificate: Arc<ServingCertificate>,
    clients: Vec<Authorities>,
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    clients: Vec<AuthoritiesThen>,
    config: Arc<ServerConfig>,
}

impl Handshakes {
    /// Clients are told which authorities' certificates are of use, in this order; whether one is believed is decided for each request.
    pub fn new(
        options: &TlsOptions,
        certificate: Arc<ServingCertificate>,
        clients: Vec<Authorities>,
    ) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(Current::new(options, &certificate, &clients)?);
        Ok(Self { options: options.clone(), certificate, clients, current })
    }

    /// For the next connection; `local` is the address of ours that the client has connected to.
    pub fn acceptor(&self, local: Option<IpAddr>) -> TlsAcceptor {
        let mut current = self.current.load_full();
        if !current.clients.iter().zip(&self.clients).all(|(then, clients)| then.are(&clients.now())) {
            match Current::new(&self.options, &self.certificate, &self.clients) {
                Ok(new) => {
                    current = Arc::new(new);
                    self.current.store(current.clone());
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "handshakes go on as before"),
            }
        }
        let unnamed = local.and_then(|address| self.certificate.for_address(address));
        TlsAcceptor::from(match unnamed {
            None => current.config.clone(),
            Some(unnamed) => {
                let mut config = (*current.config).clone();
                config.cert_resolver = Arc::new(AddressCertificate { unnamed, others: self.certificate.clone() });
                Arc::new(config)
            }
        })
    }
}

impl Current {
    fn new(
        options: &TlsOptions,
        certificate: &Arc<ServingCertificate>,
        clients: &[Authorities],
    ) -> Result<Self, CertificateError> {
        let clients: Vec<AuthoritiesThen> = clients.iter().map(Authorities::now).collect();
        let mut names: Vec<DistinguishedName> = Vec::new();
        for name in clients.iter().flat_map(AuthoritiesThen::names) {
            if !names.iter().any(|known| known.as_ref() == name.as_ref()) {
                names.push(name.clone());
            }
        }
        Ok(Self { clients, config: Arc::new(options.config(certificate.clone(), names)?) })
    }
}

/// Whether a suite has this name; Go knows two also by a shorter one.
fn suite_is(suite: SupportedCipherSuite, name: &str) -> bool {
    let have = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    have == name || have.strip_suffix("_SHA256").is_some_and(|short| short == name && short.ends_with("CHACHA20_POLY1305"))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The verifier for the handshake: asks for a certificate, takes any, and checks that the client holds its key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    /// The authorities whose certificates are of use; upstream's clients send no others. None: any.
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Not a statement about trust: `Authorities` decide.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_are_chosen_by_name() {
        let options = |names: &[&str]| TlsOptions {
            cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsOptions::default()
        };
        let tls12 =
            |options: &TlsOptions| options.provider().cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!(tls12(&options(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])), 1);
        assert_eq!(tls12(&options(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"])), 1);
        assert!(tls12(&options(&[])) > 2);
        let old = options(&["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"]);
        assert_eq!(old.unsupported_cipher_suites(), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
    }

    #[test]
    fn clients_are_told_whose_certificates_are_of_use() {
        let pem = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("is signed").pem()
        };
        let pair = crate::KeyCert::self_signed(&["n".to_owned()]).expect("is made");
        let certificate = ServingCertificate::new(&pair).expect("is usable");
        let (clients, proxies) = (Authorities::new(&pem("c")).expect("a CA"), Authorities::new(&pem("p")).expect("a CA"));
        let handshakes = Handshakes::new(&TlsOptions::default(), certificate, vec![clients.clone(), proxies.clone()]);
        let handshakes = handshakes.expect("is usable");
        let names = |handshakes: &Handshakes| -> Vec<AuthoritiesThen> { handshakes.current.load().clients.clone() };
        handshakes.acceptor(None);
        let before = names(&handshakes);
        assert!(before[0].are(&clients.now()) && before[1].are(&proxies.now()));
        clients.replace(&pem("d")).expect("a CA");
        handshakes.acceptor(None);
        let after = names(&handshakes);
        assert!(after[0].are(&clients.now()) && !after[0].are(&before[0]) && after[1].are(&before[1]));
        let hints = Current::new(&TlsOptions::default(), &handshakes.certificate, &[clients.clone(), clients, proxies]);
        assert!(hints.is_ok());
    }
}
