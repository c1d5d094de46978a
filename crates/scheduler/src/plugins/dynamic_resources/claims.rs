//! Claims: which are a pod's, which devices are taken, and what is written into them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::Store;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;

use super::allocation;

/// Keeps a claim until its devices are given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a write that met a newer version is tried again (client-go's `retry.DefaultRetry`).
const ATTEMPTS_MAX: usize = 5;

/// A claim as messages name it.
pub(super) fn key(claim: &ResourceClaim) -> String {
    format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any())
}

/// A device as it is looked up: drivers and devices have no slash in their names.
pub(super) fn device_key(driver: &str, pool: &str, device: &str) -> String {
    format!("{driver}/{pool}/{device}")
}

/// The name of the claim that a pod's entry means, and whether it was made for the pod from a template; `None` where none was needed.
pub(super) fn reference_of(pod: &Pod, reference: &PodResourceClaim) -> Result<Option<(String, bool)>, String> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    match (&reference.resource_claim_name, &reference.resource_claim_template_name) {
        (Some(claim), _) => Ok(Some((claim.clone(), false))),
        (None, Some(_)) => {
            let known = super::claim_statuses(pod).iter().find(|status| status.name == reference.name);
            let known = known.ok_or_else(|| format!("pod \"{namespace}/{name}\": ResourceClaim not created yet"))?;
            Ok(known.resource_claim_name.clone().map(|claim| (claim, true)))
        }
        (None, None) => Err(format!(
            "pod \"{namespace}/{name}\", spec.resourceClaim {:?}: none of the supported fields are set",
            reference.name
        )),
    }
}

pub(super) fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    reserved.into_iter().any(|user| Some(&user.uid) == pod.metadata.uid.as_ref())
}

/// What we have promised or written, and the informer does not know yet. By the uid of the claim.
#[derive(Default)]
pub(super) struct Ledger {
    /// Allocations that are on their way to the API server.
    promised: Mutex<HashMap<String, AllocationResult>>,
    /// Claims as the API server answered.
    written: Mutex<HashMap<String, Arc<ResourceClaim>>>,
    /// Allocations whose write had no answer, with the version of the claim that they were for: until the claim changes, or is tried
    /// again, they may hold.
    doubted: Mutex<HashMap<String, (Option<u64>, AllocationResult)>>,
}

/// Why a claim was not written.
pub(super) struct BindFailure {
    /// For the user.
    pub(super) reason: String,
    /// It may have been written after all.
    pub(super) is_unknown: bool,
}

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

fn version(claim: &ResourceClaim) -> Option<u64> {
    claim.metadata.resource_version.as_deref()?.parse().ok()
}

impl Ledger {
    /// The claim as the API server last told us, in whichever way.
    pub(super) fn newest(&self, cached: Arc<ResourceClaim>) -> Arc<ResourceClaim> {
        let mut written = self.written.lock();
        match written.get(uid(&cached)) {
            Some(own) if version(own) > version(&cached) => Arc::clone(own),
            Some(_) => {
                written.remove(uid(&cached));
                cached
            }
            None => cached,
        }
    }

    pub(super) fn is_pending(&self, claim: &ResourceClaim) -> bool {
        self.promised.lock().contains_key(uid(claim))
    }

    pub(super) fn promise(&self, claim: &ResourceClaim, result: &AllocationResult) {
        self.promised.lock().insert(uid(claim).to_owned(), result.clone());
    }

    pub(super) fn forget(&self, claim: &ResourceClaim) {
        self.promised.lock().remove(uid(claim));
    }

    /// Nobody knows whether what was promised is written.
    pub(super) fn doubt(&self, claim: &ResourceClaim) {
        if let Some(result) = self.promised.lock().remove(uid(claim)) {
            self.doubted.lock().insert(uid(claim).to_owned(), (version(claim), result));
        }
    }

    /// What was promised is written.
    pub(super) fn written(&self, claim: &Arc<ResourceClaim>) {
        self.written.lock().insert(uid(claim).to_owned(), Arc::clone(claim));
        self.doubted.lock().remove(uid(claim));
        self.forget(claim);
    }

    /// The devices that are taken, by [`device_key`]. Access for administrators takes none. `own` are the claims that devices are sought for:
    /// what is doubted of them will show when they are written.
    pub(super) fn allocated_devices(&self, claims: &Store<ResourceClaim>, own: &[Arc<ResourceClaim>]) -> HashSet<String> {
        let mut taken = HashSet::new();
        let mut take = |result: &AllocationResult| {
            let devices = result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
            let exclusive = devices.filter(|device| device.admin_access != Some(true));
            taken.extend(exclusive.map(|device| device_key(&device.driver, &device.pool, &device.device)));
        };
        // Promises first: one that is written meanwhile is then seen in the claim.
        self.promised.lock().values().for_each(&mut take);
        let mut known: HashSet<String> = HashSet::new();
        claims.for_each(|claim| {
            known.insert(uid(claim).to_owned());
            let mut doubted = self.doubted.lock();
            match doubted.get(uid(claim)) {
                Some((before, _)) if version(claim) > *before => drop(doubted.remove(uid(claim))),
                Some((_, result)) if !own.iter().any(|own| uid(own) == uid(claim)) => take(result),
                _ => {}
            }
            drop(doubted);
            if let Some(result) = allocation(&self.newest(Arc::clone(claim))) {
                take(result);
            }
        });
        // What was written into a claim that is gone by now says nothing any more.
        self.written.lock().retain(|uid, _| known.contains(uid));
        self.doubted.lock().retain(|uid, _| known.contains(uid));
        taken
    }
}

/// Writes an allocation, if there is one to write, and the pod's reservation.
pub(super) async fn bind(
    client: &kube::Client,
    claim: &ResourceClaim,
    result: Option<&AllocationResult>,
    pod: &Pod,
) -> Result<ResourceClaim, BindFailure> {
    let api = Api::<ResourceClaim>::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
    let failure = |what: &str, error: &kube::Error| {
        let is_unknown = !matches!(error, kube::Error::Api(status) if status.code < 500);
        BindFailure { reason: format!("{what} {}: {}", key(claim), message(error)), is_unknown }
    };
    let mut current = claim.clone();
    let mut attempt = 1;
    loop {
        match write(&api, current, result, pod).await {
            Err((error, _)) if attempt < ATTEMPTS_MAX && is_conflict(&error) => attempt += 1,
            Err((Some(error), what)) => return Err(failure(&what, &error)),
            Err((None, reason)) => return Err(BindFailure { reason, is_unknown: false }),
            Ok(written) => return Ok(written),
        }
        let refreshed = api.get(&claim.name_any()).await;
        current = refreshed.map_err(|error| failure("get updated claim after conflict", &error))?;
    }
}

fn is_conflict(error: &Option<kube::Error>) -> bool {
    matches!(error, Some(kube::Error::Api(status)) if status.code == 409)
}

fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

async fn write(
    api: &Api<ResourceClaim>,
    mut claim: ResourceClaim,
    result: Option<&AllocationResult>,
    pod: &Pod,
) -> Result<ResourceClaim, (Option<kube::Error>, String)> {
    let (name, params) = (claim.name_any(), PostParams::default());
    if claim.metadata.deletion_timestamp.is_some() {
        return Err((None, format!("claim {} got deleted in the meantime", key(&claim))));
    }
    if let Some(result) = result {
        if allocation(&claim).is_some() {
            return Err((None, format!("claim {} got allocated elsewhere in the meantime", key(&claim))));
        }
        if !claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            claim.finalizers_mut().push(FINALIZER.to_owned());
            let updated = api.replace(&name, &params, &claim).await;
            claim = updated.map_err(|error| (Some(error), "add finalizer to claim".to_owned()))?;
        }
        claim.status.get_or_insert_default().allocation = Some(result.clone());
    }
    let user = ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
    };
    claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(user);
    let what = if result.is_some() { "add allocation and reservation to claim" } else { "add reservation to claim" };
    api.replace_status(&name, &params, &claim).await.map_err(|error| (Some(error), what.to_owned()))
}
