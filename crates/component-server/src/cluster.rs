//! What the cluster says about client certificates: the ConfigMap `extension-apiserver-authentication` of `kube-system`, in which an
//! API server publishes its client CA and how its front proxy speaks.

use std::sync::Arc;

use arc_swap::ArcSwap;
use client::Informer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

use crate::authentication::{Proxy, RequestHeaders};
use crate::certificates::Authorities;

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
        // Each is a list in JSON.
        let list = |key: &str| data.get(key).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok()).unwrap_or_default();
        let headers = RequestHeaders {
            allowed_names: list("requestheader-allowed-names"),
            username_headers: list("requestheader-username-headers"),
            uid_headers: list("requestheader-uid-headers"),
            group_headers: list("requestheader-group-headers"),
            extra_header_prefixes: list("requestheader-extra-headers-prefix"),
        };
        let proxy = authorities("requestheader-client-ca-file").map(|authorities| Proxy { authorities, headers });
        Self { clients: authorities("client-ca-file"), proxy }
    }
}

/// Follows the ConfigMap until the token is cancelled. Fails if it cannot be read at first.
pub(crate) async fn follow(
    client: kube::Client,
    trusted: Arc<ArcSwap<Trusted>>,
    token: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, LookupError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(map) = maps.get_opt(NAME).await.map_err(LookupError::Read)? {
        trusted.store(Arc::new(Trusted::read(&map)));
    }
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let (informer, task) = Informer::<ConfigMap>::start_in(client, NAMESPACE, only, token);
    informer.add_handler(move |change| trusted.store(Arc::new(Trusted::read(change.object()))));
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let pem = crate::KeyCert::self_signed(&["ca".to_owned()]).expect("is made").cert_pem;
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
        assert!(trusted.proxy.is_none());
    }
}
