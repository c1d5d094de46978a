//! An autoscaler under faults. Invariants: *never beyond minReplicas and maxReplicas*, *without a metric nothing is scaled*, *never down
//! before the stabilization window is over*, *never up faster than the default policy*, *an idle autoscaler causes no write*.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};

const MIN: i32 = 2;
const MAX: i32 = 10;
/// Of the metric, for each pod.
const TARGET: i32 = 10;

struct Run {
    model: Model,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    memory: HashMap<NamespacedName, Memory>,
    now: Timestamp,
    /// `None`: the metrics API is away.
    value: Arc<Mutex<Option<i32>>>,
    /// What was wanted since the process started.
    wanted: Vec<(Timestamp, i32)>,
    downs: usize,
    ups: usize,
}

/// external.metrics.k8s.io with one metric.
fn metrics(value: &Arc<Mutex<Option<i32>>>) -> kube::Client {
    let value = Arc::clone(value);
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let (status, body) = match *value.lock() {
            Some(value) => (200, json!({"items": [{"timestamp": "2024-01-01T00:00:00Z", "value": value.to_string()}]})),
            None => (503, json!({"kind": "Status", "status": "Failure", "reason": "ServiceUnavailable", "code": 503})),
        };
        let response = http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
        async move { response }
    });
    kube::Client::new(service, NAMESPACE)
}

impl Run {
    async fn new(seed: u64) -> Self {
        let model = Model::new(seed).await;
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:0"}]}});
        let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
        model.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let metric = json!({"type": "External", "external": {"metric": {"name": "queue"},
            "target": {"type": "AverageValue", "averageValue": TARGET.to_string()}}});
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let spec = json!({"minReplicas": MIN, "maxReplicas": MAX, "scaleTargetRef": target, "metrics": [metric]});
        model.create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let mut run = Self {
            model,
            autoscalers: Cache::default(),
            memory: HashMap::new(),
            now: Timestamp::now(),
            value: Arc::new(Mutex::new(Some(30))),
            wanted: Vec::new(),
            downs: 0,
            ups: 0,
        };
        run.observe().await;
        run.restart();
        run.catch_up().await;
        run
    }

    async fn observe(&mut self) {
        self.autoscalers.observe(self.model.list().await);
    }

    fn restart(&mut self) {
        self.autoscalers.restart();
        self.memory.clear();
        self.wanted.clear();
    }

    /// Replicas that the target is to have, and that it has.
    async fn replicas(&self) -> (i32, i32) {
        let target = self.model.api::<Deployment>().get("web").await.expect("is there");
        let wanted = target.spec.and_then(|spec| spec.replicas).expect("has a size");
        (wanted, target.status.and_then(|status| status.replicas).unwrap_or(0))
    }

    /// The target's own controller has done its work.
    async fn catch_up(&mut self) {
        let (wanted, _) = self.replicas().await;
        let patch = Patch::Merge(json!({"status": {"replicas": wanted}}));
        self.model.api::<Deployment>().patch_status("web", &PatchParams::default(), &patch).await.expect("is written");
    }

    async fn reconcile(&mut self, fault: Fault) {
        let (context, events) = self.model.context("horizontal-pod-autoscaler", Config::default());
        let controller = Autoscalers {
            events,
            autoscalers: self.autoscalers.store(),
            pods: Store::from_objects([]),
            metrics: MetricsClient::new(metrics(&self.value)),
            kinds: Kinds::new(context.client.clone()),
            memory: Mutex::new(std::mem::take(&mut self.memory)),
            context,
        };
        let key = NamespacedName::new(NAMESPACE, "web");
        let autoscaler = controller.autoscalers.get_key(&key).expect("is there");
        let conditions = autoscaler.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let spec = autoscaler.spec.clone().unwrap_or_default();
        let mut look = Look { autoscaler: &autoscaler, spec, key: &key, now: self.now, conditions };
        let before = self.replicas().await;
        self.note(before);
        self.model.faults.set(fault);
        let looked = controller.look(&mut look).await;
        let ended = self.model.faults.ended();
        check_error(&looked.map(|()| Outcome::Done));
        self.memory = controller.memory.into_inner();
        let (after, _) = self.replicas().await;
        self.check(before.0, after);
        self.observe().await;
        if ended {
            self.restart();
        }
    }

    /// Notes what the metric asks for: upstream's rule is that a usage within a tenth of the target is left alone.
    fn note(&mut self, (spec, status): (i32, i32)) {
        if self.wanted.is_empty() {
            self.wanted.push((self.now, spec));
        }
        let Some(value) = *self.value.lock() else { return };
        let ratio = f64::from(value) / f64::from(TARGET * status.max(1));
        let wanted = if status > 0 && (ratio - 1.0).abs() <= 0.1 { status } else { (value + TARGET - 1) / TARGET };
        self.wanted.push((self.now, wanted));
    }

    fn check(&mut self, before: i32, after: i32) {
        assert!((MIN..=MAX).contains(&after), "never beyond minReplicas and maxReplicas: {after}");
        assert!(after == before || self.value.lock().is_some(), "without a metric nothing is scaled: {before} to {after}");
        assert!(after <= (2 * before).max(4), "never up faster than the default policy: {before} to {after}");
        if after < before {
            let window = SignedDuration::from_secs(300);
            let recent = self.wanted.iter().filter(|(at, _)| self.now.duration_since(*at) < window).map(|(_, wanted)| *wanted);
            let least = recent.max().expect("something is wanted").min(MAX);
            assert!(
                after >= least,
                "never down before the stabilization window is over: {before} to {after}, {least} was wanted"
            );
            self.downs += 1;
        }
        self.ups += usize::from(after > before);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).expect("is a time");
    }

    async fn settle(&mut self) {
        for _ in 0..100 {
            self.pass(Duration::from_secs(15));
            self.catch_up().await;
            let lag = self.autoscalers.lag();
            self.autoscalers.advance(lag, |_| {});
            self.reconcile(Fault::None).await;
        }
        assert_eq!(self.model.faults.writes(), 0, "an idle autoscaler causes no write");
        let (wanted, _) = self.replicas().await;
        let value = self.value.lock().expect("there is a metric");
        assert_eq!(wanted, (value / TARGET).clamp(MIN, MAX));
        let autoscaler = self.autoscalers.truth().next().expect("is there");
        let status = autoscaler.status.clone().unwrap_or_default();
        assert_eq!((status.current_replicas, status.desired_replicas), (Some(wanted), wanted), "{}", autoscaler.name_any());
        let holds = |type_: &str| {
            let conditions = status.conditions.iter().flatten();
            conditions.filter(|condition| condition.type_ == type_).any(|condition| condition.status == "True")
        };
        assert!(holds("AbleToScale") && holds("ScalingActive"), "{status:?}");
    }
}

#[tokio::test]
async fn a_target_is_scaled_within_its_bounds_whatever_happens() {
    let (mut downs, mut ups) = (0, 0);
    for seed in 0..6 {
        let mut run = Run::new(seed).await;
        for _ in 0..150 {
            match run.model.pick(10) {
                0 => {
                    let pods = i32::try_from(run.model.pick(14)).expect("few");
                    *run.value.lock() = Some(TARGET * pods + 1);
                }
                1 => *run.value.lock() = None,
                2 | 3 => run.catch_up().await,
                _ => {
                    let seconds = 5 + run.model.pick(60);
                    run.pass(Duration::from_secs(u64::try_from(seconds).expect("is positive")));
                    let seen = run.model.pick(run.autoscalers.lag() + 1);
                    run.autoscalers.advance(seen, |_| {});
                    let fault = run.model.some_fault();
                    run.reconcile(fault).await;
                }
            }
        }
        (downs, ups) = (downs + run.downs, ups + run.ups);
        let pods = i32::try_from(run.model.pick(12)).expect("few");
        *run.value.lock() = Some(TARGET * pods);
        run.settle().await;
    }
    assert!(downs > 5 && ups > 20, "the test does something: {downs} downs, {ups} ups");
}
