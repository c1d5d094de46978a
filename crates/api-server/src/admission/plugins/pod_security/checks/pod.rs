//! A pod, or the template of one, as the checks see it; and the words in which they speak of its containers.

use apimachinery::{Meta, Value};

/// A pod or a template.
pub(in super::super) struct Pod<'a> {
    pub(super) meta: Meta<'a>,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// `None` for what has no spec.
    pub(in super::super) fn of(object: &'a Value) -> Option<Pod<'a>> {
        Some(Pod { meta: object.meta(), spec: object.get("spec")? })
    }

    /// All containers, in the order in which they are told of.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| spec.array_at(&[kind]))
    }

    /// The names of the containers that are bad.
    pub(super) fn bad_containers(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| bad(container)).map(name).collect()
    }

    /// Who of pod and containers has something bad in its security context (both have theirs under the same name); `None` if nobody has.
    pub(super) fn bad_setters(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Option<String> {
        let pod = bad(self.spec).then(|| "pod".to_owned());
        let containers = self.bad_containers(bad);
        let containers = (!containers.is_empty()).then(|| listed(&containers));
        let who: Vec<_> = pod.into_iter().chain(containers).collect();
        (!who.is_empty()).then(|| who.join(" and "))
    }

    /// Whether it says that it is for Windows, where some fields may not be set at all.
    pub(super) fn is_windows(&self) -> bool {
        self.spec.str_at(&["os", "name"]) == Some("windows")
    }

    /// Whether its root is not the node's (KEP-127).
    pub(super) fn has_user_namespace(&self) -> bool {
        self.spec.bool_at(&["hostUsers"]) == Some(false)
    }
}

/// The name of a container or volume.
pub(super) fn name(item: &Value) -> &str {
    item.str_at(&["name"]).unwrap_or_default()
}

/// What a security context, of a pod or of a container, says about something.
pub(super) fn security<'a>(holder: &'a Value, field: &str) -> Option<&'a Value> {
    holder.get_path(&["securityContext", field]).filter(|value| !value.is_null())
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn listed(containers: &[&str]) -> String {
    format!("{} {}", plural(containers.len(), "container", "containers"), quoted(containers))
}

/// Upstream quotes without escaping.
pub(super) fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let each: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    each.join(", ")
}

pub(super) fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}
