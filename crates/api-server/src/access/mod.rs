//! Authentication and authorization of one server: its authenticators, its authorizers, and the task that keeps RBAC up to date.

mod rbac_feed;

use std::sync::Arc;

use ::http::HeaderMap;
use ::serving::{Authorities, CertificateError};

use crate::auth::{
    AcceptedToken, Authenticators, AuthorizationMode, Authorizers, CertificateAuthenticator, FrontProxy, FrontProxyConfig,
    KeyError, NodeAuthorizer, PeerCertificates, PolicyFile, RbacIndex, TokenConfig, TokenError, TokenFile, TokenIssuer,
    Unauthenticated, UserInfo,
};
use crate::bootstrap::rbac_policy;
use crate::gates::FeatureGates;
use crate::loopback::Loopback;
use crate::objects::Objects;

pub(crate) use rbac_feed::RbacFeed;

/// How clients prove who they are, and what they may then do.
#[derive(Debug)]
pub struct AccessConfig {
    /// The CA that signs client certificates, in PEM; empty when nobody is known by certificate.
    pub client_ca_pem: String,
    /// The keys and names of ServiceAccount tokens.
    pub tokens: TokenConfig,
    /// Static tokens.
    pub token_file: TokenFile,
    /// Whether bootstrap tokens are credentials. Upstream's flag is `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// Whether requests without credentials are let in as `system:anonymous` (for authorization to refuse most of them).
    pub anonymous: bool,
    /// Whose word about users to take.
    pub front_proxy: Option<FrontProxyConfig>,
    /// Who decides, in this order.
    pub authorization: Vec<AuthorizationMode>,
    /// The rules of attribute-based access control. Upstream's flag is `--authorization-policy-file`.
    pub policy_file: PolicyFile,
    /// Whether client certificates may say their user's uid.
    pub certificate_uids: bool,
}

impl AccessConfig {
    /// A cluster's own: client certificates by its CA, front proxies by theirs, tokens by its key, Node and RBAC authorization.
    pub fn cluster(client_ca_pem: String, front_proxy_ca_pem: String, service_account_key_pem: String, issuer: String) -> Self {
        Self {
            client_ca_pem,
            tokens: TokenConfig { signing_key_pem: service_account_key_pem, issuers: vec![issuer], ..TokenConfig::default() },
            token_file: TokenFile::default(),
            // As kubeadm has it; they are Secrets that an administrator makes.
            bootstrap_tokens: true,
            anonymous: true,
            front_proxy: Some(FrontProxyConfig::usual(front_proxy_ca_pem)),
            authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            policy_file: PolicyFile::default(),
            certificate_uids: true,
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A client CA.
    #[error("the client CA cannot be used")]
    ClientCa(#[from] CertificateError),
    /// A ServiceAccount key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What a server needs to check credentials, read and checked.
#[derive(Debug)]
pub struct Credentials {
    certificates: Option<CertificateAuthenticator>,
    tokens: Arc<TokenIssuer>,
    token_file: TokenFile,
    bootstrap_tokens: bool,
    anonymous: bool,
    front_proxy: Option<FrontProxy>,
    authorization: Vec<AuthorizationMode>,
    policy_file: PolicyFile,
}

impl Credentials {
    /// Reads the keys and certificates of a configuration.
    pub fn new(config: AccessConfig) -> Result<Self, AccessError> {
        let ca = Some(&config.client_ca_pem).filter(|pem| !pem.is_empty());
        Ok(Self {
            certificates: ca
                .map(|pem| CertificateAuthenticator::new(pem))
                .transpose()?
                .map(|certificates| certificates.reading_uids(config.certificate_uids)),
            tokens: Arc::new(TokenIssuer::new(config.tokens)?),
            token_file: config.token_file,
            bootstrap_tokens: config.bootstrap_tokens,
            anonymous: config.anonymous,
            front_proxy: config.front_proxy.map(FrontProxy::new).transpose()?,
            authorization: config.authorization,
            policy_file: config.policy_file,
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
    pub(crate) fn new(credentials: Option<Credentials>, loopback: Loopback, gates: FeatureGates) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(loopback);
        let rbac = Arc::new(RbacIndex::default());
        let node = NodeAuthorizer::new(objects.clone(), rbac_policy::node_rules(gates), gates);
        let cluster = || vec![AuthorizationMode::Node, AuthorizationMode::Rbac];
        let modes = credentials.as_ref().map_or_else(cluster, |credentials| credentials.authorization.clone());
        let abac = credentials.as_ref().map(|credentials| credentials.policy_file.clone()).unwrap_or_default();
        let authenticators = credentials.map(|credentials| Authenticators {
            front_proxy: credentials.front_proxy,
            certificates: credentials.certificates,
            tokens: credentials.tokens,
            token_file: credentials.token_file,
            bootstrap_tokens: credentials.bootstrap_tokens,
            anonymous: credentials.anonymous,
            objects,
        });
        Self { authenticators, authorizers: Authorizers { modes, abac, node, rbac: rbac.clone() }, rbac }
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

    /// Whose client certificates are believed. They can be replaced; see [`ApiServer::authorities_changed`](crate::ApiServer::authorities_changed).
    pub fn client_authorities(&self) -> Option<&Authorities> {
        self.authenticators.as_ref()?.certificates.as_ref().map(CertificateAuthenticator::authorities)
    }

    /// Which proxies are believed. Their authorities can be replaced, too.
    pub fn front_proxy(&self) -> Option<&FrontProxy> {
        self.authenticators.as_ref()?.front_proxy.as_ref()
    }

    /// Signs ServiceAccount tokens; `None` without a configuration.
    pub fn tokens(&self) -> Option<&Arc<TokenIssuer>> {
        self.authenticators.as_ref().map(|a| &a.tokens)
    }

    /// Whether anybody can be let in over the network.
    pub(crate) fn authenticates(&self) -> bool {
        self.authenticators.is_some()
    }
}
