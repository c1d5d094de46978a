//! What objects use of a ResourceQuota: one evaluator for each kind that is more than a number of objects, and one that counts.
//!
//! The admission plugin (which charges a new object) and the controller (which sums up what there is) must agree to the last byte, and
//! controllers may not import the API server. These are pure functions over facts of the API, so they live here, over trees, as
//! admission sees every kind. After upstream's `pkg/quota/v1/evaluator` and `apiserver/pkg/quota/v1`.

mod amounts;
mod claims;
mod pods;
mod services;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{GroupResource, Quantity, Value};

pub use amounts::{Amounts, amounts_at, equal, exceeding, masked, mismatch, print, sum, without_debts, without_zeros};

/// Kinds that quotas never count (upstream's `DefaultIgnoredResources`): what is not stored, and events.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("events.k8s.io", "events"),
];
/// Kinds that have a short name beside `count/RESOURCE`.
const ALIASED: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// One condition of a quota's `scopes` or `scopeSelector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// `Terminating`, `PriorityClass`, ...
    pub scope: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// What `In` and `NotIn` compare with.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label selector of this shape accepts the value of the scope, if the object has one.
    fn accepts(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// All conditions of a quota: an object counts if it fulfils every one.
pub fn requirements(quota: &Value) -> Vec<Requirement> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scopes = quota.array_at(&["spec", "scopes"]).iter();
    let scopes = scopes.map(|scope| Requirement { scope: text(scope), operator: "Exists".to_owned(), values: Vec::new() });
    let selector = quota.array_at(&["spec", "scopeSelector", "matchExpressions"]).iter();
    let selector = selector.map(|requirement| Requirement {
        scope: text(&requirement["scopeName"]),
        operator: text(&requirement["operator"]),
        values: requirement.array_at(&["values"]).iter().map(text).collect(),
    });
    scopes.chain(selector).collect()
}

/// Knows what objects of one kind use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods: their number, and what they ask the nodes for.
    Pods,
    /// Services: their number, load balancers and node ports.
    Services,
    /// PersistentVolumeClaims: their number and size, also for each class.
    Claims,
    /// ResourceClaims: their number, and devices for each class.
    ResourceClaims,
    /// Any other kind: its number, under these names.
    Count(Vec<String>),
}

/// `count/RESOURCE.GROUP`, the name under which objects of any kind are counted.
pub fn count_name(resource: &GroupResource) -> String {
    match resource.group.as_str() {
        "" => format!("count/{}", resource.resource),
        group => format!("count/{}.{group}", resource.resource),
    }
}

impl Evaluator {
    /// The evaluator of a kind; `None` for kinds that quotas ignore.
    pub fn of(resource: &GroupResource) -> Option<Evaluator> {
        let key = (resource.group.as_str(), resource.resource.as_str());
        if IGNORED.contains(&key) {
            return None;
        }
        Some(match key {
            ("", "pods") => Evaluator::Pods,
            ("", "services") => Evaluator::Services,
            ("", "persistentvolumeclaims") => Evaluator::Claims,
            ("resource.k8s.io", "resourceclaims") => Evaluator::ResourceClaims,
            ("", plural) if ALIASED.contains(&plural) => Evaluator::Count(vec![count_name(resource), plural.to_owned()]),
            _ => Evaluator::Count(vec![count_name(resource)]),
        })
    }

    /// The kinds that these names of a quota are about, each with its evaluator. Names that no kind has are left out.
    pub fn for_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<(GroupResource, Evaluator)> {
        let fixed = [("", "pods"), ("", "services"), ("", "persistentvolumeclaims"), ("resource.k8s.io", "resourceclaims")];
        let aliased = ALIASED.iter().map(|plural| ("", *plural));
        let counted = names.clone().filter_map(|name| {
            let counted = name.strip_prefix("count/")?;
            Some(counted.split_once('.').map_or(("", counted), |(resource, group)| (group, resource)))
        });
        let mut found: Vec<(GroupResource, Evaluator)> = Vec::new();
        for (group, resource) in fixed.into_iter().chain(aliased).chain(counted) {
            let resource = GroupResource::new(group, resource);
            if found.iter().any(|(known, _)| *known == resource) {
                continue;
            }
            if let Some(evaluator) = Evaluator::of(&resource).filter(|e| names.clone().any(|name| e.measures(name))) {
                found.push((resource, evaluator));
            }
        }
        found
    }

    /// Whether a name of a quota is about this kind.
    pub fn measures(&self, name: &str) -> bool {
        match self {
            Evaluator::Pods => pods::measures(name),
            Evaluator::Services => services::NAMES.contains(&name),
            Evaluator::Claims => claims::measures(name),
            Evaluator::ResourceClaims => claims::measures_devices(name),
            Evaluator::Count(names) => names.iter().any(|own| own == name),
        }
    }

    /// Whether creating an object (or its subresource) is charged.
    pub fn charges_create(&self, subresource: &str) -> bool {
        subresource.is_empty()
    }

    /// Whether an update of an object (or its subresource) may change what it uses.
    pub fn charges_update(&self, subresource: &str, object: &Value, old: &Value) -> bool {
        match (self, subresource) {
            (Evaluator::Pods, "") => pods::is_terminating(object) != pods::is_terminating(old),
            (Evaluator::Pods, "resize") => true,
            (Evaluator::Services | Evaluator::Claims | Evaluator::ResourceClaims, "") => true,
            (Evaluator::Claims, "status") => claims::usage_may_shrink(object, old),
            _ => false,
        }
    }

    /// Whether a watched change makes a recount necessary. What grew was charged by admission.
    pub fn recounts_after(&self, object: &Value, old: &Value, now: Timestamp) -> bool {
        match self {
            Evaluator::Pods => pods::recounts_after(object, old, now),
            Evaluator::Services => services::exposed_type(object) != services::exposed_type(old),
            Evaluator::Claims => claims::usage_may_shrink(object, old),
            Evaluator::ResourceClaims | Evaluator::Count(_) => false,
        }
    }

    /// Whether an object fulfils one condition of a quota. Kinds without scopes fulfil none.
    pub fn fulfils(&self, requirement: &Requirement, object: &Value) -> bool {
        match self {
            Evaluator::Pods => pods::fulfils(requirement, object),
            Evaluator::Claims => claims::fulfils(requirement, object),
            Evaluator::Services | Evaluator::ResourceClaims | Evaluator::Count(_) => false,
        }
    }

    /// What an object must say of itself where these names are limited; upstream's text otherwise.
    pub fn constraints(&self, limited: &[&str], object: &Value) -> Result<(), String> {
        match self {
            Evaluator::Pods => pods::constraints(limited, object),
            _ => Ok(()),
        }
    }

    /// What an object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Evaluator::Pods => pods::usage(object, now),
            Evaluator::Services => services::usage(object),
            Evaluator::Claims => claims::usage(object),
            Evaluator::ResourceClaims => claims::device_usage(object),
            Evaluator::Count(names) => names.iter().map(|name| (name.clone(), one())).collect(),
        }
    }

    /// What objects that fulfil a quota's conditions use together, of these names.
    pub fn total<'a>(
        &self,
        names: &[&str],
        requirements: &[Requirement],
        objects: impl Iterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Amounts {
        let measured = names.iter().filter(|name| self.measures(name));
        let mut total: Amounts = measured.map(|name| ((*name).to_owned(), Quantity::default())).collect();
        for object in objects {
            if requirements.iter().all(|requirement| self.fulfils(requirement, object)) {
                let usage = self.usage(object, now);
                total = sum(&total, &masked(&usage, |name| total.contains_key(name)));
            }
        }
        total
    }
}

fn one() -> Quantity {
    Quantity::new(1, crate::quantity::Format::DecimalSi)
}

fn count(number: usize) -> Quantity {
    Quantity::new(i64::try_from(number).unwrap_or(i64::MAX), crate::quantity::Format::DecimalSi)
}

/// The amounts of an object's member such as `resources.requests`; what does not parse is left out.
fn quantities(object: &Value) -> BTreeMap<String, Quantity> {
    let members = object.as_object().into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.to_string(), Quantity::from_value(value).ok()?))).collect()
}
