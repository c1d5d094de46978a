//! What an expression may ask of authorization (`authorizer`): the checks that it builds, and the seam to whoever decides.

use std::fmt;
use std::sync::Arc;

/// Decides whether someone may do something.
pub trait Authorizer: Send + Sync {
    /// The decision for this request.
    fn authorize(&self, request: &Request<'_>) -> Decision;
}

/// What is asked.
#[derive(Debug)]
pub enum Request<'r> {
    /// An HTTP request for a path.
    Path {
        /// Who asks.
        user: &'r str,
        /// In which groups they are.
        groups: &'r [String],
        /// The path.
        path: &'r str,
        /// The verb.
        verb: &'r str,
    },
    /// A request for a resource.
    Resource {
        /// What is to be done with which resource.
        check: &'r ResourceCheck,
        /// The verb.
        verb: &'r str,
    },
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Someone whose rights can be asked for.
#[derive(Clone)]
pub struct Subject {
    /// The name.
    pub user: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Who decides.
    pub authorizer: Arc<dyn Authorizer>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("user", &self.user).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Subject {
    /// The subject that a service account is.
    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Subject {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
        Subject {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: groups.map(str::to_owned).to_vec(),
            authorizer: self.authorizer.clone(),
        }
    }
}

/// A check of a path that is being put together.
#[derive(Clone, Debug)]
pub struct PathCheck {
    pub(crate) subject: Arc<Subject>,
    pub(crate) path: String,
}

impl PathCheck {
    pub(crate) fn check(&self, verb: &str) -> Decision {
        let (user, groups) = (&self.subject.user, &self.subject.groups);
        self.subject.authorizer.authorize(&Request::Path { user, groups, path: &self.path, verb })
    }
}

/// A check of resources of a group that is being put together.
#[derive(Clone, Debug)]
pub struct GroupCheck {
    pub(crate) subject: Arc<Subject>,
    pub(crate) group: String,
}

/// A check of a resource that is being put together.
#[derive(Clone, Debug)]
pub struct ResourceCheck {
    /// Who.
    pub subject: Arc<Subject>,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name, or empty.
    pub name: String,
    /// The field selector, or empty.
    pub field_selector: String,
    /// The label selector, or empty.
    pub label_selector: String,
}

impl ResourceCheck {
    pub(crate) fn check(&self, verb: &str) -> Decision {
        self.subject.authorizer.authorize(&Request::Resource { check: self, verb })
    }
}
