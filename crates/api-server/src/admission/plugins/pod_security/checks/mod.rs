//! The checks of the Pod Security Standards (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), each with the releases that
//! changed it.
//!
//! [`CHECKS`] is in the order in which violations are told: those of the baseline, then those of the restricted level, each by name.

mod capabilities;
mod host;
mod pod;
mod privileges;
mod profiles;
mod users;
mod volumes;

pub(super) use pod::Pod;

use super::levels::{Level, LevelVersion, Version};

/// The last release that changed a check: later ones, and the latest, have the same rules.
const LAST_CHANGE_MINOR: u64 = 35;

/// What a pod has that it must not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// In a few words.
    pub(super) reason: &'static str,
    /// Which containers and values; never empty.
    detail: String,
}

type CheckPod = fn(&Pod<'_>) -> Option<Violation>;

struct Check {
    id: &'static str,
    level: Level,
    /// From which minor release on the pod is checked how, oldest first.
    revisions: &'static [(u64, CheckPod)],
    /// The check of the baseline that this one, where it applies, takes the place of.
    instead_of: &'static str,
}

impl Check {
    const fn baseline(id: &'static str, revisions: &'static [(u64, CheckPod)]) -> Check {
        Check { id, level: Level::Baseline, revisions, instead_of: "" }
    }

    const fn restricted(id: &'static str, instead_of: &'static str, revisions: &'static [(u64, CheckPod)]) -> Check {
        Check { id, level: Level::Restricted, revisions, instead_of }
    }

    /// As it was in a release; `None` if it was not there yet.
    fn at(&self, minor: u64) -> Option<CheckPod> {
        self.revisions.iter().rev().find(|(since, _)| *since <= minor).map(|(_, check)| *check)
    }
}

#[rustfmt::skip]
const CHECKS: &[Check] = &[
    Check::baseline("appArmorProfile", &[(0, profiles::app_armor)]),
    Check::baseline("capabilities_baseline", &[(0, capabilities::baseline)]),
    Check::baseline("hostNamespaces", &[(0, host::namespaces)]),
    Check::baseline("hostPathVolumes", &[(0, volumes::host_path)]),
    Check::baseline("hostPorts", &[(0, host::ports)]),
    Check::baseline("hostProbesAndHostLifecycle", &[(34, host::probes)]),
    Check::baseline("privileged", &[(0, privileges::privileged)]),
    Check::baseline("procMount", &[(0, privileges::proc_mount), (35, privileges::proc_mount_unless_user_namespace)]),
    Check::baseline("seLinuxOptions", &[(0, profiles::selinux), (31, profiles::selinux_with_engine)]),
    Check::baseline("seccompProfile_baseline", &[(0, profiles::seccomp_annotations), (19, profiles::seccomp)]),
    Check::baseline("sysctls", &[(0, host::sysctls), (27, host::sysctls_27), (29, host::sysctls_29), (32, host::sysctls_32)]),
    Check::baseline("windowsHostProcess", &[(0, host::windows_process)]),
    Check::restricted("allowPrivilegeEscalation", "",
        &[(8, privileges::escalation), (25, privileges::escalation_unless_windows)]),
    Check::restricted("capabilities_restricted", "capabilities_baseline",
        &[(22, capabilities::restricted), (25, capabilities::restricted_unless_windows)]),
    Check::restricted("procMount_restricted", "procMount", &[(35, privileges::proc_mount)]),
    Check::restricted("restrictedVolumes", "hostPathVolumes", &[(0, volumes::restricted)]),
    Check::restricted("runAsNonRoot", "", &[(0, users::non_root), (35, users::non_root_unless_user_namespace)]),
    Check::restricted("runAsUser", "", &[(23, users::not_user_0), (35, users::not_user_0_unless_user_namespace)]),
    Check::restricted("seccompProfile_restricted", "seccompProfile_baseline",
        &[(19, profiles::seccomp_required), (25, profiles::seccomp_required_unless_windows)]),
];

/// What a pod has that it must not have under a policy.
pub(super) fn violations(policy: LevelVersion, pod: &Pod<'_>) -> Vec<Violation> {
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    let minor = match policy.version {
        Version::Minor(minor) => minor.min(LAST_CHANGE_MINOR),
        Version::Latest => LAST_CHANGE_MINOR,
    };
    let in_force =
        || CHECKS.iter().filter(|check| check.level <= policy.level).filter_map(|check| Some((check, check.at(minor)?)));
    let replaced = |id: &str| in_force().any(|(check, _)| check.instead_of == id);
    in_force().filter(|(check, _)| !replaced(check.id)).filter_map(|(_, check)| check(pod)).collect()
}

/// Reasons with their details, as a client reads them.
pub(super) fn details(violations: &[Violation]) -> String {
    let each: Vec<_> = violations.iter().map(|violation| format!("{} ({})", violation.reason, violation.detail)).collect();
    each.join(", ")
}

/// Reasons alone.
pub(super) fn reasons(violations: &[Violation]) -> String {
    let each: Vec<_> = violations.iter().map(|violation| violation.reason).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests;
