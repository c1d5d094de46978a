//! Security contexts of pods and containers, and what an operating system rules out.

use apimachinery::field::{Error, ErrorList};
use apimachinery::validation;

use crate::kinds::at::At;

const SYSCTL: &str =
    "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const NOT_WINDOWS: &str = "cannot be set for a windows pod";

fn id(at: &At, e: &mut ErrorList) {
    if at.is_set() {
        at.range(e, 0, i64::from(i32::MAX));
    }
}

pub(super) fn of_pod(spec: &At, e: &mut ErrorList) {
    let at = spec.get("securityContext");
    if !at.is_set() {
        return;
    }
    for member in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&at.get(member), e);
    }
    for group in at.get("supplementalGroups").items() {
        id(&group, e);
    }
    if spec.get("shareProcessNamespace").is_true() && spec.get("hostPID").is_true() {
        at.get("shareProcessNamespace")
            .with(spec.get("shareProcessNamespace").value)
            .invalid(e, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(spec, &at.get("sysctls"), e);
    if let Some(policy) = at.set("fsGroupChangePolicy") {
        policy.one_of(e, &["Always", "OnRootMismatch"]);
    }
    seccomp(&at.get("seccompProfile"), e);
    windows_options(&at.get("windowsOptions"), e);
    app_armor(&at.get("appArmorProfile"), e);
    if let Some(policy) = at.set("supplementalGroupsPolicy") {
        policy.one_of(e, &["Merge", "Strict"]);
    }
    if let Some(policy) = at.set("seLinuxChangePolicy") {
        policy.one_of(e, &["MountOption", "Recursive"]);
    }
}

fn is_sysctl(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().copied().is_some_and(inner)
            && bytes.last().copied().is_some_and(inner)
            && bytes.iter().all(|b| inner(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &At, at: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for sysctl in at.items() {
        let name = sysctl.get("name");
        if name.text().is_empty() {
            name.require(e, "");
        } else if !is_sysctl(name.text()) {
            name.invalid(e, SYSCTL);
        } else if seen.contains(&name.text()) {
            name.duplicate(e);
        }
        let dotted = name.text().replace('/', ".");
        if spec.get("hostNetwork").is_true() && dotted.starts_with("net.") {
            name.invalid(e, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if spec.get("hostIPC").is_true() && ipc {
            name.invalid(e, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name.text());
    }
}

pub(super) fn of_container(at: &At, host_users: bool, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    id(&at.get("runAsUser"), e);
    id(&at.get("runAsGroup"), e);
    if let Some(proc) = at.set("procMount") {
        proc.one_of(e, &["Default", "Unmasked"]);
        if host_users && proc.text() == "Unmasked" {
            proc.invalid(e, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(&at.get("seccompProfile"), e);
    if at.get("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if at.get("privileged").is_true() {
            at.invalid(e, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let capabilities = at.value.array_at(&["capabilities", "add"]);
        for _ in capabilities.iter().filter(|capability| **capability == "CAP_SYS_ADMIN") {
            at.invalid(e, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows_options(&at.get("windowsOptions"), e);
    app_armor(&at.get("appArmorProfile"), e);
}

pub(super) fn seccomp(at: &At, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    if kind.text().is_empty() {
        kind.require(e, "type is required when seccompProfile is set");
    } else {
        kind.one_of(e, &PROFILES);
    }
    if kind.text() == "Localhost" {
        if profile.is_set() {
            profile.local_path(e);
        } else {
            profile.require(e, "must be set when seccomp type is Localhost");
        }
    } else if profile.is_set() {
        e.push(Error::invalid(&profile.path(), at.value.clone(), "can only be set when seccomp type is Localhost"));
    }
}

fn app_armor(at: &At, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "" => kind.require(e, "type is required when appArmorProfile is set"),
        "Localhost" => {
            if !profile.is_set() || profile.text().is_empty() {
                profile.require(e, "must be set when AppArmor type is Localhost");
            } else if profile.text().trim() != profile.text() {
                profile.invalid(e, "must not be padded with whitespace");
            }
            if profile.text().len() > 4095 {
                profile.too_long(e, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.is_set() {
                profile.invalid(e, "can only be set when AppArmor type is Localhost");
            }
        }
        _ => kind.one_of(e, &PROFILES),
    }
}

fn windows_options(at: &At, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    let name = at.get("gmsaCredentialSpecName");
    if name.is_set() {
        name.check(e, validation::is_dns1123_subdomain);
    }
    let spec = at.get("gmsaCredentialSpec");
    if spec.is_set() {
        if spec.text().is_empty() {
            spec.invalid(e, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.text().len() > 64 * 1024 {
            spec.invalid(e, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    let user = at.get("runAsUserName");
    if user.is_set() && user.text().is_empty() {
        user.invalid(e, "runAsUserName cannot be an empty string");
    }
}

/// The pod's operating system, and what cannot be set for it.
pub(super) fn os(spec: &At, e: &mut ErrorList) {
    let Some(os) = spec.set("os") else { return };
    let name = os.get("name");
    match name.text() {
        "linux" => on_linux(spec, e),
        "windows" => on_windows(spec, e),
        "" => name.require(e, ""),
        _ => os.with(name.value).one_of(e, &["linux", "windows"]),
    }
}

fn on_linux(spec: &At, e: &mut ErrorList) {
    let why = "windows options cannot be set for a linux pod";
    if let Some(options) = spec.get("securityContext").set("windowsOptions") {
        options.forbid(e, why);
    }
    each_container(spec, &mut |container| {
        if let Some(options) = container.get("securityContext").set("windowsOptions") {
            options.forbid(e, why);
        }
    });
}

fn on_windows(spec: &At, e: &mut ErrorList) {
    let pod = spec.get("securityContext");
    let members = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    for member in members {
        if let Some(set) = pod.set(member) {
            set.forbid(e, NOT_WINDOWS);
        }
    }
    for member in ["hostUsers", "shareProcessNamespace"] {
        if let Some(set) = spec.set(member) {
            set.forbid(e, NOT_WINDOWS);
        }
    }
    for member in ["hostPID", "hostIPC"] {
        if spec.get(member).is_true() {
            spec.get(member).forbid(e, NOT_WINDOWS);
        }
    }
    let members = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    each_container(spec, &mut |container| {
        for member in members {
            if let Some(set) = container.get("securityContext").set(member) {
                set.forbid(e, NOT_WINDOWS);
            }
        }
    });
}

fn each_container(spec: &At, visit: &mut dyn FnMut(&At)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get(list).items() {
            visit(&container);
        }
    }
}

/// A pod with users of its own shares no other namespace with the host.
pub(super) fn host_users(spec: &At, e: &mut ErrorList) {
    if spec.value["hostUsers"].as_bool() != Some(false) {
        return;
    }
    let why = "when `hostUsers` is false";
    for (member, named) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(member).is_true() {
            spec.get(named).forbid(e, why);
        }
    }
    each_container(spec, &mut |container| {
        if container.get("volumeDevices").len() > 0 {
            container.get("volumeDevices").forbid(e, why);
        }
    });
}

/// The deprecated annotations say what the fields say.
pub(super) fn seccomp_annotations(annotations: &At, spec: &At, e: &mut ErrorList) {
    let check = |annotation: &At, profile: &At, e: &mut ErrorList| {
        if !annotation.is_set() || !profile.is_set() {
            return;
        }
        let text = annotation.text();
        let same = match profile.get("type").text() {
            "Unconfined" => text == "unconfined",
            "RuntimeDefault" => matches!(text, "runtime/default" | "docker/default"),
            "Localhost" => match text.strip_prefix("localhost/") {
                None => false,
                Some(name) if name == profile.get("localhostProfile").text() => true,
                Some(_) => {
                    return profile.get("localhostProfile").forbid(e, "seccomp profile in annotation and field must match");
                }
            },
            _ => true,
        };
        if !same {
            profile.get("type").forbid(e, "seccomp type in annotation and field must match");
        }
    };
    let pod = spec.get("securityContext");
    check(&annotations.key("seccomp.security.alpha.kubernetes.io/pod"), &pod.get("seccompProfile"), e);
    each_container(spec, &mut |container| {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.get("name").text());
        if let Some(value) = annotations.value.get(&key) {
            let context = container.get("securityContext");
            check(&annotations.with(value), &context.get("seccompProfile"), e);
        }
    });
}
