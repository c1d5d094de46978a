//! Authentication and authorization of one server: its authenticators, its authorizers, and the task that keeps RBAC up to date.

mod rbac_feed;

use std::sync::Arc;

use ::http::HeaderMap;

use crate::auth::{
    AcceptedToken, Authenticators, Authorizers, CertificateAuthenticator, KeyError, NodeAuthorizer, PeerCertificates, RbacIndex,
    TokenError, TokenFile, TokenIssuer, Unauthenticated, UserInfo,
};
use crate::bootstrap::rbac_policy;
use crate::loopback::Loopback;
use crate::objects::Objects;

pub(crate) use rbac_feed::RbacFeed;

/// How clients prove who they are.
#[derive(Debug)]
pub struct AccessConfig {
    /// The CA that signs client certificates, in PEM.
    pub client_ca_pem: String,
    /// The RSA key that signs ServiceAccount tokens, in PEM.
    pub service_account_key_pem: String,
    /// The `iss` of ServiceAccount tokens, and this server's audience. Upstream's flag is `--service-account-issuer`.
    pub service_account_issuer: String,
    /// Static tokens.
    pub token_file: TokenFile,
    /// Whether requests without credentials are let in as `system:anonymous` (for authorization to refuse most of them).
    pub anonymous: bool,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The client CA.
    #[error("the client CA cannot be used")]
    ClientCa(#[from] rustls::Error),
    /// The ServiceAccount key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What a server needs to check credentials, read and checked.
#[derive(Debug)]
pub struct Credentials {
    certificates: CertificateAuthenticator,
    tokens: Arc<TokenIssuer>,
    token_file: TokenFile,
    anonymous: bool,
}

impl Credentials {
    /// Reads the keys and certificates of a configuration.
    pub fn new(config: AccessConfig) -> Result<Self, AccessError> {
        Ok(Self {
            certificates: CertificateAuthenticator::new(&config.client_ca_pem)?,
            tokens: Arc::new(TokenIssuer::new(&config.service_account_key_pem, &config.service_account_issuer)?),
            token_file: config.token_file,
            anonymous: config.anonymous,
        })
    }
}

/// Who may do what on this server.
pub struct Access {
    authenticators: Option<Authenticators>,
    /// Decides.
    pub authorizers: Authorizers,
    /// The rules in force.
    pub rbac: Arc<RbacIndex>,
}

impl Access {
    /// Without credentials only callers in process, whose identity is given, are let in.
    pub(crate) fn new(credentials: Option<Credentials>, loopback: Loopback) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(loopback);
        let rbac = Arc::new(RbacIndex::default());
        let node = NodeAuthorizer::new(objects.clone(), rbac_policy::node_rules());
        let authenticators = credentials.map(|credentials| Authenticators {
            certificates: credentials.certificates,
            tokens: credentials.tokens,
            token_file: credentials.token_file,
            anonymous: credentials.anonymous,
            objects,
        });
        Self { authenticators, authorizers: Authorizers { node, rbac: rbac.clone() }, rbac }
    }

    /// Identifies a request that came over the network; see [`Authenticators::authenticate`].
    pub(crate) async fn authenticate(
        &self,
        headers: &mut HeaderMap,
        peer: Option<&PeerCertificates>,
    ) -> Result<UserInfo, Unauthenticated> {
        match &self.authenticators {
            Some(authenticators) => authenticators.authenticate(headers, peer).await,
            None => Err(Unauthenticated("this server has no authenticators".to_owned())),
        }
    }

    /// Whose bearer token this is; see [`Authenticators::authenticate_token`].
    pub(crate) async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<AcceptedToken, TokenError> {
        match &self.authenticators {
            Some(authenticators) => authenticators.authenticate_token(token, audiences).await,
            None => Err(TokenError::NotOurs),
        }
    }

    /// Signs ServiceAccount tokens; `None` without a configuration.
    pub fn tokens(&self) -> Option<&Arc<TokenIssuer>> {
        self.authenticators.as_ref().map(|a| &a.tokens)
    }

    /// The verifier of client certificates for the listener's handshake.
    pub(crate) fn certificates(&self) -> Option<&CertificateAuthenticator> {
        self.authenticators.as_ref().map(|a| &a.certificates)
    }
}
