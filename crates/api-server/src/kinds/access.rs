//! Roles and bindings, as far as they are wrong whoever writes them; who may write which is admission's.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::at::{At, subdomain};
use super::go_text::Shown;
use super::table::{Checks, any};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const CHECKS: &[Checks] = &[
    Checks {
        group: GROUP,
        resource: "roles",
        create: |o, e| rules(o, true, e),
        update: |o, _, e| rules(o, true, e),
        status: any,
    },
    Checks { group: GROUP, resource: "clusterroles", create: cluster_role, update: |o, _, e| cluster_role(o, e), status: any },
    Checks {
        group: GROUP,
        resource: "rolebindings",
        create: |o, e| binding(o, true, e),
        update: |o, old, e| binding_update(o, old, true, e),
        status: any,
    },
    Checks {
        group: GROUP,
        resource: "clusterrolebindings",
        create: |o, e| binding(o, false, e),
        update: |o, old, e| binding_update(o, old, false, e),
        status: any,
    },
];

fn rules(object: &Value, namespaced: bool, e: &mut ErrorList) {
    let root = At::root(object);
    for rule in root.get("rules").items() {
        let (verbs, urls) = (rule.get("verbs"), rule.get("nonResourceURLs"));
        if verbs.len() == 0 {
            verbs.require(e, "verbs must contain at least one value");
        }
        if urls.len() > 0 {
            if namespaced {
                urls.invalid(e, "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|member| rule.get(member).len() > 0) {
                urls.invalid(e, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if rule.get("apiGroups").len() == 0 {
            rule.get("apiGroups").require(e, "resource rules must supply at least one api group");
        }
        if rule.get("resources").len() == 0 {
            rule.get("resources").require(e, "resource rules must supply at least one resource");
        }
    }
}

fn cluster_role(object: &Value, e: &mut ErrorList) {
    rules(object, false, e);
    let root = At::root(object);
    let Some(aggregation) = root.set("aggregationRule") else { return };
    let selectors = aggregation.get("clusterRoleSelectors");
    if selectors.len() == 0 {
        selectors.require(e, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for selector in selectors.items() {
        let before = e.len();
        selector.label_selector(e);
        if e.len() > before {
            // Upstream shows what it could not make of it.
            e.push(Error::invalid(&selector.path(), Value::Null, "invalid label selector."));
        }
    }
}

fn binding(object: &Value, namespaced: bool, e: &mut ErrorList) {
    let root = At::root(object);
    let role = root.get("roleRef");
    role.get("apiGroup").one_of(e, &[GROUP]);
    role.get("kind").one_of(e, if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] });
    role.get("name").required_name(e, validation::is_path_segment_name);
    for subject in root.get("subjects").items() {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        name.required(e);
        match subject.get("kind").text() {
            "ServiceAccount" => {
                name.check_set(e, subdomain);
                if !group.text().is_empty() {
                    group.one_of(e, &[""]);
                }
                if !namespaced && subject.get("namespace").text().is_empty() {
                    subject.get("namespace").require(e, "");
                }
            }
            "User" | "Group" => group.one_of(e, &[GROUP]),
            _ => subject.get("kind").one_of(e, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn binding_update(object: &Value, old: &Value, namespaced: bool, e: &mut ErrorList) {
    binding(object, namespaced, e);
    if object["roleRef"] != old["roleRef"] {
        let role = At::root(&object["roleRef"]);
        let part = |name| apimachinery::go_quote(role.get(name).text());
        let shown = format!(r#"{{"APIGroup":{},"Kind":{},"Name":{}}}"#, part("apiGroup"), part("kind"), part("name"));
        e.push(Error::invalid(&Path::new("roleRef"), Value::Null, "cannot change roleRef").shown_as(shown));
    }
}
