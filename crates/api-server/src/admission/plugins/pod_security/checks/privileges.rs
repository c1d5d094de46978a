//! Privileged containers, escalation of privileges, an unmasked `/proc`.

use std::collections::BTreeSet;

use apimachinery::Value;

use super::Violation;
use super::pod::{Pod, listed, quoted, security};

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.bad_containers(|container| security(container, "privileged").and_then(Value::as_bool) == Some(true));
    let detail = || format!("{} must not set securityContext.privileged=true", listed(&bad));
    (!bad.is_empty()).then(|| Violation { reason: "privileged", detail: detail() })
}

pub(super) fn escalation(pod: &Pod<'_>) -> Option<Violation> {
    let bad =
        pod.bad_containers(|container| security(container, "allowPrivilegeEscalation").and_then(Value::as_bool) != Some(false));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", listed(&bad));
    (!bad.is_empty()).then(|| Violation { reason: "allowPrivilegeEscalation != false", detail: detail() })
}

pub(super) fn escalation_unless_windows(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { escalation(pod) }
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = pod.bad_containers(|container| {
        let kind = security(container, "procMount").and_then(Value::as_str).filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    let detail = || format!("{} must not set securityContext.procMount to {}", listed(&bad), quoted(&kinds));
    (!bad.is_empty()).then(|| Violation { reason: "procMount", detail: detail() })
}

pub(super) fn proc_mount_unless_user_namespace(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { proc_mount(pod) }
}
