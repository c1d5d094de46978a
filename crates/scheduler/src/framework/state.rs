//! What plugins remember between the extension points of one cycle.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
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

/// A map from type to value, private to one attempt at one pod.
pub struct CycleState {
    pod: Arc<PodInfo>,
    values: HashMap<TypeId, Box<dyn Value>>,
    pub(super) filters_skipped: HashSet<&'static str>,
    pub(super) scores_skipped: HashSet<&'static str>,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        Self {
            pod: Arc::clone(&self.pod),
            // Through the reference: a box is a value itself.
            values: self.values.iter().map(|(id, value)| (*id, (**value).copy())).collect(),
            filters_skipped: self.filters_skipped.clone(),
            scores_skipped: self.scores_skipped.clone(),
        }
    }
}

impl CycleState {
    /// The state of an attempt at this pod.
    pub(crate) fn new(pod: Arc<PodInfo>) -> Self {
        Self { pod, values: HashMap::new(), filters_skipped: HashSet::new(), scores_skipped: HashSet::new() }
    }

    /// The pod of this attempt.
    pub(crate) fn pod(&self) -> &Arc<PodInfo> {
        &self.pod
    }

    /// Remembers a value; one for each type.
    pub fn put<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type, if one was put.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>()).and_then(|value| (**value).any().downcast_ref())
    }

    /// The same, to be changed.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.values.get_mut(&TypeId::of::<T>()).and_then(|value| (**value).any_mut().downcast_mut())
    }
}
