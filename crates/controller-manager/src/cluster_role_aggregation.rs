//! clusterrole-aggregation-controller: the rules of an aggregated ClusterRole (`admin`, `edit`, `view`) are those of all roles that
//! its selectors match (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Controller, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::PostParams;

use crate::context::{Context, wait_synced};
use crate::label_match::Matcher;

struct Aggregation {
    context: Context,
    roles: Store<ClusterRole>,
}

pub(crate) async fn run(context: Context) {
    let roles = context.informers.get::<ClusterRole>();
    let queue: WorkQueue<()> = WorkQueue::new("ClusterRoleAggregator");
    // Any role may be part of any aggregated one, and there are few of those: one key stands for them all.
    let on_change = queue.clone();
    roles.add_handler(move |_| on_change.add(()));
    wait_synced!(roles);
    let aggregation = Aggregation { roles: roles.store().clone(), context: context.clone() };
    run_workers(Arc::new(aggregation), queue, 1, context.token).await;
}

/// The rules that the role must have, `None` if it has them already (or is not aggregated).
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let selectors: Vec<Matcher> = selectors.iter().filter_map(Matcher::new).collect();
    // By name, so that the order does not depend on that of events.
    let mut parts = BTreeMap::new();
    for part in all.iter().filter(|part| part.metadata.name != role.metadata.name) {
        if selectors.iter().any(|selector| selector.matches(&part.metadata)) {
            parts.insert(part.metadata.name.clone(), part);
        }
    }
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.values().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[async_trait]
impl Controller for Aggregation {
    type Key = ();

    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    async fn reconcile(&self, (): &()) -> Result<Outcome, ReconcileError> {
        let all = self.roles.list();
        let api: Api<ClusterRole> = Api::all(self.context.client.clone());
        for role in &all {
            let Some(rules) = plan(role, &all) else { continue };
            let mut wanted = role.as_ref().clone();
            wanted.rules = Some(rules);
            let name = role.metadata.name.as_deref().unwrap_or_default();
            // Its own change brings the next round: an aggregated role may be part of another (`view` of `edit` of `admin`).
            api.replace(name, &PostParams::default(), &wanted).await.map_err(ReconcileError::api("write cluster role"))?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn role(object: Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(object).expect("is one"))
    }

    #[test]
    fn rules_are_gathered() {
        let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
        let label = json!({"to-view": "true"});
        let selectors = json!({"clusterRoleSelectors": [{"matchLabels": label}]});
        let view = role(json!({"metadata": {"name": "view", "labels": label}, "aggregationRule": selectors}));
        let all = [
            view.clone(),
            role(json!({"metadata": {"name": "b", "labels": label}, "rules": [rule("pods"), rule("services")]})),
            role(json!({"metadata": {"name": "a", "labels": label}, "rules": [rule("pods")]})),
            role(json!({"metadata": {"name": "c"}, "rules": [rule("secrets")]})),
        ];
        let rules = plan(&view, &all).expect("none yet");
        let resources: Vec<_> = rules.iter().flat_map(|r| r.resources.iter().flatten()).collect();
        assert_eq!(resources, ["pods", "services"], "each once, by name of the role, not its own");
        let mut complete = view.as_ref().clone();
        complete.rules = Some(rules);
        assert_eq!(plan(&complete, &all), None);
        assert_eq!(plan(&all[1], &all), None, "not aggregated");
    }
}
