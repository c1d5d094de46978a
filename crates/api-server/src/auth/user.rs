//! Who makes a request.

use std::collections::BTreeMap;

/// The names of users and groups that the system itself gives meaning to.
pub mod names {
    /// May do everything, whatever the authorizers say.
    pub const MASTERS: &str = "system:masters";
    /// Everyone that was authenticated.
    pub const AUTHENTICATED: &str = "system:authenticated";
    /// Everyone that was not.
    pub const UNAUTHENTICATED: &str = "system:unauthenticated";
    /// The user of a request without credentials.
    pub const ANONYMOUS: &str = "system:anonymous";
    /// All service accounts.
    pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    /// All kubelets.
    pub const NODES: &str = "system:nodes";
    /// The API server's client to itself.
    pub const API_SERVER: &str = "system:apiserver";
    /// What node user names start with.
    pub const PREFIX_NODE: &str = "system:node:";
    /// What ServiceAccount user names start with: `system:serviceaccount:NAMESPACE:NAME`.
    pub const PREFIX_SERVICE_ACCOUNT: &str = "system:serviceaccount:";
}

use names::{PREFIX_NODE, PREFIX_SERVICE_ACCOUNT};

/// An identity, as in upstream's `user.Info`
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user name.
    pub name: String,
    /// The identity's uid; empty when it has none.
    pub uid: String,
    /// The groups, in the authenticator's order.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows, by lower-case key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with groups, plus `system:authenticated`.
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == names::AUTHENTICATED || g == names::UNAUTHENTICATED) {
            groups.push(names::AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// A user with these groups and `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self::authenticated(name, groups.iter().copied())
    }

    /// The identity of a request without credentials.
    pub fn anonymous() -> Self {
        Self { name: names::ANONYMOUS.to_owned(), groups: vec![names::UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// The API server itself (upstream's loopback identity); may do everything.
    pub fn api_server() -> Self {
        Self::new(names::API_SERVER, &[names::MASTERS])
    }

    /// A control plane component by its user name, for example `system:kube-scheduler`.
    pub fn component(name: &str) -> Self {
        Self::authenticated(name, [] as [&str; 0])
    }

    /// The kubelet of a node.
    pub fn node(name: &str) -> Self {
        Self::authenticated(format!("{PREFIX_NODE}{name}"), [names::NODES])
    }

    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::authenticated(service_account_user(namespace, name), service_account_groups(namespace))
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, when the user is a kubelet. One that does not say of which node is a kubelet too, and may nothing.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(PREFIX_NODE).filter(|_| self.in_group(names::NODES))
    }
}

/// The user name of a ServiceAccount.
pub(crate) fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{PREFIX_SERVICE_ACCOUNT}{namespace}:{name}")
}

/// The groups of a ServiceAccount, without `system:authenticated`.
pub(crate) fn service_account_groups(namespace: &str) -> [String; 2] {
    [names::SERVICE_ACCOUNTS.to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of a ServiceAccount's user name.
pub(crate) fn split_service_account_user(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(PREFIX_SERVICE_ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_account_names_split() {
        for (user, wanted) in [
            ("system:serviceaccount:ns:sa", Some(("ns", "sa"))),
            ("system:serviceaccount::sa", None),
            ("system:serviceaccount:ns:", None),
            ("system:serviceaccount:ns:a:b", None),
            ("bob", None),
        ] {
            assert_eq!(split_service_account_user(user), wanted, "{user}");
        }
    }

    #[test]
    fn node_needs_name_and_group() {
        assert_eq!(UserInfo::node("n1").node_name(), Some("n1"));
        assert_eq!(UserInfo::node("").node_name(), Some(""));
        assert_eq!(UserInfo::component("system:node:n1").node_name(), None);
        assert_eq!(UserInfo::authenticated("bob", [names::NODES]).node_name(), None);
    }
}
