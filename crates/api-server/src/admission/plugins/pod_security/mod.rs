//! PodSecurity: pods keep to the level of the Pod Security Standards that their namespace's labels name (KEP-2579).
//!
//! What is enforced refuses pods; what is warned of also looks at the templates of workloads, which are never refused. A namespace's labels are
//! checked when they are written, and who makes them stricter hears of the pods that are there already. Levels are in `levels`, rules in `checks`.
//!
//! Not here: the audit mode, as there is no audit (its labels are read for their mistakes alone), and upstream's metrics (`pod_security_*`).

mod checks;
mod config;
mod existing;
mod levels;

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::{Status, Value, go_quote};
use async_trait::async_trait;

use self::checks::Pod;
pub(in crate::admission) use self::config::PodSecurityConfig;
use self::levels::{Level, LevelVersion, Policy};
use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{ListScope, Objects};

/// What changes no pod's spec, or nothing of it that matters here.
#[rustfmt::skip]
const IGNORED_SUBRESOURCES: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// How long the pods of a namespace are looked at when its labels change; upstream's limit.
const EXISTING_PODS_DURATION: Duration = Duration::from_secs(1);

pub(super) struct PodSecurity {
    objects: Arc<dyn Objects>,
    config: PodSecurityConfig,
}

impl PodSecurity {
    pub(super) fn new(objects: Arc<dyn Objects>, config: PodSecurityConfig) -> Self {
        Self { objects, config }
    }

    /// Whether nothing is asked of what this user does in this namespace.
    fn exempts(&self, attributes: &Attributes) -> bool {
        self.config.exempts_namespace(&attributes.namespace) || self.config.exempts_user(&attributes.user.name)
    }

    /// Whether nothing is asked of a pod, or a template, by the class of its runtime.
    fn exempts_class(&self, pod: &Value) -> bool {
        self.config.exempts_runtime_class(pod.str_at(&["spec", "runtimeClassName"]))
    }

    /// What holds in a namespace; mistakes in its labels were its writer's to see. `None` if it cannot be read.
    async fn policy(&self, namespace: &str) -> Option<Policy> {
        let labels = self.objects.labels("", "namespaces", "", namespace).await.ok()??;
        let label = |key: &str| labels.iter().find(|(have, _)| have == key).map(|(_, value)| value.as_str());
        Some(Policy::of_labels(label, self.config.defaults).0)
    }

    async fn validate_pod(&self, attributes: &Attributes) -> Result<(), Status> {
        if IGNORED_SUBRESOURCES.contains(&attributes.subresource.as_str()) || self.exempts(attributes) {
            return Ok(());
        }
        let Some(object) = &attributes.object else { return Ok(()) };
        if attributes.old_object.as_ref().is_some_and(|old| !is_significant(object, old)) {
            return Ok(());
        }
        let namespace = attributes.namespace.as_str();
        let Some(policy) = self.policy(namespace).await else {
            return Err(Status::internal_error(format_args!("failed to lookup namespace {}", go_quote(namespace))));
        };
        if policy.is_privileged() {
            return Ok(());
        }
        let Some(pod) = Pod::of(object).filter(|_| !self.exempts_class(object)) else { return Ok(()) };
        let violations = checks::violations(policy.enforce, &pod);
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, checks::details(&violations));
            return Err(forbidden(attributes, why));
        }
        if policy.warn != policy.enforce {
            warn(attributes, policy.warn, &pod);
        }
        Ok(())
    }

    /// A workload is written even where its pods will be refused: somebody may yet change the namespace.
    async fn validate_template(&self, attributes: &Attributes, path: &[&str]) {
        if !attributes.subresource.is_empty() || self.exempts(attributes) {
            return;
        }
        let template = attributes.object.as_ref().and_then(|object| object.get_path(path));
        let Some(template) = template.filter(|template| !self.exempts_class(template)).and_then(Pod::of) else { return };
        if let Some(policy) = self.policy(&attributes.namespace).await {
            warn(attributes, policy.warn, &template);
        }
    }

    async fn validate_namespace(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(namespace) = attributes.object.as_ref().filter(|_| attributes.subresource.is_empty()) else { return Ok(()) };
        let (policy, errors) = Policy::of_labels(|key| namespace.meta().label(key), self.config.defaults);
        let invalid = || Status::invalid(&attributes.kind.group_kind(), &attributes.name, &errors);
        let Some(old) = &attributes.old_object else {
            if !errors.is_empty() {
                return Err(invalid());
            }
            self.warn_of_exemption(attributes, namespace, policy);
            return Ok(());
        };
        let (old, old_errors) = Policy::of_labels(|key| old.meta().label(key), self.config.defaults);
        // Whoever does not touch the labels need not correct them.
        if !errors.is_empty() && errors != old_errors {
            return Err(invalid());
        }
        let (new, old) = (policy.enforce, old.enforce);
        let relaxed = new.version == old.version && new.level <= old.level;
        if new == old || new.level == Level::Privileged || relaxed {
            return Ok(());
        }
        if self.config.exempts_namespace(&attributes.namespace) {
            self.warn_of_exemption(attributes, namespace, policy);
        } else {
            self.warn_of_existing(attributes, namespace.meta().name(), new).await;
        }
        Ok(())
    }

    /// Who labels an exempt namespace hears that the labels do nothing.
    fn warn_of_exemption(&self, attributes: &Attributes, namespace: &Value, policy: Policy) {
        if !self.config.exempts_namespace(&attributes.namespace) {
            return;
        }
        let asked = policy.labelled(|key| namespace.meta().label(key));
        if !asked.is_empty() && policy != self.config.defaults {
            let (name, asked) = (go_quote(namespace.meta().name()), asked.join(", "));
            let ignored = format!("the policy ({asked}) will be ignored");
            attributes.warnings.add(format!("namespace {name} is exempt from Pod Security, and {ignored}"));
        }
    }

    async fn warn_of_existing(&self, attributes: &Attributes, namespace: &str, enforce: LevelVersion) {
        let until = Instant::now() + EXISTING_PODS_DURATION;
        let scope = ListScope { namespace, ..ListScope::default() };
        let list = self.objects.list_json("", "pods", scope).await.ok();
        let Some(list) = list.and_then(|json| Value::from_slice(&json).ok()) else {
            return attributes.warnings.add("failed to list pods while checking new PodSecurity enforce level");
        };
        let pods: Vec<&Value> = list.array_at(&["items"]).iter().filter(|pod| !self.exempts_class(pod)).collect();
        for warning in existing::warnings(namespace, enforce, &pods, || Instant::now() > until) {
            attributes.warnings.add(warning);
        }
    }
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let template: &[&str] = match (attributes.resource.group.as_str(), attributes.resource.resource.as_str()) {
            ("", "namespaces") => return self.validate_namespace(attributes).await,
            ("", "pods") => return self.validate_pod(attributes).await,
            ("", "podtemplates") => &["template"],
            ("", "replicationcontrollers")
            | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
            | ("batch", "jobs") => &["spec", "template"],
            ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
            _ => return Ok(()),
        };
        self.validate_template(attributes, template).await;
        Ok(())
    }
}

fn warn(attributes: &Attributes, policy: LevelVersion, pod: &Pod<'_>) {
    let violations = checks::violations(policy, pod);
    if !violations.is_empty() {
        attributes.warnings.add(format!("would violate PodSecurity \"{policy}\": {}", checks::details(&violations)));
    }
}

/// Whether an update changes something that a policy could be about: images, or which containers there are.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let changed =
        |new: &Value, old: &Value| new.str_at(&["image"]).unwrap_or_default() != old.str_at(&["image"]).unwrap_or_default();
    let fixed = ["containers", "initContainers"].into_iter().any(|kind| {
        let (new, old) = (pod.array_at(&["spec", kind]), old.array_at(&["spec", kind]));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| changed(new, old))
    });
    let before = old.array_at(&["spec", "ephemeralContainers"]);
    let ephemeral = pod.array_at(&["spec", "ephemeralContainers"]).iter().any(|new| {
        let old = before.iter().find(|old| old.get("name") == new.get("name"));
        old.is_none_or(|old| changed(new, old))
    });
    fixed || ephemeral
}

#[cfg(test)]
mod tests;
