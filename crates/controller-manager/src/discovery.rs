//! Which resources the server has, as the controllers that work on every kind need to know.

use std::collections::HashMap;

use client::ReconcileError;
use kube::core::GroupVersionKind;
use kube::core::discovery::verbs;
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};
use parking_lot::Mutex;

use crate::api_errors::{is_not_found, message};

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

/// One kind in one version.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    /// It has a `scale` subresource.
    pub(crate) has_scale: bool,
}

impl Kind {
    /// `plural.group`, or the plural alone in the core group.
    pub(crate) fn group_resource(&self) -> String {
        let ApiResource { plural, group, .. } = &self.resource;
        if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
    }
}

/// The resources of kinds that objects refer to, asked for one by one and remembered. Errors are upstream's texts.
pub(crate) struct Kinds {
    client: kube::Client,
    /// By `apiVersion` and kind.
    found: Mutex<HashMap<(String, String), Kind>>,
}

impl Kinds {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, found: Mutex::default() }
    }

    /// A kind in a version.
    pub(crate) async fn of_version(&self, api_version: &str, kind: &str) -> Result<Kind, String> {
        let found = self.find(api_version, kind).await?;
        found.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
    }

    /// A kind in the preferred version of its group that has it.
    pub(crate) async fn of_group(&self, group: &str, kind: &str) -> Result<Kind, String> {
        let unknown = || format!("no matches for kind {kind:?} in group {group:?}");
        if group.is_empty() {
            return self.find("v1", kind).await?.ok_or_else(unknown);
        }
        let groups = self.client.list_api_groups().await.map_err(|error| message(&error))?;
        let listed = groups.groups.into_iter().find(|listed| listed.name == group).ok_or_else(unknown)?;
        for version in listed.preferred_version.iter().chain(&listed.versions) {
            if let Some(found) = self.find(&version.group_version, kind).await? {
                return Ok(found);
            }
        }
        Err(unknown())
    }

    async fn find(&self, api_version: &str, kind: &str) -> Result<Option<Kind>, String> {
        let key = (api_version.to_owned(), kind.to_owned());
        let known = self.found.lock().get(&key).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let list = match api_version.contains('/') {
            true => self.client.list_api_group_resources(api_version).await,
            false => self.client.list_core_api_resources(api_version).await,
        };
        let list = match list {
            Ok(list) => list,
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(message(&error)),
        };
        let found = list.resources.iter().find(|resource| resource.kind == kind && !resource.name.contains('/'));
        let Some(plural) = found.map(|resource| &resource.name) else { return Ok(None) };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let scale = format!("{plural}/scale");
        let has_scale = list.resources.iter().any(|resource| resource.name == scale && resource.kind == "Scale");
        let kind = Kind { resource, has_scale };
        self.found.lock().insert(key, kind.clone());
        Ok(Some(kind))
    }
}
