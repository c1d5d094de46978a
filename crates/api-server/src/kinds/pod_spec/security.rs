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
        // The other one is behind the feature gate SELinuxMount.
        policy.one_of(e, &["Recursive"]);
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
    let privileged = at.get("privileged");
    if privileged.is_true() && !at.policy().privileged {
        privileged.forbid(e, "disallowed by cluster policy");
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
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            at.invalid_internal(e, "core.v1.SecurityContext", why);
        }
        let capabilities = at.value.array_at(&["capabilities", "add"]);
        for _ in capabilities.iter().filter(|capability| **capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            at.invalid_internal(e, "core.v1.SecurityContext", why);
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
        let profile = at.get("localhostProfile").with(at.value);
        profile.invalid_internal(e, "core.v1.SeccompProfile", "can only be set when seccomp type is Localhost");
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
    if let Some(user) = at.set("runAsUserName") {
        windows_user(&user, e);
    }
}

const DOMAIN_CHARACTERS_MAX: usize = 256;
const USER_CHARACTERS_MAX: usize = 104;

/// `DOMAIN\\USER`, the domain being optional.
fn windows_user(at: &At, e: &mut ErrorList) {
    let text = at.text();
    if text.is_empty() {
        return at.invalid(e, "runAsUserName cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return at.invalid(e, "runAsUserName cannot contain control characters");
    }
    let (domain, user) = match text.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return at.invalid(e, "runAsUserName cannot contain more than one backslash"),
    };
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_CHARACTERS_MAX) {
        at.invalid(e, format!("runAsUserName's Domain length must be under {DOMAIN_CHARACTERS_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_windows_domain(domain)) {
        at.invalid(e, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        at.invalid(e, "runAsUserName's User cannot be empty");
    } else if user.len() > USER_CHARACTERS_MAX {
        at.invalid(e, format!("runAsUserName's User length must not be longer than {USER_CHARACTERS_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        at.invalid(e, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        at.invalid(e, r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
}

fn is_net_bios(domain: &str) -> bool {
    let bad = |c: char| r#"\/:*?"<>|"#.contains(c);
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(bad)
}

fn is_windows_domain(domain: &str) -> bool {
    let label = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let inner = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && inner
    };
    domain.split('.').all(label)
}

/// Containers that are processes of the host: all of a pod or none, and in the host's network.
pub(super) fn host_processes(spec: &At, e: &mut ErrorList) {
    let of = |owner: &At| owner.get("securityContext").get("windowsOptions").get("hostProcess").value.as_bool();
    let pod = of(spec);
    let (mut all, mut processes) = (0, 0);
    each_container(spec, &mut |container| {
        all += 1;
        let own = of(container);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let (context, why) =
                (container.get("securityContext"), "pod hostProcess value must be identical if both are specified");
            let options = context.get("windowsOptions");
            options.get("hostProcess").invalid(e, format!("{why}, was {pod}"));
        }
        processes += usize::from(own.or(pod) == Some(true));
    });
    if processes == 0 {
        return;
    }
    if processes != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.push(Error::invalid(&spec.path(), "", why));
    }
    if !spec.get("hostNetwork").is_true() {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        e.push(Error::invalid(&spec.get("hostNetwork").path(), false, why));
    }
    if !spec.policy().privileged {
        spec.forbid(e, "hostProcess containers are disallowed by cluster policy");
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
