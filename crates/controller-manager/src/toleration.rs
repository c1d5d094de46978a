//! Whether pods tolerate taints (<https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>).

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether this toleration tolerates this taint. The numeric operators of KEP-5471 are alpha and off in v1.35.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let unset_or = |value: &Option<String>, wanted: &str| value.as_deref().is_none_or(|v| v.is_empty() || v == wanted);
    if !unset_or(&toleration.effect, &taint.effect) || !unset_or(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// Whether all taints with one of these effects are tolerated.
pub(crate) fn tolerates_all(tolerations: &[Toleration], taints: &[Taint], effects: &[&str]) -> bool {
    let concerned = taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    concerned.into_iter().all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}
