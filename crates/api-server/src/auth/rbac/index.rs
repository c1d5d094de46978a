//! The rules in force, kept in memory and indexed by who they are for.
//!
//! Fed with every change of roles and bindings; answers a request with a few hash look-ups, however many bindings there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::rbac::v1 as rbac;
use parking_lot::RwLock;

use super::rule::Rule;
use crate::auth::attributes::{Attributes, Decision};
use crate::auth::user::{UserInfo, split_service_account_user};

/// A role's or a binding's place: the namespace is empty for the cluster kinds.
type Key = (String, String);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount(String, String),
}

#[derive(Debug)]
struct Binding {
    /// The role: `(namespace or "", name)`.
    role: Key,
    role_kind: String,
    subjects: Vec<Subject>,
}

#[derive(Debug, Default)]
struct State {
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: HashMap<Key, Binding>,
    by_subject: HashMap<Subject, HashSet<Key>>,
}

/// The role-based access control authorizer's state. Cheap to share; readers never wait for I/O.
#[derive(Debug, Default)]
pub struct RbacIndex {
    state: RwLock<State>,
}

impl RbacIndex {
    /// Sets a ClusterRole's rules (namespace empty) or a Role's.
    pub fn set_role(&self, namespace: &str, name: &str, rules: Option<Vec<rbac::PolicyRule>>) {
        let rules = rules.unwrap_or_default().into_iter().map(Rule::from).collect();
        self.state.write().roles.insert((namespace.to_owned(), name.to_owned()), rules);
    }

    /// Forgets a role.
    pub fn remove_role(&self, namespace: &str, name: &str) {
        self.state.write().roles.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Sets a ClusterRoleBinding (namespace empty) or a RoleBinding.
    pub fn set_binding(&self, namespace: &str, name: &str, role: &rbac::RoleRef, subjects: Option<Vec<rbac::Subject>>) {
        let role_namespace = if role.kind == "Role" { namespace } else { "" };
        let binding = Binding {
            role: (role_namespace.to_owned(), role.name.clone()),
            role_kind: role.kind.clone(),
            subjects: subjects.unwrap_or_default().into_iter().filter_map(|s| subject(s, namespace)).collect(),
        };
        let mut state = self.state.write();
        let key = (namespace.to_owned(), name.to_owned());
        state.unbind(&key);
        for subject in &binding.subjects {
            state.by_subject.entry(subject.clone()).or_default().insert(key.clone());
        }
        state.bindings.insert(key, binding);
    }

    /// Forgets a binding.
    pub fn remove_binding(&self, namespace: &str, name: &str) {
        self.state.write().unbind(&(namespace.to_owned(), name.to_owned()));
    }

    /// Decides a request. The reason of a refusal is empty unless a role that would apply is missing.
    pub fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let state = self.state.read();
        let mut missing = Vec::new();
        for (key, binding) in state.bindings_for(request.user, request.namespace) {
            let Some(rules) = state.roles.get(&binding.role) else {
                missing.push(binding);
                continue;
            };
            if rules.iter().any(|rule| rule.allows(request)) {
                return Decision::Allow(allowed_by(key, binding));
            }
        }
        let missing: Vec<String> = missing.into_iter().map(missing_role).collect();
        Decision::NoOpinion(match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    /// All rules that apply to a user in a namespace (cluster-wide ones included).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let state = self.state.read();
        let applying = state.bindings_for(user, namespace);
        applying.iter().filter_map(|(_, b)| state.roles.get(&b.role)).flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// The rules of a role (namespace empty for a ClusterRole).
    pub fn role_rules(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.state.read().roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

impl State {
    fn unbind(&mut self, key: &Key) {
        let Some(old) = self.bindings.remove(key) else { return };
        for subject in old.subjects {
            if let Some(keys) = self.by_subject.get_mut(&subject) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }

    /// The bindings that name the user or one of its groups, cluster-wide or in the namespace, each once, cluster-wide first.
    fn bindings_for(&self, user: &UserInfo, namespace: &str) -> Vec<(&Key, &Binding)> {
        let mut subjects = vec![Subject::User(user.name.clone())];
        subjects.extend(user.groups.iter().map(|g| Subject::Group(g.clone())));
        if let Some((ns, name)) = split_service_account_user(&user.name) {
            subjects.push(Subject::ServiceAccount(ns.to_owned(), name.to_owned()));
        }
        let keys = subjects.iter().filter_map(|s| self.by_subject.get(s)).flatten();
        let mut keys: Vec<&Key> = keys.filter(|key| key.0.is_empty() || key.0 == namespace).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter_map(|key| self.bindings.get_key_value(key)).collect()
    }
}

fn subject(subject: rbac::Subject, namespace: &str) -> Option<Subject> {
    match subject.kind.as_str() {
        "User" => Some(Subject::User(subject.name)),
        "Group" => Some(Subject::Group(subject.name)),
        "ServiceAccount" => {
            let namespace = subject.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| namespace.to_owned());
            (!namespace.is_empty()).then_some(Subject::ServiceAccount(namespace, subject.name))
        }
        _ => None,
    }
}

fn allowed_by((namespace, name): &Key, binding: &Binding) -> String {
    let (kind, binding_name) = match namespace.as_str() {
        "" => ("ClusterRoleBinding", name.clone()),
        namespace => ("RoleBinding", format!("{name}/{namespace}")),
    };
    format!("RBAC: allowed by {kind} {binding_name:?} of {} {:?}", binding.role_kind, binding.role.1)
}

fn missing_role(binding: &Binding) -> String {
    match binding.role_kind.as_str() {
        "Role" => format!("role.rbac.authorization.k8s.io {:?} not found", binding.role.1),
        _ => format!("clusterrole.rbac.authorization.k8s.io {:?} not found", binding.role.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role_ref(kind: &str, name: &str) -> rbac::RoleRef {
        rbac::RoleRef { api_group: "rbac.authorization.k8s.io".to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    fn to(kind: &str, name: &str, namespace: Option<&str>) -> Option<Vec<rbac::Subject>> {
        Some(vec![rbac::Subject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            api_group: None,
        }])
    }

    fn get_pods() -> Option<Vec<rbac::PolicyRule>> {
        Some(vec![rbac::PolicyRule {
            verbs: vec!["get".to_owned()],
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["pods".to_owned()]),
            ..Default::default()
        }])
    }

    fn may(index: &RbacIndex, user: &UserInfo, namespace: &str) -> bool {
        let request = Attributes::resource(user, "get", "", "pods").named(namespace, "p");
        matches!(index.authorize(&request), Decision::Allow(_))
    }

    #[test]
    fn scope_of_bindings() {
        let index = RbacIndex::default();
        index.set_role("", "reader", get_pods());
        index.set_role("a", "local", get_pods());
        index.set_binding("", "all", &role_ref("ClusterRole", "reader"), to("User", "root", None));
        index.set_binding("a", "some", &role_ref("ClusterRole", "reader"), to("Group", "team", None));
        index.set_binding("a", "own", &role_ref("Role", "local"), to("ServiceAccount", "sa", None));
        index.set_binding("b", "other", &role_ref("Role", "local"), to("ServiceAccount", "sa", Some("a")));
        let (root, member) = (UserInfo::component("root"), UserInfo::authenticated("bob", ["team"]));
        let account = UserInfo::service_account("a", "sa");
        for (user, namespace, wanted) in [
            (&root, "a", true),
            (&root, "", true),
            (&member, "a", true),
            (&member, "b", false),
            (&member, "", false),
            (&account, "a", true),
            (&account, "b", false),
        ] {
            assert_eq!(may(&index, user, namespace), wanted, "{} in {namespace:?}", user.name);
        }
        let request = Attributes::resource(&account, "get", "", "pods").named("b", "p");
        assert_eq!(
            index.authorize(&request),
            Decision::NoOpinion(r#"RBAC: role.rbac.authorization.k8s.io "local" not found"#.to_owned())
        );
    }

    #[test]
    fn changes_apply_and_removals_too() {
        let index = RbacIndex::default();
        let (bob, eve) = (UserInfo::component("bob"), UserInfo::component("eve"));
        index.set_role("", "reader", get_pods());
        index.set_binding("", "b", &role_ref("ClusterRole", "reader"), to("User", "bob", None));
        assert!(may(&index, &bob, "x"));
        index.set_binding("", "b", &role_ref("ClusterRole", "reader"), to("User", "eve", None));
        assert!(!may(&index, &bob, "x"));
        assert!(may(&index, &eve, "x"));
        index.set_role("", "reader", None);
        assert!(!may(&index, &eve, "x"));
        index.set_role("", "reader", get_pods());
        index.remove_binding("", "b");
        assert!(!may(&index, &eve, "x"));
    }
}
