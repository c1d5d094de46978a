//! ValidatingAdmissionPolicies are told what does not fit the types that they are for.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, from, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_warned_of_wrong_types() {
    let cluster = Cluster::start(config()).await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]});
    let validations = |first: &str| {
        json!([
            {"expression": first},
            {"expression": "params.data['a'] == 'b'", "messageExpression": "string(object.metadata.name)"},
            {"expression": "object.metadata.labels['a'] == 1"},
        ])
    };
    let spec = json!({
        "matchConstraints": {"resourceRules": [rule("apps", "deployments"), rule("", "pods"), rule("*", "*"), rule("", "none")]},
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "big", "expression": "object.spec.replicas > 10"}],
        "validations": validations("variables.big && object.spec.template.spec.containers.all(c, has(c.image))"),
    });
    policies.create(&PostParams::default(), &from(json!({"metadata": {"name": "p"}, "spec": spec}))).await.expect("is made");
    let observed = |generation: i64| {
        move |policy: &ValidatingAdmissionPolicy| policy.status.as_ref().and_then(|s| s.observed_generation) == Some(generation)
    };
    let warnings = |policy: ValidatingAdmissionPolicy| -> Vec<(String, String)> {
        let checked = policy.status.expect("is set").type_checking;
        let found = checked.and_then(|checked| checked.expression_warnings).into_iter().flatten();
        found.map(|warning| (warning.field_ref, warning.warning)).collect()
    };
    let of_pods = "v1, Kind=Pod: ERROR: <input>:1:29: undefined field 'template'\n";
    let found = warnings(until(&policies, "p", "is checked", observed(1)).await);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].0, "spec.validations[0].expression");
    assert!(found[0].1.starts_with(of_pods) && !found[0].1.contains("Deployment"), "{found:?}");
    assert_eq!(found[1].0, "spec.validations[2].expression");
    let overload = "ERROR: <input>:1:29: found no matching overload for '_==_' applied to '(string, int)'";
    for kind in ["v1, Kind=Pod", "apps/v1, Kind=Deployment"] {
        assert!(found[1].1.contains(&format!("{kind}: {overload}\n")), "{found:?}");
    }
    let right: Value = json!([{"expression": "variables.big"}]);
    let change = Patch::Merge(json!({"spec": {"validations": right}}));
    policies.patch("p", &PatchParams::default(), &change).await.expect("is changed");
    let found = warnings(until(&policies, "p", "is checked again", observed(2)).await);
    assert!(found.is_empty(), "{found:?}");
}
