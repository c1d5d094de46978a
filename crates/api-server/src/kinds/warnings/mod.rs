//! Warnings about objects that are valid, but not what their author may think (upstream's `GetWarningsFor...` in `pkg/api`, and the
//! `WarningsOn...` of its strategies).
//!
//! Not here: whether the key in a Secret of type `kubernetes.io/tls` belongs to the certificate.

mod addresses;
mod paths;
mod pods;

use apimachinery::field::Path;
use apimachinery::{GroupResource, Quantity, Value, go_quote};

use super::at::At;
use addresses::{cidr, ip};
pub(super) use pods::pod;

const DEPRECATED_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Those of the kinds whose rules are facts; `old` is there for updates.
pub(super) fn of(resource: &GroupResource, object: &Value, old: Option<&Value>) -> Vec<String> {
    let root = At::root(object);
    let mut found = Vec::new();
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumes") => volume(&root, &mut found),
        ("", "nodes") => node(&root, &mut found),
        ("", "endpoints") => endpoints(&root, &mut found),
        ("", "resourcequotas") if old.is_none() => quota(object, &mut found),
        ("", "serviceaccounts") => account(object, old, &mut found),
        ("networking.k8s.io", "ingresses") if old.is_none() => ingress(object, &mut found),
        ("", "persistentvolumeclaims") => {
            if object.str_at(&["metadata", "annotations", BETA_CLASS]).is_some() {
                found.push(format!(
                    "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
                ));
            }
            claim_spec(&Path::new("spec"), &root.get("spec"), &mut found);
        }
        ("storage.k8s.io", "storageclasses") => {
            for term in root.get("allowedTopologies").items() {
                for requirement in term.get("matchLabelExpressions").items() {
                    let key = requirement.get("key");
                    found.extend(deprecated_label(key.text()).map(|why| format!("{}: {why}", key.path())));
                }
            }
        }
        ("storage.k8s.io", "csistoragecapacities") => {
            let topology = root.get("nodeTopology");
            expressions(&topology, &mut found);
            let labels = topology.get("matchLabels");
            for (label, _) in labels.entries() {
                found.extend(deprecated_label(label).map(|why| format!("{}: {why}", labels.path().child(label))));
            }
        }
        ("networking.k8s.io", "networkpolicies") => {
            for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
                for rule in root.get("spec").get(rules).items() {
                    for peer in rule.get(peers).items() {
                        let block = peer.get("ipBlock");
                        cidr(&block.get("cidr"), &mut found);
                        block.get("except").items().for_each(|except| cidr(&except, &mut found));
                    }
                }
            }
        }
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(&root, old.is_none(), &mut found),
        ("storage.k8s.io", "csidrivers") => csi_driver(object, old, &mut found),
        ("resource.k8s.io", "resourceslices") => {
            let driver = object.str_at(&["spec", "driver"]).unwrap_or_default();
            if driver != driver.to_lowercase() {
                let name = apimachinery::go_quote(driver);
                found.push(format!("spec.driver: driver names should be lowercase; {name} contains uppercase characters"));
            }
        }
        ("node.k8s.io", "runtimeclasses") => {
            for (label, _) in root.get("scheduling").get("nodeSelector").entries() {
                found.extend(deprecated_label(label).map(|why| format!("scheduling.nodeSelector: {why}")));
            }
        }
        _ => {}
    }
    found
}

/// Those of a new status.
pub(super) fn of_status(resource: &GroupResource, object: &Value) -> Vec<String> {
    let root = At::root(object);
    let status = root.get("status");
    let mut found = Vec::new();
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => {
            for list in ["podIPs", "hostIPs"] {
                status.get(list).items().for_each(|item| ip(&item.get("ip"), &mut found));
            }
        }
        ("", "services") | ("networking.k8s.io", "ingresses") => {
            let balancer = status.get("loadBalancer");
            // Upstream names the element, not its member.
            for point in balancer.get("ingress").items() {
                ip(&point.with(point.get("ip").value), &mut found);
            }
        }
        _ => {}
    }
    found
}

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

fn account(object: &Value, old: Option<&Value>, found: &mut Vec<String>) {
    let asks = |object: &Value| object.meta().annotation(MOUNTABLE_SECRETS).is_some();
    if asks(object) && !old.is_some_and(asks) {
        found.push(format!(
            "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to \
             mounted secrets"
        ));
    }
}

fn ingress(object: &Value, found: &mut Vec<String>) {
    if object.meta().annotation(INGRESS_CLASS).is_some() && object["spec"]["ingressClassName"].is_null() {
        let annotation = go_quote(INGRESS_CLASS);
        found.push(format!("annotation {annotation} is deprecated, please use 'spec.ingressClassName' instead"));
    }
}

fn node(root: &At, found: &mut Vec<String>) {
    let spec = root.get("spec");
    if spec.get("configSource").is_set() {
        found.push("spec.configSource: the feature is removed".to_owned());
    }
    if !spec.get("externalID").text().is_empty() {
        found.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    spec.get("podCIDRs").items().for_each(|range| cidr(&range, found));
}

fn endpoints(root: &At, found: &mut Vec<String>) {
    // Upstream's own controller mends addresses before it writes.
    if root.value.str_at(&["metadata", "labels", "endpoints.kubernetes.io/managed-by"]) == Some("endpoint-controller") {
        return;
    }
    for subset in root.get("subsets").items() {
        for list in ["addresses", "notReadyAddresses"] {
            subset.get(list).items().for_each(|address| ip(&address.get("ip"), found));
        }
    }
}

/// A quota for requests that is larger than that for limits.
fn quota(object: &Value, found: &mut Vec<String>) {
    let hard = &object["spec"]["hard"];
    let amount = |name: &str| hard.get(name).and_then(|amount| Quantity::from_value(amount).ok());
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let (mut requests, limits) = (format!("requests.{resource}"), format!("limits.{resource}"));
        if amount(&requests).is_none() && matches!(resource, "cpu" | "memory") {
            resource.clone_into(&mut requests);
        }
        let (Some(least), Some(most)) = (amount(&requests), amount(&limits)) else { continue };
        if least > most {
            let shown = |name: &str| format!("{name} ({})", hard[name].as_str().unwrap_or_default());
            found.push(format!("ResourceQuota {} should be less than {}", shown(&requests), shown(&limits)));
        }
    }
}

/// What a Service asks for in vain.
pub(super) fn service(object: &Value) -> Vec<String> {
    let root = At::root(object);
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    let mut found = Vec::new();
    let external = spec.get("type").text() == "ExternalName";
    let (hints, mode) = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode");
    if !meta.get("annotations").key(hints).value.is_null() {
        found.push(format!("annotation {hints} is deprecated, please use {mode} instead"));
    }
    if spec.get("clusterIP").text() != "None" {
        spec.get("clusterIPs").items().for_each(|address| ip(&address, &mut found));
    }
    let given = |name: &'static str| !spec.get(name).value.is_empty();
    if spec.get("clusterIP").text() == "None" && spec.get("type").text() == "ClusterIP" {
        let sticky = spec.get("sessionAffinity").text() != "None";
        let ignored =
            [("loadBalancerIP", given("loadBalancerIP")), ("externalIPs", given("externalIPs")), ("SessionAffinity", sticky)];
        let ignored = ignored.into_iter().filter(|(_, given)| *given);
        found.extend(ignored.map(|(name, _)| format!("spec.{name} is ignored for headless services")));
    }
    spec.get("externalIPs").items().for_each(|address| ip(&address, &mut found));
    ip(&spec.get("loadBalancerIP"), &mut found);
    spec.get("loadBalancerSourceRanges").items().for_each(|range| cidr(&range, &mut found));
    if external && given("externalIPs") {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external && given("externalName") {
        found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").text() == "PreferClose" {
        found.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    found
}

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn deprecated_label(label: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(known, _)| *known == label).map(|(_, why)| *why)
}

fn csi_driver(object: &Value, old: Option<&Value>, found: &mut Vec<String>) {
    let requests = &object["spec"]["tokenRequests"];
    let changed = old.is_none_or(|old| old["spec"]["tokenRequests"] != *requests);
    if changed && !requests.is_empty() && object["spec"]["serviceAccountTokenInSecrets"].is_null() {
        found.push(
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of \
             tokens in volume attributes"
                .to_owned(),
        );
    }
}

fn volume(root: &At, found: &mut Vec<String>) {
    let spec = root.get("spec");
    let annotations = &root.value["metadata"]["annotations"];
    for (key, why) in [
        (BETA_CLASS, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (BETA_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if annotations.get(key).is_some() {
            found.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    if spec.get("persistentVolumeReclaimPolicy").text() == "Recycle" {
        found.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use \
             dynamic provisioning."
                .to_owned(),
        );
    }
    let affinity = spec.get("nodeAffinity");
    affinity.get("required").get("nodeSelectorTerms").items().for_each(|term| expressions(&term, found));
    for member in ["cephfs", "photonPersistentDisk", "scaleIO", "storageos", "glusterfs", "rbd"] {
        if let Some((_, why)) = pods::VOLUMES.iter().find(|(known, _)| *known == member && spec.set(member).is_some()) {
            let shown = if member == "storageos" { "storageOS" } else { member };
            found.push(format!("spec.{shown}: {why}"));
        }
    }
}

/// Of labels in `matchExpressions`.
fn expressions(term: &At, found: &mut Vec<String>) {
    for requirement in term.get("matchExpressions").items() {
        let key = requirement.get("key");
        found.extend(deprecated_label(key.text()).map(|why| format!("{}: {} is {why}", key.path(), key.text())));
    }
}

fn fractional(path: &Path, amount: Option<Quantity>, text: &str, found: &mut Vec<String>) {
    if amount.is_some_and(|amount| amount.milli_value() % 1000 != 0) {
        found.push(format!("{path}: fractional byte value {} is invalid, must be an integer", go_quote(text)));
    }
}

/// Of a PersistentVolumeClaimSpec.
pub(super) fn claim_spec(path: &Path, spec: &At, found: &mut Vec<String>) {
    let resources = spec.get("resources");
    for list in ["requests", "limits"] {
        let amounts = resources.get(list);
        let amount = amounts.key("storage");
        fractional(&path.child("resources").child(list).key("storage"), amount.quantity(), amount.text(), found);
    }
}
fn endpoint_slice(root: &At, new: bool, found: &mut Vec<String>) {
    if new && root.get("addressType").text() == "FQDN" {
        found.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    // Upstream's own controllers mend addresses before they write.
    let labels = root.get("metadata");
    let labels = labels.get("labels");
    let manager = labels.key("endpointslice.kubernetes.io/managed-by");
    if matches!(manager.text(), "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io") {
        return;
    }
    for endpoint in root.get("endpoints").items() {
        endpoint.get("addresses").items().for_each(|address| ip(&address, found));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn of_pods() {
        let cases: [(Value, &[&str]); 6] = [
            (
                value!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                &[r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#],
            ),
            (
                value!({"volumes": [{"name": "a", "gitRepo": {}}]}),
                &["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
            ),
            (
                value!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
                &[r#"spec.imagePullSecrets[1].name: duplicate name "a""#],
            ),
            (
                value!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1m"}}, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A"}]}]}),
                &[
                    r#"spec.containers[0].resources.limits[memory]: fractional byte value "1m" is invalid, must be an integer"#,
                    r#"spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#,
                ],
            ),
            (
                value!({"containers": [{"ports": [{"containerPort": 1, "protocol": "TCP", "name": "a"}]}, {"ports": [{"containerPort": 1, "protocol": "TCP", "hostPort": 2, "name": "a"}]}]}),
                &[
                    "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                    r#"spec.containers[1].ports[0]: duplicate port name "a" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]"#,
                ],
            ),
            (
                value!({"topologySpreadConstraints": [{"topologyKey": "a"}], "terminationGracePeriodSeconds": -1}),
                &[
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
        ];
        for (spec, expected) in cases {
            let object = value!({"spec": spec});
            assert_eq!(pod(&At::root(&object), false), expected, "{object}");
        }
    }

    #[test]
    fn of_other_kinds() {
        let cases: [(&str, &str, Value, &[&str]); 3] = [
            (
                "networking.k8s.io",
                "networkpolicies",
                value!({"spec": {"ingress": [{"from": [
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.2.3/16", "010.0.0.0/8", "FD00::/64"]}}]}]}}),
                &[
                    r#"spec.ingress[0].from[0].ipBlock.except[0]: CIDR value "10.1.2.3/16" is ambiguous in this context (should be "10.1.0.0/16" or "10.1.2.3/32"?)"#,
                    r#"spec.ingress[0].from[0].ipBlock.except[1]: non-standard CIDR value "010.0.0.0/8" will be considered invalid in a future Kubernetes release: use "10.0.0.0/8""#,
                    r#"spec.ingress[0].from[0].ipBlock.except[2]: IPv6 CIDR value "FD00::/64" should be in RFC 5952 canonical format ("fd00::/64")"#,
                ],
            ),
            (
                "",
                "persistentvolumes",
                value!({"spec": {"rbd": {}}}),
                &["spec.rbd: deprecated in v1.28, non-functional in v1.31+"],
            ),
            (
                "",
                "persistentvolumeclaims",
                value!({"spec": {"resources": {"requests": {"storage": "1500m"}}}}),
                &[r#"spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer"#],
            ),
        ];
        for (group, resource, object, expected) in cases {
            assert_eq!(of(&GroupResource::new(group, resource), &object, None), expected, "{object}");
        }
        let others: [(&str, &str, Value, &[&str]); 4] = [
            (
                "",
                "nodes",
                value!({"spec": {"podCIDRs": ["010.0.0.0/8"]}}),
                &[
                    r#"spec.podCIDRs[0]: non-standard CIDR value "010.0.0.0/8" will be considered invalid in a future Kubernetes release: use "10.0.0.0/8""#,
                ],
            ),
            (
                "",
                "endpoints",
                value!({"subsets": [{"notReadyAddresses": [{"ip": "FD00::1"}]}]}),
                &[
                    r#"subsets[0].notReadyAddresses[0].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")"#,
                ],
            ),
            (
                "",
                "resourcequotas",
                value!({"spec": {"hard": {"cpu": "2", "limits.cpu": "1", "requests.memory": "1Gi", "limits.memory": "1Gi"}}}),
                &["ResourceQuota cpu (2) should be less than limits.cpu (1)"],
            ),
            (
                "networking.k8s.io",
                "ingresses",
                value!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}}),
                &[r#"annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead"#],
            ),
        ];
        for (group, resource, object, expected) in others {
            assert_eq!(of(&GroupResource::new(group, resource), &object, None), expected, "{object}");
        }
        let driver = value!({"spec": {"tokenRequests": [{"audience": "a"}]}});
        let resource = GroupResource::new("storage.k8s.io", "csidrivers");
        assert_eq!(of(&resource, &driver, None).len(), 1);
        assert_eq!(of(&resource, &driver, Some(&driver)).len(), 0);
    }
    #[test]
    fn of_what_is_new_in_an_update() {
        let account = value!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
        let resource = GroupResource::new("", "serviceaccounts");
        for (old, count) in [(None, 1), (Some(value!({})), 1), (Some(account.clone()), 0)] {
            assert_eq!(of(&resource, &account, old.as_ref()).len(), count);
        }
    }

    #[test]
    fn of_statuses() {
        let odd =
            r#"non-standard IP address "010.0.0.1" will be considered invalid in a future Kubernetes release: use "10.0.0.1""#;
        for (group, resource, status, place) in [
            ("", "pods", value!({"hostIPs": [{"ip": "010.0.0.1"}]}), "status.hostIPs[0].ip"),
            ("", "services", value!({"loadBalancer": {"ingress": [{"ip": "010.0.0.1"}]}}), "status.loadBalancer.ingress[0]"),
            (
                "networking.k8s.io",
                "ingresses",
                value!({"loadBalancer": {"ingress": [{"ip": "010.0.0.1"}]}}),
                "status.loadBalancer.ingress[0]",
            ),
        ] {
            let found = of_status(&GroupResource::new(group, resource), &value!({"status": status}));
            assert_eq!(found, [format!("{place}: {odd}")]);
        }
    }
}
