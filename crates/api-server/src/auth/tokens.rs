//! ServiceAccount tokens: signed JWTs bound to an account and, if wanted, to a pod, secret or node
//! (KEP-1205, KEP-2799; <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>).
//!
//! Owns the signing key, the claims and their validation against the cluster's state. Does not decide which tokens are issued:
//! that is the TokenRequest handler's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Header, Validation};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::legacy_tokens;
use super::token_keys::{self, KeyError, SigningKey, VerifyingKey};
use super::user::{UserInfo, service_account_groups, service_account_user};
use crate::objects::{self, Objects, ReadError};

/// An object stays valid for bound tokens this long after its deletion was asked for, for clocks that differ (upstream's leeway).
const LEEWAY_SECONDS: i64 = 60;

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a ServiceAccount token")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

/// Why a bearer token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not one of ours; another authenticator may know it.
    #[error("not a token of this issuer")]
    NotOurs,
    /// It is ours and not valid.
    #[error("{0}")]
    Invalid(String),
    /// Whether it is valid could not be found out.
    #[error("cannot check the token against the cluster's state")]
    Lookup(#[from] ReadError),
}

/// A named object with its uid, in claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// The uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audience,
    exp: i64,
    #[serde(default)]
    iat: i64,
    iss: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
    #[serde(default)]
    nbf: i64,
    sub: String,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::Many(many) => many,
        }))
    }
}

/// What a token is to say.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub account: Reference,
    /// The pod that the token is bound to.
    pub pod: Option<Reference>,
    /// The secret that the token is bound to.
    pub secret: Option<Reference>,
    /// The node: of the pod, or bound to itself.
    pub node: Option<Reference>,
    /// Who accepts the token.
    pub audiences: Vec<String>,
    /// How long it is valid, from now.
    pub expiration_seconds: i64,
    /// After how long its use is counted as stale (for tokens that are valid longer than clients think).
    pub warn_after_seconds: Option<i64>,
}

/// Issues and checks ServiceAccount tokens. One per server.
pub struct TokenIssuer {
    /// The first is the `iss` of new tokens; tokens of all are accepted.
    issuers: Vec<String>,
    api_audiences: Vec<String>,
    signing: SigningKey,
    verifying: Vec<VerifyingKey>,
    jwks_uri: Option<String>,
    lifetime: TokenLifetime,
}

/// What a [`TokenIssuer`] is told.
#[derive(Clone, Debug, Default)]
pub struct TokenConfig {
    /// The private key that signs, in PEM: RSA or ECDSA. Upstream's flag is `--service-account-signing-key-file`.
    pub signing_key_pem: String,
    /// Further keys that verify, private or public, in PEM. Upstream's flag is `--service-account-key-file`.
    pub verifying_keys_pem: Vec<String>,
    /// Issuers: the first is the `iss` of new tokens, tokens of all are accepted. Upstream's flag is `--service-account-issuer`.
    pub issuers: Vec<String>,
    /// This server's audiences; empty for the issuers. Upstream's flag is `--api-audiences`.
    pub api_audiences: Vec<String>,
    /// Where clients find the key set, if not at this server. Upstream's flag is `--service-account-jwks-uri`.
    pub jwks_uri: Option<String>,
    /// How long tokens live.
    pub lifetime: TokenLifetime,
}

/// How long tokens live.
#[derive(Clone, Copy, Debug)]
pub struct TokenLifetime {
    /// No token is valid for more seconds. Upstream's flag is `--service-account-max-token-expiration`.
    pub seconds_max: Option<i64>,
    /// Tokens that kubelets ask for get a year, and late use is only counted. Upstream's flag is
    /// `--service-account-extend-token-expiration`.
    pub extend: bool,
}

impl Default for TokenLifetime {
    fn default() -> Self {
        Self { seconds_max: None, extend: true }
    }
}

impl std::fmt::Debug for TokenIssuer {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuers", &self.issuers)
            .field("key_id", &self.signing.key_id)
            .finish_non_exhaustive()
    }
}

/// An accepted token.
#[derive(Clone, Debug)]
pub struct AcceptedToken {
    /// Whom it stands for.
    pub user: UserInfo,
    /// The audiences that both the token and the question name.
    pub audiences: Vec<String>,
}

impl TokenIssuer {
    /// Reads the keys.
    pub fn new(config: TokenConfig) -> Result<Self, KeyError> {
        let (signing, own) = token_keys::signing_key(&config.signing_key_pem)?;
        let mut verifying = vec![own];
        for pem in &config.verifying_keys_pem {
            for key in token_keys::verifying_keys(pem)? {
                if verifying.iter().all(|have| have.key_id != key.key_id) {
                    verifying.push(key);
                }
            }
        }
        let api_audiences = if config.api_audiences.is_empty() { config.issuers.clone() } else { config.api_audiences };
        Ok(Self {
            issuers: config.issuers,
            api_audiences,
            signing,
            verifying,
            jwks_uri: config.jwks_uri,
            lifetime: config.lifetime,
        })
    }

    /// The `iss` of new tokens.
    fn issuer(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// How long tokens live.
    pub fn lifetime(&self) -> TokenLifetime {
        self.lifetime
    }

    /// The audiences of this API server: what a token must be for when nobody asks for anything else.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// Signs a token; also returns when it expires.
    pub fn sign(&self, spec: TokenSpec, now: Timestamp) -> Result<(String, Timestamp), SignError> {
        let now_seconds = now.as_second();
        let exp = now_seconds.saturating_add(spec.expiration_seconds);
        let claims = Claims {
            aud: Audience(spec.audiences),
            exp,
            iat: now_seconds,
            iss: self.issuer().to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: service_account_user(&spec.namespace, &spec.account.name),
            nbf: now_seconds,
            kubernetes: Kubernetes {
                namespace: spec.namespace,
                node: spec.node,
                pod: spec.pod,
                secret: spec.secret,
                serviceaccount: spec.account,
                warnafter: spec.warn_after_seconds.map(|s| now_seconds.saturating_add(s)),
            },
        };
        let header = Header { typ: None, kid: Some(self.signing.key_id.clone()), ..Header::new(self.signing.algorithm) };
        let token = jsonwebtoken::encode(&header, &claims, &self.signing.encoding)?;
        Ok((token, Timestamp::from_second(exp).unwrap_or(Timestamp::MAX)))
    }

    /// Checks a token: signature, issuer, times, audience (`audiences` empty stands for the API server's own), and that the account
    /// and whatever the token is bound to are still there.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<AcceptedToken, TokenError> {
        match claimed_issuer(token) {
            Some(issuer) if issuer == legacy_tokens::ISSUER => {
                let user = legacy_tokens::accept(token, &self.verified_claims(token)?, objects, now).await?;
                return legacy_tokens::audiences(audiences, &self.api_audiences, user);
            }
            Some(issuer) if self.issuers.contains(&issuer) => {}
            _ => return Err(TokenError::NotOurs),
        }
        let claims: Claims = self.verified_claims(token)?;
        let invalid = |text: &str| Err(TokenError::Invalid(text.to_owned()));
        let seconds = now.as_second();
        if seconds > claims.exp.saturating_add(LEEWAY_SECONDS) {
            return invalid("service account token has expired");
        }
        if seconds.saturating_add(LEEWAY_SECONDS) < claims.nbf {
            return invalid("service account token is not valid yet");
        }
        if seconds.saturating_add(LEEWAY_SECONDS) < claims.iat {
            return invalid("service account token is issued in the future");
        }
        let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let audiences: Vec<String> = wanted.iter().filter(|a| claims.aud.0.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Invalid(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud.0
            )));
        }
        check_bindings(&claims.kubernetes, objects, now).await?;
        Ok(AcceptedToken { user: user_info(claims), audiences })
    }

    /// The claims of a token that one of our keys has signed.
    fn verified_claims<C: DeserializeOwned + Clone>(&self, token: &str) -> Result<C, TokenError> {
        let invalid = |error: &dyn std::fmt::Display| TokenError::Invalid(format!("invalid signature or claims: {error}"));
        let header = jsonwebtoken::decode_header(token).map_err(|error| invalid(&error))?;
        let mut failure = invalid(&"no key of its algorithm");
        // A token without a key id is tried with every key, as upstream does.
        let named = |key: &&VerifyingKey| header.kid.as_ref().is_none_or(|kid| *kid == key.key_id);
        for key in self.verifying.iter().filter(|key| key.algorithm == header.alg).filter(named) {
            let mut validation = Validation::new(key.algorithm);
            // The times are checked by the caller, by the clock that it gave.
            (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
            validation.required_spec_claims.clear();
            match jsonwebtoken::decode::<C>(token, &key.decoding, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => failure = invalid(&error),
            }
        }
        Err(failure)
    }

    /// The document at `/openid/v1/jwks` (RFC 7517).
    pub fn json_web_key_set(&self) -> Value {
        json!({"keys": self.verifying.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// The document at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0); `base` is this server's URL.
    pub fn openid_configuration(&self, base: &str) -> Value {
        let mut algorithms: Vec<&str> = self.verifying.iter().filter_map(|key| key.jwk["alg"].as_str()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuer(),
            "jwks_uri": self.jwks_uri.clone().unwrap_or_else(|| format!("{base}/openid/v1/jwks")),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

/// The token's `iss`, read without trusting it.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issuer>(&payload).ok().map(|claims| claims.iss)
}

fn gone(meta: &ObjectMeta, now: Timestamp) -> bool {
    meta.deletion_timestamp.as_ref().is_some_and(|t| t.0.as_second() < now.as_second() - LEEWAY_SECONDS)
}

async fn check_bindings(claims: &Kubernetes, objects: &dyn Objects, now: Timestamp) -> Result<(), TokenError> {
    let invalid = |text: String| Err(TokenError::Invalid(text));
    let (namespace, wanted) = (claims.namespace.as_str(), &claims.serviceaccount);
    let Some(account) = objects::get::<ServiceAccount>(objects, namespace, &wanted.name).await? else {
        return invalid(format!("serviceaccounts {:?} not found", wanted.name));
    };
    let uid = account.metadata.uid.clone().unwrap_or_default();
    if uid != wanted.uid {
        return invalid(format!("service account UID ({uid}) does not match claim ({})", wanted.uid));
    }
    if gone(&account.metadata, now) {
        return invalid(format!("service account {namespace}/{} has been deleted", wanted.name));
    }
    let check = |kind: &str, meta: Option<ObjectMeta>, wanted: &Reference| -> Result<(), TokenError> {
        let Some(meta) = meta.filter(|m| !gone(m, now)) else {
            return Err(TokenError::Invalid("service account token has been invalidated".to_owned()));
        };
        let uid = meta.uid.unwrap_or_default();
        if uid == wanted.uid {
            return Ok(());
        }
        Err(TokenError::Invalid(format!("{kind} UID ({uid}) does not match service account {kind} ref claim ({})", wanted.uid)))
    };
    if let Some(secret) = &claims.secret {
        check("secret", objects::get::<Secret>(objects, namespace, &secret.name).await?.map(|o| o.metadata), secret)?;
    }
    if let Some(pod) = &claims.pod {
        check("pod", objects::get::<Pod>(objects, namespace, &pod.name).await?.map(|o| o.metadata), pod)?;
    } else if let Some(node) = &claims.node {
        check("node", objects::get::<Node>(objects, "", &node.name).await?.map(|o| o.metadata), node)?;
    }
    Ok(())
}

fn user_info(claims: Claims) -> UserInfo {
    let kubernetes = claims.kubernetes;
    let mut user = UserInfo::authenticated(
        service_account_user(&kubernetes.namespace, &kubernetes.serviceaccount.name),
        service_account_groups(&kubernetes.namespace),
    );
    user.uid = kubernetes.serviceaccount.uid;
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    if let Some(pod) = kubernetes.pod {
        extra("pod-name", pod.name);
        extra("pod-uid", pod.uid);
    }
    if let Some(node) = kubernetes.node {
        extra("node-name", node.name);
        extra("node-uid", node.uid);
    }
    user
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::objects::memory::MemoryObjects;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn issuer_of(algorithm: &'static rcgen::SignatureAlgorithm, issuer: &str) -> TokenIssuer {
        let signing_key_pem = rcgen::KeyPair::generate_for(algorithm).expect("a key").serialize_pem();
        let config = TokenConfig { signing_key_pem, issuers: vec![issuer.to_owned()], ..TokenConfig::default() };
        TokenIssuer::new(config).expect("usable")
    }

    fn issuer(issuer: &str) -> TokenIssuer {
        issuer_of(&rcgen::PKCS_RSA_SHA256, issuer)
    }

    #[tokio::test]
    async fn keys_of_all_kinds_sign_and_a_retired_key_still_verifies() {
        let (objects, now) = (objects(), Timestamp::now());
        for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let old = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            let config =
                TokenConfig { signing_key_pem: old.serialize_pem(), issuers: vec![ISSUER.to_owned()], ..TokenConfig::default() };
            let (token, _) = TokenIssuer::new(config.clone()).expect("usable").sign(spec(), now).expect("signs");
            let new = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
            let rotated =
                TokenConfig { signing_key_pem: new.clone(), verifying_keys_pem: vec![old.public_key_pem()], ..config.clone() };
            let rotated = TokenIssuer::new(rotated).expect("usable");
            rotated.authenticate(&token, &[], &objects, now).await.expect("the retired key verifies");
            assert_eq!(rotated.json_web_key_set()["keys"].as_array().map(Vec::len), Some(2));
            let forgetful = TokenIssuer::new(TokenConfig { signing_key_pem: new, ..config }).expect("usable");
            forgetful.authenticate(&token, &[], &objects, now).await.expect_err("the key is unknown");
        }
    }

    fn spec() -> TokenSpec {
        TokenSpec {
            namespace: "a".to_owned(),
            account: Reference { name: "sa".to_owned(), uid: "u-sa".to_owned() },
            pod: Some(Reference { name: "p".to_owned(), uid: "u-p".to_owned() }),
            secret: None,
            node: Some(Reference { name: "n".to_owned(), uid: "u-n".to_owned() }),
            audiences: vec![ISSUER.to_owned()],
            expiration_seconds: 3600,
            warn_after_seconds: None,
        }
    }

    fn objects() -> MemoryObjects {
        let objects = MemoryObjects::default();
        objects.put("serviceaccounts", json!({"metadata": {"namespace": "a", "name": "sa", "uid": "u-sa"}}));
        objects.put("pods", json!({"metadata": {"namespace": "a", "name": "p", "uid": "u-p"}}));
        objects
    }

    #[tokio::test]
    async fn life_of_a_token() {
        let issuer = issuer(ISSUER);
        let (objects, now) = (objects(), Timestamp::now());
        let (token, expires) = issuer.sign(spec(), now).expect("signs");
        assert_eq!(expires.as_second(), now.as_second() + 3600);
        let accepted = issuer.authenticate(&token, &[], &objects, now).await.expect("valid");
        assert_eq!(accepted.user.name, "system:serviceaccount:a:sa");
        assert_eq!(accepted.user.uid, "u-sa");
        assert_eq!(
            accepted.user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"].map(str::to_owned)
        );
        assert_eq!(accepted.user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(accepted.user.extra["authentication.kubernetes.io/node-uid"], ["u-n"]);

        let fails = async |objects: &MemoryObjects, audiences: &[String], at: Timestamp| {
            issuer.authenticate(&token, audiences, objects, at).await.expect_err("must not be accepted").to_string()
        };
        let later = now + SignedDuration::from_secs(3600 + 61);
        assert_eq!(fails(&objects, &[], later).await, "service account token has expired");
        let earlier = now - SignedDuration::from_secs(61);
        assert_eq!(fails(&objects, &[], earlier).await, "service account token is not valid yet");
        assert!(fails(&objects, &["vault".to_owned()], now).await.starts_with("token audiences"));
        objects.put("pods", json!({"metadata": {"namespace": "a", "name": "p", "uid": "another"}}));
        assert!(fails(&objects, &[], now).await.starts_with("pod UID (another) does not match"));
        objects.remove("pods", "a", "p");
        assert_eq!(fails(&objects, &[], now).await, "service account token has been invalidated");
        objects.remove("serviceaccounts", "a", "sa");
        assert_eq!(fails(&objects, &[], now).await, "serviceaccounts \"sa\" not found");
    }

    #[tokio::test]
    async fn foreign_tokens() {
        let (issuer, other, elsewhere) = (issuer(ISSUER), issuer(ISSUER), issuer("https://elsewhere"));
        let (objects, now) = (objects(), Timestamp::now());
        let (forged, _) = other.sign(spec(), now).expect("signs");
        assert!(matches!(issuer.authenticate(&forged, &[], &objects, now).await, Err(TokenError::Invalid(_))), "another key");
        let (foreign, _) = elsewhere.sign(spec(), now).expect("signs");
        for token in [foreign.as_str(), "opaque", "a.b.c", ""] {
            assert!(matches!(issuer.authenticate(token, &[], &objects, now).await, Err(TokenError::NotOurs)), "{token}");
        }
    }
}
