//! RBAC, certificates, admission and flow control.

use apimachinery::Value;

use super::format::{age, any, duration, name, text};
use super::{Registration, printer};

const BINDING: &[&str] = &["Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"];
const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(super) const PRINTERS: &[Registration] = &[
    printer("rolebindings", RBAC, BINDING, binding),
    printer("clusterrolebindings", RBAC, BINDING, binding),
    printer(
        "certificatesigningrequests",
        "certificates.k8s.io",
        &["Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"],
        signing_request,
    ),
    printer("mutatingwebhookconfigurations", ADMISSION, &["Name", "#Webhooks", "Age"], webhooks),
    printer("validatingwebhookconfigurations", ADMISSION, &["Name", "#Webhooks", "Age"], webhooks),
    printer("validatingadmissionpolicies", ADMISSION, &["Name", "#Validations", "ParamKind", "Age"], validating_policy),
    printer("validatingadmissionpolicybindings", ADMISSION, &["Name", "PolicyName", "ParamRef", "Age"], policy_binding),
    printer(
        "flowschemas",
        FLOW,
        &["Name", "PriorityLevel", "MatchingPrecedence", "DistinguisherMethod", "Age", "MissingPL"],
        flow_schema,
    ),
    printer(
        "prioritylevelconfigurations",
        FLOW,
        &["Name", "Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"],
        priority_level,
    ),
];

fn binding(object: &Value) -> Vec<Value> {
    let subjects = object.array_at(&["subjects"]);
    let of_kind = |kind: &str| {
        let matching = subjects.iter().filter(|subject| subject.str_at(&["kind"]) == Some(kind));
        let names: Vec<String> = matching
            .map(|subject| {
                let name = subject.str_at(&["name"]).unwrap_or_default();
                match subject.str_at(&["namespace"]).filter(|_| kind == "ServiceAccount") {
                    Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
                    _ => name.to_owned(),
                }
            })
            .collect();
        Value::from(names.join(", "))
    };
    let role = |field: &str| object.str_at(&["roleRef", field]).unwrap_or_default();
    let role = format!("{}/{}", role("kind"), role("name"));
    vec![name(object), role.into(), age(object), of_kind("User"), of_kind("Group"), of_kind("ServiceAccount")]
}

fn signing_request(object: &Value) -> Vec<Value> {
    let has = |kind: &str| object.array_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == Some(kind));
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if object.str_at(&["status", "certificate"]).is_some_and(|certificate| !certificate.is_empty()) {
        state.push_str(",Issued");
    }
    let lifetime = object.i64_at(&["spec", "expirationSeconds"]).map_or_else(|| "<none>".to_owned(), duration);
    let signer = text(object, &["spec", "signerName"], "<none>");
    vec![name(object), age(object), signer, text(object, &["spec", "username"], ""), lifetime.into(), state.into()]
}

fn count(object: &Value, path: &[&str]) -> Value {
    i64::try_from(object.array_at(path).len()).unwrap_or(i64::MAX).into()
}

fn webhooks(object: &Value) -> Vec<Value> {
    vec![name(object), count(object, &["webhooks"]), age(object)]
}

fn validating_policy(object: &Value) -> Vec<Value> {
    let parameters = object.get_path(&["spec", "paramKind"]).map(|kind| {
        format!("{}/{}", kind.str_at(&["apiVersion"]).unwrap_or_default(), kind.str_at(&["kind"]).unwrap_or_default())
    });
    let parameters = parameters.unwrap_or_else(|| "<unset>".to_owned());
    vec![name(object), count(object, &["spec", "validations"]), parameters.into(), age(object)]
}

fn policy_binding(object: &Value) -> Vec<Value> {
    let parameters = object.get_path(&["spec", "paramRef"]).map(|reference| {
        let name = reference.str_at(&["name"]).unwrap_or("*");
        match reference.str_at(&["namespace"]).filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    });
    let parameters = parameters.unwrap_or_else(|| "<unset>".to_owned());
    vec![name(object), text(object, &["spec", "policyName"], ""), parameters.into(), age(object)]
}

fn flow_schema(object: &Value) -> Vec<Value> {
    let dangling = object.array_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == Some("Dangling"));
    let missing = dangling.and_then(|condition| condition.str_at(&["status"])).unwrap_or("?");
    vec![
        name(object),
        text(object, &["spec", "priorityLevelConfiguration", "name"], ""),
        any(object, &["spec", "matchingPrecedence"], "0"),
        text(object, &["spec", "distinguisherMethod", "type"], "<none>"),
        age(object),
        missing.into(),
    ]
}

fn priority_level(object: &Value) -> Vec<Value> {
    let limited = |path: &[&str]| {
        let path: Vec<&str> = ["spec", "limited"].iter().chain(path).copied().collect();
        any(object, &path, "<none>")
    };
    let queuing = |field: &'static str| limited(&["limitResponse", "queuing", field]);
    vec![
        name(object),
        text(object, &["spec", "type"], ""),
        limited(&["nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object),
    ]
}
