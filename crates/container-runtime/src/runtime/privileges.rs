//! Capabilities of a container.

use cri::v1::{Capability, LinuxContainerSecurityContext};

/// What a container has unless it says otherwise: the set of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability that the kernel knows, without the `CAP_` prefix.
fn all() -> Vec<String> {
    let mut names: Vec<String> = caps::all().iter().map(|capability| bare(&capability.to_string())).collect();
    names.sort();
    names
}

fn bare(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

/// The capabilities of a container and those of its ambient set. `ALL` is understood in additions and removals; a name that is
/// both added and dropped is dropped unless the removal is `ALL`.
pub(crate) fn capabilities(context: &LinuxContainerSecurityContext) -> Result<(Vec<String>, Vec<String>), String> {
    let known = all();
    if context.privileged {
        return Ok((known, Vec::new()));
    }
    let Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        context.capabilities.clone().unwrap_or_default();
    let names = |list: Vec<String>| list.iter().map(|name| bare(name)).collect::<Vec<_>>();
    let (add, drop, ambient) = (names(add_capabilities), names(drop_capabilities), names(add_ambient_capabilities));
    if let Some(unknown) = add.iter().chain(&drop).chain(&ambient).find(|name| *name != "ALL" && !known.contains(name)) {
        return Err(format!("unknown capability {unknown:?}"));
    }
    let is_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = if is_all(&add) {
        known
    } else if is_all(&drop) {
        Vec::new()
    } else {
        DEFAULT.iter().map(|name| (*name).to_owned()).collect()
    };
    set.extend(add.into_iter().filter(|name| name != "ALL"));
    set.extend(ambient.iter().cloned());
    set.retain(|name| !drop.contains(name));
    set.sort();
    set.dedup();
    Ok((set, ambient))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let context = LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: names(add),
                drop_capabilities: names(drop),
                ..Capability::default()
            }),
            ..LinuxContainerSecurityContext::default()
        };
        assert_eq!(capabilities(&context).expect("known names").0, expected, "{add:?} {drop:?}");
    }

    #[test]
    fn additions_and_removals() {
        check(&[], &["ALL"], &[]);
        check(&["NET_ADMIN"], &["ALL"], &["NET_ADMIN"]);
        check(&["cap_net_bind_service"], &["all"], &["NET_BIND_SERVICE"]);
        let mut defaults = DEFAULT;
        defaults.sort_unstable();
        check(&[], &[], &defaults);
        let without: Vec<&str> = defaults.iter().copied().filter(|name| *name != "MKNOD").collect();
        check(&[], &["MKNOD"], &without);
        let context = LinuxContainerSecurityContext {
            capabilities: Some(Capability { add_capabilities: vec!["FLY".to_owned()], ..Capability::default() }),
            ..LinuxContainerSecurityContext::default()
        };
        assert!(capabilities(&context).is_err());
    }
}
