//! The ReplicaSets of a deployment while a plan is made: which is the new one, revisions, annotations.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::scaling;
use crate::ownership::controller_reference;
use crate::pod_template::{NAME_LEN_MAX, same_template, template_hash};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// Upstream's maxRevHistoryLengthInChars.
const REVISION_HISTORY_LEN_MAX: usize = 2000;
/// Where the deprecated `rollbackTo` of extensions/v1beta1 survives: the revision to go back to, 0 for the last.
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// What a deployment and its sets do not take from each other.
pub(super) const NOT_COPIED: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO];

/// A ReplicaSet as the plan wants it, next to what it is.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// `None` if it is to be created.
    pub(super) current: Option<Arc<ReplicaSet>>,
    pub(super) wanted: ReplicaSet,
    /// The event that tells of its scaling.
    pub(super) event: Option<String>,
}

impl Set {
    pub(super) fn existing(current: Arc<ReplicaSet>) -> Self {
        Self { wanted: ReplicaSet::clone(&current), current: Some(current), event: None }
    }

    pub(super) fn name(&self) -> String {
        self.wanted.name_any()
    }

    pub(super) fn replicas(&self) -> i32 {
        self.wanted.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub(super) fn set_replicas(&mut self, replicas: i32) {
        self.wanted.spec.get_or_insert_default().replicas = Some(replicas);
    }

    /// Whether its controller has seen its present size: else what the status counts may be about to go.
    pub(super) fn is_observed(&self) -> bool {
        let observed = self.wanted.status.as_ref().and_then(|status| status.observed_generation);
        observed.unwrap_or(0) >= self.wanted.metadata.generation.unwrap_or(0)
    }

    pub(super) fn available(&self) -> i32 {
        let status = self.wanted.status.as_ref();
        status.and_then(|status| status.available_replicas).unwrap_or(0)
    }

    pub(super) fn actual(&self) -> i32 {
        self.wanted.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub(super) fn annotation_number(&self, name: &str) -> Option<i32> {
        let value = self.wanted.annotations().get(name)?;
        value.parse().ok().filter(|number| *number >= 0)
    }

    pub(super) fn revision(&self) -> i64 {
        self.known_revision().unwrap_or(0)
    }

    /// 0 if there is none; `None` if it is no number.
    pub(super) fn known_revision(&self) -> Option<i64> {
        self.wanted.annotations().get(REVISION).map_or(Some(0), |revision| revision.parse().ok())
    }

    /// By age, oldest first; by name when made in the same second.
    pub(super) fn compare_age(&self, other: &Self) -> Ordering {
        let created = |set: &Self| set.wanted.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // One that is not created yet is the youngest.
        (created(self).is_none(), created(self), self.name()).cmp(&(created(other).is_none(), created(other), other.name()))
    }

    /// Notes the size and the deployment's size in its annotations; whether anything changed.
    pub(super) fn annotate_sizes(&mut self, desired: i32, max: i32) -> bool {
        let annotations = self.wanted.metadata.annotations.get_or_insert_default();
        let mut changed = false;
        for (name, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, max)] {
            changed |= annotations.insert(name.to_owned(), value.to_string()) != Some(value.to_string());
        }
        changed
    }

    /// Copies the deployment's annotations and gives the set a higher revision if it has a lower one.
    pub(super) fn annotate_revision(&mut self, deployment: &Deployment, revision: i64) {
        let annotations = self.wanted.metadata.annotations.get_or_insert_default();
        for (name, value) in deployment.annotations() {
            if !NOT_COPIED.contains(&name.as_str()) {
                annotations.insert(name.clone(), value.clone());
            }
        }
        let old = annotations.get(REVISION).cloned();
        let Ok(old_number) = old.as_deref().unwrap_or("0").parse::<i64>() else {
            return;
        };
        if old_number >= revision {
            return;
        }
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
            if let Some(history) = extend_history(&history, &old) {
                annotations.insert(REVISION_HISTORY.to_owned(), history);
            }
        }
    }

    /// Whether the set must be written.
    pub(super) fn is_changed(&self) -> bool {
        let Some(current) = &self.current else { return true };
        let none = BTreeMap::new();
        let annotations = |set: &ReplicaSet| set.metadata.annotations.clone().unwrap_or_else(|| none.clone());
        current.spec != self.wanted.spec || annotations(current) != annotations(&self.wanted)
    }
}

/// Appends a revision to the comma-separated history; drops the oldest so that it stays within its limit. `None` if the
/// revision alone is too long.
fn extend_history(history: &str, revision: &str) -> Option<String> {
    let mut kept = history;
    while !kept.is_empty() && kept.len() + revision.len() + 1 > REVISION_HISTORY_LEN_MAX {
        kept = kept.split_once(',').map_or("", |(_, younger)| younger);
    }
    match kept {
        "" => (revision.len() <= REVISION_HISTORY_LEN_MAX).then(|| revision.to_owned()),
        kept => Some(format!("{kept},{revision}")),
    }
}

/// The oldest set with the deployment's template, as its index.
pub(super) fn find_new(deployment: &Deployment, sets: &[Set]) -> Option<usize> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    (0..sets.len())
        .filter(|i| {
            let candidate = sets[*i].wanted.spec.as_ref().and_then(|spec| spec.template.as_ref());
            same_template(candidate, template, HASH_LABEL)
        })
        .min_by(|a, b| sets[*a].compare_age(&sets[*b]))
}

/// Name for the ReplicaSet of a template.
fn set_name(deployment: &str, hash: &str) -> String {
    let mut end = deployment.len().min(NAME_LEN_MAX - 1 - hash.len());
    while !deployment.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &deployment[..end])
}

/// The set to be created for the deployment's present template, sized so that the surge is kept.
pub(super) fn make_new(deployment: &Deployment, others: &[Set], revision: i64) -> Set {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let wanted = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(&deployment.name_any(), &hash)),
            namespace: deployment.namespace(),
            owner_references: Some(vec![controller_reference(deployment)]),
            labels: Some(labels),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let mut set = Set { current: None, wanted, event: None };
    let total = others.iter().map(Set::replicas).sum();
    let replicas = scaling::new_set_replicas(deployment, total, 0);
    set.set_replicas(replicas);
    set.annotate_revision(deployment, revision);
    let desired = scaling::desired(deployment);
    set.annotate_sizes(desired, desired + scaling::max_surge(deployment));
    if replicas > 0 {
        set.event = Some(format!("Scaled up replica set {} from 0 to {replicas}", set.name()));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_extended_within_its_limit() {
        assert_eq!(extend_history("", "1").as_deref(), Some("1"));
        assert_eq!(extend_history("1,3", "4").as_deref(), Some("1,3,4"));
        let long = vec!["12345"; 333].join(",");
        let extended = extend_history(&long, "678").expect("fits");
        assert!(extended.len() <= REVISION_HISTORY_LEN_MAX && extended.ends_with(",678"), "{}", extended.len());
        assert_eq!(extend_history(&"1".repeat(1999), "2").as_deref(), Some("2"));
        assert_eq!(extend_history("1", &"2".repeat(2001)), None);
    }

    #[test]
    fn set_names_keep_the_hash() {
        assert_eq!(set_name("web", "abc"), "web-abc");
        let name = set_name(&"w".repeat(253), "abc");
        assert_eq!(name.len(), 253);
        assert!(name.ends_with("w-abc"));
    }
}
