//! Credentials in the headers of each request, and what a kubeconfig's user has of them: a password, a token, a token in a file, or what
//! a credential plugin says (client-go's exec,
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>); and whom the user acts as.
//!
//! Not here: certificates from plugins, and client-go's compiled-in providers (`auth-provider`), which are errors.

use std::collections::HashMap;
use std::future::Future;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use kube::config::{AuthInfo, Cluster, ExecConfig, ExecInteractiveMode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Service};

/// A token's file is read again after this time (client-go: the same).
const FILE_LIFETIME: Duration = Duration::from_secs(60);
/// The extension of a cluster that is handed to its credential plugins.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Headers that say who asks.
pub(crate) type Headers = Vec<(HeaderName, HeaderValue)>;

/// Who asks, anew for each request.
#[async_trait]
pub(crate) trait Credentials: Send + Sync {
    /// The headers of the next request.
    async fn headers(&self) -> Result<Headers, BoxError>;

    /// The server does not take them (any more).
    async fn refused(&self);
}

/// A transport without credentials of its own, and headers in each request.
pub(crate) struct Authenticated<S> {
    transport: S,
    credentials: Arc<dyn Credentials>,
}

impl<S> Authenticated<S> {
    pub(crate) fn new(transport: S, credentials: Arc<dyn Credentials>) -> Self {
        Self { transport, credentials }
    }
}

impl<S: Clone> Clone for Authenticated<S> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), credentials: self.credentials.clone() }
    }
}

type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

impl<S, A, B> Service<Request<A>> for Authenticated<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    A: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Answer<B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.transport.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        // The instance that is ready, not its clone, gets the request.
        let next = self.transport.clone();
        let mut transport = std::mem::replace(&mut self.transport, next);
        let credentials = self.credentials.clone();
        Box::pin(async move {
            for (name, value) in credentials.headers().await? {
                request.headers_mut().append(name, value);
            }
            let response = transport.call(request).await.map_err(Into::into)?;
            if response.status() == StatusCode::UNAUTHORIZED {
                credentials.refused().await;
            }
            Ok(response)
        })
    }
}

/// `Bearer TOKEN`, kept out of logs.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    sensitive(format!("Bearer {}", token.trim()))
}

fn sensitive(text: String) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::try_from(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A user of a kubeconfig.
#[derive(Debug)]
struct User {
    source: Source,
    /// The `Impersonate-` headers.
    acts_as: Headers,
}

#[derive(Debug)]
enum Source {
    /// The transport's certificate, or none.
    None,
    Fixed(HeaderValue),
    File(File),
    Plugin(Box<Plugin>),
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// The last token, and when the file was read; a token that the kubeconfig holds beside it has not been read.
    current: Mutex<Option<(HeaderValue, Option<Instant>)>>,
}

#[derive(Debug)]
struct Plugin {
    call: Call,
    /// The token, and when it is over.
    current: Mutex<Option<(HeaderValue, Option<Timestamp>)>>,
}

/// How a plugin is called.
#[derive(Clone, Debug)]
struct Call {
    exec: ExecConfig,
    /// What it is told of the cluster.
    cluster: Option<serde_json::Value>,
}

/// The credentials of a kubeconfig's user in headers; `None` where there are none. Errors say what of them cannot be used.
pub(crate) fn of_user(user: &AuthInfo, cluster: &Cluster) -> Result<Option<Arc<dyn Credentials>>, String> {
    if let Some(provider) = &user.auth_provider {
        return Err(format!("no Auth Provider found for name {:?}", provider.name));
    }
    let token = user.token.as_ref().map(|token| token.expose_secret()).filter(|token| !token.is_empty());
    let bad = |error: http::header::InvalidHeaderValue| error.to_string();
    let token = token.map(bearer).transpose().map_err(bad)?;
    let source = match (token, user.token_file.as_ref().filter(|file| !file.is_empty()), &user.username, &user.exec) {
        // What is read from the file takes precedence over the token beside it.
        (token, Some(file), ..) => {
            Source::File(File { path: file.into(), current: Mutex::new(token.map(|token| (token, None))) })
        }
        (Some(token), ..) => Source::Fixed(token),
        (None, None, Some(name), _) => {
            let password = user.password.as_ref().map_or("", |password| password.expose_secret());
            Source::Fixed(sensitive(format!("Basic {}", BASE64.encode(format!("{name}:{password}")))).map_err(bad)?)
        }
        (None, None, None, Some(exec)) => {
            let call = Call { exec: exec.clone(), cluster: exec.provide_cluster_info.then(|| cluster_info(cluster)) };
            Source::Plugin(Box::new(Plugin { call, current: Mutex::default() }))
        }
        (None, None, None, None) => Source::None,
    };
    let acts_as = impersonation(user)?;
    if matches!(source, Source::None) && acts_as.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(User { source, acts_as })))
}

fn impersonation(user: &AuthInfo) -> Result<Headers, String> {
    let name = user.impersonate.as_deref().unwrap_or_default();
    let groups = user.impersonate_groups.iter().flatten().map(|group| ("Impersonate-Group".to_owned(), group.as_str()));
    let uid = user.impersonate_uid.iter().map(|uid| ("Impersonate-Uid".to_owned(), uid.as_str()));
    let extra = user.impersonate_user_extra.iter().flatten();
    let extra = extra.flat_map(|(key, values)| values.iter().map(move |value| (extra_header(key), value.as_str())));
    let others: Vec<(String, &str)> = uid.chain(groups).chain(extra).collect();
    if name.is_empty() && !others.is_empty() {
        return Err("requesting uid, groups or user-extra without impersonating a user".to_owned());
    }
    let named = (!name.is_empty()).then(|| ("Impersonate-User".to_owned(), name));
    let header = |(name, value): (String, &str)| -> Result<_, String> {
        let name = HeaderName::try_from(&name).map_err(|error| format!("{name}: {error}"))?;
        Ok((name, HeaderValue::from_str(value).map_err(|error| error.to_string())?))
    };
    named.into_iter().chain(others).map(header).collect()
}

/// The header for a key of a user's extra; what a header's name cannot have is percent-encoded.
fn extra_header(key: &str) -> String {
    let mut name = "Impersonate-Extra-".to_owned();
    for byte in key.bytes() {
        match HeaderName::from_bytes(&[byte]) {
            Ok(_) if byte != b'%' => name.push(byte.to_ascii_lowercase().into()),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

#[async_trait]
impl Credentials for User {
    async fn headers(&self) -> Result<Headers, BoxError> {
        let authorization = match &self.source {
            Source::None => None,
            Source::Fixed(value) => Some(value.clone()),
            Source::File(file) => Some(file.token().await?),
            Source::Plugin(plugin) => Some(plugin.token().await?),
        };
        let authorization = authorization.map(|value| (AUTHORIZATION, value));
        Ok(authorization.into_iter().chain(self.acts_as.iter().cloned()).collect())
    }

    async fn refused(&self) {
        if let Source::Plugin(plugin) = &self.source {
            *plugin.current.lock().await = None;
        }
    }
}

impl File {
    async fn token(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some((value, _)) = current.as_ref().filter(|(_, read)| read.is_some_and(|read| read.elapsed() < FILE_LIFETIME)) {
            return Ok(value.clone());
        }
        let path = self.path.display();
        let read = match tokio::fs::read_to_string(&self.path).await {
            Ok(token) if token.trim().is_empty() => Err(format!("{path} holds no token")),
            Ok(token) => bearer(&token).map_err(|error| format!("{path}: {error}")),
            Err(error) => Err(format!("cannot read the token {path}: {error}")),
        };
        let value = match (read, current.take()) {
            (Ok(value), _) => value,
            // The last one may still be good: files are taken away for a moment, or for good after the start.
            (Err(_), Some((last, _))) => last,
            (Err(why), None) => return Err(why.into()),
        };
        *current = Some((value.clone(), Some(Instant::now())));
        Ok(value)
    }
}

impl Plugin {
    async fn token(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some((value, _)) = current.as_ref().filter(|(_, over)| over.is_none_or(|over| Timestamp::now() < over)) {
            return Ok(value.clone());
        }
        let call = self.call.clone();
        let (token, over) = tokio::task::spawn_blocking(move || call.run()).await??;
        let value = bearer(&token)?;
        *current = Some((value.clone(), over));
        Ok(value)
    }
}

/// What a plugin answers: `ExecCredential` of client.authentication.k8s.io.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<ExecStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ExecStatus {
    expiration_timestamp: Option<Timestamp>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Call {
    /// A token, and when it is over. Blocks as long as the plugin does.
    fn run(&self) -> Result<(String, Option<Timestamp>), String> {
        let exec = &self.exec;
        let version = exec.api_version.as_deref().unwrap_or_default();
        if !matches!(version, "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1") {
            return Err(format!("exec plugin: invalid apiVersion {version:?}"));
        }
        let name = exec.command.as_deref().unwrap_or_default();
        let terminal = std::io::stdin().is_terminal();
        let interactive = match exec.interactive_mode {
            Some(ExecInteractiveMode::Never) => false,
            Some(ExecInteractiveMode::Always) if !terminal => {
                return Err("exec plugin cannot support interactive mode: standard input is not a terminal".to_owned());
            }
            _ => terminal,
        };
        let mut spec = serde_json::json!({ "interactive": interactive });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        let info = serde_json::json!({"kind": "ExecCredential", "apiVersion": version, "spec": spec});
        let pair = |set: &HashMap<String, String>| Some((set.get("name")?.clone(), set.get("value")?.clone()));
        let output = Command::new(name)
            .args(exec.args.iter().flatten())
            .envs(exec.env.iter().flatten().filter_map(pair))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(if interactive { Stdio::inherit() } else { Stdio::null() })
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| match exec.install_hint.as_deref() {
                Some(hint) if error.kind() == std::io::ErrorKind::NotFound => {
                    format!("exec: executable {name} not found\n\n{hint}")
                }
                _ => format!("exec: {name}: {error}"),
            })?;
        if !output.status.success() {
            return Err(format!("exec: executable {name} failed with {}", output.status));
        }
        answer(&output.stdout, version)
    }
}

fn answer(stdout: &[u8], version: &str) -> Result<(String, Option<Timestamp>), String> {
    let json = apimachinery::yaml::strict_json(stdout).map_err(|error| format!("decoding stdout: {error}"))?;
    let answer: ExecCredential = serde_json::from_str(&json).map_err(|error| format!("decoding stdout: {error}"))?;
    if answer.kind != "ExecCredential" || answer.api_version != version {
        let (found, kind) = (answer.api_version, answer.kind);
        return Err(format!("exec plugin is configured to use API version {version}, plugin returned version {found} ({kind})"));
    }
    let status = answer.status.ok_or("exec plugin didn't return a status field")?;
    match status.token.filter(|token| !token.is_empty()) {
        Some(token) => Ok((token, status.expiration_timestamp)),
        None if status.client_certificate_data.is_some() || status.client_key_data.is_some() => {
            Err("certificates from exec plugins are not implemented".to_owned())
        }
        None => Err("exec plugin didn't return a token or cert/key pair".to_owned()),
    }
}

/// `spec.cluster` for a plugin that asks for it.
fn cluster_info(cluster: &Cluster) -> serde_json::Value {
    let mut info = serde_json::json!({ "server": cluster.server });
    for (name, value) in [
        ("tls-server-name", &cluster.tls_server_name),
        ("certificate-authority-data", &cluster.certificate_authority_data),
        ("proxy-url", &cluster.proxy_url),
    ] {
        if let Some(value) = value {
            info[name] = value.as_str().into();
        }
    }
    let extension = cluster.extensions.iter().flatten().find(|extension| extension.name == EXEC_EXTENSION);
    info["config"] = extension.map_or(serde_json::Value::Null, |extension| extension.extension.clone());
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(json: serde_json::Value) -> AuthInfo {
        serde_json::from_value(json).expect("is a user")
    }

    async fn headers(json: serde_json::Value) -> Result<Vec<String>, String> {
        let cluster = Cluster { server: Some("https://10.0.0.1".to_owned()), ..Cluster::default() };
        let Some(credentials) = of_user(&user(json), &cluster)? else { return Ok(Vec::new()) };
        let headers = credentials.headers().await.map_err(|error| error.to_string())?;
        Ok(headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default())).collect())
    }

    #[tokio::test]
    async fn what_a_user_has() {
        let check = async |json: serde_json::Value, expected: &[&str]| {
            assert_eq!(
                headers(json.clone()).await.as_deref(),
                Ok(expected.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>().as_slice()),
                "{json}"
            );
        };
        check(serde_json::json!({}), &[]).await;
        check(serde_json::json!({"token": "abc", "tokenFile": "/nowhere"}), &["authorization: Bearer abc"]).await;
        let file = std::env::temp_dir().join(format!("beside-{}", std::process::id()));
        std::fs::write(&file, "read").expect("writes");
        check(serde_json::json!({"token": "abc", "tokenFile": file}), &["authorization: Bearer read"]).await;
        std::fs::remove_file(&file).expect("removes");
        check(serde_json::json!({"username": "u", "password": "p"}), &["authorization: Basic dTpw"]).await;
        let acting = serde_json::json!({"as": "jane", "as-groups": ["a", "b"], "as-user-extra": {"example.com/S": ["x"]}});
        let expected =
            ["impersonate-user: jane", "impersonate-group: a", "impersonate-group: b", "impersonate-extra-example.com%2fs: x"];
        check(acting, &expected).await;
        let error = headers(serde_json::json!({"as-groups": ["a"]})).await.expect_err("nobody");
        assert!(error.contains("without impersonating a user"), "{error}");
        let error = headers(serde_json::json!({"auth-provider": {"name": "gcp", "config": {}}})).await.expect_err("no provider");
        assert_eq!(error, "no Auth Provider found for name \"gcp\"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tokens_file_is_read_again_and_its_last_token_kept() {
        let path = std::env::temp_dir().join(format!("token-{}", std::process::id()));
        std::fs::write(&path, "one\n").expect("writes");
        let file = File { path: path.clone(), current: Mutex::default() };
        assert_eq!(file.token().await.expect("is there"), "Bearer one");
        std::fs::write(&path, "two").expect("writes");
        assert_eq!(file.token().await.expect("is kept"), "Bearer one");
        tokio::time::advance(FILE_LIFETIME).await;
        assert_eq!(file.token().await.expect("is read again"), "Bearer two");
        std::fs::remove_file(&path).expect("removes");
        tokio::time::advance(FILE_LIFETIME).await;
        assert_eq!(file.token().await.expect("is kept"), "Bearer two");
    }

    #[tokio::test]
    async fn a_plugin_is_asked() {
        let exec = |script: &str, more: serde_json::Value| {
            let mut exec = serde_json::json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                "command": "/bin/sh", "args": ["-c", script], "env": [{"name": "WHO", "value": "me"}]});
            exec.as_object_mut().expect("is one").extend(more.as_object().cloned().unwrap_or_default());
            serde_json::json!({ "exec": exec })
        };
        let nothing = serde_json::json!({});
        let head = r#"{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": "#;
        let says = |status: &str| format!("echo '{head}{status}}}'");
        let token = headers(exec(&format!("echo '{head}{{\"token\": \"'$WHO'\"}}}}'"), nothing.clone())).await;
        assert_eq!(token.as_deref(), Ok(["authorization: Bearer me".to_owned()].as_slice()));
        // What it is told comes back as the token.
        let told = "echo \"kind: ExecCredential\"; echo \"apiVersion: client.authentication.k8s.io/v1\"; \
                    echo \"status: {token: $(echo $KUBERNETES_EXEC_INFO | tr -dc 'a-z0-9.:/')}\"";
        let token = headers(exec(told, serde_json::json!({"provideClusterInfo": true}))).await.expect("answers");
        assert!(token[0].contains("server:https://10.0.0.1"), "{token:?}");
        for (script, why) in [
            ("exit 3".to_owned(), "failed with exit status: 3"),
            ("echo no".to_owned(), "decoding stdout"),
            (says("null"), "didn't return a status field"),
            (says("{}"), "didn't return a token or cert/key pair"),
            (says(r#"{"clientCertificateData": "x", "clientKeyData": "y"}"#), "not implemented"),
            (says("{}").replace("/v1", "/v1beta1"), "plugin returned version"),
        ] {
            let error = headers(exec(&script, nothing.clone())).await.expect_err(&script);
            assert!(error.contains(why), "{script}: {error}");
        }
        let missing = serde_json::json!({"command": "/no/plugin", "installHint": "get it from ..."});
        let error = headers(exec("", missing)).await.expect_err("is missing");
        assert!(error.contains("get it from ..."), "{error}");
    }

    #[tokio::test]
    async fn a_plugins_token_lasts_until_it_is_over_or_refused() {
        let counter = std::env::temp_dir().join(format!("calls-{}", std::process::id()));
        let script = format!(
            "echo x >> {0}; echo \"{{kind: ExecCredential, apiVersion: client.authentication.k8s.io/v1, \
             status: {{token: t$(wc -l < {0}), expirationTimestamp: '$OVER'}}}}\"",
            counter.display()
        );
        let check = async |over: &str, expected: [&str; 3]| {
            let exec = serde_json::json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                "command": "/bin/sh", "args": ["-c", script], "env": [{"name": "OVER", "value": over}]});
            let user =
                of_user(&user(serde_json::json!({ "exec": exec })), &Cluster::default()).expect("is usable").expect("is there");
            let mut found = Vec::new();
            for call in 0..3 {
                if call == 2 {
                    user.refused().await;
                }
                found.push(user.headers().await.expect("answers")[0].1.clone());
            }
            assert_eq!(found, expected, "{over}");
            std::fs::remove_file(&counter).expect("removes");
        };
        check("2100-01-01T00:00:00Z", ["Bearer t1", "Bearer t1", "Bearer t2"]).await;
        check("2020-01-01T00:00:00Z", ["Bearer t1", "Bearer t2", "Bearer t3"]).await;
    }
}
