//! Which volume a claim gets on a node, or that it can be provisioned there. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::super::pod_claims::{class_of_claim, class_of_volume};
use crate::framework::Listers;
use crate::label_selector::Selector;
use client::node_selector::selector_matches;

/// Tells the provisioner where the first pod of a claim will run.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What has to be written so that the pod can run on a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision {
    /// Volumes that exist, with the claims that get them.
    pub(super) bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims that get a new volume.
    pub(super) provision: Vec<Arc<PersistentVolumeClaim>>,
}

/// The claims of a pod that wait for it, seen from one node.
pub(super) struct Delayed<'a> {
    pub(super) listers: &'a Listers,
    pub(super) node: &'a Node,
    /// Whether a volume has not been promised to another claim.
    pub(super) is_free: &'a dyn Fn(&str, &PersistentVolumeClaim) -> bool,
}

/// Whether a volume can be used on a node.
pub(super) fn can_be_used_on(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity.and_then(|affinity| affinity.required.as_ref()).is_none_or(|selector| selector_matches(selector, node))
}

fn quantity(list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    let text = list.and_then(|list| list.get("storage"));
    text.and_then(|text| Quantity::parse(&text.0).ok()).map_or(0, |quantity| quantity.value())
}

fn wanted_bytes(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    quantity(resources.and_then(|resources| resources.requests.as_ref()))
}

/// Whether a volume is meant for a claim already: for this very object, or for whoever has its name.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

impl Delayed<'_> {
    /// A decision for all claims, or why there is none.
    pub(super) fn decide(&self, claims: &[Arc<PersistentVolumeClaim>]) -> Result<Decision, &'static str> {
        let no_volume = "node(s) didn't find available persistent volumes to bind";
        let name = self.node.metadata.name.as_deref().unwrap_or_default();
        let mut decision = Decision::default();
        let mut to_match = Vec::new();
        for claim in claims {
            match claim.annotations().get(SELECTED_NODE) {
                Some(selected) if selected != name => return Err(no_volume),
                Some(_) => decision.provision.push(Arc::clone(claim)),
                None => to_match.push(claim),
            }
        }
        // The smallest first, so that it does not take what a larger one needs.
        to_match.sort_by_key(|claim| wanted_bytes(claim));
        let mut chosen = HashSet::new();
        for claim in to_match {
            match self.volume_for(claim, &chosen) {
                Some(volume) => {
                    chosen.insert(volume.name_any());
                    decision.bind.push((volume, Arc::clone(claim)));
                }
                None => decision.provision.push(Arc::clone(claim)),
            }
        }
        for claim in &decision.provision {
            let class = self.listers.classes.get("", class_of_claim(claim)).ok_or(no_volume)?;
            if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !self.is_allowed(&class) {
                return Err(no_volume);
            }
            if !self.has_capacity(claim, &class) {
                return Err("node(s) did not have enough free storage");
            }
        }
        Ok(decision)
    }

    /// The smallest volume that does for a claim here; one that is meant for it before all others.
    fn volume_for(&self, claim: &PersistentVolumeClaim, chosen: &HashSet<String>) -> Option<Arc<PersistentVolume>> {
        let mut best: Option<Arc<PersistentVolume>> = None;
        let bytes = |volume: &PersistentVolume| quantity(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()));
        for volume in self.listers.volumes.list() {
            let name = volume.name_any();
            if class_of_volume(&volume) != class_of_claim(claim) || chosen.contains(&name) || !(self.is_free)(&name, claim) {
                continue;
            }
            let meant = is_meant_for(&volume, claim);
            if !self.suits(&volume, claim) || bytes(&volume) < wanted_bytes(claim) {
                continue;
            }
            let usable = can_be_used_on(&volume, self.node);
            if meant {
                return usable.then_some(volume);
            }
            let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            if taken || phase != Some("Available") || !usable || !self.is_selected(&volume, claim) {
                continue;
            }
            if best.as_ref().is_none_or(|best| bytes(&volume) < bytes(best)) {
                best = Some(volume);
            }
        }
        best
    }

    /// Mode, access modes, attributes class, and that it does not go away.
    fn suits(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
        let (Some(have), Some(want)) = (&volume.spec, &claim.spec) else { return false };
        let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
        let offered = have.access_modes.as_deref().unwrap_or_default();
        let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
        volume.metadata.deletion_timestamp.is_none()
            && mode(&have.volume_mode) == mode(&want.volume_mode)
            && want.access_modes.iter().flatten().all(|wanted| offered.contains(wanted))
            && attributes(&have.volume_attributes_class_name) == attributes(&want.volume_attributes_class_name)
    }

    fn is_selected(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_none_or(|selector| Selector::new(Some(selector)).matches(volume.metadata.labels.as_ref()))
    }

    /// Whether the class makes volumes for this node.
    fn is_allowed(&self, class: &StorageClass) -> bool {
        let terms = class.allowed_topologies.as_deref().unwrap_or_default();
        let labels = self.node.metadata.labels.as_ref();
        terms.is_empty()
            || terms.iter().any(|term| {
                let mut expressions = term.match_label_expressions.iter().flatten();
                expressions.all(|wanted| {
                    labels.and_then(|labels| labels.get(&wanted.key)).is_some_and(|value| wanted.values.contains(value))
                })
            })
    }

    /// Whether a driver that tells how much room it has, has enough here.
    fn has_capacity(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> bool {
        let driver = self.listers.csi_drivers.get("", &class.provisioner);
        if driver.and_then(|driver| driver.spec.storage_capacity) != Some(true) {
            return true;
        }
        let wanted = wanted_bytes(claim);
        let bytes = |text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
            Quantity::parse(&text.0).map_or(0, |quantity| quantity.value())
        };
        self.listers.csi_capacities.list().iter().any(|capacity| {
            let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            capacity.storage_class_name == *class.metadata.name.as_deref().unwrap_or_default()
                && limit.is_some_and(|limit| bytes(limit) >= wanted)
                && capacity.node_topology.is_some()
                && Selector::new(capacity.node_topology.as_ref()).matches(self.node.metadata.labels.as_ref())
        })
    }
}
