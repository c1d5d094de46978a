//! How often upstream checks `metadata` on an update: once for all kinds, and then as each kind's own validation does it. Every error is a cause
//! of the answer, and so counts as often.

use apimachinery::GroupResource;
use apimachinery::field::{Error, ErrorList};

use super::at::At;

/// Beyond the checks that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaChecks {
    /// As of a new object (`ValidateObjectMeta`).
    pub(crate) whole: usize,
    /// As of a change (`ValidateObjectMetaUpdate`).
    pub(crate) change: usize,
}

/// Whether the rules of a new object include those of its metadata. Where they do not, upstream looks at the metadata when everything else is
/// right, and takes any name that a path can have. `group` is that of the request: the core group's events are not held to what those of
/// events.k8s.io are.
pub(crate) fn checks_own_metadata(resource: &GroupResource, group: &str) -> bool {
    !matches!((group, resource.resource.as_str()), ("policy", "poddisruptionbudgets") | ("", "events"))
}

/// Those of a resource, or of its subresource. `group` is that of the request.
pub(crate) fn meta_checks(resource: &GroupResource, group: &str, subresource: &str) -> MetaChecks {
    let (whole, change) = match (resource.group.as_str(), resource.resource.as_str(), subresource) {
        ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _, "status") => (0, 0),
        ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _, _) => (1, 0),
        ("storage.k8s.io", "volumeattachments", _) => (1, 0),
        ("storage.k8s.io", "csinodes", _) => (2, 0),
        ("storage.k8s.io", "csidrivers", _) => (0, 1),
        ("", "limitranges", _) | ("discovery.k8s.io", "endpointslices", _) => (1, 0),
        ("", "persistentvolumes", "") => (2, 0),
        ("policy", _, _) | ("batch", "cronjobs", "status") => (0, 0),
        ("", "pods", "ephemeralcontainers" | "resize") => (1, 1),
        (_, _, subresource) if !subresource.is_empty() => (0, 1),
        ("storage.k8s.io" | "node.k8s.io" | "rbac.authorization.k8s.io" | "apiregistration.k8s.io", _, _)
        | ("resource.k8s.io", "resourceclaims" | "resourceclaimtemplates" | "deviceclasses", _)
        | ("networking.k8s.io", "ingresses" | "ingressclasses" | "networkpolicies" | "ipaddresses", _)
        | ("batch", "jobs", _)
        | ("", "configmaps" | "secrets" | "serviceaccounts" | "persistentvolumeclaims", _)
        | ("", "namespaces" | "nodes" | "pods" | "endpoints", _)
        | ("apps", "controllerrevisions", _)
        | ("certificates.k8s.io", _, _) => (1, 1),
        ("", "events", _) if group.is_empty() => (0, 0),
        _ => (0, 1),
    };
    MetaChecks { whole, change }
}

/// What the metadata of an object to be may not have, and how upstream's error calls it.
const NOT_IN_TEMPLATES: [(&str, &str); 13] = [
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// The metadata of a template of objects, which has labels and annotations and nothing else (upstream's `ValidateTemplateObjectMeta`).
pub(super) fn template_metadata(at: &At, e: &mut ErrorList) {
    at.get("annotations").annotations(e);
    at.get("labels").labels(e);
    for (member, name) in NOT_IN_TEMPLATES {
        if !at.get(member).value.is_zero() {
            e.push(Error::forbidden(&at.path().child(name), "cannot be set"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_kinds() {
        for (group, resource, subresource, whole, change) in [
            ("apps", "deployments", "", 0, 1),
            ("", "configmaps", "", 1, 1),
            ("", "pods", "", 1, 1),
            ("", "pods", "status", 0, 1),
            ("batch", "cronjobs", "status", 0, 0),
            ("policy", "poddisruptionbudgets", "", 0, 0),
            ("networking.k8s.io", "ipaddresses", "", 1, 1),
            ("storage.k8s.io", "csinodes", "", 2, 0),
            ("", "services", "", 0, 1),
            ("", "events", "", 0, 0),
        ] {
            let found = meta_checks(&GroupResource::new(group, resource), group, subresource);
            assert_eq!(found, MetaChecks { whole, change }, "{resource}");
        }
        // The same objects, asked for by their newer name.
        let newer = meta_checks(&GroupResource::new("", "events"), "events.k8s.io", "");
        assert_eq!(newer, MetaChecks { whole: 0, change: 1 });
    }
}
