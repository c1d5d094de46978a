//! Certificates and authorities in files that flags name, read again when somebody renews them: at once where changes are told, and
//! every minute in any case, as upstream does (`dynamiccertificates`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serving::{Authorities, KeyCert, ServingCertificate};
use tokio_util::sync::CancellationToken;

use crate::file_changes::FileChanges;
use crate::flags::Values;
use crate::flags::common::read;

const INTERVAL: Duration = Duration::from_secs(60);

/// A certificate and its key.
#[derive(Clone, Debug)]
struct PairFiles {
    flags: [&'static str; 2],
    certificate: String,
    key: String,
}

impl PairFiles {
    fn read(&self) -> anyhow::Result<KeyCert> {
        let cert_pem = read(self.flags[0], &self.certificate)?;
        Ok(KeyCert { cert_pem, key_pem: read(self.flags[1], &self.key)? })
    }

    fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].map(PathBuf::from).to_vec()
    }
}

/// Where a server's certificates are.
#[derive(Clone, Debug)]
pub(crate) struct ServingFiles {
    usual: Option<PairFiles>,
    named: Vec<(Vec<String>, PairFiles)>,
}

impl ServingFiles {
    /// What `--tls-cert-file`, `--tls-private-key-file` and `--tls-sni-cert-key` name.
    pub(crate) fn of(values: &Values) -> anyhow::Result<Self> {
        let flags = ["tls-cert-file", "tls-private-key-file"];
        let usual = match flags.map(|flag| values.text(flag)) {
            [Some(certificate), Some(key)] => Some(PairFiles { flags, certificate: certificate.into(), key: key.into() }),
            [None, None] => None,
            _ => bail!("--tls-cert-file and --tls-private-key-file go together"),
        };
        let named = values.list("tls-sni-cert-key");
        let named = named.iter().map(|text| named_pair(text).with_context(|| format!("--tls-sni-cert-key={text}")));
        Ok(Self { usual, named: named.collect::<Result<_, _>>()? })
    }

    /// The certificate for everybody, if there is one.
    pub(crate) fn read(&self) -> anyhow::Result<Option<KeyCert>> {
        self.usual.as_ref().map(PairFiles::read).transpose()
    }

    /// Shows `usual` to everybody, and those with names to whoever asks for them.
    pub(crate) fn show(&self, usual: &KeyCert) -> anyhow::Result<Arc<ServingCertificate>> {
        let named = self.named.iter().map(|(names, files)| Ok((names.clone(), files.read()?)));
        let named: Vec<(Vec<String>, KeyCert)> = named.collect::<anyhow::Result<_>>()?;
        ServingCertificate::with_named(usual, &named).context("cannot use the serving certificates")
    }

    /// From now on `shown` shows what the files hold.
    pub(crate) fn follow(self, shown: &Arc<ServingCertificate>, followed: &mut FollowedFiles) {
        if let Some(files) = self.usual {
            let shown = shown.clone();
            followed.add_pair("the serving certificate", files, move |pair| Ok(shown.replace(pair)?));
        }
        for (place, (_, files)) in self.named.into_iter().enumerate() {
            let shown = shown.clone();
            followed.add_pair("a serving certificate with names", files, move |pair| Ok(shown.replace_named(place, pair)?));
        }
    }
}

/// `CERTIFICATE,KEY[:NAME,...]`, as upstream reads it.
fn named_pair(text: &str) -> anyhow::Result<(Vec<String>, PairFiles)> {
    let (files, names) = match text.split_once(':') {
        None => (text, Vec::new()),
        Some((_, names)) if names.trim().is_empty() => bail!("empty names list is not allowed"),
        Some((files, names)) => (files, names.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    let parts: Vec<&str> = files.split(',').map(str::trim).collect();
    let [certificate, key] = parts.as_slice() else { bail!("expected comma separated certificate and key file paths") };
    let files = PairFiles { flags: ["tls-sni-cert-key"; 2], certificate: (*certificate).into(), key: (*key).into() };
    Ok((names, files))
}

/// Looks at files, and says whether they hold something else than before, which is then used.
type Look = Box<dyn FnMut() -> anyhow::Result<bool> + Send>;

/// Files that are read again.
#[derive(Default)]
pub(crate) struct FollowedFiles(Vec<Followed>);

struct Followed {
    what: &'static str,
    paths: Vec<PathBuf>,
    look: Look,
}

impl FollowedFiles {
    fn add_pair(
        &mut self,
        what: &'static str,
        files: PairFiles,
        mut show: impl FnMut(&KeyCert) -> anyhow::Result<()> + Send + 'static,
    ) {
        let (paths, mut known) = (files.paths(), files.read().ok());
        let look = move || {
            let pair = files.read()?;
            if known.as_ref() == Some(&pair) {
                return Ok(false);
            }
            show(&pair)?;
            known = Some(pair);
            Ok(true)
        };
        self.0.push(Followed { what, paths, look: Box::new(look) });
    }

    /// Authorities that a flag names, if it does; `told` is called when they are others.
    pub(crate) fn add_authorities(
        &mut self,
        values: &Values,
        flag: &'static str,
        authorities: &Authorities,
        told: impl Fn() + Send + 'static,
    ) {
        let Some(path) = values.text(flag).map(str::to_owned) else { return };
        let (paths, authorities) = (vec![PathBuf::from(&path)], authorities.clone());
        let look = move || {
            let changed = authorities.replace(&read(flag, &path)?)?;
            if changed {
                told();
            }
            Ok(changed)
        };
        self.0.push(Followed { what: flag, paths, look: Box::new(look) });
    }

    /// Reads them when they change, until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let paths: Vec<PathBuf> = self.0.iter().flat_map(|followed| followed.paths.clone()).collect();
        if paths.is_empty() {
            return;
        }
        let mut changes = match FileChanges::of(&paths) {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::warn!(%error, "changes of files are seen within a minute only");
                None
            }
        };
        // What has changed since the start.
        self.look();
        loop {
            let told = async {
                match &mut changes {
                    Some(changes) => changes.next().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let is_told = tokio::select! {
                () = token.cancelled() => return,
                is_told = told => is_told,
                () = tokio::time::sleep(INTERVAL) => true,
            };
            if !is_told {
                // Never again: the minute remains.
                changes = None;
            }
            self.look();
        }
    }

    fn look(&mut self) {
        for Followed { what, look, .. } in &mut self.0 {
            match look() {
                Ok(true) => tracing::info!(what, "read again from its files"),
                Ok(false) => {}
                // Perhaps it is being renewed: the certificate is there, and its key is not.
                Err(error) => {
                    tracing::warn!(what, error = format!("{error:#}"), "the files cannot be used, what they held before stays");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::common::{CERTIFICATES, LISTENING};
    use crate::flags::testing;

    fn make() -> KeyCert {
        KeyCert::self_signed(&["localhost".to_owned()]).expect("is made")
    }

    fn write(path: &str, pem: &str) {
        std::fs::write(path, pem).expect("is written");
    }

    #[test]
    fn renewed_files_are_shown_once_they_fit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let (certificate, key) = (path("c.pem"), path("k.pem"));
        let flags = [format!("--tls-cert-file={certificate}"), format!("--tls-private-key-file={key}")];
        let values = testing::read(&[("f", LISTENING)], &flags.each_ref().map(String::as_str)).expect("are flags");
        let files = ServingFiles::of(&values).expect("go together");
        let (first, second) = (make(), make());
        write(&certificate, &first.cert_pem);
        assert!(files.read().is_err(), "there is no key");
        write(&key, &first.key_pem);
        assert_eq!(files.read().expect("is there"), Some(first.clone()));
        let shown = files.show(&first).expect("is usable");
        let mut followed = FollowedFiles::default();
        files.follow(&shown, &mut followed);
        let mut look = || (followed.0[0].look)();
        assert!(!look().expect("is usable"), "nothing is new");
        write(&certificate, &second.cert_pem);
        assert!(look().is_err(), "the key is that of the old one");
        write(&key, &second.key_pem);
        assert!(look().expect("is usable"));
        assert!(!look().expect("is usable"));
    }

    #[tokio::test]
    async fn authorities_are_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem").to_string_lossy().into_owned();
        let (first, second) = (make().cert_pem, make().cert_pem);
        write(&path, &first);
        let flag = format!("--client-ca-file={path}");
        let values = testing::read(&[("f", CERTIFICATES)], &[flag.as_str()]).expect("are flags");
        let authorities = Authorities::new(&first).expect("are usable");
        let (sender, mut told) = tokio::sync::watch::channel(0);
        let mut followed = FollowedFiles::default();
        followed.add_authorities(&values, "client-ca-file", &authorities, move || sender.send_modify(|times| *times += 1));
        followed.add_authorities(&values, "requestheader-client-ca-file", &authorities, || panic!("there are none"));
        let token = CancellationToken::new();
        let running = tokio::spawn(followed.run(token.clone()));
        // Renamed over the old one, as is usual.
        let new = directory.path().join("new.pem").to_string_lossy().into_owned();
        let renew = async {
            // Until the file is watched.
            while !told.has_changed().expect("is followed") {
                write(&new, "nonsense");
                std::fs::rename(&new, &path).expect("is renamed");
                write(&new, &second);
                std::fs::rename(&new, &path).expect("is renamed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), renew).await.expect("is told");
        assert_eq!((*told.borrow_and_update(), authorities.now().pem()), (1, second.as_str()));
        token.cancel();
        running.await.expect("ends");
    }

    #[test]
    fn certificates_with_names() {
        let check = |text: &str| match named_pair(text) {
            Ok((names, files)) => format!("{} {} {}", files.certificate, files.key, names.join("+")),
            Err(error) => error.to_string(),
        };
        for (text, expected) in [
            ("c, k", "c k "),
            ("c,k:a, *.b", "c k a+*.b"),
            ("c,k:", "empty names list is not allowed"),
            ("c", "expected comma separated certificate and key file paths"),
            ("c,k,x", "expected comma separated certificate and key file paths"),
        ] {
            assert_eq!(check(text), expected, "{text}");
        }
    }
}
