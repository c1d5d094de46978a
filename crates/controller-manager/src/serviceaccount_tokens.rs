//! serviceaccount-token-controller: fills Secrets of the type `kubernetes.io/service-account-token` with a token that does not expire, the
//! CA and the namespace, and deletes them with their ServiceAccount
//! (<https://kubernetes.io/docs/concepts/security/service-accounts/#get-a-token>).
//!
//! It makes no Secret by itself: that is for those who need such a token.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, Informer, NamespacedName, Outcome, ReconcileError, Scope, Store, WorkQueue, run_workers};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::api_errors::{is_conflict, is_not_found};
use crate::context::{Context, wait_synced};

const NAME: &str = "serviceaccount-token-controller";
const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The `iss` of tokens in Secrets.
const ISSUER: &str = "kubernetes/serviceaccount";
const BY_ACCOUNT: &str = "serviceAccount";

/// Signs tokens with the cluster's key.
struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// RSA, or ECDSA with P-256 or P-384.
    fn new(pem: &str) -> Result<Self, jsonwebtoken::errors::Error> {
        if let Ok(key) = EncodingKey::from_rsa_pem(pem.as_bytes()) {
            return Ok(Self { algorithm: Algorithm::RS256, key });
        }
        let key = EncodingKey::from_ec_pem(pem.as_bytes())?;
        let small = Self { algorithm: Algorithm::ES256, key: key.clone() };
        // The curve is seen when it is used.
        match small.sign(&json!({})) {
            Ok(_) => Ok(small),
            Err(_) => Ok(Self { algorithm: Algorithm::ES384, key }),
        }
    }

    fn sign(&self, claims: &Value) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&Header { typ: None, ..Header::new(self.algorithm) }, claims, &self.key)
    }
}

fn claims(account: &ServiceAccount, secret: &str) -> Value {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
    })
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.annotations().get(name).map(String::as_str).unwrap_or_default()
}

/// What to do about a Secret.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// Its account is gone, or is another one by now.
    Delete,
    /// What it lacks.
    Fill {
        ca: bool,
        namespace: bool,
        token: bool,
    },
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca: Option<&str>) -> Plan {
    if annotation(secret, ACCOUNT_NAME).is_empty() || secret.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let uid = annotation(secret, ACCOUNT_UID);
    if account.is_none_or(|account| !uid.is_empty() && account.metadata.uid.as_deref() != Some(uid)) {
        return Plan::Delete;
    }
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |bytes| bytes.0.as_slice());
    let ca = root_ca.is_some_and(|root_ca| data("ca.crt") != root_ca.as_bytes());
    let (namespace, token) = (data("namespace").is_empty(), data("token").is_empty());
    if ca || namespace || token { Plan::Fill { ca, namespace, token } } else { Plan::Nothing }
}

struct Tokens {
    context: Context,
    signer: Signer,
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
}

/// A Secret by itself, or all of an account that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Secret(NamespacedName),
    Account(NamespacedName),
}

fn account_key(secret: &Secret) -> Vec<String> {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    vec![NamespacedName::new(namespace, annotation(secret, ACCOUNT_NAME)).to_string()]
}

pub(crate) async fn run(context: Context) {
    let Some(key) = &context.config.service_account_key else {
        tracing::info!(controller = NAME, "no key of ServiceAccount tokens is configured, Secrets get none");
        return;
    };
    let signer = match Signer::new(&key.pem) {
        Ok(signer) => signer,
        Err(error) => {
            tracing::error!(controller = NAME, error = &error as &dyn std::error::Error, "the key cannot be used");
            return;
        }
    };
    // Tokens only: other Secrets are nobody's business here.
    let secrets: Informer<Secret> = context.informers.scoped(Scope::fields(format!("type={SECRET_TYPE}")));
    let accounts = context.informers.get::<ServiceAccount>();
    secrets.store().add_index(BY_ACCOUNT, account_key);
    let queue: WorkQueue<Key> = WorkQueue::new("serviceaccount_tokens_secret");
    let on_account = queue.clone();
    accounts.add_handler(move |change| {
        if !matches!(change, Change::Updated { .. }) {
            on_account.add(Key::Account(NamespacedName::of(&**change.object())));
        }
    });
    wait_synced!(accounts);
    let on_secret = queue.clone();
    secrets.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_secret.add(Key::Secret(NamespacedName::of(&**change.object())));
        }
    });
    wait_synced!(secrets);
    let controller =
        Tokens { signer, secrets: secrets.store().clone(), accounts: accounts.store().clone(), context: context.clone() };
    let workers = context.config.concurrent_serviceaccount_token_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

impl Tokens {
    async fn sync(&self, key: &NamespacedName) -> Result<(), ReconcileError> {
        let Some(secret) = self.secrets.get_key(key) else { return Ok(()) };
        let name = annotation(&secret, ACCOUNT_NAME);
        let root_ca = self.context.config.root_ca.as_deref();
        let mut account = self.accounts.get(&key.namespace, name);
        if plan(&secret, account.as_deref(), root_ca) == Plan::Delete {
            // The cache may not have heard of it yet.
            let api: Api<ServiceAccount> = self.context.api(&key.namespace);
            account = api.get_opt(name).await.map_err(ReconcileError::api("get service account"))?.map(Arc::new);
        }
        match plan(&secret, account.as_deref(), root_ca) {
            Plan::Nothing => Ok(()),
            Plan::Delete => self.delete(&secret, key).await,
            Plan::Fill { ca, namespace, token } => {
                let Some(account) = account else { return Ok(()) };
                let mut wanted = (*secret).clone();
                let mut fill: HashMap<&str, Vec<u8>> = HashMap::new();
                if let Some(root_ca) = root_ca.filter(|_| ca) {
                    fill.insert("ca.crt", root_ca.into());
                }
                if namespace {
                    fill.insert("namespace", key.namespace.clone().into());
                }
                if token {
                    let signed = self.signer.sign(&claims(&account, &key.name));
                    let signed = signed.map_err(|error| ReconcileError::Invalid(format!("cannot sign a token: {error}")))?;
                    fill.insert("token", signed.into());
                }
                let data = wanted.data.get_or_insert_default();
                data.extend(fill.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes))));
                let annotations = wanted.metadata.annotations.get_or_insert_default();
                annotations.insert(ACCOUNT_UID.to_owned(), account.uid().unwrap_or_default());
                self.write(&wanted, key).await
            }
        }
    }

    async fn write(&self, wanted: &Secret, key: &NamespacedName) -> Result<(), ReconcileError> {
        match self.context.api::<Secret>(&key.namespace).replace(&key.name, &PostParams::default(), wanted).await {
            Ok(_) => Ok(()),
            // The change that was in the way brings the key back.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("fill a token secret")(error)),
        }
    }

    async fn delete(&self, secret: &Secret, key: &NamespacedName) -> Result<(), ReconcileError> {
        let preconditions = Preconditions { uid: secret.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.context.api::<Secret>(&key.namespace).delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("delete a token secret")(error)),
        }
    }
}

#[async_trait]
impl Controller for Tokens {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        match key {
            Key::Secret(key) => self.sync(key).await?,
            Key::Account(account) => {
                let of_account = self.secrets.by_index(BY_ACCOUNT, &account.to_string());
                let mut errors = Vec::new();
                for secret in of_account {
                    errors.extend(self.sync(&NamespacedName::of(&*secret)).await.err());
                }
                ReconcileError::collect(errors)?;
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    fn secret(account: &str, uid: &str, data: &[(&str, &str)]) -> Secret {
        let data: HashMap<&str, String> = data.iter().map(|(key, text)| (*key, STANDARD.encode(text))).collect();
        let annotations = json!({ACCOUNT_NAME: account, ACCOUNT_UID: uid});
        serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations}, "data": data})).expect("is a secret")
    }

    fn account(uid: &str) -> ServiceAccount {
        let metadata = json!({"name": "bot", "namespace": "ns", "uid": uid});
        serde_json::from_value(json!({"metadata": metadata})).expect("is an account")
    }

    #[test]
    fn what_a_secret_gets() {
        let full = [("ca.crt", "PEM"), ("namespace", "ns"), ("token", "t")];
        let fill = |ca, namespace, token| Plan::Fill { ca, namespace, token };
        for (secret, account, root_ca, expected) in [
            (secret("bot", "", &[]), Some(account("u")), Some("PEM"), fill(true, true, true)),
            (secret("bot", "u", &full), Some(account("u")), Some("PEM"), Plan::Nothing),
            (secret("bot", "u", &full), Some(account("u")), Some("NEW"), fill(true, false, false)),
            (secret("bot", "u", &full[..2]), Some(account("u")), Some("PEM"), fill(false, false, true)),
            (secret("bot", "u", &full[1..]), Some(account("u")), None, Plan::Nothing),
            (secret("bot", "u", &full), None, Some("PEM"), Plan::Delete),
            (secret("bot", "old", &full), Some(account("u")), Some("PEM"), Plan::Delete),
            (secret("", "", &[]), None, Some("PEM"), Plan::Nothing),
        ] {
            assert_eq!(plan(&secret, account.as_ref(), root_ca), expected, "{secret:?}");
        }
    }

    #[test]
    fn tokens_of_all_kinds_of_keys() {
        for (algorithm, expected) in [(&rcgen::PKCS_ECDSA_P256_SHA256, "ES256"), (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384")] {
            let pem = rcgen::KeyPair::generate_for(algorithm).expect("is a key").serialize_pem();
            let token = Signer::new(&pem).expect("is usable").sign(&claims(&account("u"), "s")).expect("is signed");
            let parts: Vec<Value> = token
                .split('.')
                .take(2)
                .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("is base64")).expect("is JSON"))
                .collect();
            assert_eq!(parts[0]["alg"], expected);
            assert_eq!(parts[1]["sub"], "system:serviceaccount:ns:bot");
            assert_eq!(parts[1]["kubernetes.io/serviceaccount/service-account.uid"], "u");
        }
        assert!(Signer::new("no key").is_err());
    }
}
