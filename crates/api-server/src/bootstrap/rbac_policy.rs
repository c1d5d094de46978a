//! RBAC's bootstrap policy as data: the roles and bindings that every cluster starts with, from `rbac_policy.txt`.
//!
//! The format stands at the head of that file. Facts of Kubernetes v1.35 (feature gates at their defaults), and what features that are off by
//! default add.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value as Json, json};

use crate::auth::Rule;
use crate::gates::{Feature, FeatureGates};

const TABLE: &str = include_str!("rbac_policy.txt");
/// What `ClusterTrustBundle` adds.
const TRUST_BUNDLES: &str = "role system:cluster-trust-bundle-discovery
  get,list,watch certificates.k8s.io clustertrustbundles
role system:controller:kube-apiserver-serving-clustertrustbundle-publisher
  attest certificates.k8s.io signers : kubernetes.io/kube-apiserver-serving
  create,delete,list,update,watch certificates.k8s.io clustertrustbundles
  create,patch,update core,events.k8s.io events
bind system:cluster-trust-bundle-discovery ClusterRole/system:cluster-trust-bundle-discovery group=system:serviceaccounts
bind system:controller:kube-apiserver-serving-clustertrustbundle-publisher ClusterRole/system:controller:kube-apiserver-serving-clustertrustbundle-publisher sa=kube-system/kube-apiserver-serving-clustertrustbundle-publisher
";
const GROUP: &str = "rbac.authorization.k8s.io";

/// A role or a binding; the namespace is empty for the cluster kinds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyObject {
    /// The plural resource.
    pub(super) resource: &'static str,
    /// The namespace, or empty.
    pub(super) namespace: String,
    /// The name.
    pub(super) name: String,
    /// The object as it is created.
    pub(super) object: Json,
}

/// All objects, roles before the bindings that need them.
pub(super) fn objects(gates: FeatureGates) -> Vec<PolicyObject> {
    let read = |table| parse(table).expect("the tables are constants that a test parses");
    let mut objects = read(TABLE);
    if gates.has(Feature::ClusterTrustBundle) {
        objects.extend(read(TRUST_BUNDLES));
        let bundles = json!({"verbs": ["get", "list", "watch"], "apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"]});
        add_rule(&mut objects, "system:node", bundles);
    }
    if gates.has(Feature::GenericWorkload) {
        let workloads =
            json!({"verbs": ["get", "list", "watch"], "apiGroups": ["scheduling.k8s.io"], "resources": ["workloads"]});
        add_rule(&mut objects, "system:kube-scheduler", workloads);
    }
    objects
}

fn add_rule(objects: &mut [PolicyObject], cluster_role: &str, rule: Json) {
    let role = objects.iter_mut().find(|object| object.resource == "clusterroles" && object.name == cluster_role);
    role.and_then(|role| role.object["rules"].as_array_mut()).into_iter().for_each(|rules| rules.push(rule.clone()));
}

/// What every node may do alike: the rules of `system:node`, for the Node authorizer.
pub(crate) fn node_rules(gates: FeatureGates) -> Vec<Rule> {
    let role = objects(gates).into_iter().find(|o| o.resource == "clusterroles" && o.name == "system:node");
    let rules = role.map(|role| role.object["rules"].clone()).unwrap_or_default();
    let rules: Vec<PolicyRule> = serde_json::from_value(rules).unwrap_or_default();
    rules.into_iter().map(Rule::from).collect()
}

fn parse(table: &str) -> Result<Vec<PolicyObject>, String> {
    let mut objects: Vec<PolicyObject> = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, rest @ ..] => objects.push(role(name, rest)?),
            ["bind", name, rest @ ..] => objects.push(binding(name, rest)?),
            rule if line.starts_with("  ") => {
                let role = objects.last_mut().ok_or("a rule before the first role")?;
                let rules = role.object["rules"].as_array_mut().ok_or_else(|| format!("a rule after a binding: {line}"))?;
                rules.push(self::rule(rule).ok_or_else(|| format!("not a rule: {line}"))?);
            }
            _ => return Err(format!("not understood: {line}")),
        }
    }
    Ok(objects)
}

fn metadata(name: &str, namespace: &str, mut labels: Map<String, Json>) -> Json {
    labels.insert("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".into());
    let mut metadata = json!({
        "name": name,
        "labels": labels,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// `in NAMESPACE` at the front of the rest of a line.
fn in_namespace<'a, 'b>(rest: &'b [&'a str]) -> (&'a str, &'b [&'a str]) {
    match rest {
        ["in", namespace, rest @ ..] => (namespace, rest),
        rest => ("", rest),
    }
}

fn role(name: &str, rest: &[&str]) -> Result<PolicyObject, String> {
    let (namespace, rest) = in_namespace(rest);
    let (mut labels, mut selectors, mut aggregating) = (Map::new(), Vec::new(), false);
    for word in rest {
        match word.split_once('=') {
            None if *word == "<" => aggregating = true,
            None => return Err(format!("role {name}: {word}")),
            Some((key, value)) if aggregating => selectors.push(json!({"matchLabels": {key: value}})),
            Some((key, value)) => _ = labels.insert(key.to_owned(), value.into()),
        }
    }
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(name, namespace, labels),
        "rules": [],
    });
    if aggregating {
        object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
    Ok(PolicyObject { resource, namespace: namespace.to_owned(), name: name.to_owned(), object })
}

fn rule(words: &[&str]) -> Option<Json> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let groups = |text: &str| list(text).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect::<Vec<_>>();
    match words {
        [verbs, urls] => Some(json!({"verbs": list(verbs), "nonResourceURLs": list(urls)})),
        [verbs, g, resources] => Some(json!({"verbs": list(verbs), "apiGroups": groups(g), "resources": list(resources)})),
        [verbs, g, resources, ":", names] => Some(json!({
            "verbs": list(verbs), "apiGroups": groups(g), "resources": list(resources), "resourceNames": list(names),
        })),
        _ => None,
    }
}

fn binding(name: &str, rest: &[&str]) -> Result<PolicyObject, String> {
    let (namespace, rest) = in_namespace(rest);
    let [role, subjects @ ..] = rest else { return Err(format!("bind {name}: no role")) };
    let (role_kind, role) = role.split_once('/').ok_or_else(|| format!("bind {name}: {role}"))?;
    let subject = |word: &&str| -> Result<Json, String> {
        let bad = || format!("bind {name}: {word}");
        let (kind, who) = word.split_once('=').ok_or_else(bad)?;
        Ok(match kind {
            "user" => json!({"apiGroup": GROUP, "kind": "User", "name": who}),
            "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": who}),
            "sa" => {
                let (namespace, account) = who.split_once('/').ok_or_else(bad)?;
                json!({"kind": "ServiceAccount", "name": account, "namespace": namespace})
            }
            _ => return Err(bad()),
        })
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(name, namespace, Map::new()),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().map(subject).collect::<Result<Vec<_>, _>>()?.into();
    }
    let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
    Ok(PolicyObject { resource, namespace: namespace.to_owned(), name: name.to_owned(), object })
}

/// What is missing from a stored role or binding that may be updated automatically: the object to store, or `None` if all is
/// there. Rules, subjects, labels and annotations that somebody added stay (upstream's union reconciliation).
pub(super) fn reconciled(stored: &Json, wanted: &Json) -> Option<Json> {
    let mut object = stored.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if object["metadata"][field].get(key).is_none() {
                object["metadata"][field][key] = value.clone();
            }
        }
    }
    if wanted.get("aggregationRule").is_some() {
        // Its rules belong to the aggregation controller.
        object["aggregationRule"] = wanted["aggregationRule"].clone();
    } else {
        let parsed = |rules: &Json| -> Vec<Rule> {
            let rules: Vec<PolicyRule> = serde_json::from_value(rules.clone()).unwrap_or_default();
            rules.into_iter().map(Rule::from).collect()
        };
        let have = parsed(&stored["rules"]);
        for rule in wanted["rules"].as_array().into_iter().flatten() {
            if !crate::auth::uncovered(&have, &parsed(&json!([rule]))).is_empty() {
                push(&mut object["rules"], rule.clone());
            }
        }
    }
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        let same = |have: &Json| ["kind", "name", "namespace"].iter().all(|f| have.get(f) == subject.get(f));
        if !stored["subjects"].as_array().into_iter().flatten().any(same) {
            push(&mut object["subjects"], subject.clone());
        }
    }
    (object != *stored).then_some(object)
}

fn push(list: &mut Json, item: Json) {
    match list {
        Json::Array(items) => items.push(item),
        other => *other = Json::Array(vec![item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses_and_is_complete() {
        let objects = parse(TABLE).expect("parses");
        let count = |resource: &str| objects.iter().filter(|o| o.resource == resource).count();
        assert_eq!((count("clusterroles"), count("roles"), count("clusterrolebindings"), count("rolebindings")), (68, 7, 49, 7));
        let find = |name: &str| objects.iter().find(|o| o.name == name).expect("there").object.clone();
        assert_eq!(find("cluster-admin")["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        assert_eq!(
            find("edit")["aggregationRule"]["clusterRoleSelectors"][0],
            json!({"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}})
        );
        assert_eq!(find("edit")["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        assert_eq!(find("system:controller:token-cleaner")["rules"][1]["apiGroups"], json!(["", "events.k8s.io"]));
        let roles: Vec<_> = objects.iter().filter(|o| o.resource.ends_with("roles")).collect();
        for binding in objects.iter().filter(|o| o.resource.ends_with("bindings")) {
            let role = &binding.object["roleRef"];
            let namespace = if role["kind"] == "Role" { binding.namespace.as_str() } else { "" };
            assert!(roles.iter().any(|r| role["name"] == r.name.as_str() && r.namespace == namespace), "{}", binding.name);
        }
    }

    #[test]
    fn nodes_have_rules() {
        let usual = node_rules(FeatureGates::DEFAULT).len();
        assert!(usual > 10);
        let gates = FeatureGates::DEFAULT.with(Feature::ClusterTrustBundle, true);
        assert_eq!(node_rules(gates).len(), usual + 1);
        assert!(objects(gates).iter().any(|object| object.name == "system:cluster-trust-bundle-discovery"));
    }

    #[test]
    fn reconciliation_only_adds() {
        let wanted = objects(FeatureGates::DEFAULT)
            .into_iter()
            .find(|o| o.name == "system:basic-user" && o.resource == "clusterroles")
            .expect("there")
            .object;
        assert_eq!(reconciled(&wanted, &wanted), None);
        let mut stored = wanted.clone();
        stored["rules"] = json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]);
        stored["metadata"]["labels"] = json!({"mine": "1"});
        let updated = reconciled(&stored, &wanted).expect("something was missing");
        assert_eq!(updated["rules"].as_array().expect("rules").len(), 1 + wanted["rules"].as_array().expect("rules").len());
        assert_eq!(updated["metadata"]["labels"]["mine"], "1");
        assert_eq!(updated["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        let mut all = wanted.clone();
        all["rules"] = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        assert_eq!(reconciled(&all, &wanted), None, "what is covered already is not added");
        let binding = objects(FeatureGates::DEFAULT)
            .into_iter()
            .find(|o| o.name == "cluster-admin" && o.resource == "clusterrolebindings")
            .expect("there");
        let mut stored = binding.object.clone();
        stored["subjects"] = json!([{"kind": "User", "name": "me", "apiGroup": GROUP}]);
        assert_eq!(reconciled(&stored, &binding.object).expect("a subject")["subjects"].as_array().expect("list").len(), 2);
    }
}
