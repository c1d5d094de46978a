//! DynamicResources: devices that pods claim (KEP-4381).
//!
//! Filter allocates devices for the pod's claims on each node, Reserve keeps the allocation of the chosen one, PreBind writes it into the
//! claims' status together with the pod's reservation. An allocation that nobody uses, and that keeps the pod from other nodes, is given
//! up in PostFilter.
//!
//! Not here, because off by default in v1.35: extended resources by devices, device taints and binding conditions, partitionable devices,
//! consumable capacity. A device that needs one of them is not allocated.

mod allocator;
mod claims;
#[cfg(test)]
mod model_tests;
mod pools;
mod results;
mod selectors;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::allocator::{Failure, Inventory};
use self::claims::{Ledger, is_reserved_for, reference_of};
use self::selectors::Selectors;
use super::normalize_by_largest;
use crate::config::ConfigError;
use crate::framework::{
    ClaimRelease, ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, Misfit, Plugin, PostFilter, PreBind,
    PreEnqueue, PreFilter, Remedy, Reserve, Score, Sign, Signer, Status,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::selector_matches;

/// How many subrequests a request may have: what the first of them is worth in a score.
const SUBREQUESTS_MAX: i64 = 8;

/// The plugin's arguments (DynamicResourcesArgs).
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// How long the search on one node may take; 0 for no limit.
    filter_timeout: String,
}

impl Default for Args {
    fn default() -> Self {
        Self { filter_timeout: "10s".to_owned() }
    }
}

pub(super) struct DynamicResources {
    handle: Arc<Handle>,
    timeout: Option<Duration>,
    selectors: Arc<Selectors>,
    ledger: Ledger,
}

/// The attempt at one pod: its claims, and what was found for them.
#[derive(Clone, Default)]
struct Attempt(Arc<Work>);

#[derive(Default)]
struct Work {
    /// As PreFilter found them; PreBind puts in what it has written.
    claims: Mutex<Vec<Arc<ResourceClaim>>>,
    /// The claims without an allocation, by index; there is an inventory if there are any.
    wanting: Vec<usize>,
    inventory: Option<Inventory>,
    /// By node, in the order of `wanting`.
    found: Mutex<HashMap<String, Vec<AllocationResult>>>,
    /// The claims whose allocation was of no use on some node.
    unavailable: Mutex<BTreeSet<usize>>,
}

fn unresolvable(reason: impl Into<String>) -> Status {
    Status::new(Code::UnschedulableAndUnresolvable, [reason.into()])
}

fn failed(reason: impl Into<String>) -> Status {
    Status::new(Code::Error, [reason.into()])
}

fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

fn has_claims(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref()).is_some_and(|claims| !claims.is_empty())
}

fn claim_statuses(pod: &Pod) -> &[PodResourceClaimStatus] {
    pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default()
}

impl DynamicResources {
    pub(super) fn with_args(handle: &Arc<Handle>, args: &Args) -> Result<Self, ConfigError> {
        let nanoseconds = apimachinery::time::parse_duration(&args.filter_timeout)
            .map_err(|error| ConfigError::Decode(format!("filterTimeout: {error}")))?;
        let nanoseconds =
            u64::try_from(nanoseconds).map_err(|_| ConfigError::Decode("filterTimeout: must not be negative".to_owned()))?;
        let timeout = (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds));
        Ok(Self { handle: Arc::clone(handle), timeout, selectors: Arc::default(), ledger: Ledger::default() })
    }

    /// The pod's claims; the error is for the user.
    fn claims(&self, pod: &Pod) -> Result<Vec<Arc<ResourceClaim>>, String> {
        let (namespace, mut claims) = (pod.namespace().unwrap_or_default(), Vec::new());
        for reference in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            let Some((name, generated)) = reference_of(pod, reference)? else { continue };
            let claim = self.handle.listers.resource_claims.get(&namespace, &name);
            let claim = claim.ok_or_else(|| format!("could not find v1.ResourceClaim \"{namespace}/{name}\""))?;
            let claim = self.ledger.newest(claim);
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            let controlled = || {
                claim.owner_references().iter().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
            };
            if generated && !controlled() {
                return Err(format!(
                    "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.name_any()
                ));
            }
            claims.push(claim);
        }
        Ok(claims)
    }

    fn class_exists(&self, name: &str, request: &str) -> Result<(), Status> {
        match name {
            "" => Err(failed(format!("request {request}: unsupported request type"))),
            name if self.handle.listers.device_classes.get("", name).is_none() => {
                Err(unresolvable(format!("request {request}: device class {name} does not exist")))
            }
            _ => Ok(()),
        }
    }

    /// That a claim can be allocated at all.
    fn check_requests(&self, claim: &ResourceClaim) -> Result<(), Status> {
        for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
            match (&request.exactly, request.first_available.as_deref().unwrap_or_default()) {
                (Some(exactly), _) => self.class_exists(&exactly.device_class_name, &request.name)?,
                (None, []) => {
                    let claim = claims::key(claim);
                    return Err(unresolvable(format!("resource claim {claim}, request {}: unknown request type", request.name)));
                }
                (None, parts) => {
                    for part in parts {
                        self.class_exists(&part.device_class_name, &format!("{}/{}", request.name, part.name))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn prepare(&self, pod: &Pod) -> Result<Work, Status> {
        let claims = self.claims(pod).map_err(unresolvable)?;
        let mut wanting = Vec::new();
        for (i, claim) in claims.iter().enumerate().filter(|(_, claim)| allocation(claim).is_none()) {
            wanting.push(i);
            if self.ledger.is_pending(claim) {
                let claim = claims::key(claim);
                return Err(unresolvable(format!("resource claim {claim} is in the process of being allocated")));
            }
            self.check_requests(claim)?;
        }
        let inventory = (!wanting.is_empty()).then(|| {
            let listers = &self.handle.listers;
            let taken = self.ledger.allocated_devices(&listers.resource_claims, &claims);
            Inventory::new(listers.resource_slices.list(), &taken, listers.device_classes.clone(), Arc::clone(&self.selectors))
        });
        Ok(Work { claims: Mutex::new(claims), wanting, inventory, ..Work::default() })
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn events(&self) -> EventSet {
        EventSet::DEVICES.and(EventSet::OWN).and(EventSet::NODE_ADD).and(EventSet::NODE_UPDATE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::ResourceClaim(change) => {
                let Some(claim) = change.present() else { return Hint::Skip };
                let Ok(own) = self.claims(pod) else { return Hint::Skip };
                let before = change.old.as_deref();
                if before.is_some_and(|before| allocation(before).is_some()) && allocation(claim).is_none() {
                    // Its devices are free.
                    return Hint::Queue;
                }
                let uses = own.iter().any(|own| own.metadata.uid == claim.metadata.uid);
                Hint::queue_if(uses && before.is_none_or(|before| before.status != claim.status))
            }
            ClusterEvent::DeviceClass(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::ResourceSlice(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::UnscheduledPod { old, new } => {
                Hint::queue_if(claim_statuses(old) != claim_statuses(new) && self.claims(new).is_ok())
            }
            ClusterEvent::Node { old: None, .. } => Hint::Queue,
            ClusterEvent::Node { old: Some(old), new } => {
                let allocatable =
                    |node: &k8s_openapi::api::core::v1::Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
                Hint::queue_if(old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new))
            }
            _ => Hint::Skip,
        }
    }

    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }

    fn as_reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }

    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for DynamicResources {
    fn is_signable(&self, pod: &Pod) -> bool {
        !has_claims(pod)
    }

    fn sign(&self, _pod: &PodInfo, _signer: &mut Signer) {}
}

impl PreEnqueue for DynamicResources {
    fn pre_enqueue(&self, pod: &Pod) -> Status {
        match has_claims(pod).then(|| self.claims(pod)) {
            Some(Err(reason)) => unresolvable(reason),
            _ => Status::success(),
        }
    }
}

impl PreFilter for DynamicResources {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        state.put(Attempt::default());
        if !has_claims(pod) {
            return (Status::skip(), None);
        }
        match self.prepare(pod) {
            Err(status) => (status, None),
            Ok(work) if work.claims.lock().is_empty() => (Status::skip(), None),
            Ok(work) => {
                state.put(Attempt(Arc::new(work)));
                (Status::success(), None)
            }
        }
    }
}

impl Filter for DynamicResources {
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> Status {
        let Some(Attempt(work)) = state.get::<Attempt>() else { return Status::success() };
        let claims = work.claims.lock().clone();
        let elsewhere = |claim: &ResourceClaim| {
            let selector = allocation(claim).and_then(|allocation| allocation.node_selector.as_ref());
            selector.is_some_and(|selector| !selector_matches(selector, node.node()))
        };
        let unavailable: Vec<usize> = (0..claims.len()).filter(|i| elsewhere(&claims[*i])).collect();
        let mut found = None;
        if let Some(inventory) = &work.inventory {
            let wanting: Vec<Arc<ResourceClaim>> = work.wanting.iter().map(|i| Arc::clone(&claims[*i])).collect();
            let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
            let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            found = match inventory.allocate(node.node(), &wanting, &is_late) {
                Ok(Some(results)) => Some(results),
                Ok(None) => return unresolvable("cannot allocate all claims"),
                Err(Failure::OnNode(reason)) => return unresolvable(reason),
                Err(Failure::Error(reason)) => return failed(reason),
            };
        }
        if !unavailable.is_empty() {
            work.unavailable.lock().extend(unavailable);
            return unresolvable("resourceclaim not available on the node");
        }
        if let Some(found) = found {
            work.found.lock().insert(node.name().to_owned(), found);
        }
        Status::success()
    }
}

impl PostFilter for DynamicResources {
    /// Gives up an allocation that nobody uses, so that the pod can go elsewhere. Where another plugin ended the cycle in its PreFilter, the
    /// state of this one is missing, which upstream reports in these two words.
    fn post_filter(&self, state: &CycleState, pod: &Pod, _misfit: &Misfit<'_>) -> (Status, Remedy) {
        let rejected = |reason: &'static str| Status::new(Code::Unschedulable, [reason]);
        let Some(Attempt(work)) = state.get::<Attempt>() else {
            return (Status::new(Code::Error, ["not found"]), Remedy::default());
        };
        let claims = work.claims.lock();
        if claims.is_empty() {
            return (rejected("no new claims to deallocate"), Remedy::default());
        }
        for claim in work.unavailable.lock().iter().filter_map(|i| claims.get(*i)) {
            let reserved = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
            if reserved.is_empty() || (reserved.len() == 1 && is_reserved_for(claim, pod)) {
                self.handle.release(ClaimRelease::deallocate(claim));
                return (rejected("deallocation of ResourceClaim completed"), Remedy::default());
            }
        }
        (rejected("still not schedulable"), Remedy::default())
    }
}

impl Score for DynamicResources {
    /// More for nodes on which earlier alternatives of a request could be had.
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        let Some(Attempt(work)) = state.get::<Attempt>() else { return 0 };
        let found = work.found.lock();
        let Some(results) = found.get(node.name()) else { return 0 };
        let claims = work.claims.lock();
        let mut score = 0;
        for (claim, result) in work.wanting.iter().map(|i| &claims[*i]).zip(results) {
            let devices = result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
            let chosen: BTreeSet<&str> = devices.map(|device| device.request.as_str()).collect();
            for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
                for (i, part) in request.first_available.iter().flatten().enumerate() {
                    if chosen.contains(format!("{}/{}", request.name, part.name).as_str()) {
                        score += SUBREQUESTS_MAX - i as i64;
                    }
                }
            }
        }
        score
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        normalize_by_largest(scores, false);
    }
}

impl Reserve for DynamicResources {
    fn reserve(&self, state: &mut CycleState, _pod: &Pod, node: &str) -> Status {
        let Some(Attempt(work)) = state.get::<Attempt>() else { return Status::success() };
        if work.wanting.is_empty() {
            return Status::success();
        }
        let found = work.found.lock();
        let Some(results) = found.get(node).filter(|results| results.len() == work.wanting.len()) else {
            return failed("claim allocation not found for node");
        };
        let claims = work.claims.lock();
        for (i, result) in work.wanting.iter().zip(results) {
            self.ledger.promise(&claims[*i], result);
        }
        Status::success()
    }

    fn unreserve(&self, state: &mut CycleState, pod: &Pod, _node: &str) {
        let Some(Attempt(work)) = state.get::<Attempt>() else { return };
        for claim in work.claims.lock().iter() {
            self.ledger.forget(claim);
            if allocation(claim).is_some() && is_reserved_for(claim, pod) {
                self.handle.release(ClaimRelease::unreserve(claim, pod));
            }
        }
    }
}

#[async_trait]
impl PreBind for DynamicResources {
    fn pre_flight(&self, state: &CycleState, _pod: &Pod, _node: &str) -> Status {
        match state.get::<Attempt>() {
            Some(Attempt(work)) if !work.claims.lock().is_empty() => Status::success(),
            _ => Status::skip(),
        }
    }

    async fn pre_bind(&self, client: &kube::Client, state: &CycleState, pod: &Pod, node: &str) -> Status {
        let Some(Attempt(work)) = state.get::<Attempt>() else { return Status::success() };
        let claims = work.claims.lock().clone();
        for (i, claim) in claims.iter().enumerate().filter(|(_, claim)| !is_reserved_for(claim, pod)) {
            let place = work.wanting.iter().position(|wanting| *wanting == i);
            let result = place.and_then(|place| work.found.lock().get(node).and_then(|results| results.get(place).cloned()));
            match claims::bind(client, claim, result.as_ref(), pod).await {
                Ok(written) => {
                    let written = Arc::new(written);
                    self.ledger.written(&written);
                    work.claims.lock()[i] = written;
                }
                Err(failure) => {
                    if failure.is_unknown {
                        self.ledger.doubt(claim);
                    }
                    return failed(failure.reason);
                }
            }
        }
        Status::success()
    }
}
