//! How often upstream checks `metadata` on an update: once for all kinds, and then as each kind's own validation does it. Every error is a cause
//! of the answer, and so counts as often.

use apimachinery::GroupResource;

/// Beyond the checks that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaChecks {
    /// As of a new object (`ValidateObjectMeta`).
    pub(crate) whole: usize,
    /// As of a change (`ValidateObjectMetaUpdate`).
    pub(crate) change: usize,
}

/// Those of a resource, or of its subresource.
pub(crate) fn meta_checks(resource: &GroupResource, subresource: &str) -> MetaChecks {
    let (whole, change) = match (resource.group.as_str(), resource.resource.as_str(), subresource) {
        ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _, "status") => (0, 0),
        ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _, _) => (1, 0),
        ("storage.k8s.io", "volumeattachments", _) => (1, 0),
        ("storage.k8s.io", "csinodes", _) => (2, 0),
        ("storage.k8s.io", "csidrivers", _) => (0, 1),
        ("", "limitranges", _) | ("discovery.k8s.io", "endpointslices", _) => (1, 0),
        ("", "persistentvolumes", "") => (2, 0),
        (_, _, subresource) if !subresource.is_empty() => (0, 1),
        ("storage.k8s.io" | "node.k8s.io" | "rbac.authorization.k8s.io" | "apiregistration.k8s.io", _, _)
        | ("resource.k8s.io", "resourceclaims" | "deviceclasses", _)
        | ("", "configmaps" | "secrets" | "services" | "serviceaccounts" | "persistentvolumeclaims", _)
        | ("apps", "controllerrevisions", _)
        | ("certificates.k8s.io", _, _) => (1, 1),
        ("", "events", _) => (0, 0),
        _ => (0, 1),
    };
    MetaChecks { whole, change }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_kinds() {
        for (group, resource, subresource, whole, change) in
            [("apps", "deployments", "", 0, 1), ("", "configmaps", "", 1, 1), ("storage.k8s.io", "csinodes", "", 2, 0)]
        {
            assert_eq!(
                meta_checks(&GroupResource::new(group, resource), subresource),
                MetaChecks { whole, change },
                "{resource}"
            );
        }
    }
}
