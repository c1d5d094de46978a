//! Profiles of AppArmor and seccomp, and options of SELinux.

use std::collections::BTreeSet;

use apimachinery::{Value, go_quote};

use super::Violation;
use super::pod::{Pod, listed, name, plural, quoted, security};

/// The type of a profile that a pod or container sets; empty where it sets one without a type.
fn profile<'a>(holder: &'a Value, field: &str) -> Option<&'a str> {
    security(holder, field).map(|profile| profile.str_at(&["type"]).unwrap_or_default())
}

/// A profile of the node's own, or the runtime's.
fn is_confining(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

/// Who sets a profile that does not confine, and which those are.
fn bad_profiles<'a>(pod: &Pod<'a>, field: &str) -> (Option<String>, BTreeSet<&'a str>) {
    let mut values = BTreeSet::new();
    let who = pod.bad_setters(|holder| {
        let bad = profile(holder, field).filter(|profile| !is_confining(profile));
        values.extend(bad);
        bad.is_some()
    });
    (who, values)
}

/// Before there was a field, annotations named the profile of each container.
const APP_ARMOR_ANNOTATIONS: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let (who, values) = bad_profiles(pod, "appArmorProfile");
    let is_bad = |value: &str| !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/");
    let annotations = pod.meta.annotations().filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATIONS) && is_bad(value));
    let mut annotations: Vec<_> = annotations.map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    annotations.sort_unstable();
    let noun = (!annotations.is_empty()).then(|| plural(annotations.len(), "annotation", "annotations").to_owned());
    let who: Vec<_> = who.into_iter().chain(noun).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<_> = values.into_iter().map(str::to_owned).chain(annotations).collect();
    Some(Violation {
        reason: plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles"),
        detail: format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)),
    })
}

const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";

/// Until v1.18 there was no field but annotations.
pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let of_containers =
        pod.containers().map(|container| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(container)));
    let forbidden: BTreeSet<_> = std::iter::once(SECCOMP_POD_ANNOTATION.to_owned())
        .chain(of_containers)
        .filter_map(|key| {
            let value = pod.meta.annotation(&key)?;
            let free = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!free).then(|| format!("{key}={}", go_quote(value)))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let noun = plural(forbidden.len(), "annotation", "annotations");
    let forbidden: Vec<_> = forbidden.into_iter().collect();
    Some(Violation { reason: "seccompProfile", detail: format!("forbidden {noun} {}", forbidden.join(", ")) })
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let (who, values) = bad_profiles(pod, "seccompProfile");
    let detail = format!("{} must not set securityContext.seccompProfile.type to {}", who?, quoted(&values));
    Some(Violation { reason: "seccompProfile", detail })
}

pub(super) fn seccomp_required(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(violation) = seccomp(pod) {
        return Some(violation);
    }
    if profile(pod.spec, "seccompProfile").is_some() {
        return None;
    }
    let silent = pod.bad_containers(|container| profile(container, "seccompProfile").is_none());
    let detail = || {
        format!(r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#, listed(&silent))
    };
    (!silent.is_empty()).then(|| Violation { reason: "seccompProfile", detail: detail() })
}

pub(super) fn seccomp_required_unless_windows(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { seccomp_required(pod) }
}

fn selinux_types(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let who = pod.bad_setters(|holder| {
        let Some(options) = security(holder, "seLinuxOptions") else { return false };
        let option = |field: &str| options.str_at(&[field]).filter(|text| !text.is_empty());
        let other = option("type").filter(|kind| !allowed.contains(kind));
        let (has_user, has_role) = (option("user").is_some(), option("role").is_some());
        types.extend(other);
        user |= has_user;
        role |= has_role;
        other.is_some() || has_user || has_role
    })?;
    let types = (!types.is_empty()).then(|| format!("{} {}", plural(types.len(), "type", "types"), quoted(&types)));
    let user = user.then(|| "user may not be set".to_owned());
    let role = role.then(|| "role may not be set".to_owned());
    let what: Vec<_> = types.into_iter().chain(user).chain(role).collect();
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Violation { reason: "seLinuxOptions", detail })
}

pub(super) fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    selinux_types(pod, &["container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn selinux_with_engine(pod: &Pod<'_>) -> Option<Violation> {
    selinux_types(pod, &["container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}
