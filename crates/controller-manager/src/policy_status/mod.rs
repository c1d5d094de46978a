//! validatingadmissionpolicy-status-controller: warns in the status of ValidatingAdmissionPolicies of expressions that do not fit the
//! types of what the policy is for (<https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking>).
//! The warnings keep no policy from being used.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use cel::admission::TypeChecker;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, ValidatingAdmissionPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::api_errors::{ignore_not_found, is_not_found};
use crate::context::{Context, wait_synced};

mod types;

const NAME: &str = "validatingadmissionpolicy-status-controller";
/// So many types of a rule's are looked at.
const TYPES_MAX: usize = 10;

/// Group, version and kind, in the order of the warnings.
type Kind = [String; 3];
/// A kind, with the document of its group and version.
type Described = (Kind, Arc<Value>);
/// The documents of groups and versions, `None` for those that the server does not have: kept for one policy, because each is large, and
/// no longer, because CustomResourceDefinitions change them.
type Documents = HashMap<[String; 2], Option<Arc<Value>>>;

struct PolicyStatus {
    client: kube::Client,
    policies: Store<ValidatingAdmissionPolicy>,
}

pub(crate) async fn run(context: Context) {
    let policies = context.informers.get::<ValidatingAdmissionPolicy>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new(NAME);
    let on_change = queue.clone();
    policies.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) && is_due(change.object()) {
            on_change.add(NamespacedName::of(&**change.object()));
        }
    });
    let workers = context.config.concurrent_validating_admission_policy_status_syncs;
    wait_synced!(policies);
    let controller = PolicyStatus { client: context.client.clone(), policies: policies.store().clone() };
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// The status is not yet about the policy as it is.
fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
    policy.metadata.generation.unwrap_or_default() > observed
}

/// The rule's groups, versions and resources, unless it means all groups or all versions; without subresources and `*`.
fn resources_of(rule: &NamedRuleWithOperations) -> Vec<[String; 3]> {
    let sorted = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect::<BTreeSet<String>>();
    let (groups, versions) = (sorted(&rule.api_groups), sorted(&rule.api_versions));
    if groups.iter().chain(&versions).any(|name| name.contains('*')) {
        return Vec::new();
    }
    let resources: Vec<String> = sorted(&rule.resources).into_iter().filter(|name| !name.contains(['*', '/'])).collect();
    let mut all = Vec::new();
    for group in &groups {
        for version in &versions {
            all.extend(resources.iter().map(|resource| [group.clone(), version.clone(), resource.clone()]));
        }
    }
    all
}

/// The warnings about a policy for objects of these kinds, and params of this one, with their documents.
fn warnings(policy: &ValidatingAdmissionPolicy, kinds: &[Described], params: Option<&Described>) -> Vec<Value> {
    let checkers: Vec<(&Kind, TypeChecker)> =
        kinds.iter().filter_map(|(kind, document)| Some((kind, checker(policy, kind, document, params)?))).collect();
    let mut found = Vec::new();
    let mut check = |place: String, expression: &str| {
        let wrong = checkers.iter().filter_map(|([group, version, kind], checker)| {
            let separator = if group.is_empty() { "" } else { "/" };
            Some(format!("{group}{separator}{version}, Kind={kind}: {}\n", checker.check(expression)?))
        });
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            found.push(json!({"fieldRef": place, "warning": wrong.join("\n")}));
        }
    };
    let validations = policy.spec.as_ref().and_then(|spec| spec.validations.as_ref());
    for (i, validation) in validations.into_iter().flatten().enumerate() {
        check(format!("spec.validations[{i}].expression"), &validation.expression);
        if let Some(expression) = validation.message_expression.as_deref().filter(|expression| !expression.is_empty()) {
            check(format!("spec.validations[{i}].messageExpression"), expression);
        }
    }
    found
}

/// What checks the policy's expressions for one kind, if its document knows it.
fn checker(policy: &ValidatingAdmissionPolicy, kind: &Kind, document: &Value, params: Option<&Described>) -> Option<TypeChecker> {
    let mut objects = types::Objects::new();
    // A number keeps the types of objects and params apart if they are of the same kind.
    let mut convert = |kind: &Kind, document: &Value, number: u8| {
        let name = format!("{}{number}", kind[2]);
        types::of_kind(document, kind.each_ref().map(String::as_str), &name, &mut objects)
    };
    let object = convert(kind, document, 1)?;
    let params = params.and_then(|(kind, document)| convert(kind, document, 2));
    let mut checker = TypeChecker::new(object, params);
    for (name, fields) in &objects {
        checker.add_object(name, fields.iter().map(|(field, t)| (field.as_str(), t.clone())));
    }
    let variables = policy.spec.as_ref().and_then(|spec| spec.variables.as_ref());
    for variable in variables.into_iter().flatten() {
        checker.add_variable(&variable.name, &variable.expression);
    }
    Some(checker)
}

fn path(prefix: &str, group: &str, version: &str) -> String {
    if group.is_empty() { format!("{prefix}/api/{version}") } else { format!("{prefix}/apis/{group}/{version}") }
}

impl PolicyStatus {
    /// A document of the API server's, `None` if it has none there.
    async fn get<T: serde::de::DeserializeOwned>(&self, path: String) -> Result<Option<T>, ReconcileError> {
        // A group or version that makes no path is none that the server has.
        let Ok(request) = http::Request::get(path).body(Vec::new()) else { return Ok(None) };
        match self.client.request(request).await {
            Ok(document) => Ok(Some(document)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(ReconcileError::api("look up types")(error)),
        }
    }

    /// The kinds that the policy is for, as far as its rules name them and the server has them.
    async fn kinds(&self, policy: &ValidatingAdmissionPolicy) -> Result<BTreeSet<Kind>, ReconcileError> {
        let mut lists: HashMap<[String; 2], Option<APIResourceList>> = HashMap::new();
        let mut kinds = BTreeSet::new();
        let constraints = policy.spec.as_ref().and_then(|spec| spec.match_constraints.as_ref());
        for rule in constraints.and_then(|constraints| constraints.resource_rules.as_ref()).into_iter().flatten() {
            let mut count = 0;
            for [group, version, resource] in resources_of(rule) {
                let id = [group.clone(), version.clone()];
                if !lists.contains_key(&id) {
                    lists.insert(id.clone(), self.get(path("", &group, &version)).await?);
                }
                let listed = lists[&id].iter().flat_map(|list| &list.resources);
                let wanted = resource.to_lowercase();
                let mut named = listed.filter(|known| known.name == wanted || known.singular_name == wanted);
                let Some(found) = named.next() else { continue };
                kinds.insert([group, version, found.kind.clone()]);
                count += 1;
                if count == TYPES_MAX {
                    return Ok(kinds);
                }
            }
        }
        Ok(kinds)
    }

    async fn with_document(&self, kind: Kind, known: &mut Documents) -> Result<Option<Described>, ReconcileError> {
        let id = [kind[0].clone(), kind[1].clone()];
        if !known.contains_key(&id) {
            let document: Option<Value> = self.get(path("/openapi/v3", &kind[0], &kind[1])).await?;
            known.insert(id.clone(), document.map(Arc::new));
        }
        Ok(known[&id].clone().map(|document| (kind, document)))
    }
}

#[async_trait]
impl Controller for PolicyStatus {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(policy) = self.policies.get_key(key).filter(|policy| is_due(policy)) else { return Ok(Outcome::Done) };
        let (mut kinds, mut documents) = (Vec::new(), Documents::new());
        for kind in self.kinds(&policy).await? {
            kinds.extend(self.with_document(kind, &mut documents).await?);
        }
        let params = match policy.spec.as_ref().and_then(|spec| spec.param_kind.as_ref()) {
            None => None,
            Some(params) => {
                let version = params.api_version.as_deref().unwrap_or_default();
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let kind = params.kind.clone().unwrap_or_default();
                self.with_document([group.to_owned(), version.to_owned(), kind], &mut documents).await?
            }
        };
        let warnings = warnings(&policy, &kinds, params.as_ref());
        let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        let status = json!({"observedGeneration": policy.metadata.generation, "typeChecking": checked});
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name},
            "status": status,
        });
        let api: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let written = api.patch_status(&key.name, &PatchParams::apply(NAME).force(), &Patch::Apply(&patch)).await;
        ignore_not_found(written).map_err(ReconcileError::api("write the policy's status"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p", "generation": 1}, "spec": spec})).expect("a policy")
    }

    #[test]
    fn rules_name_resources() {
        let rule = |rule: Value| resources_of(&serde_json::from_value(rule).expect("a rule"));
        let apps = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets", "deployments", "*/scale"]});
        let expected = ["deployments", "statefulsets"].map(|name| ["apps", "v1", name].map(str::to_owned));
        assert_eq!(rule(apps), expected);
        for (groups, versions) in [("*", "v1"), ("apps", "*")] {
            let all = json!({"apiGroups": [groups], "apiVersions": [versions], "resources": ["deployments"]});
            assert!(rule(all).is_empty(), "{groups} {versions}");
        }
    }

    #[test]
    fn what_is_warned_of() {
        let string = json!({"type": "string"});
        let names = json!({"type": "object", "properties": {"name": string, "generateName": string}});
        let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
        let thing = json!({
            "type": "object",
            "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Thing"}],
            "properties": {"apiVersion": string, "kind": string, "metadata": names, "spec": spec},
        });
        let document = json!({"components": {"schemas": {"Thing": thing}}});
        let kind = ["", "v1", "Thing"].map(str::to_owned);
        let place = "spec.validations[0].expression";
        for (validation, expected) in [
            (json!({"expression": "object.spec.replicas > 1 && variables.big"}), None),
            (
                json!({"expression": "object.spec.none"}),
                Some((place, "v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'none'")),
            ),
            (
                json!({"expression": "true", "messageExpression": "params.x"}),
                Some((
                    "spec.validations[0].messageExpression",
                    "v1, Kind=Thing: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')",
                )),
            ),
            (
                json!({"expression": "oldObject.metadata.name == 1"}),
                Some((
                    place,
                    "v1, Kind=Thing: ERROR: <input>:1:25: found no matching overload for '_==_' applied to '(string, int)'",
                )),
            ),
        ] {
            let variables = json!([{"name": "big", "expression": "object.spec.replicas > 5"}]);
            let policy = policy(json!({"validations": [validation], "variables": variables}));
            let found = warnings(&policy, &[(kind.clone(), Arc::new(document.clone()))], None);
            match expected {
                None => assert!(found.is_empty(), "{validation}: {found:?}"),
                Some((place, text)) => {
                    assert_eq!(found.len(), 1, "{validation}");
                    assert_eq!(found[0]["fieldRef"], place);
                    let warning = found[0]["warning"].as_str().expect("a text");
                    assert!(warning.starts_with(&format!("{text}\n | ")) && warning.ends_with("^\n"), "{warning}");
                }
            }
        }
    }

    #[test]
    fn a_status_is_due() {
        let mut policy = policy(json!({}));
        assert!(is_due(&policy));
        policy.status = serde_json::from_value(json!({"observedGeneration": 1})).expect("a status");
        assert!(!is_due(&policy));
    }
}
