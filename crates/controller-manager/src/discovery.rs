//! Which resources the server has, as the controllers that work on every kind need to know.

use client::ReconcileError;
use kube::core::discovery::verbs;
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};

/// One resource in one version.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
    /// Whether this is the version to use for the resource.
    pub(crate) preferred: bool,
}

impl Resource {
    fn new((api, capabilities): (ApiResource, ApiCapabilities), preferred: bool) -> Self {
        Self { api, namespaced: capabilities.scope == Scope::Namespaced, verbs: capabilities.operations, preferred }
    }

    pub(crate) fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|supported| supported == verb)
    }

    /// It can be listed, watched and deleted.
    pub(crate) fn is_collectable(&self) -> bool {
        [verbs::DELETE, verbs::LIST, verbs::WATCH].iter().all(|verb| self.supports(verb))
    }

    /// `plural.group`, as upstream writes a GroupResource with an empty group (`pods.`).
    pub(crate) fn group_resource(&self) -> String {
        format!("{}.{}", self.api.plural, self.api.group)
    }
}

/// All resources in all versions.
pub(crate) async fn resources(client: &kube::Client) -> Result<Vec<Resource>, ReconcileError> {
    // Two requests if the server has aggregated discovery (KEP-3352), else one per group and version.
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(_) => Discovery::new(client.clone()).run().await.map_err(ReconcileError::api("discover resources"))?,
    };
    let mut found = Vec::new();
    for group in discovery.groups_alphabetical() {
        let best: Vec<_> = group.resources_by_stability().into_iter().map(|(api, _)| (api.version, api.plural)).collect();
        for version in group.versions() {
            for resource in group.versioned_resources(version) {
                let id = (resource.0.version.clone(), resource.0.plural.clone());
                let preferred = best.contains(&id);
                found.push(Resource::new(resource, preferred));
            }
        }
    }
    Ok(found)
}
