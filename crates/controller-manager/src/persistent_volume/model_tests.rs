//! Claims and volumes under faults. Invariants: *a bound claim's volume is its own*, *a volume that a claim has used is nobody else's*, *no
//! claim gets less than it asks for*, *who fits is bound when all is quiet*, *what is settled causes no write*.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};

const CLAIMS: usize = 4;
const VOLUMES: usize = 4;

struct Run {
    model: Model,
    volumes: Cache<PersistentVolume>,
    claims: Cache<PersistentVolumeClaim>,
    /// Whose volumes were, by their UIDs.
    used: BTreeMap<String, String>,
    bound: usize,
}

fn claim_uid(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone()
}

fn is_complete(claim: &PersistentVolumeClaim) -> bool {
    matching::annotation(&claim.metadata, matching::BIND_COMPLETED).is_some()
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn gibibytes(amounts: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> usize {
    amounts.and_then(|amounts| amounts.get("storage")?.0.trim_end_matches("Gi").parse().ok()).expect("is in Gi")
}

fn asked(claim: &PersistentVolumeClaim) -> usize {
    gibibytes(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

fn size(volume: &PersistentVolume) -> usize {
    gibibytes(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

impl Run {
    async fn new(seed: u64) -> Self {
        let model = Model::new(seed).await;
        Self { model, volumes: Cache::default(), claims: Cache::default(), used: BTreeMap::new(), bound: 0 }
    }

    async fn observe(&mut self) {
        self.volumes.observe(self.model.list().await);
        self.claims.observe(self.model.list().await);
    }

    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let (volumes, claims) = (some(self.volumes.lag()), some(self.claims.lag()));
        self.volumes.advance(volumes, |_| {});
        self.claims.advance(claims, |_| {});
    }

    async fn reconcile(&mut self, key: Key, fault: Fault) {
        let (context, events) = self.model.context("persistent-volume-binder", Config::default());
        let pods: Store<Pod> = Store::from_objects([]);
        pods.add_index(CLAIMS_INDEX, claim_keys);
        let controller = Binder {
            context,
            events,
            queue: WorkQueue::new("model"),
            volumes: self.volumes.store(),
            claims: self.claims.store(),
            classes: Store::from_objects([]),
            pods,
            told: Mutex::default(),
        };
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&key).await;
        let ended = self.model.faults.ended();
        check_error(&reconciled);
        self.observe().await;
        if ended {
            self.volumes.restart();
            self.claims.restart();
        }
    }

    fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.model.admin.clone())
    }

    /// Makes a claim or takes it away; the finalizer of storage protection is not what this is about.
    async fn change_claim(&mut self) {
        let name = format!("c{}", self.model.pick(CLAIMS));
        let api = self.model.api::<PersistentVolumeClaim>();
        if self.claims.truth().any(|claim| claim.name_any() == name) {
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            api.patch(&name, &PatchParams::default(), &free).await.expect("is freed");
            api.delete(&name, &DeleteParams::default()).await.expect("is deleted");
        } else {
            let (size, volume) = (1 + self.model.pick(3), self.model.pick(VOLUMES));
            let mut spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": format!("{size}Gi")}}});
            if self.model.chance(25) {
                spec["volumeName"] = json!(format!("v{volume}"));
            }
            self.model.create::<PersistentVolumeClaim>(json!({"metadata": {"name": name}, "spec": spec})).await;
        }
        self.observe().await;
    }

    /// Makes a volume, or takes one away that nobody uses (any more).
    async fn change_volume(&mut self) {
        let name = format!("v{}", self.model.pick(VOLUMES));
        let api = self.volumes_api();
        match self.volumes.truth().find(|volume| volume.name_any() == name) {
            Some(volume) if matching::phase(volume) == "Bound" || claim_uid(volume).is_some_and(|uid| self.is_there(&uid)) => {}
            Some(_) => {
                let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                api.patch(&name, &PatchParams::default(), &free).await.expect("is freed");
                api.delete(&name, &DeleteParams::default()).await.expect("is deleted");
            }
            None => {
                let (size, claim) = (1 + self.model.pick(4), self.model.pick(CLAIMS));
                let mut spec = json!({"capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"}});
                if self.model.chance(25) {
                    spec["claimRef"] = json!({"namespace": NAMESPACE, "name": format!("c{claim}")});
                }
                let volume: Value = json!({"metadata": {"name": name}, "spec": spec});
                let volume = serde_json::from_value(volume).expect("is a volume");
                api.create(&PostParams::default(), &volume).await.expect("is created");
            }
        }
        self.observe().await;
    }

    fn is_there(&self, uid: &str) -> bool {
        self.claims.truth().any(|claim| claim.uid().as_deref() == Some(uid))
    }

    fn keys(&self) -> Vec<Key> {
        let claims = self.claims.truth().map(|claim| Key::Claim(NamespacedName::of(&**claim)));
        let volumes = self.volumes.truth().map(|volume| Key::Volume(volume.name_any()));
        claims.chain(volumes).collect()
    }

    fn check(&mut self, what: &str) {
        for claim in self.claims.truth().filter(|claim| is_complete(claim) && claim_phase(claim) == "Bound") {
            let Some(volume) = self.volumes.truth().find(|volume| volume.name_any() == volume_name(claim)) else { continue };
            let uid = claim.uid().expect("has a uid");
            let Some(owner) = claim_uid(volume) else {
                // Made anew under the name of the one that the claim had.
                assert!(!self.used.contains_key(&volume.uid().expect("has a uid")), "a bound claim's volume is its own, {what}");
                continue;
            };
            let first = self.used.entry(volume.uid().expect("has a uid")).or_insert_with(|| {
                self.bound += 1;
                owner.clone()
            });
            assert_eq!(*first, owner, "a volume that a claim has used is nobody else's, {what}");
            // The one that was made anew may have found another claim meanwhile: that the first is lost is noticed later.
            if *first == uid {
                assert!(size(volume) >= asked(claim), "no claim gets less than it asks for, {what}");
            }
        }
        for volume in self.volumes.truth() {
            if let Some(first) = self.used.get(&volume.uid().expect("has a uid")) {
                assert_eq!(claim_uid(volume).as_ref(), Some(first), "a volume that a claim has used is nobody else's, {what}");
            }
        }
    }

    async fn settle(&mut self) {
        for _ in 0..50 {
            let mut writes = 0;
            for key in self.keys() {
                self.advance(true);
                self.reconcile(key, Fault::None).await;
                writes += self.model.faults.writes();
            }
            if writes == 0 {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.keys());
    }

    fn check_settled(&self) {
        for claim in self.claims.truth() {
            let uid = claim.uid().expect("has a uid");
            let own = self.volumes.truth().find(|volume| claim_uid(volume).as_ref() == Some(&uid));
            match claim_phase(claim) {
                "Bound" => assert_eq!(own.map(|volume| volume.name_any()).as_deref(), Some(volume_name(claim))),
                "Lost" => assert!(is_complete(claim) && own.is_none()),
                "Pending" => {
                    let named = |volume: &PersistentVolume| match volume_name(claim) {
                        "" => true,
                        name => volume.name_any() == name,
                    };
                    let free = |volume: &&Arc<PersistentVolume>| {
                        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                        named(volume) && reference.is_none() && size(volume) >= asked(claim)
                    };
                    assert!(!self.volumes.truth().any(|volume| free(&volume)), "who fits is bound: {}", claim.name_any());
                }
                other => panic!("{} is {other}", claim.name_any()),
            }
        }
        for volume in self.volumes.truth() {
            let expected = match claim_uid(volume) {
                None => "Available",
                Some(uid) if self.is_there(&uid) => "Bound",
                Some(_) => "Released",
            };
            assert_eq!(matching::phase(volume), expected, "{}", volume.name_any());
        }
    }
}

#[tokio::test]
async fn claims_and_volumes_fit_whatever_happens() {
    let mut bound = 0;
    for seed in 0..10 {
        let mut run = Run::new(seed).await;
        for step in 0..250 {
            match run.model.pick(14) {
                0 | 1 => run.change_claim().await,
                2 | 3 => run.change_volume().await,
                _ => {
                    let keys = run.keys();
                    if !keys.is_empty() {
                        run.advance(false);
                        let fault = run.model.some_fault();
                        let key = keys[run.model.pick(keys.len())].clone();
                        run.reconcile(key, fault).await;
                    }
                }
            }
            run.check(&format!("seed {seed}, step {step}"));
        }
        run.settle().await;
        run.check("settled");
        run.check_settled();
        bound += run.bound;
    }
    assert!(bound > 20, "the test does something: {bound}");
}
