//! A ResourceQuota under faults, with the API server's admission plugin on the other side. Invariants: *what is used is exact when all is
//! quiet*, *no more is admitted than the quota allows* (as long as no count is older than what was admitted: what is charged by admission
//! before it is stored cannot be seen by anybody, here as upstream), *an idle quota causes no write*.

use apimachinery::GroupResource;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::monitors::{tally, tree};
use super::tallies::Tallies;
use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};
use crate::pod_state::is_terminal;

const CPU: &str = "requests.cpu";

/// Pods as the controller's cache has them, by name.
type Known = Arc<Mutex<BTreeMap<String, Value>>>;

struct Run {
    model: Model,
    quotas: Cache<ResourceQuota>,
    pods: Cache<Pod>,
    known: Known,
    tallies: Tallies,
    made: usize,
    refused: usize,
}

fn tallies(known: &Known, pods: &Cache<Pod>) -> Tallies {
    let all = pods.store().list().into_iter().filter_map(|pod| Some((pod.name_any(), tree(&*pod)?)));
    *known.lock() = all.collect();
    let known = Arc::clone(known);
    let list = move |_: &str| known.lock().iter().map(|(name, pod)| (name.clone(), pod.clone())).collect();
    Tallies::new(Evaluator::Pods, Arc::new(list), Duration::from_secs(3600))
}

impl Run {
    async fn new(seed: u64, hard: Json) -> Self {
        let model = Model::new(seed).await;
        model.create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
        let (known, pods) = (Known::default(), Cache::default());
        let tallies = tallies(&known, &pods);
        let mut run = Self { model, quotas: Cache::default(), pods, known, tallies, made: 0, refused: 0 };
        run.observe().await;
        run.restart();
        run
    }

    async fn observe(&mut self) {
        self.quotas.observe(self.model.list().await);
        self.pods.observe(self.model.list().await);
    }

    fn restart(&mut self) {
        self.quotas.restart();
        self.pods.restart();
        self.tallies = tallies(&self.known, &self.pods);
    }

    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let (quotas, pods) = (some(self.quotas.lag()), some(self.pods.lag()));
        self.quotas.advance(quotas, |_| {});
        let (known, tallies) = (&self.known, &self.tallies);
        self.pods.advance(pods, |change| {
            // As in an informer: the cache first.
            let pod = change.object();
            match (change, tree(&**pod)) {
                (Change::Deleted(_), _) | (_, None) => drop(known.lock().remove(&pod.name_any())),
                (_, Some(tree)) => drop(known.lock().insert(pod.name_any(), tree)),
            }
            tally(tallies, change);
        });
    }

    async fn reconcile(&mut self, fault: Fault) {
        let (context, _) = self.model.context("resourcequota-controller", Config::default());
        let pods = GroupResource { group: String::new(), resource: "pods".to_owned() };
        let monitors = Monitors::following(&context, self.quotas.store(), [(pods, self.tallies.clone())]);
        let controller = Quotas { context, quotas: self.quotas.store(), monitors };
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&NamespacedName::new(NAMESPACE, "q")).await;
        let ended = self.model.faults.ended();
        check_error(&reconciled);
        self.observe().await;
        if ended {
            self.restart();
        }
    }

    async fn step_pods(&mut self) {
        let pods: Vec<_> = self.pods.truth().cloned().collect();
        if pods.is_empty() || self.model.chance(60) {
            self.made += 1;
            let cpu = 1 + self.model.pick(2);
            let container = json!({"name": "c", "image": "image:0", "resources": {"requests": {"cpu": cpu.to_string()}}});
            let pod = json!({"metadata": {"name": format!("p{}", self.made)}, "spec": {"containers": [container]}});
            let pod: Pod = serde_json::from_value(pod).expect("is a pod");
            match self.model.api::<Pod>().create(&PostParams::default(), &pod).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 403 => self.refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        } else {
            let name = pods[self.model.pick(pods.len())].name_any();
            if self.model.chance(50) {
                self.model.set_status(&name, json!({"phase": "Succeeded"})).await;
            } else {
                self.model.api::<Pod>().delete(&name, &DeleteParams::default()).await.expect("is deleted");
            }
        }
        self.observe().await;
    }

    async fn patch(&mut self, hard: Json) {
        let patch = Patch::Merge(json!({"spec": {"hard": hard}}));
        self.model.api::<ResourceQuota>().patch("q", &PatchParams::default(), &patch).await.expect("is changed");
        self.observe().await;
    }

    /// Pods and their CPUs that there are.
    fn there(&self) -> (usize, i64) {
        let pods: Vec<_> = self.pods.truth().filter(|pod| !is_terminal(pod)).collect();
        let cpu = |pod: &&Arc<Pod>| {
            let resources = pod.spec.as_ref()?.containers[0].resources.as_ref()?;
            resources.requests.as_ref()?.get("cpu")?.0.parse::<i64>().ok()
        };
        (pods.len(), pods.iter().filter_map(cpu).sum())
    }

    async fn settle(&mut self) {
        for _ in 0..20 {
            self.advance(true);
            self.reconcile(Fault::None).await;
            if self.model.faults.writes() == 0 {
                return self.check_settled();
            }
        }
        panic!("does not settle: {:#?}", self.quotas.truth().next());
    }

    fn check_settled(&self) {
        let quota = self.quotas.truth().next().expect("is there");
        let status = quota.status.clone().unwrap_or_default();
        assert_eq!(status.hard, quota.spec.as_ref().and_then(|spec| spec.hard.clone()), "the limits are in force");
        let (pods, cpu) = self.there();
        let used: BTreeMap<String, String> = status.used.into_iter().flatten().map(|(name, amount)| (name, amount.0)).collect();
        let expected = BTreeMap::from([("pods".to_owned(), pods.to_string()), (CPU.to_owned(), cpu.to_string())]);
        assert_eq!(used, expected, "what is used is exact when all is quiet");
    }
}

#[tokio::test]
async fn what_is_used_is_exact_in_the_end_whatever_happens() {
    for seed in 0..8 {
        let mut run = Run::new(seed, json!({"pods": "6", CPU: "9"})).await;
        for _ in 0..150 {
            match run.model.pick(12) {
                0 => {
                    let pods = 4 + run.model.pick(6);
                    run.patch(json!({"pods": pods.to_string()})).await;
                }
                1..=6 => run.step_pods().await,
                _ => {
                    run.advance(false);
                    let fault = run.model.some_fault();
                    run.reconcile(fault).await;
                }
            }
        }
        assert!(run.made > 20 && run.refused > 0, "the test does something: {} of {} were refused", run.refused, run.made);
        run.settle().await;
    }
}

#[tokio::test]
async fn no_more_is_admitted_than_allowed_whatever_fails() {
    for seed in 0..6 {
        let mut run = Run::new(100 + seed, json!({"pods": "5", CPU: "8"})).await;
        // Before the status has a limit nothing is charged.
        run.settle().await;
        for step in 0..150 {
            if run.model.chance(50) {
                run.step_pods().await;
            } else {
                run.advance(true);
                let fault = run.model.some_fault();
                run.reconcile(fault).await;
            }
            let (pods, cpu) = run.there();
            assert!(pods <= 5 && cpu <= 8, "no more is admitted than allowed: {pods} pods, {cpu} CPUs, seed {seed}, step {step}");
        }
        assert!(run.refused > 0, "the test does something");
        run.settle().await;
    }
}
