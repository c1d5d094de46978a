//! What happens in the cluster, as far as it may make a waiting pod schedulable (KEP-4247).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1alpha1::Workload;
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

    /// One of three names: added, updated, deleted.
    fn label(&self, [added, updated, deleted]: [&'static str; 3]) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => added,
            (Some(_), Some(_)) => updated,
            (Some(_), None) => deleted,
        }
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
    /// A pod without a node is new.
    UnscheduledPodAdd(Arc<Pod>),
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
    /// A claim to devices.
    ResourceClaim(Transition<ResourceClaim>),
    /// A class of devices.
    DeviceClass(Transition<DeviceClass>),
    /// The devices of a driver, or some of them.
    ResourceSlice(Transition<ResourceSlice>),
    /// The gangs of pods.
    Workload(Transition<Workload>),
    /// The pod with this uid is to be tried, whatever else.
    Force(String),
}

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSet(u32);

impl EventSet {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self(u32::MAX);
    /// A pod is on a node now.
    pub const ASSIGNED_ADD: Self = Self(1);
    /// A pod on a node has changed.
    pub const ASSIGNED_UPDATE: Self = Self(1 << 1);
    /// A pod on a node is gone.
    pub const ASSIGNED_DELETE: Self = Self(1 << 2);
    /// The waiting pod itself has changed.
    pub const OWN: Self = Self(1 << 3);
    /// A node is new.
    pub const NODE_ADD: Self = Self(1 << 4);
    /// A node has changed.
    pub const NODE_UPDATE: Self = Self(1 << 5);
    /// A node is gone.
    pub const NODE_DELETE: Self = Self(1 << 6);
    /// Volumes, claims, classes and CSI objects.
    pub const STORAGE: Self = Self(1 << 7);
    /// Claims to devices, their classes and slices.
    pub const DEVICES: Self = Self(1 << 8);
    /// A pod without a node is new.
    pub const UNSCHEDULED_ADD: Self = Self(1 << 9);
    /// The gangs of pods.
    pub const WORKLOADS: Self = Self(1 << 10);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have a kind in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl ClusterEvent {
    /// The event's kind, as a set of one.
    pub(crate) fn kind(&self) -> EventSet {
        match self {
            Self::AssignedPod { old: None, .. } => EventSet::ASSIGNED_ADD,
            Self::AssignedPod { new: None, .. } => EventSet::ASSIGNED_DELETE,
            Self::AssignedPod { .. } => EventSet::ASSIGNED_UPDATE,
            Self::UnscheduledPod { .. } => EventSet::OWN,
            Self::UnscheduledPodAdd(_) => EventSet::UNSCHEDULED_ADD,
            Self::Workload(_) => EventSet::WORKLOADS,
            Self::Node { old: None, .. } => EventSet::NODE_ADD,
            Self::Node { .. } => EventSet::NODE_UPDATE,
            Self::NodeGone(_) => EventSet::NODE_DELETE,
            Self::Force(_) => EventSet::ALL,
            Self::ResourceClaim(_) | Self::DeviceClass(_) | Self::ResourceSlice(_) => EventSet::DEVICES,
            _ => EventSet::STORAGE,
        }
    }

    /// Upstream's name of the event, for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::AssignedPod { old: None, .. } => "AssignedPodAdd",
            Self::AssignedPod { new: None, .. } => "AssignedPodDelete",
            Self::AssignedPod { .. } => "AssignedPodUpdate",
            Self::UnscheduledPod { .. } => "UnschedulablePodUpdate",
            Self::UnscheduledPodAdd(_) => "UnschedulablePodAdd",
            Self::Node { old: None, .. } => "NodeAdd",
            Self::Node { .. } => "NodeUpdate",
            Self::NodeGone(_) => "NodeDelete",
            Self::PersistentVolume(change) => {
                change.label(["PersistentVolumeAdd", "PersistentVolumeUpdate", "PersistentVolumeDelete"])
            }
            Self::PersistentVolumeClaim(change) => {
                change.label(["PersistentVolumeClaimAdd", "PersistentVolumeClaimUpdate", "PersistentVolumeClaimDelete"])
            }
            Self::StorageClass(change) => change.label([
                "storage.k8s.io/StorageClassAdd",
                "storage.k8s.io/StorageClassUpdate",
                "storage.k8s.io/StorageClassDelete",
            ]),
            Self::CsiNode(change) => {
                change.label(["storage.k8s.io/CSINodeAdd", "storage.k8s.io/CSINodeUpdate", "storage.k8s.io/CSINodeDelete"])
            }
            Self::CsiDriver(change) => {
                change.label(["storage.k8s.io/CSIDriverAdd", "storage.k8s.io/CSIDriverUpdate", "storage.k8s.io/CSIDriverDelete"])
            }
            Self::CsiStorageCapacity(change) => change.label([
                "storage.k8s.io/CSIStorageCapacityAdd",
                "storage.k8s.io/CSIStorageCapacityUpdate",
                "storage.k8s.io/CSIStorageCapacityDelete",
            ]),
            Self::VolumeAttachment(change) => change.label([
                "storage.k8s.io/VolumeAttachmentAdd",
                "storage.k8s.io/VolumeAttachmentUpdate",
                "storage.k8s.io/VolumeAttachmentDelete",
            ]),
            Self::ResourceClaim(change) => change.label([
                "resource.k8s.io/ResourceClaimAdd",
                "resource.k8s.io/ResourceClaimUpdate",
                "resource.k8s.io/ResourceClaimDelete",
            ]),
            Self::DeviceClass(change) => change.label([
                "resource.k8s.io/DeviceClassAdd",
                "resource.k8s.io/DeviceClassUpdate",
                "resource.k8s.io/DeviceClassDelete",
            ]),
            Self::ResourceSlice(change) => change.label([
                "resource.k8s.io/ResourceSliceAdd",
                "resource.k8s.io/ResourceSliceUpdate",
                "resource.k8s.io/ResourceSliceDelete",
            ]),
            Self::Workload(change) => change.label([
                "scheduling.k8s.io/WorkloadAdd",
                "scheduling.k8s.io/WorkloadUpdate",
                "scheduling.k8s.io/WorkloadDelete",
            ]),
            Self::Force(_) => "ForceActivate",
        }
    }
}

/// A plugin's opinion on whether an event is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Try again.
    Queue,
    /// This changes nothing for the pod.
    Skip,
}

/// What an event is worth to a waiting pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// It changes nothing.
    Nothing,
    /// Another attempt, when the pod has backed off.
    AfterBackoff,
    /// An attempt at once: it is what the pod was waiting for.
    AtOnce,
}

impl Hint {
    /// `Queue` if the condition holds.
    pub(crate) fn queue_if(helps: bool) -> Self {
        if helps { Self::Queue } else { Self::Skip }
    }
}
