//! What the cluster says about client certificates: the ConfigMap `extension-apiserver-authentication` of `kube-system`, in which an
//! API server publishes its client CA and how its front proxy speaks.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use client::Informer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher;
use serving::{Authorities, RequestHeaders};
use tokio_util::sync::CancellationToken;

use crate::authentication::Proxy;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// Why the cluster's word on client certificates is not known.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The ConfigMap cannot be read.
    #[error("unable to load configmap based request-header-client-ca-file")]
    Read(#[source] kube::Error),
}

/// Whom the cluster trusts. What cannot be used is left out, with a warning.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    pub(crate) clients: Option<Authorities>,
    pub(crate) proxy: Option<Proxy>,
}

impl Trusted {
    fn read(map: &ConfigMap) -> Self {
        let empty = Default::default();
        let data = map.data.as_ref().unwrap_or(&empty);
        let authorities = |key: &str| {
            let pem = data.get(key).filter(|pem| !pem.is_empty())?;
            let read = Authorities::new(pem);
            let warn = |error| tracing::warn!(key, error = &error as &dyn std::error::Error, "a published CA cannot be used");
            read.map_err(warn).ok()
        };
        // A list that cannot be read must not be taken for an empty one, which believes more.
        let headers = headers(data).inspect_err(|error| {
            tracing::warn!(error = error as &dyn std::error::Error, "the published front proxy cannot be used");
        });
        let proxy = headers
            .ok()
            .and_then(|headers| authorities("requestheader-client-ca-file").map(|authorities| Proxy { authorities, headers }));
        Self { clients: authorities("client-ca-file"), proxy }
    }
}

/// How the front proxy speaks: each is a list in JSON, and one that is not there is empty.
fn headers(data: &BTreeMap<String, String>) -> Result<RequestHeaders, serde_json::Error> {
    let list = |key: &str| match data.get(key).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str::<Option<Vec<String>>>(text).map(Option::unwrap_or_default),
        None => Ok(Vec::new()),
    };
    Ok(RequestHeaders {
        allowed_names: list("requestheader-allowed-names")?,
        username_headers: list("requestheader-username-headers")?,
        uid_headers: list("requestheader-uid-headers")?,
        group_headers: list("requestheader-group-headers")?,
        extra_header_prefixes: list("requestheader-extra-headers-prefix")?,
    })
}

/// Reads the ConfigMap once.
pub(crate) async fn look_up(client: &kube::Client, trusted: &ArcSwap<Trusted>) -> Result<(), LookupError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(map) = maps.get_opt(NAME).await.map_err(LookupError::Read)? {
        trusted.store(Arc::new(Trusted::read(&map)));
    }
    Ok(())
}

/// Follows the ConfigMap until the token is cancelled, when the returned future, which the caller runs, ends.
pub(crate) fn follow(
    client: kube::Client,
    trusted: Arc<ArcSwap<Trusted>>,
    token: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let (informer, task) = Informer::<ConfigMap>::start_in(client, NAMESPACE, only, token);
    informer.add_handler(move |change| trusted.store(Arc::new(Trusted::read(change.object()))));
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let pem = serving::KeyCert::self_signed(&["ca".to_owned()]).expect("is made").cert_pem;
        let data = [
            ("client-ca-file", pem.as_str()),
            ("requestheader-client-ca-file", pem.as_str()),
            ("requestheader-username-headers", "[\"X-Remote-User\"]"),
            ("requestheader-allowed-names", "[\"front-proxy-client\"]"),
        ];
        let map = |data: &[(&str, &str)]| ConfigMap {
            data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..ConfigMap::default()
        };
        let trusted = Trusted::read(&map(&data));
        assert!(trusted.clients.is_some());
        let headers = trusted.proxy.expect("is there").headers;
        assert_eq!(headers.username_headers, ["X-Remote-User"]);
        assert_eq!(headers.allowed_names, ["front-proxy-client"]);
        let trusted = Trusted::read(&map(&[("client-ca-file", "nonsense")]));
        assert!(trusted.clients.is_none() && trusted.proxy.is_none());
        // Not "any name": whoever the proxy's CA has signed would be believed.
        for names in ["front-proxy-client", "[\"front-proxy-client\"", "{}", "[1]"] {
            let mut data = data;
            data[3].1 = names;
            let trusted = Trusted::read(&map(&data));
            assert!(trusted.proxy.is_none(), "{names}");
            assert!(trusted.clients.is_some(), "client certificates are another matter");
        }
    }
}
