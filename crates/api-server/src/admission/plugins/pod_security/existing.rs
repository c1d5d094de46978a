//! What is said of the pods that a namespace has when its labels become stricter.

use std::collections::{BTreeMap, HashSet};

use apimachinery::Value;

use super::checks::{self, Pod};
use super::levels::LevelVersion;

/// Upstream's limit.
const PODS_MAX: usize = 3000;

/// Pods with the same violations.
struct Alike<'a> {
    /// The first by name.
    first: &'a str,
    count: usize,
}

/// The warnings; ends early when it is `late`, and says so.
pub(super) fn warnings(namespace: &str, enforce: LevelVersion, pods: &[&Value], late: impl Fn() -> bool) -> Vec<String> {
    let mut alike: BTreeMap<String, Alike<'_>> = BTreeMap::new();
    let mut checked = 0;
    for object in by_priority(pods).into_iter().take(PODS_MAX) {
        checked += 1;
        let violations = Pod::of(object).map(|pod| checks::violations(enforce, &pod)).unwrap_or_default();
        if !violations.is_empty() {
            let name = object.meta().name();
            let seen = alike.entry(checks::reasons(&violations)).or_insert(Alike { first: name, count: 0 });
            seen.first = seen.first.min(name);
            seen.count += 1;
        }
        if late() {
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < pods.len() {
        let of = pods.len();
        warnings.push(format!("new PodSecurity enforce level only checked against the first {checked} of {of} existing pods"));
    }
    if !alike.is_empty() {
        warnings
            .push(format!("existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""));
    }
    let mut each: Vec<_> = alike.iter().map(|(reasons, pods)| format!("{}: {reasons}", pods.named())).collect();
    each.sort_unstable();
    warnings.append(&mut each);
    warnings
}

impl Alike<'_> {
    fn named(&self) -> String {
        let first = self.first;
        match self.count {
            1 => first.to_owned(),
            2 => format!("{first} (and 1 other pod)"),
            count => format!("{first} (and {} other pods)", count - 1),
        }
    }
}

/// One pod of each controller first: its others are most likely like it.
fn by_priority<'a>(pods: &[&'a Value]) -> Vec<&'a Value> {
    let mut controllers = HashSet::new();
    let (mut first, others): (Vec<_>, Vec<_>) =
        pods.iter().copied().partition(|pod| pod.meta().controller().is_none_or(|owner| controllers.insert(owner.uid)));
    first.extend(others);
    first
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use apimachinery::value;

    use super::super::levels::{Level, Version};
    use super::*;

    const BASELINE: LevelVersion = LevelVersion { level: Level::Baseline, version: Version::Latest };

    fn pod(name: &str, owner: &str, spec: Value) -> Value {
        let mut pod = value!({"metadata": {"name": name}, "spec": spec});
        if !owner.is_empty() {
            let references =
                value!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]);
            pod.set_path(&["metadata", "ownerReferences"], references);
        }
        pod
    }

    #[test]
    fn alike_ones_are_counted() {
        let network = || value!({"hostNetwork": true});
        let pods = [
            pod("c", "", network()),
            pod("b", "", network()),
            pod("a", "", value!({"hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
            pod("fine", "", value!({"containers": [{"name": "c"}]})),
            pod("d", "", network()),
        ];
        let warnings = warnings("ns", BASELINE, &pods.each_ref(), || false);
        assert_eq!(
            warnings,
            [
                r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest""#,
                "a: host namespaces, hostPath volumes",
                "b (and 2 other pods): host namespaces",
            ]
        );
    }

    #[test]
    fn one_of_each_controller_comes_first() {
        let bad = || value!({"hostNetwork": true});
        let pods = [pod("a1", "a", bad()), pod("a2", "a", bad()), pod("b1", "b", bad()), pod("c", "", bad())];
        let names: Vec<_> = by_priority(&pods.each_ref()).into_iter().map(|pod| pod.meta().name()).collect();
        assert_eq!(names, ["a1", "b1", "c", "a2"]);
        let left = Cell::new(2);
        let late = || {
            left.set(left.get() - 1);
            left.get() == 0
        };
        assert_eq!(
            warnings("ns", BASELINE, &pods.each_ref(), late),
            [
                "new PodSecurity enforce level only checked against the first 2 of 4 existing pods",
                r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest""#,
                "a1 (and 1 other pod): host namespaces",
            ]
        );
    }
}
