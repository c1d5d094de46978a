//! `spec.podFailurePolicy` (KEP-3329): what the failure of a pod means for its Job. Pure.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::spec::{has_failed, spec};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    FailJob,
    FailIndex,
    Ignore,
    Count,
}

impl Action {
    fn named(name: &str) -> Option<Self> {
        match name {
            "FailJob" => Some(Self::FailJob),
            "FailIndex" => Some(Self::FailIndex),
            "Ignore" => Some(Self::Ignore),
            "Count" => Some(Self::Count),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FailJob => "FailJob",
            Self::FailIndex => "FailIndex",
            Self::Ignore => "Ignore",
            Self::Count => "Count",
        }
    }
}

/// What the first rule that fits says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// `None` when no rule fits.
    pub(super) action: Option<Action>,
    /// Why the Job fails, with [`Action::FailJob`].
    pub(super) message: Option<String>,
}

impl Verdict {
    /// Whether the failure counts towards the back-off limits.
    pub(super) fn counts(&self) -> bool {
        self.action != Some(Action::Ignore)
    }
}

pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules = spec(job).pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let (Some(reason), Some(action)) = (fits(rule, pod), Action::named(&rule.action)) else { continue };
        let message = (action == Action::FailJob).then(|| format!("{reason} matching FailJob rule at index {index}"));
        return Verdict { action: Some(action), message };
    }
    Verdict::default()
}

/// Why the whole Job fails because of one of its pods.
pub(super) fn fail_job_message<'p>(job: &Job, pods: impl IntoIterator<Item = &'p Pod>) -> Option<String> {
    spec(job).pod_failure_policy.as_ref()?;
    pods.into_iter().filter(|pod| has_failed(pod, job)).find_map(|pod| judge(job, pod).message)
}

/// What about the pod fits the rule.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let name = pod.metadata.name.as_deref().unwrap_or("");
    if let Some(wanted) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().flatten();
        let mut all = containers.chain(status.init_container_statuses.iter().flatten());
        let (container, code) = all.find_map(|container| fits_exit_code(wanted, container))?;
        return Some(format!("Container {container} for pod {namespace}/{name} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let found = status.conditions.iter().flatten().find(|condition| {
        let fits = |status: Option<&str>| status.unwrap_or("True") == condition.status;
        patterns.iter().any(|pattern| pattern.type_ == condition.type_ && fits(pattern.status.as_deref()))
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", found.type_))
}

/// Container and exit code, if it ended with a failure that fits.
fn fits_exit_code<'c>(wanted: &PodFailurePolicyOnExitCodesRequirement, container: &'c ContainerStatus) -> Option<(&'c str, i32)> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
    let fits = match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    (named && code != 0 && fits).then_some((container.name.as_str(), code))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{job, pod};
    use super::*;
    use serde_json::{Value, json};

    fn check(rules: Value, status: Value, action: Option<Action>, message: Option<&str>) {
        let job = job(json!({"podFailurePolicy": {"rules": rules}}));
        let pod = pod("p", "Failed", json!({"status": status}));
        let verdict = judge(&job, &pod);
        assert_eq!((verdict.action, verdict.message.as_deref()), (action, message), "{rules} for {status}");
        assert_eq!(fail_job_message(&job, [&*pod]).as_deref(), message);
    }

    fn ended(name: &str, code: i32) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}})
    }

    fn on_exit(action: &str, operator: &str, values: Value) -> Value {
        json!({"action": action, "onExitCodes": {"operator": operator, "values": values}})
    }

    #[test]
    fn exit_codes() {
        let two = json!({"containerStatuses": [ended("main", 2)]});
        let message = |container: &str, code: i32, index: i32| {
            format!("Container {container} for pod ns/p failed with exit code {code} matching FailJob rule at index {index}")
        };
        let fail = |operator: &str, values: Value| json!([on_exit("FailJob", operator, values)]);
        check(fail("In", json!([1, 2, 3])), two.clone(), Some(Action::FailJob), Some(&message("main", 2, 0)));
        check(fail("In", json!([1, 3])), two.clone(), None, None);
        check(fail("NotIn", json!([1, 3])), two.clone(), Some(Action::FailJob), Some(&message("main", 2, 0)));
        check(fail("NotIn", json!([2])), two.clone(), None, None);
        check(fail("Near", json!([2])), two.clone(), None, None);
        // Success is never a failure, and a container that still runs has no code.
        check(fail("NotIn", json!([1])), json!({"containerStatuses": [ended("main", 0)]}), None, None);
        let mut running = ended("main", 2);
        running["state"] = json!({"running": {}});
        check(fail("In", json!([2])), json!({"containerStatuses": [running]}), None, None);
        // Init containers come after the others; the first container that fits is named.
        let both = json!({"containerStatuses": [ended("main", 5)], "initContainerStatuses": [ended("init", 2)]});
        check(fail("In", json!([2])), both.clone(), Some(Action::FailJob), Some(&message("init", 2, 0)));
        check(fail("In", json!([2, 5])), both, Some(Action::FailJob), Some(&message("main", 5, 0)));
        let named =
            |name: &str| json!([{"action": "FailJob", "onExitCodes": {"containerName": name, "operator": "In", "values": [2]}}]);
        check(named("other"), two.clone(), None, None);
        check(named("main"), two.clone(), Some(Action::FailJob), Some(&message("main", 2, 0)));
        // The first rule that fits decides; an unknown action is passed over.
        let rules = json!([
            on_exit("Other", "In", json!([2])),
            on_exit("FailJob", "In", json!([2])),
            on_exit("Ignore", "In", json!([2]))
        ]);
        check(rules, two.clone(), Some(Action::FailJob), Some(&message("main", 2, 1)));
        for (name, action) in [("Ignore", Action::Ignore), ("Count", Action::Count), ("FailIndex", Action::FailIndex)] {
            check(json!([on_exit(name, "In", json!([2]))]), two.clone(), Some(action), None);
        }
    }

    #[test]
    fn pod_conditions() {
        let status = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let rule = |action: &str, pattern: Value| json!([{"action": action, "onPodConditions": [pattern]}]);
        let target = json!({"type": "DisruptionTarget", "status": "True"});
        let message = "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0";
        check(rule("FailJob", target.clone()), status.clone(), Some(Action::FailJob), Some(message));
        check(rule("FailJob", json!({"type": "DisruptionTarget"})), status.clone(), Some(Action::FailJob), Some(message));
        check(rule("FailJob", json!({"type": "DisruptionTarget", "status": "False"})), status.clone(), None, None);
        check(rule("FailJob", json!({"type": "Other", "status": "True"})), status.clone(), None, None);
        check(rule("Ignore", target.clone()), status.clone(), Some(Action::Ignore), None);
        check(rule("Count", target.clone()), status.clone(), Some(Action::Count), None);
        check(rule("FailIndex", target), status, Some(Action::FailIndex), None);
    }

    #[test]
    fn only_failed_pods_fail_the_job() {
        let job = job(json!({"podFailurePolicy": {"rules": [on_exit("FailJob", "In", json!([2]))]}}));
        let pod = pod("p", "Running", json!({"status": {"containerStatuses": [ended("main", 2)]}}));
        assert_eq!(fail_job_message(&job, [&*pod]), None);
    }

    #[test]
    fn what_counts() {
        for (action, expected) in
            [(None, true), (Some(Action::Ignore), false), (Some(Action::Count), true), (Some(Action::FailIndex), true)]
        {
            assert_eq!(Verdict { action, message: None }.counts(), expected, "{action:?}");
        }
    }
}
