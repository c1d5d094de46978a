//! Whether a user may do something: `system:masters` always, then the Node authorizer, then RBAC. The first opinion decides.

use std::sync::Arc;

use super::attributes::{Attributes, Decision};
use super::node::NodeAuthorizer;
use super::rbac::{RbacIndex, Rule};
use super::user::{UserInfo, names};
use crate::objects::ReadError;

/// All authorizers of one server.
pub struct Authorizers {
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
        match self.node.authorize(request).await? {
            Decision::NoOpinion(reason) => reasons.push(reason),
            decided => return Ok(decided),
        }
        match self.rbac.authorize(request) {
            Decision::NoOpinion(reason) => reasons.push(reason),
            decided => return Ok(decided),
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
        if user.in_group(names::MASTERS) {
            let all = || vec!["*".to_owned()];
            rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
            rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
        }
        rules.extend(self.rbac.rules_for(user, namespace));
        (rules, user.node_name().is_none())
    }
}
