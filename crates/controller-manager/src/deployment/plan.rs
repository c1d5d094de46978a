//! What to do about a deployment, given its ReplicaSets. Pure: the time comes in.
//!
//! One plan is one step of the rollout. The next step follows when the ReplicaSets' status changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::replica_sets::{DESIRED_REPLICAS, REVISION, Set, find_new, make_new};
use super::rollback::{self, Rollback};
use super::scaling::{self, desired, max_surge, max_unavailable};
use super::status::{self, PROGRESSING, TIMED_OUT, condition, is_complete, new_condition, progress_deadline, set_condition};

/// What is to be done, in this order: write the sets, delete, then update the status.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Sets to create or update.
    pub(super) sets: Vec<Set>,
    /// Old sets beyond the history limit.
    pub(super) delete: Vec<Arc<ReplicaSet>>,
    /// The new status, if it differs.
    pub(super) status: Option<DeploymentStatus>,
    /// The new value of the deployment's revision annotation, if it differs.
    pub(super) revision: Option<String>,
    /// When to look again even if nothing changes.
    pub(super) check_after: Option<Duration>,
    /// The selector is empty: warn, and do nothing else.
    pub(super) selects_everything: bool,
    /// The deployment as the rollback that was asked for makes it; then nothing but the sets is written besides.
    pub(super) rollback: Option<Rollback>,
}

/// `old_pods_exist` tells, for strategy Recreate, whether pods exist that do not belong to the set with this UID.
pub(super) fn plan(
    deployment: &Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    old_pods_exist: impl Fn(Option<&str>) -> bool,
    now: Timestamp,
) -> Plan {
    let mut work = Work {
        deployment: deployment.clone(),
        sets: sets.into_iter().map(Set::existing).collect(),
        new: None,
        delete: Vec::new(),
        now,
    };
    let spec = deployment.spec.clone().unwrap_or_default();
    if spec.selector == LabelSelector::default() {
        return work.select_everything();
    }
    work.new = find_new(deployment, &work.sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        work.sync_new(false);
        return work.finish(deployment, status::calculate);
    }
    let paused = spec.paused == Some(true);
    work.note_pause(paused);
    let rollback_to = rollback::wanted(deployment);
    if let Some(revision) = rollback_to.filter(|_| !paused) {
        work.sync_new(true);
        let rollback = rollback::plan(deployment, &work.sets, revision);
        let sets = work.sets.into_iter().filter(Set::is_changed).collect();
        return Plan { sets, rollback: Some(rollback), ..Default::default() };
    }
    work.sync_new(false);
    if paused || work.is_scaled() {
        work.scale_all();
        if paused && rollback_to.is_none() {
            work.clean_up();
        }
        return work.finish(deployment, status::calculate);
    }
    if scaling::is_rolling(deployment) {
        work.roll();
    } else {
        work.recreate(old_pods_exist);
    }
    work.finish(deployment, status::rollout)
}

struct Work {
    /// With the conditions as changed so far.
    deployment: Deployment,
    sets: Vec<Set>,
    new: Option<usize>,
    delete: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
}

impl Work {
    fn select_everything(self) -> Plan {
        let mut status = self.deployment.status.unwrap_or_default();
        let observed = status.observed_generation == self.deployment.metadata.generation;
        status.observed_generation = self.deployment.metadata.generation;
        Plan { selects_everything: true, status: (!observed).then_some(status), ..Default::default() }
    }

    fn finish(
        self,
        original: &Deployment,
        status: impl Fn(&Deployment, &[Set], Option<usize>, Timestamp) -> DeploymentStatus,
    ) -> Plan {
        let status = status(&self.deployment, &self.sets, self.new, self.now);
        let last = status::normalized(original.status.clone().unwrap_or_default());
        let revision = self.new.map(|new| self.sets[new].wanted.annotations().get(REVISION).cloned());
        let revision = revision.flatten().filter(|revision| original.annotations().get(REVISION) != Some(revision));
        let check_after = status::next_progress_check(&self.deployment, &status, self.now);
        Plan {
            sets: self.sets.into_iter().filter(Set::is_changed).collect(),
            delete: self.delete,
            status: (status != last).then_some(status),
            revision,
            check_after,
            ..Default::default()
        }
    }

    fn status_mut(&mut self) -> &mut DeploymentStatus {
        self.deployment.status.get_or_insert_default()
    }

    fn set_progressing(&mut self, status: &str, reason: &str, message: String) {
        let condition = new_condition(PROGRESSING, status, reason, message, self.now);
        set_condition(self.status_mut(), condition);
    }

    /// While paused the progress deadline does not run.
    fn note_pause(&mut self, paused: bool) {
        if progress_deadline(&self.deployment).is_none() {
            return;
        }
        let current = self.deployment.status.as_ref().and_then(|status| condition(status, PROGRESSING));
        let reason = current.and_then(|condition| condition.reason.as_deref());
        if reason == Some(TIMED_OUT) {
            return;
        }
        let noted = reason == Some("DeploymentPaused");
        if paused && !noted {
            self.set_progressing("Unknown", "DeploymentPaused", "Deployment is paused".into());
        } else if !paused && noted {
            self.set_progressing("Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |i| Some(*i) != new)
    }

    /// Brings revision and annotations of the new set up to date; makes the set if there is none and `create` says so.
    fn sync_new(&mut self, create: bool) {
        let revision = self.old().map(|i| self.sets[i].revision()).max().unwrap_or(0).max(0) + 1;
        if let Some(new) = self.new {
            let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            let set = &mut self.sets[new];
            set.annotate_revision(&self.deployment, revision);
            let spec = set.wanted.spec.get_or_insert_default();
            if spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
                spec.min_ready_seconds = min_ready;
            }
            let name = set.name();
            let has_condition = self.deployment.status.as_ref().is_some_and(|status| condition(status, PROGRESSING).is_some());
            if !has_condition && progress_deadline(&self.deployment).is_some() {
                self.set_progressing("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
            }
        } else if create {
            let set = make_new(&self.deployment, &self.sets, revision);
            let name = set.name();
            self.new = Some(self.sets.len());
            self.sets.push(set);
            if progress_deadline(&self.deployment).is_some() {
                self.set_progressing("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"));
            }
        }
    }

    /// Whether the deployment's size changed since the active sets were last sized.
    fn is_scaled(&self) -> bool {
        self.sets
            .iter()
            .filter(|set| set.replicas() > 0)
            .filter_map(|set| set.annotation_number(DESIRED_REPLICAS))
            .any(|size| size != desired(&self.deployment))
    }

    /// Gives a set a size and notes the deployment's; whether the size changed.
    fn resize(&mut self, index: usize, size: i32) -> bool {
        let wanted = desired(&self.deployment);
        let max = wanted + max_surge(&self.deployment);
        let set = &mut self.sets[index];
        let before = set.replicas();
        set.annotate_sizes(wanted, max);
        if before == size {
            return false;
        }
        set.set_replicas(size);
        let direction = if before < size { "up" } else { "down" };
        set.event = Some(format!("Scaled {direction} replica set {} from {before} to {size}", set.name()));
        true
    }

    /// As [`Work::resize`], but leaves a set of that size alone.
    fn resize_if_different(&mut self, index: usize, size: i32) -> bool {
        self.sets[index].replicas() != size && self.resize(index, size)
    }

    /// Sizes all sets after the deployment's size changed, without going on with the rollout.
    fn scale_all(&mut self) {
        let wanted = desired(&self.deployment);
        if let Some(only) = self.active_or_latest() {
            self.resize_if_different(only, wanted);
        } else if self.is_saturated() {
            for i in self.old() {
                self.resize_if_different(i, 0);
            }
        } else if scaling::is_rolling(&self.deployment) {
            let mut active: Vec<&Set> = self.sets.iter().filter(|set| set.replicas() > 0).collect();
            scaling::sort_for_scaling(&self.deployment, &mut active);
            let sizes = scaling::proportional(&self.deployment, &active);
            let names: Vec<String> = active.iter().map(|set| set.name()).collect();
            for (name, size) in names.into_iter().zip(sizes) {
                if let Some(index) = self.sets.iter().position(|set| set.name() == name) {
                    self.resize(index, size);
                }
            }
        }
    }

    /// The only set with replicas, or if none has any, the new one or else the youngest.
    fn active_or_latest(&self) -> Option<usize> {
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas() > 0).collect();
        match active[..] {
            [] => self.new.or_else(|| self.old().max_by(|a, b| self.sets[*a].compare_age(&self.sets[*b]))),
            [only] => Some(only),
            _ => None,
        }
    }

    fn is_saturated(&self) -> bool {
        let wanted = desired(&self.deployment);
        self.new.is_some_and(|new| {
            let set = &self.sets[new];
            set.replicas() == wanted && set.annotation_number(DESIRED_REPLICAS) == Some(wanted) && set.available() == wanted
        })
    }

    fn roll(&mut self) {
        self.sync_new(true);
        if self.grow_new() || self.shrink_old() {
            return;
        }
        self.clean_up_if_complete();
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let (size, wanted) = (self.sets[new].replicas(), desired(&self.deployment));
        // One that is just being made has its first size already.
        if size == wanted || self.sets[new].current.is_none() {
            return false;
        }
        let size = if size > wanted {
            wanted
        } else {
            let total = self.sets.iter().map(Set::replicas).sum();
            scaling::new_set_replicas(&self.deployment, total, size)
        };
        self.resize_if_different(new, size)
    }

    /// Takes down unhealthy replicas of old sets first, then as many healthy ones as availability allows. Old sets that were just resized
    /// are waited for: upstream counts what they had, and takes down too much when a template comes back that was on its way out.
    fn shrink_old(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let mut old: Vec<usize> = self.old().filter(|i| self.sets[*i].replicas() > 0).collect();
        if old.is_empty() {
            return false;
        }
        if old.iter().any(|i| !self.sets[*i].is_observed()) {
            return false;
        }
        old.sort_by(|a, b| self.sets[*a].compare_age(&self.sets[*b]));
        let new_available = if self.sets[new].is_observed() { self.sets[new].available() } else { 0 };
        let min_available = desired(&self.deployment) - max_unavailable(&self.deployment);
        let total: i32 = self.sets.iter().map(Set::replicas).sum();
        let new_unavailable = self.sets[new].replicas() - new_available;
        let allowed = total - min_available - new_unavailable;
        if allowed <= 0 {
            return false;
        }
        let mut cleaned = 0;
        for &i in &old {
            let unhealthy = self.sets[i].replicas() - self.sets[i].available();
            let down = unhealthy.min(allowed - cleaned);
            if down > 0 {
                self.resize(i, self.sets[i].replicas() - down);
                cleaned += down;
            }
        }
        let old_available: i32 = old.iter().map(|i| self.sets[*i].available()).sum();
        let mut left = (old_available + new_available - min_available).max(0);
        let mut shrunk = 0;
        for &i in &old {
            let size = self.sets[i].replicas();
            let down = size.min(left);
            if down > 0 {
                self.resize(i, size - down);
                left -= down;
                shrunk += down;
            }
        }
        cleaned + shrunk > 0
    }

    fn recreate(&mut self, old_pods_exist: impl Fn(Option<&str>) -> bool) {
        let mut shrunk = false;
        for i in self.old() {
            shrunk |= self.resize_if_different(i, 0);
        }
        if shrunk || self.old().any(|i| self.sets[i].actual() > 0) {
            return;
        }
        let new_uid = self.new.and_then(|new| self.sets[new].wanted.metadata.uid.clone());
        if old_pods_exist(new_uid.as_deref()) {
            return;
        }
        self.sync_new(true);
        if let Some(new) = self.new {
            self.resize_if_different(new, desired(&self.deployment));
        }
        self.clean_up_if_complete();
    }

    fn clean_up_if_complete(&mut self) {
        let status = self.deployment.status.clone().unwrap_or_default();
        if is_complete(&self.deployment, &status) {
            self.clean_up();
        }
    }

    /// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<&Set> =
            self.old().map(|i| &self.sets[i]).filter(|set| set.wanted.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by(|a, b| a.revision().cmp(&b.revision()).then_with(|| a.compare_age(b)));
        let unused = |set: &Set| set.replicas() == 0 && set.actual() == 0 && set.is_observed();
        let delete: Vec<_> =
            old.into_iter().take(surplus).filter(|set| unused(set)).filter_map(|set| set.current.clone()).collect();
        self.delete = delete;
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
