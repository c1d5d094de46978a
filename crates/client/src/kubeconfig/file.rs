//! What a kubeconfig file says of the server of its current context
//! (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>).
//!
//! Not kube's own reader and its own credentials: those bring a second YAML reader and JSONPath, a MB of the executable.

use std::path::Path;

use kube::config::{AuthInfo, Cluster, Kubeconfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{KubeconfigError, data_or_file};

/// What `current-context` names.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) cluster: Cluster,
    pub(super) user: AuthInfo,
    pub(super) namespace: String,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<Target, KubeconfigError> {
    let text = std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
    let malformed = |why| KubeconfigError::Malformed { path: path.to_owned(), why };
    parse(&text, path.parent().unwrap_or(Path::new(""))).and_then(current).map_err(malformed)
}

/// `directory` is where the file is: other files are named from there.
fn parse(text: &[u8], directory: &Path) -> Result<Kubeconfig, String> {
    let json = apimachinery::yaml::strict_json(text).map_err(|error| error.to_string())?;
    let mut kubeconfig: Kubeconfig = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let resolve = |file: &mut Option<String>| {
        if let Some(name) = file.as_mut().filter(|name| !name.is_empty()) {
            *name = directory.join(&*name).to_string_lossy().into_owned();
        }
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        resolve(&mut cluster.certificate_authority);
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        resolve(&mut user.client_certificate);
        resolve(&mut user.client_key);
        resolve(&mut user.token_file);
        // A command without a slash is looked up in PATH.
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.command.as_ref().is_some_and(|command| command.contains('/'))) {
            resolve(&mut exec.command);
        }
    }
    Ok(kubeconfig)
}

fn current(kubeconfig: Kubeconfig) -> Result<Target, String> {
    let name = kubeconfig.current_context.filter(|name| !name.is_empty()).ok_or("current-context is not set")?;
    let named = kubeconfig.contexts.into_iter().find(|context| context.name == name);
    let context = named.and_then(|named| named.context).ok_or_else(|| format!("context {name:?} does not exist"))?;
    let named = kubeconfig.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let cluster = named.and_then(|named| named.cluster);
    let cluster = cluster.ok_or_else(|| format!("cluster {:?} does not exist", context.cluster))?;
    let user = match context.user.filter(|name| !name.is_empty()) {
        None => AuthInfo::default(),
        Some(name) => {
            let named = kubeconfig.auth_infos.into_iter().find(|user| user.name == name);
            named.and_then(|named| named.auth_info).ok_or_else(|| format!("user {name:?} does not exist"))?
        }
    };
    let namespace = context.namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    Ok(Target { cluster, user, namespace })
}

impl Target {
    /// Where the server is and how it is trusted.
    pub(super) fn config(self) -> Result<kube::Config, KubeconfigError> {
        let cluster = self.cluster;
        for (given, what) in [
            (cluster.insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify"),
            (cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()), "proxy-url"),
        ] {
            if given {
                return Err(KubeconfigError::NotImplemented(what));
            }
        }
        let server = cluster.server.unwrap_or_default();
        let mut config = kube::Config::new(server.parse().map_err(|_| KubeconfigError::Server(server))?);
        let what = "certificate-authority";
        let authority =
            data_or_file(what, cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref())?;
        if let Some(authority) = authority {
            let roots: Result<Vec<CertificateDer>, _> = CertificateDer::pem_slice_iter(&authority).collect();
            let roots = roots.map_err(|error| KubeconfigError::Credentials(format!("{what}: {error}")))?;
            config.root_cert = Some(roots.iter().map(|root| root.to_vec()).collect());
        }
        config.tls_server_name = cluster.tls_server_name.filter(|name| !name.is_empty());
        config.default_namespace = self.namespace;
        config.auth_info = self.user;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_where_the_kubeconfig_is() {
        let text = "clusters: [{name: c, cluster: {server: 'https://10.0.0.1', certificate-authority: pki/ca.crt}}]\nusers:\n- name: u\n  \
                    user: {client-certificate: /etc/c.crt, client-key: c.key, tokenFile: ../token, exec: {command: bin/login}}\n\
                    - {name: v, user: {exec: {command: aws}}}\ncurrent-context: x\ncontexts: null\n";
        let config = parse(text.as_bytes(), Path::new("/home/me")).expect("is a kubeconfig");
        let cluster = config.clusters[0].cluster.as_ref().expect("is there");
        assert_eq!(cluster.certificate_authority.as_deref(), Some("/home/me/pki/ca.crt"));
        let users: Vec<&AuthInfo> = config.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()).collect();
        assert_eq!(users[0].client_certificate.as_deref(), Some("/etc/c.crt"));
        assert_eq!(users[0].client_key.as_deref(), Some("/home/me/c.key"));
        assert_eq!(users[0].token_file.as_deref(), Some("/home/me/../token"));
        let command = |user: &AuthInfo| user.exec.as_ref().and_then(|exec| exec.command.clone());
        assert_eq!(command(users[0]).as_deref(), Some("/home/me/bin/login"));
        assert_eq!(command(users[1]).as_deref(), Some("aws"));
    }

    #[test]
    fn says_what_is_wrong() {
        let context = "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n";
        for (text, why) in [
            ("a: b: c", "mapping"),
            ("[]", "expected struct"),
            ("users: []\nusers: []", "\"users\""),
            ("", "null"),
            ("kind: Config", "current-context is not set"),
            ("current-context: other", "context \"other\" does not exist"),
            (context, "cluster \"c\" does not exist"),
            (&format!("{context}clusters: [{{name: c, cluster: {{server: 'https://a'}}}}]"), "user \"u\" does not exist"),
        ] {
            let error = parse(text.as_bytes(), Path::new("")).and_then(current).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let check = |cluster: &str| {
            let text = format!(
                "contexts: [{{name: x, context: {{cluster: c, namespace: ns}}}}]\ncurrent-context: x\nclusters: [{{name: c, cluster: {cluster}}}]"
            );
            parse(text.as_bytes(), Path::new("")).and_then(current).expect("is a kubeconfig").config()
        };
        let config = check("{server: 'https://10.0.0.1:6443', tls-server-name: s}").expect("is a server");
        assert_eq!((config.default_namespace.as_str(), config.tls_server_name.as_deref()), ("ns", Some("s")));
        for (cluster, why) in [
            ("{server: 'https://a', insecure-skip-tls-verify: true}", "insecure-skip-tls-verify"),
            ("{server: 'https://a', proxy-url: 'http://p'}", "proxy-url"),
            ("{server: 'https://a', certificate-authority-data: '!'}", "certificate-authority"),
            ("{server: 'no url'}", "no url"),
        ] {
            let error = check(cluster).expect_err(cluster).to_string();
            assert!(error.contains(why), "{cluster}: {error}");
        }
    }
}
