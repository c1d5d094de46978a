//! Which ConfigMaps and Secrets a pod template uses. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

/// What a template reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reference {
    ConfigMap(String),
    Secret(String),
}

/// References that must be there, and those that may be missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) needed: BTreeSet<Reference>,
    pub(super) optional: BTreeSet<Reference>,
}

impl References {
    fn add(&mut self, reference: Reference, optional: Option<bool>) {
        if optional == Some(true) { &mut self.optional } else { &mut self.needed }.insert(reference);
    }

    /// Those of a pod.
    pub(super) fn of(spec: &PodSpec) -> Self {
        let mut found = Self::default();
        spec.volumes.iter().flatten().for_each(|volume| found.add_volume(volume));
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        containers.for_each(|container| found.add_container(container));
        // What one container needs is needed, whatever another says.
        let needed = &found.needed;
        found.optional.retain(|reference| !needed.contains(reference));
        found
    }

    fn add_volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.config_map {
            self.add(Reference::ConfigMap(source.name.clone()), source.optional);
        }
        if let Some((source, name)) = volume.secret.as_ref().and_then(|s| Some((s, s.secret_name.as_ref()?))) {
            self.add(Reference::Secret(name.clone()), source.optional);
        }
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            if let Some(map) = &source.config_map {
                self.add(Reference::ConfigMap(map.name.clone()), map.optional);
            }
            if let Some(secret) = &source.secret {
                self.add(Reference::Secret(secret.name.clone()), secret.optional);
            }
        }
    }

    fn add_container(&mut self, container: &Container) {
        for source in container.env_from.iter().flatten() {
            if let Some(map) = &source.config_map_ref {
                self.add(Reference::ConfigMap(map.name.clone()), map.optional);
            }
            if let Some(secret) = &source.secret_ref {
                self.add(Reference::Secret(secret.name.clone()), secret.optional);
            }
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(map) = &source.config_map_key_ref {
                self.add(Reference::ConfigMap(map.name.clone()), map.optional);
            }
            if let Some(secret) = &source.secret_key_ref {
                self.add(Reference::Secret(secret.name.clone()), secret.optional);
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Reference> {
        self.needed.iter().chain(&self.optional)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_use_one() {
        let spec: PodSpec = serde_json::from_value(json!({
            "volumes": [
                {"name": "a", "configMap": {"name": "m1"}},
                {"name": "b", "secret": {"secretName": "s1", "optional": true}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "m2"}}, {"secret": {"name": "s2"}}]}},
            ],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m3"}}, {"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "x", "valueFrom": {"configMapKeyRef": {"name": "m4", "key": "k", "optional": true}}},
                {"name": "y", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}},
                {"name": "z", "value": "plain"},
            ]}],
        }))
        .expect("is a spec");
        let found = References::of(&spec);
        let map = |name: &str| Reference::ConfigMap(name.to_owned());
        let secret = |name: &str| Reference::Secret(name.to_owned());
        let needed = [map("m1"), map("m2"), map("m3"), secret("s1"), secret("s2"), secret("s3")];
        assert_eq!(found.needed, needed.into());
        assert_eq!(found.optional, [map("m4")].into());
    }
}
