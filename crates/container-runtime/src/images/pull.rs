//! Pulls from registries: OCI distribution specification over HTTPS, or HTTP where that is said (loopback, configuration).
//! Names are resolved in Rust (reqwest with hickory), because a static executable has no NSS.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::ImageError;
use super::manifest::{Descriptor, Manifest, select_platform};
use super::reference::Reference;
use super::store::{Image, NewImage, Store, UseGuard, digest, layer_keys, parse_config};

/// Layers of one image downloaded at once; Docker's number.
const DOWNLOADS_MAX: usize = 3;
/// Longest configuration that is accepted.
const CONFIG_MAX: u64 = 8 * 1024 * 1024;
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Registries (`HOST[:PORT]`) spoken to by plain HTTP, besides those on loopback addresses.
    pub plain_http: Vec<String>,
    /// Credentials by registry, in the format of Docker's `config.json`; used where a pull brings none. Read at every pull.
    pub credentials_file: Option<PathBuf>,
    /// More certification authorities to trust: PEM files.
    pub certificate_files: Vec<PathBuf>,
}

type Pulling = Shared<BoxFuture<'static, Result<Image, Arc<ImageError>>>>;

/// Pulls images into a store. Pulls of the same image with the same credentials are one pull.
pub(crate) struct Puller {
    store: Arc<Store>,
    config: RegistryConfig,
    running: Mutex<HashMap<(String, Option<String>), Pulling>>,
}

impl Puller {
    pub(crate) fn new(store: Arc<Store>, config: RegistryConfig) -> Self {
        // reqwest is built without a cryptography provider of its own; a second installation is refused, and no harm.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { store, config, running: Mutex::default() }
    }

    /// Pulls an image by name. Dropping the future gives the pull up unless another caller waits for it.
    pub(crate) async fn pull(&self, name: &str, auth: Option<&cri::v1::AuthConfig>) -> Result<Image, Arc<ImageError>> {
        let reference = Reference::parse(name).map_err(Arc::new)?;
        let auth = self.auth(&reference, auth);
        let key = (reference.to_string(), credentials_key(&auth));
        let pulling = {
            let mut running = self.running.lock();
            running
                .entry(key.clone())
                .or_insert_with(|| {
                    let pull = Pull { client: self.client(&reference), store: self.store.clone(), reference, auth };
                    async move { pull.run().await.map_err(Arc::new) }.boxed().shared()
                })
                .clone()
        };
        let result = pulling.clone().await;
        let mut running = self.running.lock();
        if running.get(&key).is_some_and(|other| other.ptr_eq(&pulling)) {
            running.remove(&key);
        }
        result
    }

    fn client(&self, reference: &Reference) -> Result<oci_client::Client, ImageError> {
        let mut plain = self.config.plain_http.clone();
        if is_loopback(&reference.registry) {
            plain.push(reference.registry.clone());
        }
        let extra_root_certificates = self
            .config
            .certificate_files
            .iter()
            .map(|path| {
                let data = std::fs::read(path).map_err(ImageError::io("reading", path))?;
                Ok(oci_client::client::Certificate { encoding: oci_client::client::CertificateEncoding::Pem, data })
            })
            .collect::<Result<Vec<_>, ImageError>>()?;
        oci_client::Client::try_from(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain),
            extra_root_certificates,
            connect_timeout: Some(Duration::from_secs(30)),
            read_timeout: Some(Duration::from_secs(60)),
            user_agent: concat!("rusternetes/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
        .map_err(|error| pull_error(&reference.to_string(), &error))
    }

    fn auth(&self, reference: &Reference, auth: Option<&cri::v1::AuthConfig>) -> RegistryAuth {
        if let Some(auth) = auth {
            if !auth.registry_token.is_empty() {
                return RegistryAuth::Bearer(auth.registry_token.clone());
            }
            if !auth.username.is_empty() {
                return RegistryAuth::Basic(auth.username.clone(), auth.password.clone());
            }
            if let Some(basic) = decode_basic(&auth.auth) {
                return basic;
            }
        }
        self.config
            .credentials_file
            .as_deref()
            .and_then(|path| credentials_from_file(path, &reference.registry))
            .unwrap_or(RegistryAuth::Anonymous)
    }
}

fn credentials_key(auth: &RegistryAuth) -> Option<String> {
    match auth {
        RegistryAuth::Anonymous => None,
        RegistryAuth::Basic(user, password) => Some(digest(format!("{user}:{password}").as_bytes())),
        RegistryAuth::Bearer(token) => Some(digest(token.as_bytes())),
    }
}

fn decode_basic(encoded: &str) -> Option<RegistryAuth> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Finds a registry in a Docker `config.json`, whose keys are hosts or URLs.
fn credentials_from_file(path: &Path, registry: &str) -> Option<RegistryAuth> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        auths: HashMap<String, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        auth: String,
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    let file: File = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let host = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let host = key.split('/').next().unwrap_or_default();
        if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
    };
    let entry = file.auths.into_iter().find(|(key, _)| host(key) == registry)?.1;
    if entry.username.is_empty() { decode_basic(&entry.auth) } else { Some(RegistryAuth::Basic(entry.username, entry.password)) }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One pull.
struct Pull {
    client: Result<oci_client::Client, ImageError>,
    store: Arc<Store>,
    reference: Reference,
    auth: RegistryAuth,
}

impl Pull {
    async fn run(self) -> Result<Image, ImageError> {
        let client = self.client?;
        let name = self.reference.to_string();
        let remote: oci_client::Reference = name.parse().map_err(|_| ImageError::InvalidName(name.clone()))?;
        let store = self.store.clone();
        let hold = Arc::new(blocking(move || store.hold()).await?);
        let (manifest, digest) = fetch_manifest(&client, &remote, &self.auth).await.map_err(|error| pull_error(&name, &error))?;
        let (config, layers) = match manifest {
            Manifest::Image { config, layers } => (config, layers),
            Manifest::Index { manifests } => {
                let selected = select_platform(&manifests).ok_or_else(|| ImageError::Pull {
                    image: name.clone(),
                    message: format!("no match for platform in manifest: linux/{}", super::manifest::architecture()),
                    missing: true,
                })?;
                let remote = remote.clone_with_digest(selected.digest.clone());
                match fetch_manifest(&client, &remote, &self.auth).await.map_err(|error| pull_error(&name, &error))?.0 {
                    Manifest::Image { config, layers } => (config, layers),
                    Manifest::Index { .. } => return Err(ImageError::Invalid("index within an index".to_owned())),
                }
            }
        };
        let download = Download { client, remote, store: self.store, hold, name };
        let config_json = download.config(&config).await?;
        let keys = download.layers(&parse_config(&config_json)?.rootfs.diff_ids, &layers).await?;
        let new = NewImage {
            config_json,
            layers: keys,
            tags: self.reference.tagged().into_iter().collect(),
            digests: vec![self.reference.with_digest(&digest)],
            pinned: false,
        };
        let Download { store, hold, .. } = download;
        blocking(move || {
            let image = store.add(new);
            drop(hold);
            image
        })
        .await
    }
}

async fn fetch_manifest(
    client: &oci_client::Client,
    remote: &oci_client::Reference,
    auth: &RegistryAuth,
) -> Result<(Manifest, String), OciDistributionError> {
    let (bytes, digest) = client.pull_manifest_raw(remote, auth, &MANIFEST_TYPES).await?;
    let manifest =
        serde_json::from_slice(&bytes).map_err(|error| OciDistributionError::ManifestParsingError(error.to_string()))?;
    Ok((manifest, digest))
}

/// The blobs of one image.
struct Download {
    client: oci_client::Client,
    remote: oci_client::Reference,
    store: Arc<Store>,
    hold: Arc<UseGuard>,
    name: String,
}

impl Download {
    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > CONFIG_MAX {
            return Err(ImageError::Invalid(format!("configuration of {} bytes", descriptor.size)));
        }
        let mut bytes = Vec::new();
        self.client
            .pull_blob(&self.remote, &remote_descriptor(descriptor), &mut bytes)
            .await
            .map_err(|error| pull_error(&self.name, &error))?;
        Ok(bytes)
    }

    /// Downloads some layers at once, and unpacks them in order.
    async fn layers(&self, diff_ids: &[String], layers: &[Descriptor]) -> Result<Vec<String>, ImageError> {
        if diff_ids.len() != layers.len() {
            return Err(ImageError::Invalid(format!("{} layers, but {} layer digests", layers.len(), diff_ids.len())));
        }
        let keys = layer_keys(diff_ids);
        let missing: Vec<(usize, Descriptor)> =
            layers.iter().cloned().enumerate().filter(|(index, _)| !self.store.has_layer(&keys[*index])).collect();
        let downloads: Vec<BoxFuture<'_, Result<(usize, std::fs::File), ImageError>>> =
            missing.into_iter().map(|(index, layer)| async move { Ok((index, self.blob(&layer).await?)) }.boxed()).collect();
        let mut downloads = stream::iter(downloads).buffered(DOWNLOADS_MAX);
        while let Some((index, file)) = downloads.try_next().await? {
            let (store, hold) = (self.store.clone(), self.hold.clone());
            let (diff_id, key, parents) = (diff_ids[index].clone(), keys[index].clone(), keys[..index].to_vec());
            blocking(move || {
                let result = store.add_layer(std::io::BufReader::with_capacity(256 * 1024, file), &diff_id, &key, &parents);
                drop(hold);
                result
            })
            .await?;
        }
        drop(downloads);
        Ok(keys)
    }

    /// A blob in a file without name, checked against its digest.
    async fn blob(&self, descriptor: &Descriptor) -> Result<std::fs::File, ImageError> {
        let root = self.store.root().join("ingest");
        let file = tempfile::tempfile_in(&root).map_err(ImageError::io("creating a file in", &root))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut download = self
            .client
            .pull_blob_stream(&self.remote, &remote_descriptor(descriptor))
            .await
            .map_err(|error| pull_error(&self.name, &error))?;
        let mut hash = Sha256::new();
        while let Some(bytes) = download.stream.try_next().await.map_err(|error| self.interrupted(&error))? {
            hash.update(&bytes);
            file.write_all(&bytes).await.map_err(ImageError::io("writing to", &root))?;
        }
        file.flush().await.map_err(ImageError::io("writing to", &root))?;
        let found = format!("sha256:{}", hex::encode(hash.finalize()));
        if found != descriptor.digest {
            return Err(
                self.interrupted(&std::io::Error::other(format!("blob {} arrived with digest {found}", descriptor.digest)))
            );
        }
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0)).map_err(ImageError::io("reading from", &root))?;
        Ok(file)
    }

    fn interrupted(&self, error: &std::io::Error) -> ImageError {
        ImageError::Pull { image: self.name.clone(), message: chain(error), missing: false }
    }
}

fn remote_descriptor(descriptor: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Invalid(format!("unpacking was interrupted: {error}"))),
    }
}

/// The error in words that users of other runtimes know.
fn pull_error(image: &str, error: &OciDistributionError) -> ImageError {
    let (message, missing) = match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            let missing = envelope.errors.iter().any(|error| {
                matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
            });
            let texts: Vec<String> = envelope
                .errors
                .iter()
                .map(|error| match error.code {
                    OciErrorCode::ManifestUnknown => "manifest unknown".to_owned(),
                    OciErrorCode::NameUnknown => "repository name not known to registry".to_owned(),
                    OciErrorCode::Unauthorized => format!("unauthorized: {}", error.message),
                    OciErrorCode::Denied => format!("denied: {}", error.message),
                    _ => error.message.clone(),
                })
                .collect();
            (texts.join("; "), missing)
        }
        OciDistributionError::ImageManifestNotFoundError(text) => (format!("manifest unknown: {text}"), true),
        OciDistributionError::ServerError { code: 404, .. } => ("manifest unknown: not found".to_owned(), true),
        OciDistributionError::UnauthorizedError { .. } => ("unauthorized: authentication required".to_owned(), false),
        other => (chain(other), false),
    };
    ImageError::Pull { image: image.to_owned(), message, missing }
}

/// An error with its causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if text.contains("dns error") && !text.contains("no such host") {
        text = format!("{text} (no such host)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries() {
        for (registry, expected) in
            [("localhost:5000", true), ("127.0.0.9", true), ("[::1]:5000", true), ("quay.io", false), ("10.0.0.1:5000", false)]
        {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }

    #[test]
    fn credentials_by_host_or_url() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("config.json");
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"quay.io":{"username":"a","password":"b"}}}"#;
        std::fs::write(&path, text).expect("write");
        let check = |registry: &str, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(user, password)| RegistryAuth::Basic(user.to_owned(), password.to_owned()));
            assert_eq!(credentials_from_file(&path, registry), expected, "{registry}");
        };
        check("docker.io", Some(("u", "p")));
        check("quay.io", Some(("a", "b")));
        check("ghcr.io", None);
    }
}
