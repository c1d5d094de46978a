//! The config map by which extension API servers learn whom to trust: what it should hold, and that it does
//! (upstream's `clusterauthenticationtrust`).
//!
//! Several servers write it: what another one has put in stays, until its certificates have expired.

use std::time::Duration;

use ::http::Method;
use ::serving::RequestHeaders;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value as Json, json};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::access::Access;
use crate::gates::{Feature, FeatureGates};
use crate::loopback::{Loopback, LoopbackError, collection};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const CLIENTS: &str = "client-ca-file";
const PROXIES: &str = "requestheader-client-ca-file";
/// Expired certificates stay for so long: clocks differ.
const SLACK_SECONDS: i64 = 5 * 60;
/// The pause after a watch that ended in order.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The pause after a failed write or watch.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What one server publishes.
pub(crate) struct ClusterAuthentication<'a> {
    loopback: &'a Loopback,
    access: &'a Access,
    gates: FeatureGates,
}

/// The config map cannot be brought to what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Write(#[from] LoopbackError),
    /// Somebody has put nonsense into it: nobody knows what to keep.
    #[error("the config map's {0} cannot be read")]
    Content(&'static str),
}

impl<'a> ClusterAuthentication<'a> {
    pub(crate) fn new(loopback: &'a Loopback, access: &'a Access, gates: FeatureGates) -> Self {
        Self { loopback, access, gates }
    }

    /// Brings the config map to what it should be.
    pub(crate) async fn publish(&self) -> Result<(), PublishError> {
        let all = collection("", "v1", "configmaps", NAMESPACE);
        let path = format!("{all}/{NAME}");
        let stored = match self.loopback.get(&path).await {
            Ok(stored) => Some(stored),
            Err(error) if error.code() == Some(404) => None,
            Err(error) => return Err(error.into()),
        };
        let present = stored.as_ref().and_then(|map| map["data"].as_object()).cloned().unwrap_or_default();
        let data = self.data(&present, Timestamp::now())?;
        let written = match stored {
            Some(_) if data == present => return Ok(()),
            Some(mut map) => {
                map["data"] = Json::Object(data);
                self.loopback.update(&path, &map).await
            }
            None => {
                let metadata = json!({"name": NAME, "namespace": NAMESPACE});
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                self.loopback.create(&all, &map).await
            }
        };
        match written {
            Ok(_) => Ok(()),
            // Another server was faster. Who watches it looks again.
            Err(error) if error.code() == Some(409) => Ok(()),
            // Too much has come together: begin anew.
            Err(error) if error.code() == Some(413) || (error.code() == Some(422) && error.to_string().contains("Too long")) => {
                self.loopback.bytes(Method::DELETE, &path, None).await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn data(&self, present: &Map<String, Json>, now: Timestamp) -> Result<Map<String, Json>, PublishError> {
        let clients = self.access.client_authorities().map(|authorities| authorities.now());
        let proxy = self.access.front_proxy();
        let proxies = proxy.map(|proxy| (proxy.authorities().now(), proxy.headers()));
        let proxies = proxies.as_ref().map(|(authorities, headers)| (authorities.pem(), *headers));
        let reads_uids = self.gates.has(Feature::RemoteRequestHeaderUid);
        combined(present, clients.as_ref().map(|clients| clients.pem()), proxies, reads_uids, now)
    }

    /// Publishes when the authorities have changed, and when somebody has deleted or changed the config map. Ends with the server.
    pub(crate) async fn keep(&self, changed: &Notify) {
        loop {
            match self.follow(changed).await {
                Ok(()) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(PublishError::Write(LoopbackError::Stopped)) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot publish whom extension servers should trust; trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Ends normally when the watch ends.
    async fn follow(&self, changed: &Notify) -> Result<(), PublishError> {
        let all = collection("", "v1", "configmaps", NAMESPACE);
        let mut events = self.loopback.watch(&format!("{all}?watch=true&fieldSelector=metadata.name%3D{NAME}")).await?;
        self.publish().await?;
        loop {
            tokio::select! {
                event = events.next() => if event.is_none() { return Ok(()) },
                () = changed.notified() => {}
            }
            self.publish().await?;
        }
    }
}

/// What the config map should hold: what it holds, and what this server needs. Without a front proxy's authorities its headers are
/// nobody's.
fn combined(
    present: &Map<String, Json>,
    clients: Option<&str>,
    proxies: Option<(&str, &RequestHeaders)>,
    reads_uids: bool,
    now: Timestamp,
) -> Result<Map<String, Json>, PublishError> {
    let text = |key: &str| present.get(key).and_then(Json::as_str).unwrap_or_default();
    let mut data = Map::new();
    let mut set = |key: &str, value: String| drop(data.insert(key.to_owned(), value.into()));
    let of_clients = bundle([text(CLIENTS), clients.unwrap_or_default()], now).ok_or(PublishError::Content(CLIENTS))?;
    if !of_clients.is_empty() {
        set(CLIENTS, of_clients);
    }
    let none = RequestHeaders::default();
    let (pem, headers) = proxies.unwrap_or(("", &none));
    let of_proxies = bundle([text(PROXIES), pem], now).ok_or(PublishError::Content(PROXIES))?;
    let lists = [
        ("requestheader-allowed-names", &headers.allowed_names),
        ("requestheader-extra-headers-prefix", &headers.extra_header_prefixes),
        ("requestheader-group-headers", &headers.group_headers),
        ("requestheader-uid-headers", &headers.uid_headers),
        ("requestheader-username-headers", &headers.username_headers),
    ];
    for (key, own) in lists {
        let is_uid = key == "requestheader-uid-headers";
        if is_uid && !reads_uids {
            continue;
        }
        let mut all: Vec<String> = match text(key) {
            "" => Vec::new(),
            list => {
                serde_json::from_str::<Option<Vec<String>>>(list).map_err(|_| PublishError::Content(key))?.unwrap_or_default()
            }
        };
        all.extend(own.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        all.retain(|value| seen.insert(value.clone()));
        if !(of_proxies.is_empty() || is_uid && all.is_empty()) {
            set(key, json!(all).to_string());
        }
    }
    if !of_proxies.is_empty() {
        set(PROXIES, of_proxies);
    }
    Ok(data)
}

/// The certificates of several bundles, each once, without those that have expired. `None` if one is not read.
fn bundle(pems: [&str; 2], now: Timestamp) -> Option<String> {
    let mut certificates: Vec<CertificateDer<'static>> = Vec::new();
    for pem in pems.into_iter().filter(|pem| !pem.is_empty()) {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().ok()?;
        if read.is_empty() {
            return None;
        }
        for der in read {
            let until = X509Certificate::from_der(&der).ok()?.1.validity().not_after.timestamp();
            if until > now.as_second() - SLACK_SECONDS && !certificates.contains(&der) {
                certificates.push(der);
            }
        }
    }
    Some(certificates.iter().map(|der| encode(der)).collect())
}

/// RFC 7468.
fn encode(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn pem(until_year: i32) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("is signed");
        encode(certificate.der())
    }

    fn headers(names: &[&str], uids: &[&str]) -> RequestHeaders {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        RequestHeaders { allowed_names: owned(names), uid_headers: owned(uids), ..RequestHeaders::usual() }
    }

    fn map(pairs: &[(&str, &str)]) -> Map<String, Json> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
    }

    #[test]
    fn a_certificate_is_written_as_others_write_it() {
        let made = rcgen::generate_simple_self_signed(["n".to_owned()]).expect("is made");
        assert_eq!(encode(made.cert.der()), made.cert.pem().replace("\r\n", "\n"));
    }

    #[test]
    fn what_others_have_put_in_stays() {
        let [theirs, ours, old] = [pem(2030), pem(2031), pem(2025)];
        let present = map(&[
            (CLIENTS, &format!("{theirs}{old}")),
            (PROXIES, &theirs),
            ("requestheader-allowed-names", "[\"a\",\"b\"]"),
            ("other", "x"),
        ]);
        let data = combined(&present, Some(&ours), Some((&ours, &headers(&["b", "c"], &[]))), true, now()).expect("is read");
        let both = format!("{theirs}{ours}");
        let expected = map(&[
            (CLIENTS, &both),
            ("requestheader-allowed-names", "[\"a\",\"b\",\"c\"]"),
            (PROXIES, &both),
            ("requestheader-extra-headers-prefix", "[\"X-Remote-Extra-\"]"),
            ("requestheader-group-headers", "[\"X-Remote-Group\"]"),
            ("requestheader-username-headers", "[\"X-Remote-User\"]"),
        ]);
        assert_eq!(data, expected);
        assert_eq!(combined(&data, Some(&ours), Some((&ours, &headers(&[], &[]))), true, now()).expect("is read"), data);
    }

    #[test]
    fn what_is_not_there_is_not_published() {
        let ours = pem(2030);
        assert_eq!(combined(&Map::new(), None, None, true, now()).expect("is read"), Map::new());
        assert_eq!(combined(&Map::new(), Some(&ours), None, true, now()).expect("is read"), map(&[(CLIENTS, &ours)]));
        let uids = |reads_uids: bool| {
            let proxy = headers(&[], &["X-Remote-Uid"]);
            let data = combined(&Map::new(), None, Some((&ours, &proxy)), reads_uids, now()).expect("is read");
            data.contains_key("requestheader-uid-headers")
        };
        assert!(uids(true) && !uids(false));
    }

    #[test]
    fn nonsense_is_not_written_over() {
        let proxy = headers(&[], &[]);
        for key in [CLIENTS, PROXIES, "requestheader-allowed-names"] {
            let present = map(&[(key, "nonsense")]);
            let error = combined(&present, None, Some((&pem(2030), &proxy)), true, now()).expect_err("is not read");
            assert_eq!(error.to_string(), format!("the config map's {key} cannot be read"));
        }
    }

    #[test]
    fn expired_certificates_have_five_minutes() {
        let ours = pem(2026);
        let until: Timestamp = "2026-01-01T00:04:59Z".parse().expect("a time");
        assert_eq!(bundle(["", &ours], until).expect("is read"), ours);
        assert_eq!(bundle(["", &ours], until + jiff::SignedDuration::from_secs(1)).expect("is read"), "");
    }
}
