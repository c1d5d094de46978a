//! Whether a user may do something: `system:masters` always, then the authorizers in the order configured. The first opinion decides.

use std::sync::Arc;

use super::abac::PolicyFile;
use super::attributes::{Attributes, Decision};
use super::node::NodeAuthorizer;
use super::rbac::{RbacIndex, Rule};
use super::user::{UserInfo, names};
use crate::objects::ReadError;

/// One authorizer, by upstream's name (`--authorization-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// The rules of a file.
    Abac,
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// Kubelets, restricted to their own.
    Node,
    /// Role-based access control.
    Rbac,
}

impl AuthorizationMode {
    /// All that are implemented, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("ABAC", Self::Abac),
        ("AlwaysAllow", Self::AlwaysAllow),
        ("AlwaysDeny", Self::AlwaysDeny),
        ("Node", Self::Node),
        ("RBAC", Self::Rbac),
    ];
}

/// All authorizers of one server.
pub struct Authorizers {
    /// Which are asked, in this order.
    pub modes: Vec<AuthorizationMode>,
    /// Attribute-based access control.
    pub abac: PolicyFile,
    /// Restricts kubelets to their own.
    pub node: NodeAuthorizer,
    /// Everybody else's rules.
    pub rbac: Arc<RbacIndex>,
}

impl Authorizers {
    /// Decides a request. [`Decision::NoOpinion`] means "no", with the reasons of all authorizers, one a line.
    pub async fn authorize(&self, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.user.in_group(names::MASTERS) {
            return Ok(Decision::Allow(String::new()));
        }
        let mut reasons = Vec::new();
        for mode in &self.modes {
            let decision = match mode {
                AuthorizationMode::Abac => self.abac.authorize(request),
                AuthorizationMode::AlwaysAllow => Decision::Allow(String::new()),
                AuthorizationMode::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".to_owned()),
                AuthorizationMode::Node => self.node.authorize(request).await?,
                AuthorizationMode::Rbac => self.rbac.authorize(request),
            };
            match decision {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return Ok(decided),
            }
        }
        reasons.retain(|r| !r.is_empty());
        Ok(Decision::NoOpinion(reasons.join("\n")))
    }

    /// Whether the request is allowed.
    pub async fn allowed(&self, request: &Attributes<'_>) -> Result<bool, ReadError> {
        Ok(matches!(self.authorize(request).await?, Decision::Allow(_)))
    }

    /// The rules that apply to a user in a namespace, and whether they are all there are.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, bool) {
        let mut rules = Vec::new();
        if user.in_group(names::MASTERS) || self.modes.contains(&AuthorizationMode::AlwaysAllow) {
            let all = || vec!["*".to_owned()];
            rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
            rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
        }
        if self.modes.contains(&AuthorizationMode::Abac) {
            rules.extend(self.abac.rules_for(user, namespace));
        }
        if self.modes.contains(&AuthorizationMode::Rbac) {
            rules.extend(self.rbac.rules_for(user, namespace));
        }
        (rules, user.node_name().is_none())
    }
}
