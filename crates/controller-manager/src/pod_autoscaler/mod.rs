//! horizontal-pod-autoscaler-controller: keeps the number of pods of a scalable object where its metrics want it.
//!
//! Every autoscaler is looked at every 15 seconds, because metrics tell nobody when they change. `replicas` knows what a metric asks for,
//! `behavior` how fast it may be followed, `status` what comes out of it; this module reads and writes.
//!
//! Invariants: a target is never scaled beyond `minReplicas` and `maxReplicas`; without a metric nothing is scaled down; two autoscalers of
//! the same pods do nothing.

mod behavior;
mod measure;
mod metrics;
#[cfg(test)]
mod model_tests;
mod replicas;
mod status;

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::selector::LabelSelector;
use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use parking_lot::Mutex;

use self::behavior::{History, Limits};
use self::measure::View;
use self::metrics::MetricsClient;
use self::replicas::{Pods, Tolerances};
use self::status::{Bounds, Combined, Failure, Proposal, bounds, combine, set};
use crate::api_errors::{is_conflict, is_not_found, message};
use crate::config::PodAutoscaler;
use crate::context::{Context, now, wait_synced};
use crate::discovery::Kinds;

/// Upstream's `retry.DefaultRetry`.
const RESCALE_TRIES: usize = 5;

struct Autoscalers {
    context: Context,
    events: EventRecorder,
    autoscalers: Store<HorizontalPodAutoscaler>,
    pods: Store<Pod>,
    metrics: MetricsClient,
    kinds: Kinds,
    memory: Mutex<HashMap<NamespacedName, Memory>>,
}

/// What is remembered of an autoscaler from one look to the next.
#[derive(Default)]
struct Memory {
    history: History,
    /// The selector of its target, if it is known.
    selector: Option<LabelSelector>,
}

pub(crate) async fn run(context: Context) {
    let autoscalers = context.informers.get::<HorizontalPodAutoscaler>();
    let pods = context.informers.get::<Pod>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("horizontalpodautoscaler");
    let on_change = queue.clone();
    autoscalers.add_handler(move |change| {
        let relevant = match change {
            // The status is this controller's own doing.
            Change::Updated { old, new } => old.spec != new.spec || old.metadata.uid != new.metadata.uid,
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if relevant {
            on_change.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(autoscalers, pods);
    let controller = Autoscalers {
        events: context.events("horizontal-pod-autoscaler"),
        autoscalers: autoscalers.store().clone(),
        pods: pods.store().clone(),
        metrics: MetricsClient::new(context.client.clone()),
        kinds: Kinds::new(context.client.clone()),
        memory: Mutex::default(),
        context: context.clone(),
    };
    let workers = context.config.concurrent_horizontal_pod_autoscaler_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// One look at one autoscaler.
struct Look<'a> {
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: HorizontalPodAutoscalerSpec,
    key: &'a NamespacedName,
    now: Timestamp,
    conditions: Vec<HorizontalPodAutoscalerCondition>,
}

/// The target and where it is.
struct Target {
    api: Api<DynamicObject>,
    scale: Scale,
}

fn replicas_of(scale: &Scale) -> i32 {
    // An absent number is 0, as in upstream's type.
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

impl Look<'_> {
    fn set(&mut self, type_: &str, status: bool, reason: &str, message: &str) {
        set(&mut self.conditions, type_, status, (reason, message), self.now);
    }

    fn limits<'a>(&'a self, config: &PodAutoscaler) -> Limits<'a> {
        Limits {
            min: self.spec.min_replicas.unwrap_or(1),
            max: self.spec.max_replicas,
            behavior: self.spec.behavior.as_ref(),
            downscale_stabilization: config.downscale_stabilization,
        }
    }

    fn tolerances(&self, config: &PodAutoscaler) -> Tolerances {
        let of = |rules: Option<&HPAScalingRules>| {
            let quantity = rules.and_then(|rules| rules.tolerance.as_ref());
            let parsed = quantity.and_then(|quantity| apimachinery::Quantity::parse(&quantity.0).ok());
            parsed.map_or(config.tolerance, apimachinery::Quantity::as_f64)
        };
        let behavior = self.spec.behavior.as_ref();
        Tolerances {
            down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
            up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        }
    }
}

impl Autoscalers {
    fn config(&self) -> &PodAutoscaler {
        &self.context.config.pod_autoscaler
    }

    fn warn(&self, look: &Look<'_>, reason: &str, message: &str) {
        self.events.record(look.autoscaler, EventKind::Warning, reason, message);
    }

    async fn target(&self, look: &Look<'_>) -> Result<Target, String> {
        let reference = &look.spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or_default();
        if api_version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {api_version}"));
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = self.kinds.of_group(group, &reference.kind).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.context.client.clone(), &look.key.namespace, &kind.resource);
        let scale = api.get_scale(&reference.name).await.map_err(|error| message(&error))?;
        Ok(Target { api, scale })
    }

    /// The target's selector and pods, unless another autoscaler has some of them too.
    fn pods(&self, look: &mut Look<'_>, scale: &Scale) -> Result<(String, Vec<Arc<Pod>>), String> {
        let text = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        let failed = |look: &mut Look<'_>, event: &str, reason: &str, said: &str, why: String| {
            self.warn(look, event, &why);
            look.set("ScalingActive", false, reason, said);
            why
        };
        if text.is_empty() {
            let said = "the HPA target's scale is missing a selector";
            return Err(failed(look, "SelectorRequired", "InvalidSelector", said, "selector is required".to_owned()));
        }
        let selector = LabelSelector::parse(&text).map_err(|error| {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            failed(look, "InvalidSelector", "InvalidSelector", &why.clone(), why)
        })?;
        let matches = |selector: &LabelSelector, pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
        };
        let mut pods = self.pods.list_namespace(&look.key.namespace);
        pods.retain(|pod| matches(&selector, pod));
        let mut memory = self.memory.lock();
        memory.entry(look.key.clone()).or_default().selector = Some(selector);
        let of_namespace = memory.iter().filter(|(key, _)| key.namespace == look.key.namespace);
        let selecting = of_namespace.filter_map(|(key, memory)| Some((key, memory.selector.as_ref()?)));
        let mut rivals: Vec<&NamespacedName> =
            selecting.filter(|(_, selector)| pods.iter().any(|pod| matches(selector, pod))).map(|(key, _)| key).collect();
        if rivals.len() > 1 {
            rivals.sort();
            let rivals: Vec<String> = rivals.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            drop(memory);
            let why = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", rivals.join(" "));
            return Err(failed(look, "AmbiguousSelector", "AmbiguousSelector", &why.clone(), why));
        }
        drop(memory);
        Ok((text, pods))
    }

    /// What the metrics ask for, and what they are.
    async fn measure(&self, look: &mut Look<'_>, scale: &Scale) -> (Result<Combined, String>, Vec<MetricStatus>) {
        let (selector, pods) = match self.pods(look, scale) {
            Ok(found) => found,
            Err(why) => return (Err(why), Vec::new()),
        };
        let config = self.config();
        let view = View {
            client: &self.metrics,
            kinds: &self.kinds,
            namespace: &look.key.namespace,
            selector: &selector,
            pods: Pods {
                pods: &pods,
                now: look.now,
                cpu_initialization: config.cpu_initialization_period,
                initial_readiness_delay: config.initial_readiness_delay,
            },
            spec_replicas: replicas_of(scale),
            status_replicas: scale.status.as_ref().map_or(0, |status| status.replicas),
            tolerances: look.tolerances(config),
        };
        let mut outcomes: Vec<Result<Proposal, Failure>> = Vec::new();
        for spec in look.spec.metrics.iter().flatten() {
            let outcome = view.measure(spec).await;
            if let Err(failure) = &outcome {
                self.warn(look, failure.reason, &failure.why);
            }
            outcomes.push(outcome);
        }
        let statuses = outcomes.iter().flatten().map(|proposal| proposal.status.clone()).collect();
        match combine(&outcomes, view.spec_replicas) {
            Ok(combined) => {
                let text = format!("the HPA was able to successfully calculate a replica count from {}", combined.metric);
                look.set("ScalingActive", true, "ValidMetricFound", &text);
                (Ok(combined), statuses)
            }
            Err((first, error)) => {
                let text = format!("the HPA was unable to compute the replica count: {}", first.why);
                look.set("ScalingActive", false, first.reason, &text);
                (Err(error), statuses)
            }
        }
    }

    async fn rescale(&self, target: &mut Target, name: &str, replicas: i32) -> Result<(), String> {
        let mut tries = 0;
        loop {
            target.scale.spec.get_or_insert_default().replicas = Some(replicas);
            let error = match target.api.replace_scale(name, &PostParams::default(), &target.scale).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            tries += 1;
            if !is_conflict(&error) || tries == RESCALE_TRIES {
                return Err(message(&error));
            }
            target.scale = target.api.get_scale(name).await.map_err(|error| message(&error))?;
        }
    }

    async fn write(&self, look: &Look<'_>, mut status: HorizontalPodAutoscalerStatus) -> Result<(), ReconcileError> {
        status.conditions = Some(look.conditions.clone());
        if look.autoscaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let wanted = HorizontalPodAutoscaler { status: Some(status), ..look.autoscaler.clone() };
        let api: Api<HorizontalPodAutoscaler> = self.context.api(&look.key.namespace);
        match api.replace_status(&look.key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                if !is_conflict(&error) {
                    self.warn(look, "FailedUpdateStatus", &message(&error));
                }
                Err(ReconcileError::api("update autoscaler status")(error))
            }
        }
    }

    async fn look(&self, look: &mut Look<'_>) -> Result<(), ReconcileError> {
        let known = look.autoscaler.status.clone().unwrap_or_default();
        let mut target = match self.target(look).await {
            Ok(target) => target,
            Err(why) => {
                self.warn(look, "FailedGetScale", &why);
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                look.set("AbleToScale", false, "FailedGetScale", &text);
                return self.write(look, known).await;
            }
        };
        look.set("AbleToScale", true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let current = replicas_of(&target.scale);
        self.memory.lock().entry(look.key.clone()).or_default().history.start(current, look.now);
        let limits = look.limits(self.config());
        let (min, max) = (limits.min, limits.max);
        let mut metrics = Vec::new();
        // The replicas to have, and why.
        let rescale = match bounds(current, min, max) {
            Bounds::Disabled => {
                let text = "scaling is disabled since the replica count of the target is zero";
                look.set("ScalingActive", false, "ScalingDisabled", text);
                None
            }
            Bounds::Outside { replicas, reason } => Some((replicas, reason.to_owned())),
            Bounds::Within => {
                let (combined, statuses) = self.measure(look, &target.scale).await;
                metrics = statuses;
                match combined {
                    Ok(combined) => self.follow(look, &combined, current),
                    Err(why) => {
                        self.warn(look, "FailedComputeMetricsReplicas", &why);
                        let status = HorizontalPodAutoscalerStatus { current_replicas: Some(current), ..known };
                        return self.write(look, with_metrics(status, metrics)).await;
                    }
                }
            }
        };
        let mut status = HorizontalPodAutoscalerStatus {
            current_replicas: Some(current),
            desired_replicas: current,
            last_scale_time: known.last_scale_time.clone(),
            ..Default::default()
        };
        if let Some((replicas, reason)) = rescale {
            if let Err(why) = self.rescale(&mut target, &look.spec.scale_target_ref.name, replicas).await {
                self.warn(look, "FailedRescale", &format!("New size: {replicas}; reason: {reason}; error: {why}"));
                let text = format!("the HPA controller was unable to update the target scale: {why}");
                look.set("AbleToScale", false, "FailedUpdateScale", &text);
                status.desired_replicas = known.desired_replicas;
                return self.write(look, with_metrics(status, metrics)).await;
            }
            let text = format!("the HPA controller was able to update the target scale to {replicas}");
            look.set("AbleToScale", true, "SucceededRescale", &text);
            let told = format!("New size: {replicas}; reason: {reason}");
            self.events.record(look.autoscaler, EventKind::Normal, "SuccessfulRescale", told);
            self.remember(look, current, replicas);
            status.desired_replicas = replicas;
            status.last_scale_time = Some(Time(look.now));
        }
        self.write(look, with_metrics(status, metrics)).await
    }

    fn remember(&self, look: &Look<'_>, from: i32, to: i32) {
        let limits = look.limits(self.config());
        self.memory.lock().entry(look.key.clone()).or_default().history.scaled(&limits, from, to, look.now);
    }

    /// What the metrics ask for, within what the behaviour and the limits allow; `None` if that is what there is.
    fn follow(&self, look: &mut Look<'_>, combined: &Combined, current: i32) -> Option<(i32, String)> {
        let wanted = combined.replicas.max(0);
        let reason = match wanted.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{} above target", combined.metric),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let normalized = {
            let limits = look.limits(self.config());
            let mut memory = self.memory.lock();
            memory.entry(look.key.clone()).or_default().history.normalize(&limits, current, wanted, look.now)
        };
        look.set("AbleToScale", true, normalized.able.0, normalized.able.1);
        look.set("ScalingLimited", normalized.limited, normalized.limit.0, normalized.limit.1);
        (normalized.replicas != current).then_some((normalized.replicas, reason))
    }
}

fn with_metrics(status: HorizontalPodAutoscalerStatus, metrics: Vec<MetricStatus>) -> HorizontalPodAutoscalerStatus {
    let current_metrics = Some(metrics).filter(|metrics| !metrics.is_empty());
    HorizontalPodAutoscalerStatus { current_metrics, observed_generation: None, ..status }
}

#[async_trait]
impl Controller for Autoscalers {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(autoscaler) = self.autoscalers.get_key(key) else {
            self.memory.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let conditions = autoscaler.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let spec = autoscaler.spec.clone().unwrap_or_default();
        let mut look = Look { autoscaler: &autoscaler, spec, key, now: now(), conditions };
        if let Err(error) = self.look(&mut look).await {
            // The next look comes soon enough, and sees the newer object.
            tracing::debug!(
                controller = self.name(),
                namespace = key.namespace,
                name = key.name,
                error = &error as &dyn std::error::Error,
                "autoscaler status was not written"
            );
        }
        Ok(Outcome::RequeueAfter(self.config().sync_period))
    }
}
