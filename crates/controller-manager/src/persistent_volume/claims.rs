//! What is to be done about a claim (upstream's `syncUnboundClaim` and `syncBoundClaim`).

use std::sync::Arc;

use client::Store;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, claim_class, default_class, find, is_bound_to, satisfies,
    volume_name,
};

/// An event about the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Note {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Bind the claim and this volume to each other.
    Bind(Arc<PersistentVolume>),
    /// Give it this class, the default by now.
    AssignClass(String),
    /// Ask this provisioner for a volume.
    Provision(String),
    /// Say why there is no volume yet, the phase aside.
    Tell(Note),
    /// It waits.
    Pending(Option<Note>),
    /// It had a volume once.
    Lost(Note),
    /// Something is wrong that only time or a user can mend.
    Fail(Note),
}

/// What the decision rests on.
pub(super) struct World<'a> {
    pub(super) volumes: &'a Store<PersistentVolume>,
    pub(super) classes: &'a Store<StorageClass>,
    /// Names of pods that use the claim and have no node.
    pub(super) unscheduled_pods: &'a (dyn Fn() -> Vec<String> + Sync),
}

pub(super) fn plan(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    let complete = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match (complete, volume_name(claim)) {
        (true, name) => bound(claim, name, world),
        (false, "") => unbound(claim, world),
        (false, name) => reserved(claim, name, world),
    }
}

/// The claim takes whatever fits.
fn unbound(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    let class_name = claim_class(claim);
    let class = Some(class_name).filter(|name| !name.is_empty()).and_then(|name| world.classes.get("", name));
    let delayed = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = find(claim, &world.volumes.list(), delayed) {
        return Step::Bind(volume);
    }
    if let Some(name) = default_class(claim, &world.classes.list()) {
        return Step::AssignClass(name.to_owned());
    }
    if delayed && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return Step::Pending(Some(waiting((world.unscheduled_pods)())));
    }
    if class_name.is_empty() {
        let why = "no persistent volumes available for this claim and no storage class is set";
        return Step::Pending(Some(Note::normal("FailedBinding", why)));
    }
    let Some(class) = class else {
        let why = format!("storageclass.storage.k8s.io {class_name:?} not found");
        return Step::Tell(Note::warning("ProvisioningFailed", why));
    };
    if class.provisioner.starts_with("kubernetes.io/") {
        // The drivers that were built into Kubernetes are gone, or, as `no-provisioner`, never were.
        let why = format!("no volume plugin matched name: {}", class.provisioner);
        return Step::Tell(Note::warning("ProvisioningFailed", why));
    }
    Step::Provision(class.provisioner.clone())
}

fn waiting(pods: Vec<String>) -> Note {
    match pods.as_slice() {
        [] => Note::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [pod] => Note::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => Note::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
    }
}

/// The claim names its volume.
fn reserved(claim: &PersistentVolumeClaim, name: &str, world: &World<'_>) -> Step {
    let Some(volume) = world.volumes.get("", name) else { return Step::Pending(None) };
    if is_bound_to(&volume, claim) {
        return Step::Bind(volume);
    }
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        let note = Note::warning("FailedBinding", format!("volume {name:?} already bound to a different claim."));
        let by_controller = annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_some();
        return if by_controller { Step::Fail(note) } else { Step::Pending(Some(note)) };
    }
    match satisfies(&volume, claim) {
        Ok(()) => Step::Bind(volume),
        Err(why) => {
            let message = format!("Cannot bind to requested volume {name:?}: {why}");
            Step::Pending(Some(Note::warning("VolumeMismatch", message)))
        }
    }
}

/// The claim was bound before.
fn bound(claim: &PersistentVolumeClaim, name: &str, world: &World<'_>) -> Step {
    if name.is_empty() {
        let why = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return Step::Lost(Note::warning("ClaimLost", why));
    }
    let Some(volume) = world.volumes.get("", name) else {
        return Step::Lost(Note::warning("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"));
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid == claim.metadata.uid) {
        return Step::Bind(volume);
    }
    let why = "Two claims are bound to the same volume, this one is bound incorrectly";
    Step::Lost(Note::warning("ClaimMisbound", why))
}
