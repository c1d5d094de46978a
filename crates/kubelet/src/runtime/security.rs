//! Security contexts of pods and containers as the CRI takes them.

use cri::v1;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use crate::config::Config;
use crate::pod::access::{PodAccess, ephemeral_as_container};

/// Paths hidden from containers with the default `procMount`, as upstream and Docker have them.
const MASKED_PATHS: [&str; 13] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
/// Paths that containers with the default `procMount` can only read.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces the pod shares, with the host or between its containers.
pub(crate) fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.pod_spec();
    let host_or_pod =
        |host: Option<bool>| if host == Some(true) { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod } as i32;
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => v1::NamespaceMode::Node,
        (_, Some(true)) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: host_or_pod(spec.host_network),
        ipc: host_or_pod(spec.host_ipc),
        pid: pid as i32,
        target_id: String::new(),
        userns_options: None,
    }
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    options.map(|o| v1::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

fn groups_policy(pod: Option<&PodSecurityContext>) -> i32 {
    let strict = pod.and_then(|p| p.supplemental_groups_policy.as_deref()) == Some("Strict");
    if strict { v1::SupplementalGroupsPolicy::Strict as i32 } else { v1::SupplementalGroupsPolicy::Merge as i32 }
}

fn groups(pod: Option<&PodSecurityContext>) -> Vec<i64> {
    let listed = pod.and_then(|p| p.supplemental_groups.clone()).unwrap_or_default();
    pod.and_then(|p| p.fs_group).into_iter().chain(listed).collect()
}

/// The sandbox's security context.
pub(crate) fn sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod.security();
    let ephemeral: Vec<Container> = pod.ephemeral_containers().iter().map(ephemeral_as_container).collect();
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux(context.and_then(|c| c.se_linux_options.as_ref())),
        run_as_user: int(context.and_then(|c| c.run_as_user)),
        run_as_group: int(context.and_then(|c| c.run_as_group).filter(|_| context.is_some_and(|c| c.run_as_user.is_some()))),
        readonly_rootfs: false,
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context),
        privileged: pod.containers().iter().chain(pod.init_containers()).chain(&ephemeral).any(privileged),
        // The pause process always runs confined (upstream since v1.24).
        seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, String::new())),
        apparmor: None,
        ..Default::default()
    }
}

fn profile(kind: v1::security_profile::ProfileType, localhost_ref: String) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn seccomp(config: &Config, of_container: Option<&SeccompProfile>, of_pod: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    match of_container.or(of_pod) {
        Some(p) if p.type_ == "RuntimeDefault" => profile(ProfileType::RuntimeDefault, String::new()),
        Some(p) if p.type_ == "Localhost" => {
            let path = config.root_dir.join("seccomp").join(p.localhost_profile.as_deref().unwrap_or(""));
            profile(ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}

fn apparmor(of_container: Option<&AppArmorProfile>, of_pod: Option<&AppArmorProfile>) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    of_container.or(of_pod).map(|p| match p.type_.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault, String::new()),
        "Localhost" => profile(ProfileType::Localhost, p.localhost_profile.clone().unwrap_or_default()),
        _ => profile(ProfileType::Unconfined, String::new()),
    })
}

/// The container's security context; `image_user` is what the image says it runs as.
pub(crate) fn container(
    config: &Config,
    pod: &Pod,
    container: &Container,
    target_id: Option<&str>,
    image_user: &ImageUser,
) -> v1::LinuxContainerSecurityContext {
    let of_pod = pod.security();
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let is_privileged = privileged(container);
    let run_as_user = own.run_as_user.or(of_pod.and_then(|p| p.run_as_user));
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || is_privileged;
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let mut namespace_options = namespaces(pod);
    if let Some(target) = target_id {
        namespace_options.pid = v1::NamespaceMode::Target as i32;
        namespace_options.target_id = target.to_owned();
    }
    let capability = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: capability(c.add.as_ref()),
            drop_capabilities: capability(c.drop.as_ref()),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: is_privileged,
        namespace_options: Some(namespace_options),
        selinux_options: selinux(own.se_linux_options.as_ref().or(of_pod.and_then(|p| p.se_linux_options.as_ref()))),
        run_as_user: int(run_as_user.or(image_user.uid)),
        run_as_username: if run_as_user.is_none() { image_user.name.clone() } else { String::new() },
        run_as_group: int(own.run_as_group.or(of_pod.and_then(|p| p.run_as_group))),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(if is_privileged {
            profile(v1::security_profile::ProfileType::Unconfined, String::new())
        } else {
            seccomp(config, own.seccomp_profile.as_ref(), of_pod.and_then(|p| p.seccomp_profile.as_ref()))
        }),
        apparmor: if is_privileged {
            None
        } else {
            apparmor(own.app_armor_profile.as_ref(), of_pod.and_then(|p| p.app_armor_profile.as_ref()))
        },
        ..Default::default()
    }
}

/// The user that an image asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    pub(crate) uid: Option<i64>,
    pub(crate) name: String,
}

/// Enforces `runAsNonRoot`.
pub(crate) fn verify_non_root(pod: &Pod, container: &Container, image_user: &ImageUser) -> Result<(), String> {
    let own = container.security_context.as_ref();
    let of_pod = pod.security();
    let required = own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|p| p.run_as_non_root)).unwrap_or(false);
    if !required {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", pod.display(), container.name);
    match own.and_then(|c| c.run_as_user).or(of_pod.and_then(|p| p.run_as_user)) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        Some(_) => Ok(()),
        None if image_user.uid == Some(0) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        None if image_user.uid.is_none() && !image_user.name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image_user.name
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn container_settings_win_over_the_pods() {
        let pod = pod(
            serde_json::json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1, "fsGroup": 7, "supplementalGroups": [8]},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 5, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}}]}),
        );
        let config = Config::new("n", Vec::new(), "/tmp");
        let context = container(&config, &pod, &pod.containers()[0], None, &ImageUser { uid: Some(9), name: String::new() });
        assert_eq!(context.run_as_user.map(|v| v.value), Some(5));
        assert_eq!(context.run_as_group.map(|v| v.value), Some(1));
        assert_eq!(context.supplemental_groups, vec![7, 8]);
        assert!(context.no_new_privs && context.readonly_rootfs && !context.masked_paths.is_empty());
        assert_eq!(context.capabilities.unwrap().drop_capabilities, vec!["ALL"]);
    }

    #[test]
    fn non_root_is_enforced() {
        let cases = [
            (
                serde_json::json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}),
                Some(0),
                "",
                Some("image will run as root"),
            ),
            (
                serde_json::json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}),
                None,
                "app",
                Some("non-numeric user (app)"),
            ),
            (
                serde_json::json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0}, "containers": [{"name": "c"}]}),
                Some(3),
                "",
                Some("breaks non-root policy"),
            ),
            (
                serde_json::json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 4}, "containers": [{"name": "c"}]}),
                Some(0),
                "",
                None,
            ),
            (serde_json::json!({"containers": [{"name": "c"}]}), Some(0), "", None),
        ];
        for (spec, uid, name, expected) in cases {
            let pod = pod(spec.clone());
            let verdict = verify_non_root(&pod, &pod.containers()[0], &ImageUser { uid, name: name.to_owned() });
            match expected {
                Some(text) => assert!(verdict.unwrap_err().contains(text), "{spec}"),
                None => assert_eq!(verdict, Ok(()), "{spec}"),
            }
        }
    }
}
