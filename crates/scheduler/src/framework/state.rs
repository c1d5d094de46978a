//! What plugins remember between the extension points of one cycle.

use std::any::{Any, TypeId};
use std::sync::Arc;

use crate::pod_info::PodInfo;

/// A value of the state: cheap to clone, because what-if questions (preemption, nominated pods) each work on a copy.
trait Value: Any + Send + Sync {
    fn copy(&self) -> Box<dyn Value>;
    fn any(&self) -> &dyn Any;
    fn any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Clone + Send + Sync> Value for T {
    fn copy(&self) -> Box<dyn Value> {
        Box::new(self.clone())
    }
    fn any(&self) -> &dyn Any {
        self
    }
    fn any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A set of a profile's plugins, by index.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PluginSet(u64);

impl PluginSet {
    /// More plugins than this a profile cannot have.
    pub(super) const MAX: usize = 64;

    pub(super) fn insert(&mut self, plugin: usize) {
        self.0 |= 1 << plugin;
    }

    pub(super) fn contains(self, plugin: usize) -> bool {
        self.0 & (1 << plugin) != 0
    }
}

/// A map from type to value, private to one attempt at one pod. It holds a handful of values: a walk is faster than hashing.
pub struct CycleState {
    pod: Arc<PodInfo>,
    values: Vec<(TypeId, Box<dyn Value>)>,
    pub(super) filters_skipped: PluginSet,
    pub(super) scores_skipped: PluginSet,
    pub(super) pre_binds_skipped: PluginSet,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        Self {
            pod: Arc::clone(&self.pod),
            // Through the reference: a box is a value itself.
            values: self.values.iter().map(|(id, value)| (*id, (**value).copy())).collect(),
            filters_skipped: self.filters_skipped,
            scores_skipped: self.scores_skipped,
            pre_binds_skipped: self.pre_binds_skipped,
        }
    }
}

impl CycleState {
    /// The state of an attempt at this pod.
    pub(crate) fn new(pod: Arc<PodInfo>) -> Self {
        Self {
            pod,
            values: Vec::new(),
            filters_skipped: PluginSet::default(),
            scores_skipped: PluginSet::default(),
            pre_binds_skipped: PluginSet::default(),
        }
    }

    /// The pod of this attempt.
    pub(crate) fn pod(&self) -> &Arc<PodInfo> {
        &self.pod
    }

    /// Remembers a value; one for each type.
    pub fn put<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        let value: Box<dyn Value> = Box::new(value);
        match self.values.iter_mut().find(|(id, _)| *id == TypeId::of::<T>()) {
            Some((_, place)) => *place = value,
            None => self.values.push((TypeId::of::<T>(), value)),
        }
    }

    /// The value of this type, if one was put.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        let (_, value) = self.values.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        (**value).any().downcast_ref()
    }

    /// The same, to be changed.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        let (_, value) = self.values.iter_mut().find(|(id, _)| *id == TypeId::of::<T>())?;
        (**value).any_mut().downcast_mut()
    }
}
