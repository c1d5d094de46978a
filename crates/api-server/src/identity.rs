//! The server's identity: a Lease in `kube-system` that says that it is there, renewed as long as it runs, and the removal of Leases of
//! servers that are not there any more (upstream's gate `APIServerIdentity`; KEP-1965).
//!
//! The Lease is named after the machine, so that a server that comes back finds its own. The store writes Leases in its cheaper class.

use std::time::Duration;

use ::http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::loopback::{Loopback, LoopbackError, collection};

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const COMPONENT: &str = "kube-apiserver";
const COMPONENT_LABEL: &str = "apiserver.kubernetes.io/identity";
/// Upstream's `IdentityLeaseRenewIntervalPeriod`, and by how much of it a pause may be longer.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
const JITTER: f64 = 0.04;
/// Upstream's `IdentityLeaseDurationSeconds`.
const DURATION_SECONDS: i64 = 3600;
/// Upstream's `IdentityLeaseGCPeriod`.
const COLLECT_INTERVAL: Duration = Duration::from_secs(3600);
/// How often a renewal is tried before the next interval.
const ATTEMPTS_MAX: usize = 5;

/// The name of the Lease of the server on a machine, as upstream derives it.
fn lease_name(hostname: &str) -> String {
    let mut hash = Sha256::new();
    for part in [hostname, COMPONENT] {
        // As upstream's byte builder: a name is not longer than that.
        hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(part);
    }
    format!("apiserver-{}", base32(&hash.finalize()[..16]))
}

/// RFC 4648 in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0);
    let digit = |first: usize| (first..first + 5).fold(0, |digit, at| digit << 1 | usize::from(bit(at)));
    (0..bytes.len() * 8).step_by(5).map(|first| char::from(ALPHABET[digit(first)])).collect()
}

/// The Lease of one server.
pub(crate) struct Identity {
    loopback: Loopback,
    hostname: String,
    name: String,
    holder: String,
}

impl Identity {
    /// Of the server on this machine.
    pub(crate) fn new(loopback: Loopback, hostname: &str) -> Self {
        let name = lease_name(hostname);
        let holder = format!("{name}_{}", uuid::Uuid::new_v4());
        Self { loopback, hostname: hostname.to_owned(), name, holder }
    }

    /// Holds the Lease until stopped, then gives it up; meanwhile removes those that have expired.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        // One of before: nobody should take it for this server.
        self.give_up().await;
        let _ = stop.run_until_cancelled(async { tokio::join!(self.hold(), self.collect()) }).await;
        self.give_up().await;
    }

    async fn hold(&self) {
        let mut latest = None;
        loop {
            latest = self.renew(latest).await;
            let jitter: f64 = rand::rng().random();
            tokio::time::sleep(RENEW_INTERVAL.mul_f64(1.0 + JITTER * jitter)).await;
        }
    }

    /// Renews the Lease as it was last seen, which is nearly always as it is; what is returned is how it is now, if that is known.
    async fn renew(&self, mut latest: Option<Json>) -> Option<Json> {
        for _ in 0..ATTEMPTS_MAX {
            let written = match &latest {
                Some(lease) => self.loopback.update(&self.path(), &self.lease(Some(lease), Timestamp::now())).await,
                None => match self.loopback.get(&self.path()).await {
                    Ok(lease) => {
                        latest = Some(lease);
                        continue;
                    }
                    Err(error) if error.code() == Some(404) => {
                        self.loopback.create(&leases(), &self.lease(None, Timestamp::now())).await
                    }
                    Err(error) => Err(error),
                },
            };
            match written {
                Ok(lease) => return Some(lease),
                Err(error) => {
                    tracing::debug!(%error, "the server's own Lease was not written");
                    latest = None;
                }
            }
        }
        tracing::warn!(name = self.name, "cannot renew the server's own Lease; trying again");
        None
    }

    fn lease(&self, base: Option<&Json>, now: Timestamp) -> Json {
        let mut lease = base.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": NAMESPACE},
                "spec": {"holderIdentity": self.holder},
            })
        });
        lease["metadata"]["labels"][COMPONENT_LABEL] = json!(COMPONENT);
        lease["metadata"]["labels"]["kubernetes.io/hostname"] = json!(self.hostname);
        lease["spec"]["leaseDurationSeconds"] = json!(DURATION_SECONDS);
        lease["spec"]["renewTime"] = json!(format!("{now:.6}"));
        lease
    }

    async fn give_up(&self) {
        match self.loopback.bytes(Method::DELETE, &self.path(), None).await {
            Err(error) if error.code() != Some(404) => tracing::warn!(%error, "cannot remove the server's own Lease"),
            _ => {}
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", leases(), self.name)
    }

    async fn collect(&self) {
        loop {
            if let Err(error) = self.collect_once().await {
                tracing::warn!(%error, "cannot remove Leases of servers that are gone");
            }
            tokio::time::sleep(COLLECT_INTERVAL).await;
        }
    }

    async fn collect_once(&self) -> Result<(), LoopbackError> {
        let list = self.loopback.get(&format!("{}?labelSelector={COMPONENT_LABEL}%3D{COMPONENT}", leases())).await?;
        let expired = list["items"].as_array().into_iter().flatten().filter(|lease| is_expired(lease, Timestamp::now()));
        for name in expired.filter_map(|lease| lease["metadata"]["name"].as_str()) {
            let path = format!("{}/{name}", leases());
            let removed = async {
                // It may have come back since.
                if is_expired(&self.loopback.get(&path).await?, Timestamp::now()) {
                    self.loopback.bytes(Method::DELETE, &path, None).await?;
                }
                Ok::<_, LoopbackError>(())
            };
            match removed.await {
                // Another server was faster.
                Err(error) if error.code() == Some(404) => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

fn leases() -> String {
    collection(GROUP, "v1", "leases", NAMESPACE)
}

/// One that does not say how long it is good for was not written by a server.
fn is_expired(lease: &Json, now: Timestamp) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let duration = lease["spec"]["leaseDurationSeconds"].as_i64();
    renewed.zip(duration).is_none_or(|(renewed, seconds)| renewed + SignedDuration::from_secs(seconds) < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::new(Loopback::new(std::sync::Weak::new()), "host")
    }

    #[test]
    fn the_name_is_upstreams() {
        // What upstream's v1.35.4 makes of these names.
        for (hostname, expected) in [("localhost", "l2yubf4cvcl5c7a3wrubrwqdve"), ("host", "dd6egxogzxmivwqge6rcnj6rwi")] {
            assert_eq!(lease_name(hostname), format!("apiserver-{expected}"));
        }
        // RFC 4648, section 10.
        for (text, expected) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(text.as_bytes()), expected);
        }
    }

    #[test]
    fn what_the_lease_says() {
        let (identity, now) = (identity(), "2026-01-01T00:00:00.5Z".parse().expect("a time"));
        let lease = identity.lease(None, now);
        assert_eq!(lease["spec"]["renewTime"], "2026-01-01T00:00:00.500000Z");
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
        let holder = lease["spec"]["holderIdentity"].as_str().expect("is said");
        assert!(holder.starts_with(&format!("{}_", identity.name)) && holder.len() == identity.name.len() + 37, "{holder}");
        let labels = json!({"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": "host"});
        assert_eq!(lease["metadata"], json!({"name": identity.name, "namespace": "kube-system", "labels": labels}));
        // What others have written stays, but for that.
        let other = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 1}});
        let renewed = identity.lease(Some(&other), now);
        assert_eq!((&renewed["metadata"]["labels"]["a"], &renewed["spec"]["holderIdentity"]), (&json!("b"), &json!("x")));
        assert_eq!(renewed["spec"]["leaseDurationSeconds"], 3600);
    }

    #[test]
    fn leases_expire() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        for (spec, expected) in [
            (json!({"renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 3600}), false),
            (json!({"renewTime": "2025-12-31T23:59:59.999999Z", "leaseDurationSeconds": 3600}), true),
            (json!({"renewTime": "2026-01-01T00:59:59.000000Z"}), true),
            (json!({"leaseDurationSeconds": 3600}), true),
        ] {
            assert_eq!(is_expired(&json!({"spec": spec}), now), expected, "{spec}");
        }
    }
}
