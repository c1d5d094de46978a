//! A serving certificate in files (`--tls-cert-file`, `--tls-private-key-file`), read again when somebody renews it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serving::{KeyCert, ServingCertificate};
use tokio_util::sync::CancellationToken;

use crate::flags::Values;
use crate::flags::common::read;

/// Upstream looks when the files change, and every minute in any case.
const INTERVAL: Duration = Duration::from_secs(60);

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    certificate: String,
    key: String,
}

impl CertificateFiles {
    /// What the flags name, if they do.
    pub(crate) fn of(values: &Values) -> anyhow::Result<Option<Self>> {
        match (values.text("tls-cert-file"), values.text("tls-private-key-file")) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate: certificate.into(), key: key.into() })),
            (None, None) => Ok(None),
            _ => bail!("--tls-cert-file and --tls-private-key-file go together"),
        }
    }

    /// What they hold.
    pub(crate) fn read(&self) -> anyhow::Result<KeyCert> {
        let cert_pem = read("tls-cert-file", &self.certificate)?;
        Ok(KeyCert { cert_pem, key_pem: read("tls-private-key-file", &self.key)? })
    }

    /// Shows what the files hold from now on, until the token is cancelled; nothing where there are none. `shown` shows `known`.
    pub(crate) async fn follow(files: Option<Self>, known: KeyCert, shown: Arc<ServingCertificate>, token: CancellationToken) {
        if let Some(files) = files {
            files.keep_looking(known, shown, token).await;
        }
    }

    async fn keep_looking(self, mut known: KeyCert, shown: Arc<ServingCertificate>, token: CancellationToken) {
        while token.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            match self.look(&mut known, &shown) {
                Ok(true) => tracing::info!("the serving certificate was renewed"),
                Ok(false) => {}
                // Perhaps it is being renewed: the certificate is there, and its key is not.
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the serving certificate's files cannot be used, the old one stays"
                    );
                }
            }
        }
    }

    /// Whether the files hold something else than before, which is then shown.
    fn look(&self, known: &mut KeyCert, shown: &ServingCertificate) -> anyhow::Result<bool> {
        let pair = self.read()?;
        if pair == *known {
            return Ok(false);
        }
        shown.replace(&pair)?;
        *known = pair;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_files_are_shown_once_they_fit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let files = CertificateFiles { certificate: path("c.pem"), key: path("k.pem") };
        let make = || KeyCert::self_signed(&["localhost".to_owned()]).expect("is made");
        let (first, second) = (make(), make());
        let write = |path: &str, pem: &str| std::fs::write(path, pem).expect("is written");
        write(&files.certificate, &first.cert_pem);
        assert!(files.read().is_err(), "there is no key");
        write(&files.key, &first.key_pem);
        let mut known = files.read().expect("is there");
        assert_eq!(known, first);
        let shown = ServingCertificate::new(&known).expect("is usable");
        assert!(!files.look(&mut known, &shown).expect("is usable"), "nothing is new");
        write(&files.certificate, &second.cert_pem);
        assert!(files.look(&mut known, &shown).is_err(), "the key is that of the old one");
        assert_eq!(known, first);
        write(&files.key, &second.key_pem);
        assert!(files.look(&mut known, &shown).expect("is usable"));
        assert_eq!(known, second);
    }
}
