//! What to attach to a node and what to detach from it. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{AttachedVolume, Node};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::volumes::{Needed, Volume};

/// How long a node that is not healthy may take to unmount before a volume is taken from it (upstream's maxWaitForUnmountDuration).
pub(super) const UNMOUNT_MAX: Duration = Duration::from_secs(6 * 60);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// What this controller's entries in `status.volumesAttached` begin with.
const CSI: &str = "kubernetes.io/csi/";

/// An attachment of the node, as far as its volume is known.
#[derive(Clone, Debug)]
pub(super) struct Attachment<'a> {
    pub(super) object: &'a VolumeAttachment,
    pub(super) volume: Volume,
    /// It is being deleted, or was asked to be.
    pub(super) going: bool,
    /// For how long no pod has needed it, zero if that is new; `None` if one does.
    pub(super) unneeded_for: Option<Duration>,
}

/// All that is known about a node.
#[derive(Clone, Debug)]
pub(super) struct World<'a> {
    /// `None`: it is gone.
    pub(super) node: Option<&'a Node>,
    /// What a node that is gone used at last; `None` where nobody saw it go.
    pub(super) last_in_use: Option<&'a HashSet<String>>,
    /// By unique names.
    pub(super) needed: &'a BTreeMap<String, Needed>,
    pub(super) attachments: &'a [Attachment<'a>],
    /// Other nodes that have a volume, by the names of PersistentVolumes.
    pub(super) elsewhere: &'a BTreeMap<String, Vec<String>>,
    /// Attachments that were asked for and are not in the cache yet, by unique names of volumes.
    pub(super) asked: &'a [String],
    /// Nodes keep what they do not unmount, however long (`--disable-force-detach-on-timeout`).
    pub(super) never_force: bool,
}

/// Why a volume is taken from a node that may still use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    Timeout,
    OutOfService,
}

impl Force {
    /// Value of the label `reason` in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::OutOfService => "out-of-service",
        }
    }
}

/// An attachment to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detach {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) volume: Volume,
    pub(super) force: Option<Force>,
}

/// What is to be done about a node, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) detach: Vec<Detach>,
    /// What the node is told to have, if it is told something else now.
    pub(super) report: Option<Vec<AttachedVolume>>,
    /// Of these it is told for the first time.
    pub(super) attached: Vec<Needed>,
    pub(super) attach: Vec<Needed>,
    /// These must wait for other nodes.
    pub(super) blocked: Vec<(Needed, Vec<String>)>,
    /// The driver could not attach these, and says why.
    pub(super) failed: Vec<(Needed, String)>,
    /// When to look again without a change.
    pub(super) look_again: Option<Duration>,
}

/// What the node has to say about its health.
struct Health {
    ready: bool,
    out_of_service: bool,
}

fn health(node: Option<&Node>) -> Health {
    let conditions = node.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_ref());
    let taints = node.and_then(|node| node.spec.as_ref()).and_then(|spec| spec.taints.as_ref());
    Health {
        ready: conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        out_of_service: taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE),
    }
}

/// Whether the node says that it uses a volume.
pub(super) fn is_in_use(node: &Node, unique_name: &str) -> bool {
    node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).any(|name| name == unique_name)
}

/// What a node's `status.volumesAttached` is.
pub(super) fn reported(node: &Node) -> &[AttachedVolume] {
    node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default()
}

fn is_attached(attachment: &VolumeAttachment) -> bool {
    attachment.status.as_ref().is_some_and(|status| status.attached)
}

/// How an attachment that nobody needs is let go.
enum LettingGo {
    Now(Option<Force>),
    /// The node uses it; look again after this time, if time alone can help.
    Later(Option<Duration>),
}

fn let_go(attachment: &Attachment<'_>, unneeded_for: Duration, world: &World<'_>) -> LettingGo {
    let Health { ready, out_of_service } = health(world.node);
    let overdue = unneeded_for > UNMOUNT_MAX && !world.never_force;
    let unique_name = &attachment.volume.unique_name;
    let in_use = match (world.node, world.last_in_use) {
        (Some(node), _) => is_in_use(node, unique_name),
        // It says nothing any more: its machine may be running, and using what it used, until the six minutes are over.
        (None, Some(last)) => last.contains(unique_name),
        // It went before this process began: it may have used anything.
        (None, None) => true,
    };
    let forced = overdue && !ready || out_of_service;
    if in_use && !forced {
        let left = UNMOUNT_MAX.checked_sub(unneeded_for).filter(|_| !world.never_force);
        return LettingGo::Later(left.map(|left| left + Duration::from_millis(1)));
    }
    // Upstream's order: what is overdue is not asked about again, whatever the node's health.
    LettingGo::Now(if overdue { Some(Force::Timeout) } else { out_of_service.then_some(Force::OutOfService) })
}

/// What is to be done about a node.
pub(super) fn plan(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    // Entries of others are theirs.
    let mut report: Vec<AttachedVolume> =
        world.node.map(reported).unwrap_or_default().iter().filter(|entry| !entry.name.starts_with(CSI)).cloned().collect();
    for attachment in world.attachments {
        let going = attachment.going;
        let unique_name = &attachment.volume.unique_name;
        if let Some(unneeded_for) = attachment.unneeded_for.filter(|_| !going) {
            match let_go(attachment, unneeded_for, world) {
                LettingGo::Now(force) => {
                    let metadata = &attachment.object.metadata;
                    let (name, uid) = (metadata.name.clone().unwrap_or_default(), metadata.uid.clone());
                    plan.detach.push(Detach { name, uid, volume: attachment.volume.clone(), force });
                    continue;
                }
                LettingGo::Later(left) => plan.look_again = [plan.look_again, left].into_iter().flatten().min(),
            }
        }
        if is_attached(attachment.object) && !going {
            report.push(AttachedVolume { name: unique_name.clone(), device_path: String::new() });
        }
    }
    report.sort_by(|left, right| left.name.cmp(&right.name));
    report.dedup_by(|left, right| left.name == right.name);
    for needed in world.needed.values() {
        attach(needed, world, &report, &mut plan);
    }
    let differs = world.node.is_some_and(|node| {
        let mut now: Vec<&AttachedVolume> = reported(node).iter().collect();
        now.sort_by(|left, right| left.name.cmp(&right.name));
        !now.into_iter().eq(&report)
    });
    plan.report = differs.then_some(report);
    plan
}

/// What is to be done about a volume that pods need.
fn attach(needed: &Needed, world: &World<'_>, report: &[AttachedVolume], plan: &mut Plan) {
    let unique_name = &needed.volume.unique_name;
    let Some(attachment) = world.attachments.iter().find(|attachment| attachment.volume.unique_name == *unique_name) else {
        if world.asked.contains(unique_name) {
            return;
        }
        match world.elsewhere.get(&needed.volume.persistent_volume).filter(|_| !needed.volume.shared) {
            Some(nodes) if !nodes.is_empty() => plan.blocked.push((needed.clone(), nodes.clone())),
            _ => plan.attach.push(needed.clone()),
        }
        return;
    };
    let is_told = world.node.is_some_and(|node| reported(node).iter().any(|entry| entry.name == *unique_name));
    if report.iter().any(|entry| entry.name == *unique_name) && !is_told {
        plan.attached.push(needed.clone());
    }
    let error = attachment.object.status.as_ref().filter(|status| !status.attached).and_then(|s| s.attach_error.as_ref());
    if let Some(error) = error {
        plan.failed.push((needed.clone(), error.message.clone().unwrap_or_default()));
    }
}
