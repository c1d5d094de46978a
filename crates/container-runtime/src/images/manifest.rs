//! The documents of an image, as far as they are used: OCI image specification 1.1, and Docker's equal ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A reference to content.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// An image manifest, or an index of them: told apart by what they hold, because media types are optional in practice.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Manifest {
    Index { manifests: Vec<Descriptor> },
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

/// An image's configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: ProcessConfig,
    pub(crate) rootfs: Rootfs,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// Defaults for a container's process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ProcessConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// Go writes empty lists and maps as null.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The architecture of this machine, in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry of an index for this machine; a single entry without platform is taken as it is.
pub(crate) fn select_platform(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let matches = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    let plain = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| matches!(platform.variant.as_str(), "" | "v8"))
    };
    manifests
        .iter()
        .filter(matches)
        .find(plain)
        .or_else(|| manifests.iter().find(matches))
        .or_else(|| manifests.iter().find(|descriptor| descriptor.platform.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_with_nulls() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Volumes":null},"rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#,
        )
        .expect("config");
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.entrypoint.is_empty());
    }

    #[test]
    fn the_machine_s_platform_is_selected() {
        let text = format!(
            r#"{{"manifests":[
                {{"digest":"a","platform":{{"os":"windows","architecture":"{arch}"}}}},
                {{"digest":"b","platform":{{"os":"unknown","architecture":"unknown"}}}},
                {{"digest":"c","platform":{{"os":"linux","architecture":"{arch}"}}}}]}}"#,
            arch = architecture()
        );
        let Ok(Manifest::Index { manifests }) = serde_json::from_str(&text) else { panic!("not an index") };
        assert_eq!(select_platform(&manifests).map(|found| found.digest.as_str()), Some("c"));
        assert!(select_platform(&manifests[..2]).is_none());
    }
}
