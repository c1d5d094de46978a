//! FlowSchemas and PriorityLevelConfigurations (upstream's `pkg/apis/flowcontrol/validation`).
//!
//! Not here: that the mandatory objects equal upstream's fixed values.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::at::{At, subdomain};
use super::go_text::Shown;
use super::table::Checks;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub(super) const CHECKS: &[Checks] = &[
    Checks {
        group: GROUP,
        resource: "flowschemas",
        create: schema,
        update: |object, _, e| schema(object, e),
        status: |object, _, e| conditions(object, e),
    },
    Checks {
        group: GROUP,
        resource: "prioritylevelconfigurations",
        create: level,
        update: |object, _, e| level(object, e),
        status: |object, _, e| conditions(object, e),
    },
];

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that shuffle sharding deals hands from.
const HASH_BITS_MAX: u32 = 60;
/// Sorted, as upstream lists them.
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const ROUND_TRIP: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

fn schema(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let precedence = spec.get("matchingPrecedence");
    if precedence.int() <= 0 {
        precedence.invalid_int(e, "must be a positive value");
    }
    if precedence.int() > PRECEDENCE_MAX {
        precedence.invalid(e, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence.int() == 1 && object.meta().name() != "exempt" {
        precedence.invalid(e, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = spec.set("distinguisherMethod") {
        let kind = method.get("type");
        if !matches!(kind.text(), "ByNamespace" | "ByUser") {
            let shown = super::go_text::internal(method.value, "flowcontrol.v1.FlowDistinguisherMethod");
            e.push(Error::not_supported(&kind.path(), method.value.clone(), &["ByNamespace", "ByUser"]).shown_as(shown));
        }
    }
    let level = spec.get("priorityLevelConfiguration");
    let name = level.get("name");
    match name.text().is_empty() {
        true => name.require(e, "must reference a priority level"),
        false => name.check(e, subdomain),
    }
    spec.get("rules").items().for_each(|rule| policy_rule(&rule, e));
    conditions(object, e);
}

fn policy_rule(at: &At, e: &mut ErrorList) {
    let (subjects, resources, others) = (at.get("subjects"), at.get("resourceRules"), at.get("nonResourceRules"));
    if subjects.len() == 0 {
        subjects.require(e, "subjects must contain at least one value");
    }
    subjects.items().for_each(|at| subject(&at, e));
    if resources.len() == 0 && others.len() == 0 {
        at.require(e, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.items().for_each(|rule| resource_rule(&rule, e));
    others.items().for_each(|rule| non_resource_rule(&rule, e));
}

const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(at: &At, e: &mut ErrorList) {
    let kind = at.get("kind");
    let Some((_, own)) = SUBJECTS.into_iter().find(|(name, _)| *name == kind.text()) else {
        return kind.one_of(e, &["Group", "ServiceAccount", "User"]);
    };
    match at.set(own) {
        None => at.get(own).require(e, &format!("{own} is required when subject kind is '{}'", kind.text())),
        Some(of) => {
            let (name, namespace) = (of.get("name"), of.get("namespace"));
            name.required(e);
            if own == "serviceAccount" {
                if name.text() != "*" {
                    name.check_set(e, subdomain);
                }
                match namespace.text().is_empty() {
                    true => namespace.require(e, "must specify namespace for service account"),
                    false => namespace.check(e, validation::is_dns1123_label),
                }
            }
        }
    }
    for (name, member) in SUBJECTS.into_iter().filter(|(_, member)| *member != own) {
        if at.set(member).is_some() {
            at.get(member).forbid(e, format!("{member} is forbidden when subject kind is not '{name}'"));
        }
    }
}

fn has_wildcard(list: &At) -> bool {
    list.items().any(|item| item.text() == "*")
}

fn verbs(at: &At, e: &mut ErrorList) {
    if at.len() == 0 {
        at.require(e, "verbs must contain at least one value");
    } else if has_wildcard(at) {
        alone(at, "verbs", e);
    } else if at.items().any(|verb| !VERBS.contains(&verb.text())) {
        e.push(Error::not_supported(&at.path(), at.value.clone(), &VERBS));
    }
}

fn alone(at: &At, others: &str, e: &mut ErrorList) {
    if at.len() > 1 {
        at.invalid(e, format!("if '*' is present, must not specify other {others}"));
    }
}

fn resource_rule(at: &At, e: &mut ErrorList) {
    verbs(&at.get("verbs"), e);
    for (member, missing, others) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        let list = at.get(member);
        if list.len() == 0 {
            list.require(e, missing);
        } else if has_wildcard(&list) {
            alone(&list, others, e);
        }
    }
    let namespaces = at.get("namespaces");
    if namespaces.len() == 0 && !at.get("clusterScope").is_true() {
        namespaces.require(e, "resource rules that are not cluster scoped must supply at least one namespace");
    } else if has_wildcard(&namespaces) {
        alone(&namespaces, "namespaces", e);
    } else {
        for name in namespaces.items() {
            for why in validation::is_dns1123_label(name.text()) {
                name.invalid(e, format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
            }
        }
    }
}

fn non_resource_rule(at: &At, e: &mut ErrorList) {
    verbs(&at.get("verbs"), e);
    let urls = at.get("nonResourceURLs");
    if urls.len() == 0 {
        urls.require(e, "nonResourceURLs must contain at least one value");
    } else if has_wildcard(&urls) {
        alone(&urls, "non-resource URLs", e);
    } else {
        for url in urls.items() {
            if let Some(why) = url_error(url.text()) {
                url.invalid(e, why);
            }
        }
    }
}

fn url_error(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn conditions(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let mut seen: Vec<&str> = Vec::new();
    for condition in status.get("conditions").items() {
        let kind = condition.get("type");
        if seen.contains(&kind.text()) {
            e.push(Error::duplicate(&kind.path(), kind.text()));
        }
        seen.push(kind.text());
        kind.required(e);
    }
}

fn level(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    if root.get("metadata").get("annotations").key(ROUND_TRIP).is_set() {
        let at = Path::new("metadata").child("annotations");
        e.push(Error::forbidden(&at, format!("annotation '{ROUND_TRIP}' is forbidden")));
    }
    let spec = root.get("spec");
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (object.meta().name() == "exempt") != (kind.text() == "Exempt") {
        kind.invalid_text(e, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbid(e, "must be nil if the type is not Limited");
            }
            shares(&exempt, e);
            lendable(&exempt, e);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbid(e, "must be nil if the type is Limited");
            }
            match limited.is_set() {
                false => limited.require(e, "must not be empty when type is Limited"),
                true => limited_level(&limited, e),
            }
        }
        _ => kind.one_of(e, &["Exempt", "Limited"]),
    }
    conditions(object, e);
}

fn shares(at: &At, e: &mut ErrorList) {
    let shares = at.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        shares.invalid(e, "must be a non-negative integer");
    }
}

fn lendable(at: &At, e: &mut ErrorList) {
    if let Some(percent) = at.set("lendablePercent") {
        percent.range(e, 0, 100);
    }
}

fn limited_level(at: &At, e: &mut ErrorList) {
    shares(at, e);
    let response = at.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => queuing.forbid(e, "must be nil if limited.limitResponse.type is not Limited"),
        "Reject" => {}
        "Queue" if !queuing.is_set() => queuing.require(e, "must not be empty if limited.limitResponse.type is Limited"),
        "Queue" => queues(&queuing, e),
        _ => kind.one_of(e, &["Queue", "Reject"]),
    }
    lendable(at, e);
    let borrowing = at.get("borrowingLimitPercent");
    if borrowing.int() < 0 {
        borrowing.invalid(e, "if specified, must be a non-negative integer");
    }
}

fn queues(at: &At, e: &mut ErrorList) {
    let (length, queues, hand) = (at.get("queueLengthLimit"), at.get("queues"), at.get("handSize"));
    if length.int() <= 0 {
        length.invalid_int(e, "must be positive");
    }
    if queues.int() <= 0 {
        queues.invalid_int(e, "must be positive");
    } else if queues.int() > QUEUES_MAX {
        queues.invalid(e, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand.int() <= 0 {
        hand.invalid_int(e, "must be positive");
    } else if hand.int() > queues.int() {
        hand.invalid(e, format!("should not be greater than queues ({})", queues.int()));
    } else if entropy_bits(queues.int(), hand.int()) > HASH_BITS_MAX {
        let (queues, size) = (queues.int(), hand.int());
        let why =
            format!("required entropy bits of deckSize {queues} and handSize {size} should not be greater than {HASH_BITS_MAX}");
        hand.invalid(e, why);
    }
}

/// Bits that dealing a hand from the deck takes (upstream's `shufflesharding.RequiredEntropyBits`).
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_status};
    use super::*;

    #[test]
    fn schemas() {
        let rule = value!({"subjects": [{"kind": "User", "user": {"name": "a"}}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a"]}]});
        let valid = value!({"spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "a"}, "rules": [rule]}});
        assert_create(
            GROUP,
            "flowschemas",
            &valid,
            &[
                (
                    &["spec", "matchingPrecedence"],
                    value!(10_001),
                    &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
                ),
                (
                    &["spec", "matchingPrecedence"],
                    value!(1),
                    &["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"],
                ),
                (
                    &["spec", "distinguisherMethod"],
                    value!({"type": "Nope"}),
                    &[
                        r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"Nope"}: supported values: "ByNamespace", "ByUser""#,
                    ],
                ),
                (
                    &["spec", "rules"],
                    value!([{"subjects": [{"kind": "Group", "user": {"name": "a"}}]}]),
                    &[
                        "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                        "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                        "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                    ],
                ),
                (
                    &["spec", "rules"],
                    value!([{"subjects": [{"kind": "User", "user": {"name": "a"}}], "resourceRules": [{"verbs": ["*", "get"], "apiGroups": [], "resources": ["*"], "namespaces": ["A"]}]}]),
                    &[
                        r#"spec.rules[0].resourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs"#,
                        "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                        "spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    ],
                ),
            ],
        );
        assert_status(
            GROUP,
            "flowschemas",
            &valid,
            &[(
                &["status", "conditions"],
                value!([{"type": "a"}, {"type": "a"}]),
                &[r#"status.conditions[1].type: Duplicate value: "a""#],
            )],
        );
    }

    #[test]
    fn levels() {
        let queuing = value!({"queues": 64, "handSize": 8, "queueLengthLimit": 50});
        let valid = value!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue", "queuing": queuing}}}});
        let queuing = ["spec", "limited", "limitResponse", "queuing"];
        assert_create(
            GROUP,
            "prioritylevelconfigurations",
            &valid,
            &[
                (
                    &["spec", "type"],
                    value!("Exempt"),
                    &[
                        r#"spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if `name` is 'exempt'"#,
                        "spec.limited: Forbidden: must be nil if the type is not Limited",
                    ],
                ),
                (&["spec", "limited"], Value::Null, &["spec.limited: Required value: must not be empty when type is Limited"]),
                (
                    &["spec", "limited", "lendablePercent"],
                    value!(101),
                    &["spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"],
                ),
                (
                    &queuing,
                    value!({"queues": 64, "handSize": 65, "queueLengthLimit": 1}),
                    &["spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)"],
                ),
                (
                    &queuing,
                    value!({"queues": 512, "handSize": 8, "queueLengthLimit": 1}),
                    &[
                        "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
                    ],
                ),
            ],
        );
    }
}
