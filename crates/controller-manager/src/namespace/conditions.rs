//! What a namespace's status tells about its deletion. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Type, reason and message when there is nothing to report.
const FINE: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    ("NamespaceDeletionContentFailure", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// What came out of one attempt to delete everything in a namespace.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) discovery_error: Option<String>,
    pub(super) errors: Vec<String>,
    /// Objects left, by `resource.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Objects left, by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Seconds until what is left should be gone; 0 if nothing is.
    pub(super) estimate_seconds: i64,
    /// Pods are left: the rest was not touched, and the totals are not reported.
    pub(super) pods_first: bool,
}

impl Report {
    fn trouble(&self, type_: &str) -> Option<(&'static str, String)> {
        match type_ {
            "NamespaceDeletionDiscoveryFailure" => self.discovery_error.clone().map(|error| ("DiscoveryFailed", error)),
            "NamespaceDeletionContentFailure" if !self.errors.is_empty() => {
                let mut errors = self.errors.clone();
                errors.sort();
                let (count, errors) = (errors.len(), errors.join(", "));
                let message = format!("Failed to delete all resource types, {count} remaining: {errors}");
                Some(("ContentDeletionFailed", message))
            }
            "NamespaceContentRemaining" if !self.remaining.is_empty() && !self.pods_first => {
                let remaining = self.remaining.iter();
                let list: Vec<_> =
                    remaining.map(|(resource, count)| format!("{resource} has {count} resource instances")).collect();
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", list.join(", "))))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() && !self.pods_first => {
                let finalizers = self.finalizers.iter();
                let list: Vec<_> =
                    finalizers.map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")).collect();
                let list = list.join(", ");
                let message = format!("Some content in the namespace has finalizers remaining: {list}");
                Some(("SomeFinalizersRemain", message))
            }
            _ => None,
        }
    }
}

/// The conditions after an attempt; `None` if they stay as they are.
pub(super) fn conditions(current: &[NamespaceCondition], report: &Report, now: Timestamp) -> Option<Vec<NamespaceCondition>> {
    let mut updated = current.to_vec();
    for (type_, reason, message) in FINE {
        let (status, reason, message) = match report.trouble(type_) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", reason, message.to_owned()),
        };
        let wanted = NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match updated.iter_mut().find(|condition| condition.type_ == type_) {
            None => updated.push(wanted),
            Some(condition) => {
                let since = condition.last_transition_time.clone();
                let same_status = condition.status == wanted.status;
                *condition = wanted;
                if same_status {
                    condition.last_transition_time = since;
                }
            }
        }
    }
    (updated != current).then_some(updated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn find<'a>(conditions: &'a [NamespaceCondition], type_: &str) -> &'a NamespaceCondition {
        conditions.iter().find(|condition| condition.type_ == type_).expect("is there")
    }

    #[test]
    fn what_is_left_is_told_and_then_cleared() {
        let report = Report {
            remaining: [("pods.".to_owned(), 2), ("widgets.example.com".to_owned(), 1)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            errors: vec!["b".into(), "a".into()],
            ..Default::default()
        };
        let first = conditions(&[], &report, at(1)).expect("changes");
        assert_eq!(first.len(), 5);
        assert_eq!(
            find(&first, "NamespaceContentRemaining").message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances")
        );
        assert_eq!(
            find(&first, "NamespaceFinalizersRemaining").message.as_deref(),
            Some("Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
        );
        assert_eq!(
            find(&first, "NamespaceDeletionContentFailure").message.as_deref(),
            Some("Failed to delete all resource types, 2 remaining: a, b")
        );
        assert_eq!(conditions(&first, &report, at(2)), None);
        let cleared = conditions(&first, &Report::default(), at(3)).expect("changes");
        assert!(cleared.iter().all(|condition| condition.status == "False"));
        assert_eq!(find(&cleared, "NamespaceContentRemaining").last_transition_time, Some(Time(at(3))));
        assert_eq!(find(&cleared, "NamespaceDeletionDiscoveryFailure").last_transition_time, Some(Time(at(1))));
    }
}
