//! Defaults of containers, their probes and volumes.

use super::{Rule, absent, zero};
use crate::Value;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("core.v1.Container", container),
    ("core.v1.EphemeralContainer", container),
    ("core.v1.Probe", probe),
    ("core.v1.HTTPGetAction", |action| {
        zero(action, "path", "/");
        zero(action, "scheme", "HTTP");
    }),
    ("core.v1.ObjectFieldSelector", |selector| zero(selector, "apiVersion", "v1")),
    ("core.v1.Volume", volume),
    ("core.v1.SecretVolumeSource", default_mode),
    ("core.v1.ConfigMapVolumeSource", default_mode),
    ("core.v1.DownwardAPIVolumeSource", default_mode),
    ("core.v1.ProjectedVolumeSource", default_mode),
    ("core.v1.ServiceAccountTokenProjection", |projection| absent(projection, "expirationSeconds", 3600)),
    ("core.v1.HostPathVolumeSource", |source| absent(source, "type", "")),
];

fn container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    zero(container, "imagePullPolicy", policy);
    zero(container, "terminationMessagePath", "/dev/termination-log");
    zero(container, "terminationMessagePolicy", "File");
}

fn probe(probe: &mut Value) {
    zero(probe, "timeoutSeconds", 1);
    zero(probe, "periodSeconds", 10);
    zero(probe, "successThreshold", 1);
    zero(probe, "failureThreshold", 3);
}

/// rw-r--r--
fn default_mode(source: &mut Value) {
    absent(source, "defaultMode", 0o644);
}

fn volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|m| m.iter().any(|(key, v)| *key != "name" && !v.is_null()));
    if !has_source {
        volume.insert("emptyDir", Value::object());
    }
    if let Some(image) = volume.get_mut("image") {
        let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
        zero(image, "pullPolicy", policy);
    }
}

/// The longest path of a repository.
const PATH_BYTES_MAX: usize = 255;

/// `Always` for what is, explicitly or by default, tagged `latest`.
fn pull_policy(image: &str) -> &'static str {
    if tag(image).is_some_and(|tag| tag == "latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference, `latest` when it has neither tag nor digest; `None` when it has only a digest or is no
/// image reference at all (which validation reports later).
fn tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let after_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[after_slash..].rfind(':') {
        Some(at) => (&name[..after_slash + at], Some(&name[after_slash + at + 1..])),
        None => (name, None),
    };
    let (domain, path) = match repository.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("", repository),
    };
    let component = |c: &str| {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !c.is_empty()
            && c.bytes().all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
            && c.bytes().next().is_some_and(alphanumeric)
            && c.bytes().last().is_some_and(alphanumeric)
            // Between them: one dot, one or two underscores, or dashes.
            && c.split(|c: char| c.is_ascii_alphanumeric()).all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
    };
    // Docker's hub has what names no owner in `library/`.
    let length = path.len() + if domain.is_empty() && !path.contains('/') { "library/".len() } else { 0 };
    let bare_id = domain.is_empty() && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit());
    let valid_tag = tag.is_none_or(|t| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
            && t.bytes().next().is_some_and(word)
    });
    let valid = length <= PATH_BYTES_MAX
        && path.split('/').all(component)
        && valid_tag
        && !bare_id
        && digest.is_none_or(|d| d.contains(':'));
    match (valid, tag, digest) {
        (false, ..) => None,
        (true, Some(tag), _) => Some(tag),
        (true, None, None) => Some("latest"),
        (true, None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn pull_policies() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/a/b", "Always"),
            ("localhost:5000/a/b:v1", "IfNotPresent"),
            ("a@sha256:0123456789012345678901234567890123456789012345678901234567890123", "IfNotPresent"),
            ("", "IfNotPresent"),
            ("UPPER/x", "Always"),
            ("UPPER", "IfNotPresent"),
            ("a:latest@sha256:0123456789012345678901234567890123456789012345678901234567890123", "Always"),
            ("a b", "IfNotPresent"),
            ("web..com", "IfNotPresent"),
            ("web.com/a__b/c---d", "Always"),
            ("localhost/rusternetes:0.1.0", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
