//! Credentials from `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` Secrets, matched to images as upstream's Docker keyring
//! does (<https://kubernetes.io/docs/concepts/containers/images/#config-json>).

use cri::v1;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::image::reference;

#[derive(Deserialize, Default)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

/// Credentials by registry pattern, as found.
#[derive(Default)]
pub(crate) struct Keyring {
    entries: Vec<(String, v1::AuthConfig)>,
}

impl Keyring {
    /// Adds the credentials of a pull secret.
    pub(crate) fn add(&mut self, secret: &Secret) -> Result<(), serde_json::Error> {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        let auths = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => match data(".dockerconfigjson") {
                Some(text) => serde_json::from_slice::<DockerConfig>(text)?.auths,
                None => return Ok(()),
            },
            Some("kubernetes.io/dockercfg") => match data(".dockercfg") {
                Some(text) => serde_json::from_slice(text)?,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        for (registry, auth) in auths {
            self.entries.push((pattern(&registry), config(&registry, auth)));
        }
        // The longest pattern first, as upstream sorts.
        self.entries.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(())
    }

    /// The credentials for an image, the most specific first.
    pub(crate) fn lookup(&self, image: &str) -> Vec<v1::AuthConfig> {
        let target = reference::registry_and_path(image);
        self.entries.iter().filter(|(pattern, _)| matches(pattern, &target)).map(|(_, auth)| auth.clone()).collect()
    }
}

/// The registry of a configuration entry as host and path: no scheme, no `/v1/` or `/v2/`.
fn pattern(registry: &str) -> String {
    let text = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let text = text.trim_end_matches('/');
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let path = match path {
        "v1" | "v2" => "",
        _ => path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path),
    };
    let host = if host == "docker.io" { "index.docker.io" } else { host };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

fn config(registry: &str, auth: DockerAuth) -> v1::AuthConfig {
    let (mut username, mut password) = (auth.username, auth.password);
    if username.is_empty()
        && password.is_empty()
        && let Some((user, secret)) = decode(&auth.auth)
    {
        (username, password) = (user, secret);
    }
    v1::AuthConfig {
        username,
        password,
        auth: String::new(),
        server_address: registry.to_owned(),
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    use k8s_openapi::ByteString;
    let bytes: ByteString = serde_json::from_value(serde_json::Value::String(auth.trim().to_owned())).ok()?;
    let text = String::from_utf8(bytes.0).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Same number of host parts, each matching as a glob; same port; the pattern's path a prefix.
fn matches(pattern: &str, target: &str) -> bool {
    let (pattern_host, pattern_path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (target_host, target_path) = target.split_once('/').unwrap_or((target, ""));
    let port = |host: &str| host.rsplit_once(':').map(|(_, p)| p.to_owned());
    let name = |host: &str| host.rsplit_once(':').map_or(host, |(n, _)| n).to_owned();
    if port(pattern_host) != port(target_host) || !target_path.starts_with(pattern_path) {
        return false;
    }
    let (pattern_name, target_name) = (name(pattern_host), name(target_host));
    let (parts, target_parts): (Vec<&str>, Vec<&str>) = (pattern_name.split('.').collect(), target_name.split('.').collect());
    parts.len() == target_parts.len() && parts.iter().zip(&target_parts).all(|(p, t)| glob(p, t))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.is_char_boundary(i) && glob(after, &rest[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(kind: &str, key: &str, json: serde_json::Value) -> Secret {
        let data = std::collections::BTreeMap::from([(key.to_owned(), k8s_openapi::ByteString(json.to_string().into_bytes()))]);
        Secret { type_: Some(kind.to_owned()), data: Some(data), ..Secret::default() }
    }

    #[test]
    fn reads_both_formats() {
        let mut keyring = Keyring::default();
        let auths = serde_json::json!({"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}, "host:5000": {"username": "u", "password": "p"}}});
        keyring.add(&secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", auths)).unwrap();
        keyring
            .add(&secret(
                "kubernetes.io/dockercfg",
                ".dockercfg",
                serde_json::json!({"*.corp.example/team": {"username": "t", "password": "q"}}),
            ))
            .unwrap();
        let user = |image: &str| keyring.lookup(image).first().map(|a| format!("{}:{}", a.username, a.password));
        for (image, expected) in [
            ("nginx", Some("user:pass")),
            ("host:5000/a/b:1", Some("u:p")),
            ("host:5001/a/b:1", None),
            ("reg.corp.example/team/x", Some("t:q")),
            ("reg.corp.example/other/x", None),
            ("a.reg.corp.example/team/x", None),
        ] {
            assert_eq!(user(image).as_deref(), expected, "{image}");
        }
    }
}
