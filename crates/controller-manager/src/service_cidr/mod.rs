//! service-cidr-controller: says of ServiceCIDRs that they are ready, and keeps those that Services have addresses from (KEP-1880).
//!
//! Invariant: a ServiceCIDR goes only when every address in it is in another one too, and when it has been known for ten seconds that it
//! goes, so that no allocator takes from it any more.

mod plan;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use self::plan::{FINALIZER, Plan, READY, TERMINATING, contains, plan, prefixes, service_address};
use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};

/// Upstream's number of workers.
const WORKERS: usize = 5;

struct ServiceCidrs {
    api: Api<ServiceCIDR>,
    events: EventRecorder,
    cidrs: Store<ServiceCIDR>,
    addresses: Store<IPAddress>,
}

pub(crate) async fn run(context: Context) {
    let cidrs = context.informers.get::<ServiceCIDR>();
    let addresses = context.informers.get::<IPAddress>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("ipaddresses");
    let (on_cidr, known) = (queue.clone(), cidrs.store().clone());
    cidrs.add_handler(move |change| {
        let cidr = change.object();
        on_cidr.add(NamespacedName::of(&**cidr));
        if !matches!(change, Change::Updated { .. }) {
            // It may have been, or become, what others wait for.
            let overlaps = |other: &ServiceCIDR| prefixes(cidr).any(|one| prefixes(other).any(|two| one.overlaps(two)));
            known.list().iter().filter(|other| overlaps(other)).for_each(|other| on_cidr.add(NamespacedName::of(&**other)));
        }
    });
    wait_synced!(cidrs);
    let (on_address, known) = (queue.clone(), cidrs.store().clone());
    addresses.add_handler(move |change| {
        if matches!(change, Change::Updated { .. }) {
            return;
        }
        let Some(ip) = service_address(change.object()) else { return };
        // Addresses matter to those that are to go only.
        known.for_each(|cidr| {
            if cidr.metadata.deletion_timestamp.is_some() && contains(cidr, ip) {
                on_address.add(NamespacedName::of(&**cidr));
            }
        });
    });
    wait_synced!(addresses);
    let controller = ServiceCidrs {
        api: Api::all(context.client.clone()),
        events: context.events("service-cidr-controller"),
        cidrs: cidrs.store().clone(),
        addresses: addresses.store().clone(),
    };
    run_workers(Arc::new(controller), queue, WORKERS, context.token).await;
}

impl ServiceCidrs {
    async fn patch(&self, cidr: &ServiceCIDR, finalizers: Vec<String>) -> Result<(), ReconcileError> {
        let patch = Patch::Merge(json!({"metadata": preconditions(cidr, Some(finalizers))}));
        let result = self.api.patch(&cidr.name_any(), &PatchParams::default(), &patch).await;
        ignore_not_found(result).map_err(ReconcileError::api("patch service CIDR"))
    }

    async fn set_ready(&self, cidr: &ServiceCIDR, (status, reason, message): (&str, &str, &str)) -> Result<(), ReconcileError> {
        let time = now().to_string();
        let condition = json!({
            "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": time,
        });
        let patch = json!({"metadata": preconditions(cidr, None), "status": {"conditions": [condition]}});
        let result = self.api.patch_status(&cidr.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        ignore_not_found(result).map_err(ReconcileError::api("patch service CIDR status"))
    }

    /// Addresses of Services, if the plan needs them.
    fn addresses(&self, cidr: &ServiceCIDR) -> Vec<IpAddr> {
        let mut found = Vec::new();
        if cidr.metadata.deletion_timestamp.is_some() {
            self.addresses.for_each(|address| found.extend(service_address(address)));
        }
        found
    }
}

/// The version that the patch is for.
fn preconditions(cidr: &ServiceCIDR, finalizers: Option<Vec<String>>) -> Value {
    let mut metadata = json!({"uid": cidr.metadata.uid, "resourceVersion": cidr.metadata.resource_version});
    if let Some(finalizers) = finalizers {
        metadata["finalizers"] = json!(finalizers);
    }
    metadata
}

#[async_trait]
impl Controller for ServiceCidrs {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(cidr) = self.cidrs.get_key(key) else { return Ok(Outcome::Done) };
        let all = self.cidrs.list();
        let others: Vec<&ServiceCIDR> = all.iter().map(|other| &**other).filter(|other| other.uid() != cidr.uid()).collect();
        match plan(&cidr, &others, &self.addresses(&cidr), now()) {
            Plan::Nothing => {}
            Plan::Wait(left) => return Ok(Outcome::RequeueAfter(left)),
            Plan::Blocked { condition } => {
                if condition {
                    self.set_ready(&cidr, TERMINATING).await?;
                }
            }
            // The change that follows brings the key back for the condition.
            Plan::Ready { protect: true, .. } => {
                let mut finalizers = cidr.finalizers().to_vec();
                finalizers.push(FINALIZER.to_owned());
                self.patch(&cidr, finalizers).await?;
            }
            Plan::Ready { .. } => {
                if let Err(error) = self.set_ready(&cidr, READY).await {
                    if !error.is_conflict() {
                        let message = "The ServiceCIDR Status can not be set to Ready=True";
                        self.events.record(&*cidr, EventKind::Warning, "KubernetesServiceCIDRError", message);
                    }
                    return Err(error);
                }
            }
            Plan::LetGo => {
                let rest = cidr.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
                self.patch(&cidr, rest).await?;
            }
        }
        Ok(Outcome::Done)
    }
}
