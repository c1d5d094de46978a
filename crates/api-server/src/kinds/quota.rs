//! LimitRanges, ResourceQuotas, PodDisruptionBudgets, PriorityClasses, Leases and ControllerRevisions: small kinds of plain rules.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Format;
use apimachinery::{Quantity, Value, validation};

use super::at::{At, IMMUTABLE};
use super::go_text::{self, Shown};
use super::resources::{amount, container_resource_name, is_native, is_quota_resource, quota_resource_name, resource_name};
use super::table::{Checks, any};

pub(super) const CHECKS: &[Checks] = &[
    Checks { group: "", resource: "limitranges", create: limit_range, update: |o, _, e| limit_range(o, e), status: any },
    Checks {
        group: "",
        resource: "resourcequotas",
        create: quota,
        update: quota_update,
        status: |o, _, e| quota_amounts(o, "status", e),
    },
    Checks {
        group: "policy",
        resource: "poddisruptionbudgets",
        create: budget,
        update: |o, _, e| budget(o, e),
        status: budget_status,
    },
    Checks { group: "scheduling.k8s.io", resource: "priorityclasses", create: priority, update: priority_update, status: any },
    Checks { group: "coordination.k8s.io", resource: "leases", create: lease, update: |o, _, e| lease(o, e), status: any },
    Checks { group: "apps", resource: "controllerrevisions", create: revision, update: revision_update, status: any },
];

fn limit_range(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let mut kinds: Vec<&str> = Vec::new();
    for limit in spec.get("limits").items() {
        let kind = limit.get("type");
        let before = e.len();
        kind.check(e, validation::is_qualified_name);
        let known = ["Pod", "Container", "PersistentVolumeClaim"];
        if e.len() == before && !kind.text().contains('/') && !known.contains(&kind.text()) {
            kind.invalid(e, "must be a standard limit type or fully qualified");
        }
        if kinds.contains(&kind.text()) {
            kind.duplicate(e);
        }
        kinds.push(kind.text());
        limit_item(&limit, kind.text(), e);
    }
}

fn limit_item(limit: &At, kind: &str, e: &mut ErrorList) {
    let rule = if matches!(kind, "Pod" | "Container") { container_resource_name } else { resource_name };
    let mut names: Vec<&str> = Vec::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let entries = limit.get(list);
        if kind == "Pod" && list.starts_with("default") {
            if entries.len() > 0 {
                entries.forbid(e, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, entry) in entries.entries() {
            rule(&entry, name, e);
            names.push(name);
        }
    }
    if kind == "PersistentVolumeClaim" && ["min", "max"].iter().all(|list| !limit.get(list).key("storage").is_set()) {
        limit.get("limits").require(e, "either minimum or maximum storage value is required, but neither was provided");
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        compare_limits(limit, name, e);
    }
}

fn compare_limits(limit: &At, name: &str, e: &mut ErrorList) {
    // The smaller one, the larger one, where upstream says so, which value it shows, and its words for the two.
    let rules = [
        ("min", "max", "min", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min", "min value", "default value"),
        ("default", "max", "default", "max", "default value", "max value"),
    ];
    let entry = |list: &'static str| limit.value[list][name].clone();
    let quantity = |value: &Value| if value.is_null() { None } else { Quantity::from_value(value).ok() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_json(), str::to_owned);
    for (small, large, place, shown, small_word, large_word) in rules {
        let (less, more) = (entry(small), entry(large));
        if let (Some(a), Some(b)) = (quantity(&less), quantity(&more))
            && a > b
        {
            let why = format!("{small_word} {} is greater than {large_word} {}", text(&less), text(&more));
            e.push(Error::invalid(&limit.path().child(place).key(name), entry(shown), why));
        }
    }
    let ratio = entry("maxLimitRequestRatio");
    if let Some(most) = quantity(&ratio) {
        let at = limit.path().child("maxLimitRequestRatio").key(name);
        if most < Quantity::new(1, Format::DecimalSi) {
            e.push(Error::invalid(&at, ratio.clone(), format!("ratio {} is less than 1", text(&ratio))));
        }
        let bound = quantity(&entry("min")).zip(quantity(&entry("max"))).and_then(|(min, max)| exceeded(most, min, max));
        if let Some(bound) = bound {
            e.push(Error::invalid(&at, ratio.clone(), format!("ratio {} is greater than max/min = {bound}", text(&ratio))));
        }
    }
    // Of what cannot be overcommitted, pods get what they ask for.
    let overcommits = is_native(name) && !name.starts_with("hugepages-");
    let (default, request) = (entry("default"), entry("defaultRequest"));
    if !overcommits && quantity(&default).zip(quantity(&request)).is_some_and(|(default, request)| default != request) {
        let why = format!("default value {} must equal to defaultRequest value {} in {name}", text(&default), text(&request));
        e.push(Error::invalid(&limit.path().child("defaultRequest").key(name), request, why));
    }
}

/// Amounts up to this are compared in thousandths (upstream's `MaxMilliValue`).
const EXACT_MAX: i64 = i64::MAX / 1000;

/// The quotient of the largest and the least amount, as Go prints it, where a ratio is greater.
fn exceeded(ratio: Quantity, min: Quantity, max: Quantity) -> Option<String> {
    let exact = [ratio, min, max].iter().all(|amount| amount.value() < EXACT_MAX);
    let (ratio, min, max) = match exact {
        true => (ratio.milli_value() as f64 / 1000.0, min.milli_value(), max.milli_value()),
        false => (ratio.value() as f64, min.value(), max.value()),
    };
    let bound = max as f64 / min as f64;
    (ratio > bound).then(|| if bound.is_finite() { format!("{bound:.6}") } else { "-Inf".to_owned() })
}

fn quota_amounts(object: &Value, part: &'static str, e: &mut ErrorList) {
    let root = At::root(object);
    let part = root.get(part);
    for list in ["hard", "used"] {
        for (name, entry) in part.get(list).entries() {
            quota_resource_name(&entry, name, e);
            amount(&entry, name, e);
        }
    }
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const COMPUTE: [&str; 7] = ["pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => resource == "persistentvolumeclaims" || resource.contains("storage"),
        known if SCOPES.contains(&known) => COMPUTE.contains(&resource),
        _ => true,
    }
}

fn conflicting(scopes: &[&str]) -> bool {
    let both = |a: &str, b: &str| scopes.contains(&a) && scopes.contains(&b);
    both("BestEffort", "NotBestEffort") || both("Terminating", "NotTerminating")
}

fn quota(object: &Value, e: &mut ErrorList) {
    quota_amounts(object, "spec", e);
    let root = At::root(object);
    let spec = root.get("spec");
    let hard = spec.get("hard");
    let misfit = |scope: &str| hard.entries().filter(|(name, _)| is_quota_resource(name) && !scope_fits(scope, name)).count();
    let scopes = spec.get("scopes");
    let mut seen: Vec<&str> = Vec::new();
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            scopes.invalid(e, "unsupported scope");
        }
        (0..misfit(scope.text())).for_each(|_| scopes.invalid(e, "unsupported scope applied to resource"));
        seen.push(scope.text());
    }
    if conflicting(&seen) {
        scopes.invalid(e, "conflicting scopes");
    }
    let selector = spec.get("scopeSelector");
    let list = selector.get("matchExpressions");
    let mut seen: Vec<&str> = Vec::new();
    for requirement in list.items() {
        let scope = requirement.get("scopeName").text();
        // Upstream's places are beside the list, not in it.
        let beside = |member: &'static str, e: &mut ErrorList, why: &str| {
            e.push(Error::invalid(&list.path().child(member), requirement.get(member).value.clone(), why));
        };
        if !SCOPES.contains(&scope) {
            beside("scopeName", e, "unsupported scope");
        }
        for _ in 0..misfit(scope) {
            let shown = go_text::internal(selector.value, "core.v1.ScopeSelector");
            let why = "unsupported scope applied to resource";
            e.push(Error::invalid(&list.path(), selector.value.clone(), why).shown_as(shown).of_place(&selector.path()));
        }
        let (operator, values) = (requirement.get("operator").text(), requirement.get("values").len());
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                       ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            beside("operator", e, why);
        }
        match operator {
            "In" | "NotIn" if values == 0 => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                e.push(Error::required(&list.path().child("values"), why));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                beside("values", e, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => beside("operator", e, "not a valid selector operator"),
        }
        seen.push(scope);
    }
    if conflicting(&seen) {
        list.with(scopes.value).invalid(e, "conflicting scopes");
    }
}

fn quota_update(object: &Value, old: &Value, e: &mut ErrorList) {
    quota(object, e);
    let scopes = |object: &Value| {
        let mut scopes: Vec<String> =
            object.array_at(&["spec", "scopes"]).iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect();
        scopes.sort();
        scopes
    };
    if scopes(object) != scopes(old) {
        let at = Path::new("spec").child("scopes");
        e.push(Error::invalid(&at, object["spec"]["scopes"].clone(), IMMUTABLE));
    }
}

/// A number or a percentage that is not negative (upstream's `ValidatePositiveIntOrPercent`), up to all.
pub(super) fn int_or_percent(at: &At, e: &mut ErrorList) {
    if let Value::String(text) = at.value {
        let before = e.len();
        at.check(e, validation::is_percent);
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
        if e.len() == before && percent.is_some_and(|percent| percent > 100) {
            at.invalid(e, "must not be greater than 100%");
        }
    } else {
        at.non_negative(e);
    }
}

fn budget(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if min.is_set() && max.is_set() {
        let shown = go_text::internal(spec.value, "policy.v1.PodDisruptionBudgetSpec");
        let why = "minAvailable and maxUnavailable cannot be both set";
        e.push(Error::invalid(&spec.path(), spec.value.clone(), why).shown_as(shown));
    }
    for at in [&min, &max] {
        if at.is_set() {
            int_or_percent(at, e);
        }
    }
    spec.get("selector").label_selector(e);
    if let Some(policy) = spec.set("unhealthyPodEvictionPolicy") {
        policy.one_of(e, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

fn budget_status(object: &Value, _old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    super::conditions::conditions(&status.get("conditions"), e);
    for member in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        status.get(member).non_negative(e);
    }
}

/// Upstream's `HighestUserDefinablePriority`.
const PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn priority(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let (name, value) = (object.meta().name(), root.get("value"));
    if name.starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().any(|(class, priority)| *class == name && value.int() == *priority);
        if !known || root.get("globalDefault").is_true() {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            let detail = match SYSTEM_CLASSES.iter().find(|(class, _)| *class == name) {
                None => format!("{name} is not a known system priority class"),
                Some((_, priority)) if value.int() != *priority => format!("value of {name} PriorityClass must be {priority}"),
                Some(_) => format!("globalDefault of {name} PriorityClass must be false"),
            };
            e.push(Error::forbidden(&Path::new("metadata").child("name"), format!("{why}{detail}")));
        }
    } else if value.int() > PRIORITY_MAX {
        value.forbid(e, format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}"));
    }
    if let Some(policy) = root.set("preemptionPolicy") {
        policy.required_one_of(e, &["PreemptLowerPriority", "Never"]);
    }
}

fn priority_update(object: &Value, old: &Value, e: &mut ErrorList) {
    if object["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
        e.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    let at = At::root(object);
    at.get("preemptionPolicy").immutable(e, &old["preemptionPolicy"]);
}

fn lease(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    if let Some(seconds) = spec.set("leaseDurationSeconds") {
        seconds.positive(e);
    }
    if let Some(transitions) = spec.set("leaseTransitions") {
        transitions.non_negative(e);
    }
}

fn revision(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    root.get("revision").non_negative(e);
    let data = root.get("data");
    match data.value {
        Value::Null => data.require(e, "data is mandatory"),
        Value::Object(_) => {}
        _ => data.require(e, "data must be a valid JSON object"),
    }
}

fn revision_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    root.get("revision").non_negative(e);
    root.get("data").immutable(e, &old["data"]);
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::assert_create;

    #[test]
    fn limits() {
        let range = value!({"spec": {"limits": [{"type": "Container"}]}});
        assert_create(
            "",
            "limitranges",
            &range,
            &[
                (
                    &["spec", "limits"],
                    value!([{"type": "Container", "default": {"a.b/c": "1"}, "defaultRequest": {"a.b/c": "2"}}]),
                    &[
                        r#"spec.limits[0].defaultRequest[a.b/c]: Invalid value: "2": default request value 2 is greater than default limit value 1"#,
                        r#"spec.limits[0].defaultRequest[a.b/c]: Invalid value: "2": default value 1 must equal to defaultRequest value 2 in a.b/c"#,
                    ],
                ),
                (
                    &["spec", "limits"],
                    value!([{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}]),
                    &[
                        r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000"#,
                    ],
                ),
                (
                    &["spec", "limits"],
                    value!([{"type": "Container", "min": {"cpu": "0"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "500m"}}]),
                    &[r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1"#],
                ),
            ],
        );
    }
}
