//! The cluster's certificates and keys: made at first start under `DATA-DIR/pki`, checked and renewed at every later one.
//!
//! Owns the cluster CA, the front-proxy CA, every leaf signed by them, the ServiceAccount signing key and the kubeconfigs made
//! from them. Invariants: a CA and the ServiceAccount key are never replaced once they exist (an unreadable one is an error,
//! not a reason to make another); a leaf is replaced whenever it no longer fits (names or addresses changed, signed by another
//! CA, in its last third of life, unreadable). Private keys are mode 0600. File names are kubeadm's.
//!
//! Does not watch the clock itself: the owner calls [`Pki::renew`] from time to time.

mod blocks;
mod kubeconfig;
mod leaf;
mod pem;
mod store;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ::serving::KeyCert;
use jiff::Timestamp;

use leaf::{CaSpec, LeafSpec, Purpose};
pub(crate) use pem::{
    check_certificate, check_request, lifetime_seconds, requested_name, requested_organizations, trust_anchor_problems,
};
use rcgen::Issuer;

use crate::connect::KubeletIdentity;

/// The API server's client certificate at kubelets.
const KUBELET_CLIENT: &str = "apiserver-kubelet-client";

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file under the pki directory cannot be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A CA or the ServiceAccount key is there but is not what it should be. It is not replaced, because everything that was
    /// signed with it would stop working.
    #[error(
        "{path} is not usable ({reason}): restore it from a backup, or delete the pki directory to make a new cluster identity"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or certificate could not be generated.
    #[error("cannot make the certificate {name}")]
    Generate {
        /// The certificate's file name without ending.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// What the certificates must say.
#[derive(Clone, Debug)]
pub struct PkiConfig {
    /// The directory, usually `DATA-DIR/pki`.
    pub dir: PathBuf,
    /// This machine's node name.
    pub node_name: String,
    /// The addresses under which the API server and the kubelet can be reached.
    pub node_ips: Vec<IpAddr>,
    /// Further names for the serving certificates, such as the host name.
    pub host_names: Vec<String>,
    /// The ClusterIP of the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// The DNS domain of Services, usually `cluster.local`.
    pub cluster_domain: String,
}

/// All certificates and keys that one server needs, in PEM.
#[derive(Clone, Debug)]
pub struct Pki {
    config: PkiConfig,
    /// The cluster CA's certificate.
    pub ca_cert_pem: String,
    /// The cluster CA's key.
    pub ca_key_pem: String,
    /// The CA that signs aggregated API servers' proxy client certificates.
    pub front_proxy_ca_cert_pem: String,
    front_proxy_ca_key_pem: String,
    /// Serves the Kubernetes API.
    pub api_server: KeyCert,
    /// `kubernetes-admin` in `system:masters`.
    pub admin: KeyCert,
    /// The kubelet's identity at the API server: `system:node:NAME` in `system:nodes`.
    pub kubelet_client: KeyCert,
    /// Serves the kubelet's API.
    pub kubelet_serving: KeyCert,
    /// The API server's identity at the kubelet.
    pub api_server_kubelet_client: KeyCert,
    /// The API server's identity at aggregated API servers.
    pub front_proxy_client: KeyCert,
    /// Signs ServiceAccount tokens (RSA 2048, PKCS#8).
    pub service_account_key_pem: String,
}

impl Pki {
    /// Loads everything from `config.dir`, making what is missing and replacing leaves that no longer fit. Blocking: key
    /// generation takes 100 ms or so at the first start; call it on a blocking thread.
    pub fn load_or_create(config: PkiConfig, now: Timestamp) -> Result<Self, PkiError> {
        store::create_dir(&config.dir)?;
        // The one slow step (an RSA key) runs beside all the others.
        std::thread::scope(|scope| {
            let dir = config.dir.clone();
            let rsa = scope.spawn(move || service_account_key(&dir));
            let pki = Self::certificates(config, now)?;
            let service_account_key_pem = rsa.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Self { service_account_key_pem, ..pki })
        })
    }

    fn certificates(config: PkiConfig, now: Timestamp) -> Result<Self, PkiError> {
        let (ca_cert_pem, ca_key_pem) =
            leaf::load_or_create_ca(&config.dir, &CaSpec { file: "ca", common_name: "kubernetes" }, now)?;
        let (front_cert, front_key) =
            leaf::load_or_create_ca(&config.dir, &CaSpec { file: "front-proxy-ca", common_name: "front-proxy-ca" }, now)?;
        let mut pki = Self {
            config,
            ca_cert_pem,
            ca_key_pem,
            front_proxy_ca_cert_pem: front_cert,
            front_proxy_ca_key_pem: front_key,
            api_server: KeyCert::default(),
            admin: KeyCert::default(),
            kubelet_client: KeyCert::default(),
            kubelet_serving: KeyCert::default(),
            api_server_kubelet_client: KeyCert::default(),
            front_proxy_client: KeyCert::default(),
            service_account_key_pem: String::new(),
        };
        pki.renew(now)?;
        Ok(pki)
    }

    /// Checks every leaf and replaces those that are in the last third of their life (or no longer fit). Returns whether
    /// anything changed.
    pub fn renew(&mut self, now: Timestamp) -> Result<bool, PkiError> {
        let ca = leaf::issuer(&self.config.dir, "ca", &self.ca_cert_pem, &self.ca_key_pem)?;
        let front =
            leaf::issuer(&self.config.dir, "front-proxy-ca", &self.front_proxy_ca_cert_pem, &self.front_proxy_ca_key_pem)?;
        let mut changed = false;
        let mut get = |spec: LeafSpec, issuer: &Issuer<'_, rcgen::KeyPair>, ca_pem: &str| -> Result<KeyCert, PkiError> {
            let (pair, new) = leaf::load_or_create(&self.config.dir, &spec, issuer, ca_pem, now)?;
            changed |= new;
            Ok(pair)
        };
        let node_user = format!("system:node:{}", self.config.node_name);
        self.api_server = get(self.config.api_server_spec(), &ca, &self.ca_cert_pem)?;
        self.kubelet_serving = get(self.config.kubelet_serving_spec(&node_user), &ca, &self.ca_cert_pem)?;
        self.admin = get(LeafSpec::client("admin", "kubernetes-admin", Some("system:masters")), &ca, &self.ca_cert_pem)?;
        self.kubelet_client = get(LeafSpec::client("kubelet-client", &node_user, Some("system:nodes")), &ca, &self.ca_cert_pem)?;
        self.api_server_kubelet_client = get(
            LeafSpec::client(KUBELET_CLIENT, "kube-apiserver-kubelet-client", Some("system:masters")),
            &ca,
            &self.ca_cert_pem,
        )?;
        self.front_proxy_client =
            get(LeafSpec::client("front-proxy-client", "front-proxy-client", None), &front, &self.front_proxy_ca_cert_pem)?;
        Ok(changed)
    }

    /// A new client certificate for a component, not kept on disk: user name and groups as in the x509 authenticator.
    pub fn issue_client(&self, user: &str, group: Option<&str>, now: Timestamp) -> Result<KeyCert, PkiError> {
        let ca = leaf::issuer(&self.config.dir, "ca", &self.ca_cert_pem, &self.ca_key_pem)?;
        leaf::make(&LeafSpec::client(user, user, group), &ca, now)
    }

    /// A kubeconfig for `who` that talks to `server` (for example `https://127.0.0.1:6443`).
    pub fn kubeconfig(&self, server: &str, user: &str, who: &KeyCert) -> String {
        kubeconfig::render(server, user, &self.ca_cert_pem, who)
    }

    /// Writes the administrator's kubeconfig, mode 0600, atomically; leaves an equal file alone.
    pub fn write_admin_kubeconfig(&self, path: &Path, server: &str) -> Result<(), PkiError> {
        let text = self.kubeconfig(server, "kubernetes-admin", &self.admin);
        if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
            return store::restrict(path);
        }
        store::write(path, &text, store::Sync::No)
    }

    /// Writes a kubeconfig with a new certificate for a component, mode 0600, atomically. Its key is nowhere else.
    pub fn write_client_kubeconfig(
        &self,
        path: &Path,
        server: &str,
        user: &str,
        group: Option<&str>,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let who = self.issue_client(user, group, now)?;
        store::write(path, &self.kubeconfig(server, user, &who), store::Sync::No)
    }

    /// Who the API server is to kubelets: by its files, so that it goes on when the certificate is renewed.
    pub fn kubelet_identity(&self) -> KubeletIdentity {
        let file = |ending: &str| self.config.dir.join(format!("{KUBELET_CLIENT}.{ending}"));
        KubeletIdentity::Files { certificate: file("crt"), key: file("key") }
    }

    /// Where a certificate's file is, for components that want paths: `name` is kubeadm's, for example `ca` or `kubelet`.
    pub fn cert_path(&self, name: &str) -> PathBuf {
        self.config.dir.join(format!("{name}.crt"))
    }
}

impl PkiConfig {
    fn api_server_spec(&self) -> LeafSpec {
        let mut names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
        names.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        names.push(self.node_name.clone());
        names.extend(self.host_names.iter().cloned());
        let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1]), self.service_ip];
        ips.extend(&self.node_ips);
        LeafSpec::new("apiserver", "kube-apiserver", None, Purpose::Server, names, ips)
    }

    fn kubelet_serving_spec(&self, node_user: &str) -> LeafSpec {
        let mut names = vec![self.node_name.clone(), "localhost".to_owned()];
        names.extend(self.host_names.iter().cloned());
        let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])];
        ips.extend(&self.node_ips);
        LeafSpec::new("kubelet", node_user, Some("system:nodes"), Purpose::Server, names, ips)
    }
}

fn service_account_key(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("sa.key");
    if let Some(pem) = store::read(&path)? {
        rcgen::KeyPair::from_pem(&pem).map_err(|e| PkiError::Unusable { path: path.clone(), reason: e.to_string() })?;
        store::restrict(&path)?;
        return Ok(pem);
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)
        .map_err(|source| PkiError::Generate { name: "sa".to_owned(), source })?;
    let pem = key.serialize_pem();
    store::write(&dir.join("sa.pub"), &key.public_key_pem(), store::Sync::No)?;
    store::write(&path, &pem, store::Sync::Yes)?;
    Ok(pem)
}

#[cfg(test)]
mod tests;
