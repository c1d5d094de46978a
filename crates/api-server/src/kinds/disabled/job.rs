//! Members of a Job's spec. Those that may never change are only looked at when it is made.

use apimachinery::Value;

use crate::gates::{Feature, FeatureGates};

pub(super) fn drop_from(gates: FeatureGates, job: &mut Value, old: Option<&Value>) {
    let mut gone: Vec<&str> = Vec::new();
    let mut off = |feature: Feature, members: &[&'static str]| {
        if !gates.has(feature) {
            gone.extend(members);
        }
        !gates.has(feature)
    };
    if old.is_none() {
        off(Feature::JobManagedBy, &["managedBy"]);
    }
    off(Feature::JobSuccessPolicy, &["successPolicy"]);
    off(Feature::JobPodReplacementPolicy, &["podReplacementPolicy"]);
    let without_limits = off(Feature::JobBackoffLimitPerIndex, &["backoffLimitPerIndex", "maxFailedIndexes"]);
    let has = |member: &str| old.is_some_and(|old| !old["spec"][member].is_null());
    gone.retain(|member| !has(member));
    gone.into_iter().for_each(|member| drop(job.remove_path(&["spec", member])));
    let rules = job.get_path_mut(&["spec", "podFailurePolicy", "rules"]).and_then(Value::as_array_mut);
    if let Some(rules) = rules.filter(|_| without_limits && old.is_none()) {
        rules.retain(|rule| rule["action"] != *"FailIndex");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn features_that_are_off() {
        let job = || {
            value!({"spec": {
                "managedBy": "a.b/c", "successPolicy": {}, "podReplacementPolicy": "Failed", "backoffLimitPerIndex": 1, "maxFailedIndexes": 2,
                "podFailurePolicy": {"rules": [{"action": "FailIndex"}, {"action": "Ignore"}]},
            }})
        };
        let features = [
            (Feature::JobManagedBy, &["managedBy"][..]),
            (Feature::JobSuccessPolicy, &["successPolicy"]),
            (Feature::JobPodReplacementPolicy, &["podReplacementPolicy"]),
            (Feature::JobBackoffLimitPerIndex, &["backoffLimitPerIndex", "maxFailedIndexes"]),
        ];
        for (feature, members) in features {
            let gates = FeatureGates::default().with(feature, false);
            let (mut new, mut kept) = (job(), job());
            drop_from(gates, &mut new, None);
            drop_from(gates, &mut kept, Some(&job()));
            assert!(members.iter().all(|member| new["spec"][*member].is_null()), "{feature:?}");
            assert_eq!(kept, job(), "{feature:?}");
            let rules = new["spec"]["podFailurePolicy"].array_at(&["rules"]).len();
            assert_eq!(rules, if feature == Feature::JobBackoffLimitPerIndex { 1 } else { 2 });
        }
    }
}
