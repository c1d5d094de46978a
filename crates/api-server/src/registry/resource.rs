//! The table of resources: one row for each group, version and resource that is served.
//!
//! Facts only. What a row means to the engine is in [`super::catalog`]; rules of kinds are strategies.

use apimachinery::{GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource, schema};

use crate::resource_metrics;

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its group, version and plural name.
    pub gvr: GroupVersionResource,
    /// The kind of its objects.
    pub kind: GroupVersionKind,
    /// The singular name, in lower case.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Groups of resources for kubectl, such as `all`.
    pub categories: Vec<String>,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// What can be done, in discovery's words and order.
    pub verbs: Vec<&'static str>,
    /// Upstream's hash of the storage version; empty when nothing is stored.
    pub storage_version_hash: String,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
}

/// One subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name, for example `status`.
    pub name: String,
    /// The kind that it speaks.
    pub kind: GroupVersionKind,
    /// The kind's group and version are those of the resource itself and are left out in discovery.
    pub own_version: bool,
    /// What can be done.
    pub verbs: Vec<&'static str>,
}

impl Resource {
    /// Group and plural name, as errors print it.
    pub fn group_resource(&self) -> GroupResource {
        self.gvr.group_resource()
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        self.gvr.group_version()
    }

    /// Whether a verb (in discovery's words) is served.
    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// Every built-in resource of v1.35 that is on by default, in upstream's discovery order, and what this server has beyond upstream's.
pub(crate) fn builtin() -> Vec<Resource> {
    let metrics = [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];
    let metrics = metrics.into_iter().map(|(plural, kind, namespaced)| Resource {
        gvr: GroupVersionResource::new(resource_metrics::GROUP, resource_metrics::VERSION, plural),
        kind: GroupVersionKind::new(resource_metrics::GROUP, resource_metrics::VERSION, kind),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: vec!["get", "list"],
        storage_version_hash: String::new(),
        subresources: Vec::new(),
    });
    schema::resources().iter().map(Resource::from).chain(metrics).collect()
}

impl From<&schema::ResourceInfo> for Resource {
    fn from(info: &schema::ResourceInfo) -> Resource {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let subresource = |sub: &schema::SubresourceInfo| Subresource {
            name: sub.name.to_owned(),
            kind: sub.gvk(info),
            own_version: sub.kind_group_version.is_none(),
            verbs: sub.verbs.clone(),
        };
        Resource {
            gvr: GroupVersionResource::new(info.group, info.version, info.plural),
            kind: info.gvk(),
            singular: info.singular.to_owned(),
            short_names: owned(&info.short_names),
            categories: owned(&info.categories),
            namespaced: info.namespaced,
            verbs: info.verbs.clone(),
            storage_version_hash: info.storage_version_hash.to_owned(),
            subresources: info.subresources.iter().map(subresource).collect(),
        }
    }
}

/// The key prefix of a resource below the storage prefix, as upstream's `SpecialDefaultResourcePrefixes` and its default.
pub(crate) fn storage_path(resource: &GroupResource) -> String {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        ("apiregistration.k8s.io" | "apiextensions.k8s.io", plural) => format!("{}/{plural}", resource.group),
        (_, plural) => plural.to_owned(),
    }
}

/// The version that objects are stored in when several are served.
pub(crate) fn storage_version<'a>(group: &str, served: &[&'a str]) -> &'a str {
    let preferred = match group {
        "autoscaling" => "v2",
        _ => "v1",
    };
    served.iter().find(|version| **version == preferred).or(served.first()).copied().unwrap_or("v1")
}

/// Fields that field selectors may name, beyond `metadata.name` and `metadata.namespace`, with their paths in the object.
pub(crate) fn selectable_fields(resource: &GroupResource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => &["spec.signerName"],
        ("resource.k8s.io", "resourceslices") => &["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// What a label of a field selector, as the API of `group` names it, is called in [`selectable_fields`] of the stored resource; `None` if
/// that API has no such label (upstream's `AddFieldLabelConversionFunc`).
pub(crate) fn stored_field<'a>(group: &str, resource: &GroupResource, label: &'a str) -> Option<&'a str> {
    match (resource.group.as_str(), resource.resource.as_str(), label) {
        // From old clients of v1.
        ("", "pods", "spec.host") => Some("spec.nodeName"),
        ("", "events", _) if group == "events.k8s.io" => events_field(label),
        _ => Some(label),
    }
}

/// Whether objects of a resource can be chosen by namespace: a few of those without one have their own list of labels.
pub(crate) fn has_namespace_label(resource: &GroupResource) -> bool {
    !matches!(
        (resource.group.as_str(), resource.resource.as_str()),
        ("", "nodes" | "namespaces") | ("certificates.k8s.io", _) | ("resource.k8s.io", "resourceslices")
    )
}

fn events_field(label: &str) -> Option<&str> {
    Some(match label {
        "regarding.kind" => "involvedObject.kind",
        "regarding.namespace" => "involvedObject.namespace",
        "regarding.name" => "involvedObject.name",
        "regarding.uid" => "involvedObject.uid",
        "regarding.apiVersion" => "involvedObject.apiVersion",
        "regarding.resourceVersion" => "involvedObject.resourceVersion",
        "regarding.fieldPath" => "involvedObject.fieldPath",
        "reportingController" => "reportingComponent",
        "reason" | "type" => label,
        _ => return None,
    })
}

/// The field whose watchers are found by its value: one lookup instead of one filter each for 5,000 kubelets.
pub(crate) fn indexed_field(resource: &GroupResource) -> Option<&'static str> {
    (resource.group.is_empty() && resource.resource == "pods").then_some("spec.nodeName")
}

/// Whether a deletion answers with the object (upstream's `ReturnDeletedObject`) rather than with a `Status`.
pub(crate) fn returns_deleted_object(resource: &GroupResource) -> bool {
    match resource.group.as_str() {
        "" => matches!(
            resource.resource.as_str(),
            "resourcequotas"
                | "persistentvolumes"
                | "serviceaccounts"
                | "persistentvolumeclaims"
                | "namespaces"
                | "pods"
                | "services"
                | "podtemplates"
        ),
        "resource.k8s.io" => true,
        "storage.k8s.io" => resource.resource != "csistoragecapacities",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_of_events_has_its_own_labels() {
        let events = GroupResource::new("", "events");
        for (group, label, expected) in [
            ("", "reportingComponent", Some("reportingComponent")),
            ("", "involvedObject.name", Some("involvedObject.name")),
            ("events.k8s.io", "reportingController", Some("reportingComponent")),
            ("events.k8s.io", "regarding.name", Some("involvedObject.name")),
            ("events.k8s.io", "type", Some("type")),
            ("events.k8s.io", "involvedObject.name", None),
            ("events.k8s.io", "source", None),
        ] {
            assert_eq!(stored_field(group, &events, label), expected, "{group} {label}");
        }
        let parts = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
        let regarding = parts.map(|part| format!("regarding.{part}"));
        for label in regarding.iter().map(String::as_str).chain(["reportingController", "reason", "type"]) {
            let field = events_field(label).expect("is a label");
            assert!(selectable_fields(&events).contains(&field), "{label} leads to {field}");
        }
        assert_eq!(stored_field("", &GroupResource::new("", "pods"), "spec.host"), Some("spec.nodeName"));
    }

    #[test]
    fn the_table_reads() {
        let table = builtin();
        let pods = table.iter().find(|row| row.gvr.resource == "pods").expect("pods");
        assert!(pods.namespaced && pods.serves("watch") && pods.short_names == ["po"]);
        assert_eq!(pods.subresource("eviction").expect("eviction").kind, GroupVersionKind::new("policy", "v1", "Eviction"));
        assert_eq!(pods.subresource("status").expect("status").kind, pods.kind);
        assert!(table.len() > 60);
    }
}
