//! Going back to an earlier revision because an annotation asks for it. Pure.
//!
//! `kubectl rollout undo` changes the template itself; the annotation is what is left of the `rollback` subresource of extensions/v1beta1.

use client::EventKind;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;

use super::replica_sets::{HASH_LABEL, NOT_COPIED, ROLLBACK_TO, Set};
use crate::pod_template::same_template;

/// What comes of it: the deployment without the annotation, and what is told.
#[derive(Debug)]
pub(super) struct Rollback {
    pub(super) deployment: Deployment,
    pub(super) kind: EventKind,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The revision to go back to, 0 for the last but one; `None` if there is nothing to do or it is no number.
pub(super) fn wanted(deployment: &Deployment) -> Option<i64> {
    deployment.annotations().get(ROLLBACK_TO)?.parse().ok()
}

pub(super) fn plan(deployment: &Deployment, sets: &[Set], revision: i64) -> Rollback {
    let mut rolled_back = deployment.clone();
    rolled_back.metadata.annotations.get_or_insert_default().remove(ROLLBACK_TO);
    let not_found = |rolled_back, message: &str| Rollback {
        deployment: rolled_back,
        kind: EventKind::Warning,
        reason: "DeploymentRollbackRevisionNotFound",
        message: message.to_owned(),
    };
    let revision = if revision == 0 { last_but_one(sets) } else { revision };
    if revision == 0 {
        return not_found(rolled_back, "Unable to find last revision.");
    }
    let Some(set) = sets.iter().find(|set| set.known_revision() == Some(revision)) else {
        return not_found(rolled_back, "Unable to find the revision to rollback to.");
    };
    let name = deployment.name_any();
    let template = set.wanted.spec.as_ref().and_then(|spec| spec.template.as_ref());
    if same_template(template, deployment.spec.as_ref().map(|spec| &spec.template), HASH_LABEL) {
        return Rollback {
            deployment: rolled_back,
            kind: EventKind::Warning,
            reason: "DeploymentRollbackTemplateUnchanged",
            message: format!("The rollback revision contains the same template as current deployment {name:?}"),
        };
    }
    restore(&mut rolled_back, &set.wanted);
    let message = format!("Rolled back deployment {name:?} to revision {revision}");
    Rollback { deployment: rolled_back, kind: EventKind::Normal, reason: "DeploymentRollback", message }
}

/// The second highest revision; 0 if there is none.
fn last_but_one(sets: &[Set]) -> i64 {
    let (mut highest, mut second) = (0, 0);
    for revision in sets.iter().filter_map(Set::known_revision) {
        if revision >= highest {
            (highest, second) = (revision, highest);
        } else {
            second = second.max(revision);
        }
    }
    second
}

/// Takes template and annotations (such as the cause of the change) from the set.
fn restore(deployment: &mut Deployment, set: &ReplicaSet) {
    let mut template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    deployment.spec.get_or_insert_default().template = template;
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| NOT_COPIED.contains(&key.as_str()));
    let of_set = set.annotations().iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    annotations.extend(of_set.map(|(key, value)| (key.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn template(image: &str) -> serde_json::Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn deployment(image: &str, to: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {"deprecated.deployment.rollback.to": to, "cause": "edit", "deployment.kubernetes.io/revision": "3"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(image)},
        }))
        .expect("is a deployment")
    }

    fn set(image: &str, revision: &str) -> Set {
        let mut template = template(image);
        template["metadata"]["labels"]["pod-template-hash"] = image.into();
        let annotations = json!({"deployment.kubernetes.io/revision": revision, "cause": image, "deployment.kubernetes.io/desired-replicas": "1"});
        let value =
            json!({"metadata": {"name": image, "annotations": annotations}, "spec": {"selector": {}, "template": template}});
        Set::existing(Arc::new(serde_json::from_value(value).expect("is a set")))
    }

    #[test]
    fn where_a_rollback_leads() {
        let sets = [set("i:1", "1"), set("i:2", "2"), set("i:3", "3"), set("odd", "odd")];
        // (to, sets, reason, image, cause)
        for (to, sets, reason, image, cause) in [
            ("1", &sets[..], "DeploymentRollback", "i:1", "i:1"),
            ("0", &sets[..], "DeploymentRollback", "i:2", "i:2"),
            ("3", &sets[..], "DeploymentRollbackTemplateUnchanged", "i:3", "edit"),
            ("9", &sets[..], "DeploymentRollbackRevisionNotFound", "i:3", "edit"),
            ("0", &sets[2..3], "DeploymentRollbackRevisionNotFound", "i:3", "edit"),
        ] {
            let deployment = deployment("i:3", to);
            let rollback = plan(&deployment, sets, wanted(&deployment).expect("asks for it"));
            assert_eq!(rollback.reason, reason, "{to}");
            let rolled_back = rollback.deployment;
            let template = rolled_back.spec.expect("has a spec").template;
            assert_eq!(template.spec.expect("has a spec").containers[0].image.as_deref(), Some(image), "{to}");
            assert_eq!(template.metadata.expect("has labels").labels.expect("has labels").len(), 1, "without the hash");
            let annotations = rolled_back.metadata.annotations.expect("has annotations");
            assert_eq!(annotations["cause"], cause, "{to}");
            assert_eq!(annotations["deployment.kubernetes.io/revision"], "3", "{to}");
            assert_eq!(annotations.len(), 2, "{annotations:?}");
        }
        assert_eq!(wanted(&deployment("i", "x")), None);
        assert_eq!(wanted(&deployment("i", "")), None);
    }
}
