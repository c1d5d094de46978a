//! What happens in the cluster, as far as it may make a waiting pod schedulable (KEP-4247).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

/// An object before and after.
#[derive(Debug)]
pub struct Transition<K> {
    /// Before; `None` when it is new.
    pub old: Option<Arc<K>>,
    /// After; `None` when it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Clone for Transition<K> {
    fn clone(&self) -> Self {
        Self { old: self.old.clone(), new: self.new.clone() }
    }
}

impl<K> Transition<K> {
    /// The object, when it is new.
    pub(crate) fn added(&self) -> Option<&Arc<K>> {
        self.new.as_ref().filter(|_| self.old.is_none())
    }

    /// The last version, when it is gone.
    pub(crate) fn deleted(&self) -> Option<&Arc<K>> {
        self.old.as_ref().filter(|_| self.new.is_none())
    }

    /// The object, when it is new or changed.
    pub(crate) fn present(&self) -> Option<&Arc<K>> {
        self.new.as_ref()
    }
}

/// A change in the cluster that may make a waiting pod schedulable.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A pod on a node changed; `None` for `new` when it is gone.
    AssignedPod {
        /// Before; `None` when it is new.
        old: Option<Arc<Pod>>,
        /// After; `None` when it is gone.
        new: Option<Arc<Pod>>,
    },
    /// The waiting pod's own object changed.
    UnscheduledPod {
        /// Before.
        old: Arc<Pod>,
        /// After.
        new: Arc<Pod>,
    },
    /// A node came or changed.
    Node {
        /// Before; `None` when it is new.
        old: Option<Arc<Node>>,
        /// After.
        new: Arc<Node>,
    },
    /// A node is gone.
    NodeGone(Arc<Node>),
    /// A volume.
    PersistentVolume(Transition<PersistentVolume>),
    /// A claim to a volume.
    PersistentVolumeClaim(Transition<PersistentVolumeClaim>),
    /// A class of volumes.
    StorageClass(Transition<StorageClass>),
    /// What a node's CSI drivers can do.
    CsiNode(Transition<CSINode>),
    /// What a CSI driver is like.
    CsiDriver(Transition<CSIDriver>),
    /// How much storage is left somewhere.
    CsiStorageCapacity(Transition<CSIStorageCapacity>),
    /// A volume is attached to a node.
    VolumeAttachment(Transition<VolumeAttachment>),
}

/// A plugin's opinion on whether an event is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Try again.
    Queue,
    /// This changes nothing for the pod.
    Skip,
}

impl Hint {
    /// `Queue` if the condition holds.
    pub(crate) fn queue_if(helps: bool) -> Self {
        if helps { Self::Queue } else { Self::Skip }
    }
}
