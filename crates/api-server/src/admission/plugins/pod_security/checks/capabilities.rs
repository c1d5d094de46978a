//! Capabilities that containers add and drop.

use std::collections::BTreeSet;

use apimachinery::Value;

use super::Violation;
use super::pod::{Pod, listed, quoted};

#[rustfmt::skip]
const DEFAULT: [&str; 13] = [
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
];

fn capabilities<'a>(container: &'a Value, which: &str) -> impl Iterator<Item = &'a str> {
    container.array_at(&["securityContext", "capabilities", which]).iter().filter_map(Value::as_str)
}

/// Who adds others than those allowed, in words.
fn additions(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let mut forbidden: BTreeSet<&str> = BTreeSet::new();
    let containers = pod.bad_containers(|container| {
        let added: Vec<_> = capabilities(container, "add").filter(|name| !allowed.contains(name)).collect();
        forbidden.extend(&added);
        !added.is_empty()
    });
    let text = || format!("{} must not include {} in securityContext.capabilities.add", listed(&containers), quoted(&forbidden));
    (!containers.is_empty()).then(text)
}

pub(super) fn baseline(pod: &Pod<'_>) -> Option<Violation> {
    additions(pod, &DEFAULT).map(|detail| Violation { reason: "non-default capabilities", detail })
}

pub(super) fn restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeping = pod.bad_containers(|container| capabilities(container, "drop").all(|name| name != "ALL"));
    let keeping =
        (!keeping.is_empty()).then(|| format!(r#"{} must set securityContext.capabilities.drop=["ALL"]"#, listed(&keeping)));
    let details: Vec<_> = keeping.into_iter().chain(additions(pod, &["NET_BIND_SERVICE"])).collect();
    (!details.is_empty()).then(|| Violation { reason: "unrestricted capabilities", detail: details.join("; ") })
}

pub(super) fn restricted_unless_windows(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { restricted(pod) }
}
