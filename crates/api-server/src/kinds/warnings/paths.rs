//! Paths in a volume that are given twice, or one inside of another (upstream's `warningsForOverlappingVirtualPaths`): the later file hides the
//! earlier one, or cannot be written.

use apimachinery::go_quote;

use crate::kinds::at::At;

/// A path, and what puts something there.
#[derive(Clone)]
struct Sourced<'v> {
    path: &'v str,
    source: String,
}

impl std::fmt::Display for Sourced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&go_quote(self.path))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

/// Those of a pod's volume.
pub(super) fn overlapping(volume: &At, found: &mut Vec<String>) {
    let named = || go_quote(volume.get("name").text());
    let kinds = [
        ("configMap", "ConfigMap", Some("name")),
        ("secret", "Secret", Some("secretName")),
        ("downwardAPI", "DownwardAPI", None),
    ];
    for (member, kind, name) in kinds {
        let source = volume.get(member);
        if !source.is_set() {
            continue;
        }
        let described = || name.map_or(kind.to_owned(), |name| format!("{kind} {}", go_quote(source.get(name).text())));
        let mut seen = Vec::new();
        for pair in items(&source, String::new()).iter().flat_map(|path| clashes(path, &mut seen)) {
            found.push(format!("volume {} ({}): overlapping paths: {pair}", named(), described()));
        }
    }
    let projected = volume.get("projected");
    let mut seen = Vec::new();
    for source in projected.get("sources").items() {
        if source.value.is_empty() {
            found.push(format!("volume {} (Projected) has no sources provided", named()));
        }
        for pair in projection(&source).iter().flat_map(|path| clashes(path, &mut seen)) {
            found.push(format!("volume {} (Projected): overlapping paths: {pair}", named()));
        }
    }
}

fn items<'v>(of: &At<'_, 'v>, source: String) -> Vec<Sourced<'v>> {
    of.get("items").items().map(|item| Sourced { path: item.get("path").text(), source: source.clone() }).collect()
}

/// What one source of a projected volume puts into it.
fn projection<'v>(source: &At<'_, 'v>) -> Vec<Sourced<'v>> {
    for (member, kind) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
        let of = source.get(member);
        if of.get("items").is_set() {
            let named = if member == "downwardAPI" { String::new() } else { format!(" {}", go_quote(of.get("name").text())) };
            return items(&of, format!("{kind}{named}"));
        }
    }
    let (token, bundle) = (source.get("serviceAccountToken"), source.get("clusterTrustBundle"));
    if token.is_set() {
        return vec![Sourced { path: token.get("path").text(), source: "ServiceAccountToken".to_owned() }];
    }
    if bundle.is_set() {
        let name = bundle.set("name").unwrap_or(bundle.get("signerName"));
        let source = format!("ClusterTrustBundle {}", go_quote(name.text()));
        return vec![Sourced { path: bundle.get("path").text(), source }];
    }
    let certificate = source.get("podCertificate");
    let parts = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    let given = parts.into_iter().map(|(member, part)| (certificate.get(member).text(), part));
    given.filter(|(path, _)| !path.is_empty()).map(|(path, part)| Sourced { path, source: part.to_owned() }).collect()
}

/// With which of the earlier ones a path is at odds; it is one of them from then on.
fn clashes<'v>(path: &Sourced<'v>, seen: &mut Vec<Sourced<'v>>) -> Vec<String> {
    let path = Sourced { path: path.path.trim_end_matches('/'), source: path.source.clone() };
    let inside = |outer: &str, inner: &str| inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    let odd = seen.iter().filter(|other| !path.path.is_empty() && !other.path.is_empty());
    let odd = odd.filter(|other| inside(path.path, other.path) || inside(other.path, path.path));
    let pairs = odd.map(|other| format!("{path} with {other}")).collect();
    seen.push(path);
    pairs
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;

    #[test]
    fn volumes() {
        let check = |volume: Value, expected: &[&str]| {
            let mut found = Vec::new();
            overlapping(&At::root(&volume), &mut found);
            assert_eq!(found, expected, "{volume}");
        };
        let items = |paths: &[&str]| paths.iter().map(|path| value!({"key": "k", "path": *path})).collect::<Value>();
        check(value!({"name": "v", "configMap": {"name": "c", "items": items(&["a", "ab", "b/c"])}}), &[]);
        check(
            value!({"name": "v", "configMap": {"name": "c", "items": items(&["a", "a/b", "a/"])}}),
            &[
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a/b" with "a""#,
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a" with "a""#,
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a" with "a/b""#,
            ],
        );
        check(
            value!({"name": "v", "projected": {"sources": [{}, {"secret": {"name": "s", "items": items(&["t"])}},
                {"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": items(&["t/u"])}}]}}),
            &[
                r#"volume "v" (Projected) has no sources provided"#,
                r#"volume "v" (Projected): overlapping paths: "t" (ServiceAccountToken) with "t" (Secret "s")"#,
                r#"volume "v" (Projected): overlapping paths: "t/u" (DownwardAPI) with "t" (Secret "s")"#,
                r#"volume "v" (Projected): overlapping paths: "t/u" (DownwardAPI) with "t" (ServiceAccountToken)"#,
            ],
        );
    }
}
