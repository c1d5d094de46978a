//! A namespace that is deleted, under faults. Invariants: *the rest stays while a pod is left* (KEP-5080), *the namespace stays while
//! something is left in it*, *nothing of others is touched*, *a new namespace of the name is another*.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::model::{Fault, Model, check_error};

const DOOMED: &str = "doomed";
const KEPT: &str = "kept";
const FINALIZERS: [&str; 2] = ["example.com/a", "example.com/b"];

struct Run {
    model: Model,
    controller: Namespaces,
    /// ConfigMaps of the namespace before it was deleted.
    maps: usize,
    /// Versions of the other namespace's objects.
    others: BTreeMap<String, Option<String>>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let model = Model::new(seed).await;
        let (context, _) = model.context("namespace-controller", Config::default());
        let controller = Namespaces { api: Api::all(context.client.clone()), client: context.client.clone() };
        let mut run = Self { model, controller, maps: 0, others: BTreeMap::new() };
        for namespace in [DOOMED, KEPT] {
            run.fill(namespace).await;
        }
        run.maps = run.maps_in(DOOMED).await.len();
        run.others = run.versions(KEPT).await;
        run.namespaces().delete(DOOMED, &DeleteParams::default()).await.expect("is deleted");
        run
    }

    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.model.admin.clone())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.model.admin.clone(), namespace)
    }

    fn maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.model.admin.clone(), namespace)
    }

    /// Pods that take their time, and objects that somebody holds.
    async fn fill(&self, namespace: &str) {
        let params = PostParams::default();
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("is a namespace");
        self.namespaces().create(&params, &object).await.expect("is created");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("is an account");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.model.admin.clone(), namespace);
        accounts.create(&params, &account).await.expect("is created");
        for i in 0..3 {
            let held: Vec<&str> = FINALIZERS.into_iter().take(i).collect();
            let map = json!({"metadata": {"name": format!("m{i}"), "finalizers": held}});
            self.maps(namespace).create(&params, &serde_json::from_value(map).expect("is a map")).await.expect("is created");
            let node = if i == 0 { Value::Null } else { json!("n1") };
            let held = if i == 2 { json!(FINALIZERS) } else { json!([]) };
            let pod = json!({"metadata": {"name": format!("p{i}"), "finalizers": held},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "image:0"}]}});
            self.pods(namespace).create(&params, &serde_json::from_value(pod).expect("is a pod")).await.expect("is created");
        }
    }

    async fn pods_in(&self, namespace: &str) -> Vec<Pod> {
        self.model.list::<Pod>().await.into_iter().filter(|pod| pod.namespace().as_deref() == Some(namespace)).collect()
    }

    async fn maps_in(&self, namespace: &str) -> Vec<ConfigMap> {
        self.model.list::<ConfigMap>().await.into_iter().filter(|map| map.namespace().as_deref() == Some(namespace)).collect()
    }

    async fn versions(&self, namespace: &str) -> BTreeMap<String, Option<String>> {
        let pods = self.pods_in(namespace).await.into_iter().map(|pod| (pod.name_any(), pod.resource_version()));
        let maps = self.maps_in(namespace).await.into_iter().map(|map| (map.name_any(), map.resource_version()));
        let itself = self.namespaces().get_opt(namespace).await.expect("is read");
        let itself = itself.map(|itself| (namespace.to_owned(), itself.resource_version()));
        pods.chain(maps).chain(itself).collect()
    }

    async fn reconcile(&mut self, name: &str, fault: Fault) {
        self.model.faults.set(fault);
        let reconciled = self.controller.reconcile(&name.to_owned()).await;
        check_error(&reconciled);
    }

    /// Writes may fail anywhere in the many that there are.
    fn some_fault(&mut self) -> Fault {
        match self.model.pick(6) {
            0 => Fault::EndAfter(self.model.pick(3)),
            1 => Fault::EndAfter(self.model.pick(60)),
            2 => Fault::EndIn(self.model.pick(60)),
            3 => Fault::Meddle,
            _ => Fault::None,
        }
    }

    /// The kubelet ends a pod that is to go, or a finalizer's owner lets go of something.
    async fn step_others(&mut self) {
        let pods: Vec<_> = self.pods_in(DOOMED).await.into_iter().filter(is_going).collect();
        let maps: Vec<_> = self.maps_in(DOOMED).await.into_iter().filter(is_going).collect();
        if !pods.is_empty() && self.model.chance(70) {
            let pod = &pods[self.model.pick(pods.len())];
            let (api, name) = (self.pods(DOOMED), pod.name_any());
            if pod.finalizers().is_empty() || self.model.chance(50) {
                api.delete(&name, &DeleteParams::default().grace_period(0)).await.expect("is removed");
            } else {
                let patch = Patch::Merge(json!({"metadata": {"finalizers": &pod.finalizers()[1..]}}));
                api.patch(&name, &PatchParams::default(), &patch).await.expect("is let go");
            }
        } else if !maps.is_empty() {
            let map = &maps[self.model.pick(maps.len())];
            let patch = Patch::Merge(json!({"metadata": {"finalizers": &map.finalizers()[1..]}}));
            self.maps(DOOMED).patch(&map.name_any(), &PatchParams::default(), &patch).await.expect("is let go");
        }
    }

    /// Whether the namespace is there.
    async fn check(&self, what: &str) -> bool {
        let (pods, maps) = (self.pods_in(DOOMED).await, self.maps_in(DOOMED).await);
        let going = maps.iter().filter(|map| is_going(*map)).count();
        if !pods.is_empty() {
            assert!(maps.len() == self.maps && going == 0, "the rest stays while a pod is left: {} maps, {what}", maps.len());
        }
        let there = self.namespaces().get_opt(DOOMED).await.expect("is read").is_some();
        assert!(there || pods.is_empty() && maps.is_empty(), "the namespace stays while something is left in it: {what}");
        assert_eq!(self.versions(KEPT).await, self.others, "nothing of others is touched: {what}");
        there
    }
}

fn is_going<K: ResourceExt>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

#[tokio::test]
async fn a_namespace_is_emptied_in_order_whatever_happens() {
    for seed in 0..4 {
        let mut run = Run::new(seed).await;
        let mut step = 0;
        while run.check(&format!("seed {seed}, step {step}")).await {
            step += 1;
            assert!(step < 200, "does not end: {:#?}", run.namespaces().get_opt(DOOMED).await);
            if run.model.chance(50) {
                run.step_others().await;
            } else {
                let fault = run.some_fault();
                run.reconcile(DOOMED, fault).await;
            }
            run.reconcile(KEPT, Fault::None).await;
        }
        assert!(step > 6, "the test does something");
        run.fill(DOOMED).await;
        let fresh = run.versions(DOOMED).await;
        run.reconcile(DOOMED, Fault::None).await;
        assert_eq!(run.versions(DOOMED).await, fresh, "a new namespace of the name is another");
    }
}
