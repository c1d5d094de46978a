//! Who containers run as.

use apimachinery::Value;

use super::Violation;
use super::pod::{Pod, listed, security};

fn says_non_root(holder: &Value) -> Option<bool> {
    security(holder, "runAsNonRoot").and_then(Value::as_bool)
}

pub(super) fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    let reason = "runAsNonRoot != true";
    if let Some(who) = pod.bad_setters(|holder| says_non_root(holder) == Some(false)) {
        return Some(Violation { reason, detail: format!("{who} must not set securityContext.runAsNonRoot=false") });
    }
    if says_non_root(pod.spec) == Some(true) {
        return None;
    }
    let silent = pod.bad_containers(|container| says_non_root(container).is_none());
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", listed(&silent));
    (!silent.is_empty()).then(|| Violation { reason, detail: detail() })
}

pub(super) fn non_root_unless_user_namespace(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { non_root(pod) }
}

pub(super) fn not_user_0(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.bad_setters(|holder| security(holder, "runAsUser").and_then(Value::as_i64) == Some(0))?;
    Some(Violation { reason: "runAsUser=0", detail: format!("{who} must not set runAsUser=0") })
}

pub(super) fn not_user_0_unless_user_namespace(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { not_user_0(pod) }
}
