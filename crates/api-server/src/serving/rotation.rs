//! Keeps certificates from expiring while the server runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::serving::{KeyCert, ServingCertificate};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;

/// Leaves are replaced in the last third of a year's life: a look a day is often enough.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Called with a certificate that was renewed.
pub(crate) type OnRenewal = Box<dyn Fn(&KeyCert) + Send + Sync>;

/// Renews the certificates of [`Pki`] in time, shows the new ones, and rewrites the administrator's kubeconfig.
pub struct CertificateRotation {
    /// The certificates.
    pub pki: Pki,
    /// What the API server's listener shows.
    pub serving: Arc<ServingCertificate>,
    /// The administrator's kubeconfig and the server's URL in it.
    pub admin_kubeconfig: Option<(PathBuf, String)>,
    /// Called with the kubelet's serving certificate when that was renewed.
    pub kubelet_serving: Option<OnRenewal>,
}

impl CertificateRotation {
    /// Looks once a day until stopped. The caller owns the task.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                let done = self.look(Timestamp::now());
                (self, done)
            });
            let Ok((rotation, done)) = looked.await else { return };
            self = rotation;
            if let Err(error) = done {
                tracing::error!(error = %error, "cannot renew certificates; trying again in a day");
            }
        }
    }

    fn look(&mut self, now: Timestamp) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if !self.pki.renew(now)? {
            return Ok(false);
        }
        self.serving.replace(&self.pki.api_server)?;
        if let Some(changed) = &self.kubelet_serving {
            changed(&self.pki.kubelet_serving);
        }
        if let Some((path, server)) = &self.admin_kubeconfig {
            self.pki.write_admin_kubeconfig(path, server)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use jiff::SignedDuration;

    use super::*;
    use crate::pki::PkiConfig;

    #[test]
    fn renews_everything_that_shows_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = PkiConfig {
            dir: dir.path().join("pki"),
            node_name: "n".to_owned(),
            node_ips: Vec::new(),
            host_names: Vec::new(),
            service_ip: IpAddr::from([10, 43, 0, 1]),
            cluster_domain: "cluster.local".to_owned(),
        };
        let now = Timestamp::now();
        let pki = Pki::load_or_create(config, now).expect("certificates");
        let (kubeconfig, told) = (dir.path().join("admin.kubeconfig"), Arc::new(AtomicBool::new(false)));
        let mut rotation = CertificateRotation {
            serving: ServingCertificate::new(&pki.api_server).expect("certificate"),
            admin_kubeconfig: Some((kubeconfig.clone(), "https://127.0.0.1:6443".to_owned())),
            kubelet_serving: Some(Box::new({
                let told = told.clone();
                move |_| told.store(true, Ordering::Relaxed)
            })),
            pki,
        };
        assert!(!rotation.look(now).expect("looks"), "new ones stay");
        assert!(!kubeconfig.exists());
        assert!(rotation.look(now + SignedDuration::from_hours(24 * 300)).expect("renews"));
        assert!(kubeconfig.exists() && told.load(Ordering::Relaxed));
    }
}
