//! What plugins remember between the extension points of one cycle.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};

/// A map from type to value, private to one attempt at one pod.
#[derive(Default)]
pub struct CycleState {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    pub(super) filters_skipped: HashSet<&'static str>,
    pub(super) scores_skipped: HashSet<&'static str>,
}

impl CycleState {
    /// Remembers a value; one for each type.
    pub fn put<T: Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type, if one was put.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref())
    }
}
