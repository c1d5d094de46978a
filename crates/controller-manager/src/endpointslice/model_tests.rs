//! EndpointSlices and Endpoints under faults. Invariants: *no endpoint is in two slices*, *who is ready and stays so is not taken out*,
//! *no slice is too full*, *what is behind a service is in its endpoints when all is quiet*, *an idle service causes no write*.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::Endpoint;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::endpoints;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};
use crate::pod_state::{is_ready, is_terminal};

const PODS_MAX: usize = 8;
const SLICE_MAX: usize = 3;

struct Run {
    model: Model,
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    endpoints: Cache<Endpoints>,
    tracker: Arc<Tracker>,
    config: Config,
    made: usize,
    /// Pods that were in a slice as ready, and have not been touched since.
    steady: BTreeSet<String>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let model = Model::new(seed).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        model.create::<Service>(service).await;
        let node = json!({"metadata": {"name": "n1", "labels": {ZONE: "a"}}});
        let nodes: Api<Node> = Api::all(model.admin.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("is a node")).await.expect("is created");
        let mut run = Self {
            model,
            services: Cache::default(),
            pods: Cache::default(),
            nodes: Cache::default(),
            slices: Cache::default(),
            endpoints: Cache::default(),
            tracker: Arc::default(),
            config: Config { max_endpoints_per_slice: SLICE_MAX, ..Config::default() },
            made: 0,
            steady: BTreeSet::new(),
        };
        run.observe().await;
        run.restart();
        run
    }

    async fn observe(&mut self) {
        self.services.observe(self.model.list().await);
        self.pods.observe(self.model.list().await);
        self.nodes.observe(self.model.list().await);
        self.slices.observe(self.model.list().await);
        self.endpoints.observe(self.model.list().await);
    }

    fn restart(&mut self) {
        self.services.restart();
        self.pods.restart();
        self.nodes.restart();
        self.slices.restart();
        self.endpoints.restart();
        self.tracker = Arc::default();
    }

    /// Each watch gets ahead for itself.
    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let lags = [self.services.lag(), self.pods.lag(), self.nodes.lag(), self.slices.lag(), self.endpoints.lag()];
        let [services, pods, nodes, slices, endpoints] = lags.map(&mut some);
        self.services.advance(services, |_| {});
        self.pods.advance(pods, |_| {});
        self.nodes.advance(nodes, |_| {});
        self.slices.advance(slices, |change| note_gone(change, &self.tracker));
        self.endpoints.advance(endpoints, |_| {});
    }

    async fn after(&mut self, reconciled: Result<Outcome, ReconcileError>) {
        let ended = self.model.faults.ended();
        check_error(&reconciled);
        self.observe().await;
        if ended {
            self.restart();
        }
    }

    fn selected(&self) -> Selected<Service> {
        Selected::of(self.services.store(), self.pods.store())
    }

    async fn reconcile_slices(&mut self, fault: Fault) {
        let (context, events) = self.model.context("endpointslice-controller", self.config.clone());
        let slices = self.slices.store();
        index(&slices);
        let controller = EndpointSlices {
            context,
            events,
            services: self.services.store(),
            selected: self.selected(),
            nodes: self.nodes.store(),
            slices,
            tracker: Arc::clone(&self.tracker),
        };
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&NamespacedName::new(NAMESPACE, "web")).await;
        self.after(reconciled).await;
    }

    async fn reconcile_endpoints(&mut self, fault: Fault) {
        let context = self.model.context("endpoint-controller", self.config.clone());
        let stores = (self.services.store(), self.endpoints.store());
        self.model.faults.set(fault);
        let key = NamespacedName::new(NAMESPACE, "web");
        let reconciled = endpoints::reconcile_once(context, stores, self.selected(), &key).await;
        self.after(reconciled).await;
    }

    async fn step_controllers(&mut self) {
        self.advance(false);
        let fault = self.model.some_fault();
        if self.model.chance(30) { self.reconcile_endpoints(fault).await } else { self.reconcile_slices(fault).await }
    }

    /// Pods come, get addresses that others had before, become ready and unready, fail, and go.
    async fn step_pods(&mut self) {
        let pods: Vec<_> = self.pods.truth().cloned().collect();
        if pods.len() < PODS_MAX && self.model.chance(30) {
            self.made += 1;
            let pod = json!({"metadata": {"name": format!("p{}", self.made), "labels": {"app": "web"}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "image:0"}]}});
            self.model.create::<Pod>(pod).await;
        } else if !pods.is_empty() {
            let pod = &pods[self.model.pick(pods.len())];
            let (name, api) = (pod.name_any(), self.model.api::<Pod>());
            self.steady.remove(&name);
            if pod.metadata.deletion_timestamp.is_some() {
                api.delete(&name, &DeleteParams::default().grace_period(0)).await.expect("is removed");
            } else {
                match self.model.pick(8) {
                    0 => drop(api.delete(&name, &DeleteParams::default()).await.expect("is deleted")),
                    1 => self.model.set_status(&name, json!({"phase": "Failed"})).await,
                    _ => self.run(pod).await,
                }
            }
        }
        self.observe().await;
    }

    async fn run(&self, pod: &Pod) {
        let taken: BTreeSet<String> = self.pods.truth().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).collect();
        let free = (1..=2 * PODS_MAX).map(|i| format!("10.1.0.{i}")).find(|ip| !taken.contains(ip)).expect("one is free");
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or(free);
        let ready = if is_ready(pod) { "False" } else { "True" };
        let since = jiff::Timestamp::now().to_string();
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]});
        self.model.set_status(&pod.name_any(), status).await;
    }

    async fn patch(&mut self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.model.api::<Service>().patch("web", &PatchParams::default(), &patch).await.expect("is changed");
        self.observe().await;
    }

    /// Endpoints by the names of their pods, with their slices' ports.
    fn placed(&self) -> Vec<(String, PortKey, Endpoint)> {
        let mut placed = Vec::new();
        for slice in self.slices.truth().filter(|slice| managed_for(slice).is_some()) {
            assert!(slice.endpoints.len() <= SLICE_MAX, "no slice is too full");
            for endpoint in &slice.endpoints {
                let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone()).expect("is a pod's");
                placed.push((pod, port_key(slice.ports.as_deref().unwrap_or_default()), endpoint.clone()));
            }
        }
        placed
    }

    fn check(&mut self, what: &str) {
        let placed = self.placed();
        let mut seen = BTreeSet::new();
        for (pod, ports, _) in &placed {
            assert!(seen.insert((pod, ports)), "no endpoint is in two slices: {pod}, {what}");
        }
        let says_ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
        let ready: BTreeSet<String> =
            placed.iter().filter(|(_, _, endpoint)| says_ready(endpoint)).map(|(pod, ..)| pod.clone()).collect();
        let lost: Vec<_> = self.steady.difference(&ready).collect();
        assert!(lost.is_empty(), "who is ready and stays so is not taken out: {lost:?}, {what}");
        let really = |name: &String| {
            let pod = self.pods.truth().find(|pod| pod.name_any() == *name);
            pod.is_some_and(|pod| is_ready(pod) && !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none())
        };
        // What the controller has not seen yet may be a change that it will take for the newest.
        if self.pods.lag() == 0 {
            self.steady.extend(ready.into_iter().filter(really));
        }
    }

    async fn settle(&mut self) {
        for _ in 0..50 {
            self.advance(true);
            self.reconcile_slices(Fault::None).await;
            let writes = self.model.faults.writes();
            self.reconcile_endpoints(Fault::None).await;
            if writes + self.model.faults.writes() == 0 && self.slices.lag() + self.endpoints.lag() == 0 {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.placed());
    }

    fn check_settled(&self) {
        let mut expected: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        for pod in self.pods.truth() {
            let status = pod.status.clone().unwrap_or_default();
            if status.pod_ip.is_some() && status.phase.as_deref() != Some("Failed") {
                expected.insert(pod.name_any(), (is_ready(pod), pod.metadata.deletion_timestamp.is_some()));
            }
        }
        let found: BTreeMap<String, (bool, bool)> = self
            .placed()
            .into_iter()
            .map(|(pod, _, endpoint)| {
                let conditions = endpoint.conditions.unwrap_or_default();
                (pod, (conditions.serving == Some(true), conditions.terminating == Some(true)))
            })
            .collect();
        assert_eq!(found, expected, "what is behind a service is in its slices");
        let object = self.endpoints.truth().find(|endpoints| endpoints.name_any() == "web").expect("is there");
        let mut old: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        for subset in object.subsets.iter().flatten() {
            for (addresses, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
                let names = addresses.iter().flatten().filter_map(|address| address.target_ref.as_ref()?.name.clone());
                old.extend(names.map(|name| (name, (ready, false))));
            }
        }
        expected.retain(|_, (_, terminating)| !*terminating);
        assert_eq!(old, expected, "what is behind a service is in its Endpoints");
    }
}

#[tokio::test]
async fn endpoints_are_right_whatever_happens() {
    for seed in 0..8 {
        let mut run = Run::new(seed).await;
        let mut most = 0;
        for step in 0..200 {
            if run.model.chance(50) {
                run.step_pods().await
            } else {
                run.step_controllers().await
            }
            run.check(&format!("seed {seed}, step {step}"));
            most = most.max(run.slices.truth().filter(|slice| managed_for(slice).is_some()).count());
        }
        assert!(most > 1 && run.made > PODS_MAX, "the test does something");
        run.settle().await;
        run.check_settled();
    }
}

/// The ports of the service change, and slices are deleted and emptied by hand.
#[tokio::test]
async fn no_endpoint_is_in_two_slices_whatever_happens() {
    for seed in 0..6 {
        let mut run = Run::new(100 + seed).await;
        for step in 0..150 {
            match run.model.pick(20) {
                0 => {
                    let port = 80 + run.model.pick(3);
                    run.patch(json!({"ports": [{"port": port}]})).await;
                }
                1 => {
                    let slices: Vec<_> = run.slices.truth().filter(|slice| managed_for(slice).is_some()).cloned().collect();
                    if !slices.is_empty() {
                        let name = slices[run.model.pick(slices.len())].name_any();
                        let api = run.model.api::<EndpointSlice>();
                        if run.model.chance(50) {
                            api.delete(&name, &DeleteParams::default()).await.expect("is deleted");
                        } else {
                            let empty = Patch::Merge(json!({"endpoints": []}));
                            api.patch(&name, &PatchParams::default(), &empty).await.expect("is emptied");
                        }
                        run.observe().await;
                    }
                }
                2..=9 => run.step_pods().await,
                _ => run.step_controllers().await,
            }
            run.steady.clear();
            run.check(&format!("seed {seed}, step {step}"));
        }
        run.settle().await;
        run.check_settled();
    }
}
