//! An extender over HTTP: POST of JSON to `urlPrefix/verb`, in upstream's `k8s.io/kube-scheduler/extender/v1`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::settings::{ExtenderFile, TlsFile};
use super::{Extender, Filtered, Victims};
use crate::config::{ConfigError, duration};
use crate::framework::NODE_SCORE_MAX;
use crate::node_info::NodeInfo;

/// Upstream's DefaultExtenderTimeout.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream's MaxExtenderPriority.
const SCORE_MAX: i64 = 10;
/// More than this is no answer: 5,000 nodes of 64 KiB.
const ANSWER_BYTES_MAX: usize = 320 << 20;

/// See the module.
pub(crate) struct HttpExtender {
    settings: ExtenderFile,
    managed: BTreeSet<String>,
    url: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

/// ExtenderFilterResult. Go reads keys in any case; ours are lowered before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterResult {
    nodes: Option<Nodes>,
    nodenames: Option<Vec<String>>,
    failednodes: Option<BTreeMap<String, String>>,
    failedandunresolvablenodes: Option<BTreeMap<String, String>>,
    error: String,
}

/// A v1.NodeList, of which only the names matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nodes {
    items: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostPriority {
    host: String,
    score: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PreemptionResult {
    nodenametometavictims: Option<BTreeMap<String, MetaVictims>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetaVictims {
    pods: Option<Vec<MetaPod>>,
    numpdbviolations: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetaPod {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BindingResult {
    error: String,
}

/// A v1.NodeList, borrowed.
#[derive(Serialize)]
struct NodeList<'a> {
    items: Vec<&'a Node>,
}

impl HttpExtender {
    /// Makes one; files are read now.
    pub(crate) fn new(settings: &ExtenderFile) -> Result<Self, ConfigError> {
        let bad = |reason: &str| ConfigError::invalid("extenders.urlPrefix", &settings.url_prefix, reason);
        let url: Uri = settings.url_prefix.trim_end_matches('/').parse().map_err(|_| bad("must be a URL"))?;
        let secure = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("must be an http:// or https:// URL")),
        };
        let host = url.host().ok_or_else(|| bad("must name a host"))?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = secure.then(|| connector(settings, &host)).transpose()?;
        let timeout = match &settings.http_timeout {
            Some(text) => Some(duration("extenders.httpTimeout", text)?).filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT),
            None => TIMEOUT,
        };
        let managed = settings.managed_resources.iter().map(|resource| resource.name.clone()).collect();
        Ok(Self { settings: settings.clone(), managed, url, host, port, tls, timeout })
    }

    /// Asks, and waits for the answer.
    fn send<R: DeserializeOwned>(&self, verb: &str, args: &Value) -> Result<R, String> {
        let answer = tokio::runtime::Handle::current().block_on(async {
            match tokio::time::timeout(self.timeout, self.exchange(verb, args)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("Post {:?}: context deadline exceeded", format!("{}/{verb}", self.url))),
            }
        })?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        serde_json::from_value(lowered(answer)).map_err(|error| error.to_string())
    }

    async fn exchange(&self, verb: &str, args: &Value) -> Result<Bytes, String> {
        let url = format!("{}/{verb}", self.url.to_string().trim_end_matches('/'));
        let path = format!("{}/{verb}", self.url.path().trim_end_matches('/'));
        let failed = |error: &dyn std::error::Error| format!("Post {url:?}: {error}");
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| failed(&error))?;
        let body = Full::new(Bytes::from(args.to_string()));
        let request = Request::post(path)
            .header("Host", format!("{}:{}", self.host, self.port))
            .header("Content-Type", "application/json")
            .body(body)
            .map_err(|error| failed(&error))?;
        let response = match &self.tls {
            None => round_trip(TokioIo::new(stream), request).await,
            Some((tls, name)) => match tls.connect(name.clone(), stream).await {
                Ok(stream) => round_trip(TokioIo::new(stream), request).await,
                Err(error) => return Err(failed(&error)),
            },
        };
        let (status, body) = response.map_err(|error| failed(error.as_ref()))?;
        if status != StatusCode::OK {
            return Err(format!("failed {verb} with extender at URL {url}, code {}", status.as_u16()));
        }
        Ok(body)
    }

    /// ExtenderArgs: names for one that keeps the nodes itself, whole objects for others.
    fn args(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Value {
        if self.settings.node_cache_capable {
            let names: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let list = NodeList { items: nodes.iter().map(|node| node.node()).collect() };
        json!({"Pod": pod, "Nodes": list, "NodeNames": null})
    }
}

/// One request on a connection of its own.
async fn round_trip<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // What has arrived is still to be taken.
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}

/// The settings of upstream's makeTransport: with HTTPS and no authority, any certificate will do.
fn connector(settings: &ExtenderFile, host: &str) -> Result<(TlsConnector, ServerName<'static>), ConfigError> {
    let default = TlsFile::default();
    let tls = settings.tls_config.as_ref().unwrap_or(&default);
    let bad = |field: &str, reason: String| ConfigError::invalid(format!("extenders.tlsConfig.{field}"), "", &reason);
    let read = |field: &str, data: &str, file: &str| -> Result<Option<Vec<u8>>, ConfigError> {
        use base64::Engine;
        if !data.is_empty() {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data);
            return decoded.map(Some).map_err(|error| bad(field, error.to_string()));
        }
        if file.is_empty() {
            Ok(None)
        } else {
            std::fs::read(file).map(Some).map_err(|error| bad(field, format!("{file}: {error}")))
        }
    };
    let certificates = |field: &str, pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| bad(field, error.to_string()))
    };
    let authority = read("caData", &tls.ca_data, &tls.ca_file)?;
    let builder = rustls::ClientConfig::builder();
    let builder = if tls.insecure || settings.enable_https && authority.is_none() {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
    } else {
        let Some(authority) = authority else {
            return Err(bad("caData", "an https:// extender needs a certificate authority, or enableHTTPS".to_owned()));
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates("caData", &authority)? {
            roots.add(certificate).map_err(|error| bad("caData", error.to_string()))?;
        }
        builder.with_root_certificates(roots)
    };
    let own = read("certData", &tls.cert_data, &tls.cert_file)?.zip(read("keyData", &tls.key_data, &tls.key_file)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad("keyData", error.to_string()))?;
            let chain = certificates("certData", &certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| bad("certData", error.to_string()))?
        }
    };
    let name = if tls.server_name.is_empty() { host } else { &tls.server_name };
    let name = ServerName::try_from(name.to_owned()).map_err(|error| bad("serverName", error.to_string()))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Accepts whoever answers, where the settings ask for that.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls12_signature(message, cert, signature, &provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls13_signature(message, cert, signature, &provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The same with the keys of the answer's own structures in lower case: the names of nodes and the fields of objects stay.
fn lowered(answer: Value) -> Value {
    match answer {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| {
                let key = key.to_ascii_lowercase();
                let value = match (key.as_str(), value) {
                    ("nodenametometavictims", Value::Object(nodes)) => {
                        Value::Object(nodes.into_iter().map(|(node, victims)| (node, lowered(victims))).collect())
                    }
                    ("pods", Value::Array(pods)) => Value::Array(pods.into_iter().map(lowered).collect()),
                    (_, value) => value,
                };
                (key, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(lowered).collect()),
        other => other,
    }
}

impl Extender for HttpExtender {
    fn name(&self) -> &str {
        &self.settings.url_prefix
    }

    fn is_ignorable(&self) -> bool {
        self.settings.ignorable
    }

    fn is_interested(&self, pod: &Pod) -> bool {
        let Some(spec) = pod.spec.as_ref().filter(|_| !self.managed.is_empty()) else { return self.managed.is_empty() };
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| {
            let resources = container.resources.as_ref();
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            let limits = resources.and_then(|resources| resources.limits.as_ref());
            requests.into_iter().chain(limits).flat_map(|list| list.keys()).any(|name| self.managed.contains(name))
        })
    }

    fn is_filter(&self) -> bool {
        !self.settings.filter_verb.is_empty()
    }

    fn is_prioritizer(&self) -> bool {
        !self.settings.prioritize_verb.is_empty()
    }

    fn is_binder(&self) -> bool {
        !self.settings.bind_verb.is_empty()
    }

    fn is_preemptor(&self) -> bool {
        !self.settings.preempt_verb.is_empty()
    }

    fn filter(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Filtered, String> {
        let asked: BTreeSet<&str> = nodes.iter().map(|node| node.name()).collect();
        if !self.is_filter() {
            return Ok(Filtered { feasible: asked.into_iter().map(str::to_owned).collect(), ..Filtered::default() });
        }
        let result: FilterResult = self.send(&self.settings.filter_verb, &self.args(pod, nodes))?;
        if !result.error.is_empty() {
            return Err(result.error);
        }
        let feasible: BTreeSet<String> = match (result.nodenames, result.nodes) {
            (Some(names), _) if self.settings.node_cache_capable => names.into_iter().collect(),
            (_, Some(list)) => {
                let names = list.items.iter().flatten().filter_map(|node| node["metadata"]["name"].as_str());
                names.map(str::to_owned).collect()
            }
            _ => BTreeSet::new(),
        };
        if let Some(unknown) = feasible.iter().find(|name| !asked.contains(name.as_str())) {
            let url = self.name();
            return Err(format!("extender {url:?} claims a filtered node {unknown:?} which is not found in the input node list"));
        }
        Ok(Filtered {
            feasible,
            failed: result.failednodes.unwrap_or_default(),
            unresolvable: result.failedandunresolvablenodes.unwrap_or_default(),
        })
    }

    fn prioritize(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<BTreeMap<String, i64>, String> {
        let given: Vec<HostPriority> = self.send(&self.settings.prioritize_verb, &self.args(pod, nodes))?;
        let scale = self.settings.weight * (NODE_SCORE_MAX / SCORE_MAX);
        Ok(given.into_iter().map(|one| (one.host, one.score.saturating_mul(scale))).collect())
    }

    fn preempt(
        &self,
        pod: &Pod,
        candidates: &BTreeMap<String, Victims>,
        node: &dyn Fn(&str) -> Option<Arc<NodeInfo>>,
    ) -> Result<BTreeMap<String, Victims>, String> {
        let described = |victims: &Victims| {
            let pods: Vec<Value> = if self.settings.node_cache_capable {
                victims.pods.iter().map(|pod| json!({"UID": pod.uid})).collect()
            } else {
                victims.pods.iter().map(|pod| json!(*pod.pod)).collect()
            };
            json!({"Pods": pods, "NumPDBViolations": victims.violations})
        };
        let described: serde_json::Map<String, Value> =
            candidates.iter().map(|(name, victims)| (name.clone(), described(victims))).collect();
        let args = if self.settings.node_cache_capable {
            json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": described})
        } else {
            json!({"Pod": pod, "NodeNameToVictims": described, "NodeNameToMetaVictims": null})
        };
        let result: PreemptionResult = self.send(&self.settings.preempt_verb, &args)?;
        let mut left = BTreeMap::new();
        for (name, victims) in result.nodenametometavictims.unwrap_or_default() {
            let info = node(&name).ok_or_else(|| format!("nodeinfo not found for node name {name:?}"))?;
            let pods = victims.pods.unwrap_or_default().into_iter().map(|meta| {
                let found = info.pods().iter().find(|pod| pod.uid == meta.uid).cloned();
                found.ok_or_else(|| {
                    let url = self.name();
                    format!(
                        "extender: {url} claims to preempt pod (UID: {}) on node: {name}, but the pod is not found on that node",
                        meta.uid
                    )
                })
            });
            left.insert(name.clone(), Victims { pods: pods.collect::<Result<_, _>>()?, violations: victims.numpdbviolations });
        }
        Ok(left)
    }

    fn bind(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let meta = &pod.metadata;
        let args = json!({"PodName": meta.name, "PodNamespace": meta.namespace, "PodUID": meta.uid, "Node": node});
        let result: BindingResult = self.send(&self.settings.bind_verb, &args)?;
        if result.error.is_empty() { Ok(()) } else { Err(result.error) }
    }
}
