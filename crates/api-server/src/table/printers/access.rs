//! RBAC, certificates and flow control.

use apimachinery::Value;

use super::format::{age, duration, labels, name, number, text};
use super::{Registration, printer};

const BINDING: &[&str] = &["Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"];
const RBAC: &str = "rbac.authorization.k8s.io";
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
    printer("clustertrustbundles", "certificates.k8s.io", &["Name", "SignerName"], trust_bundle),
    printer(
        "podcertificaterequests",
        "certificates.k8s.io",
        &["Name", "PodName", "ServiceAccountName", "NodeName", "SignerName", "State", "UnverifiedUserAnnotations"],
        pod_certificate_request,
    ),
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
                match kind {
                    "ServiceAccount" => format!("{}/{name}", subject.str_at(&["namespace"]).unwrap_or_default()),
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

fn trust_bundle(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["spec", "signerName"], "<none>")]
}

fn pod_certificate_request(object: &Value) -> Vec<Value> {
    let of = |field: &str| text(object, &["spec", field], "");
    // The last one that decides.
    let conditions = object.array_at(&["status", "conditions"]).iter().rev();
    let mut kinds = conditions.filter_map(|condition| condition.str_at(&["type"]));
    let state = kinds.find(|kind| matches!(*kind, "Issued" | "Denied" | "Failed")).unwrap_or("Pending");
    let annotations = labels(object.get_path(&["spec", "unverifiedUserAnnotations"]));
    let mut cells = vec![name(object)];
    cells.extend(["podName", "serviceAccountName", "nodeName", "signerName"].map(of));
    cells.extend([state.into(), annotations.into()]);
    cells
}

fn flow_schema(object: &Value) -> Vec<Value> {
    let dangling = object.array_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == Some("Dangling"));
    let missing = dangling.and_then(|condition| condition.str_at(&["status"])).unwrap_or("?");
    vec![
        name(object),
        text(object, &["spec", "priorityLevelConfiguration", "name"], ""),
        number(object, &["spec", "matchingPrecedence"]).into(),
        text(object, &["spec", "distinguisherMethod", "type"], "<none>"),
        age(object),
        missing.into(),
    ]
}

fn priority_level(object: &Value) -> Vec<Value> {
    let limited = |path: &[&str]| {
        let path: Vec<&str> = ["spec", "limited"].iter().chain(path).copied().collect();
        object.i64_at(&path).map_or_else(|| Value::from("<none>"), Value::from)
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
