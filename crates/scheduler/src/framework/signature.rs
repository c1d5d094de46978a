//! What a pod's placement depends on, as far as the pod itself is concerned (KEP-5598): two pods of equal signature get the same opinion
//! of the same nodes from every plugin.
//!
//! Each plugin that filters or scores adds what it looks at; several may look at the same and add it once. A pod whose placement depends on
//! more than itself and one node has no signature. The names are upstream's. Where upstream's signature is blind to something that its
//! plugins do see (the namespace that others' affinity terms and the claims are about, address and protocol of a host port, what scoring
//! takes for a container without requests), ours is not.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm};
use serde::Serialize;

use crate::pod_info::PodInfo;

/// See the module. Only of use to be compared with others of the same profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature(Vec<u8>);

/// Says what of a pod a plugin that filters or scores looks at. A profile with such a plugin that does not say it has no signatures.
pub trait Sign: Send + Sync {
    /// Whether what the plugin makes of the pod and a node depends on these two alone. Others of the same signature may come between.
    fn is_signable(&self, _pod: &Pod) -> bool {
        true
    }

    /// Adds what it looks at.
    fn sign(&self, pod: &PodInfo, signer: &mut Signer);
}

/// A signature in the making.
#[derive(Default)]
pub struct Signer {
    bytes: Vec<u8>,
    names: Vec<&'static str>,
    failed: bool,
}

type Texts = Result<Vec<String>, serde_json::Error>;

impl Signer {
    /// Adds a fragment, unless there is one of this name already. What has no order must come in one that depends on nothing else.
    pub(crate) fn add<V: Serialize>(&mut self, name: &'static str, value: impl FnOnce() -> Result<V, serde_json::Error>) {
        if self.names.contains(&name) {
            return;
        }
        self.names.push(name);
        let written = value().and_then(|value| serde_json::to_writer(&mut self.bytes, &(name, value)));
        self.failed |= written.is_err();
    }

    /// The pod's tolerations.
    pub(crate) fn tolerations(&mut self, pod: &Pod) {
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        self.add("v1.Pod.Spec.Tolerations", || sorted(tolerations));
    }

    /// What the pod asks for.
    pub(crate) fn requests(&mut self, pod: &PodInfo) {
        self.add("v1.Pod.Spec.ContainerRequestsAndOverheads()", || Ok(&pod.request));
    }

    /// The pod's volumes, but for those that every node has room for.
    pub(crate) fn volumes(&mut self, pod: &Pod) {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        self.add("v1.Pod.Spec.Volumes.NonSyntheticSources()", || {
            let sources = volumes.iter().filter(|volume| volume.config_map.is_none() && volume.secret.is_none());
            sorted(sources.map(|volume| {
                let mut source = volume.clone();
                source.name.clear();
                source
            }))
        });
    }

    /// The signature, if every fragment could be written.
    pub(super) fn finish(self) -> Option<Signature> {
        (!self.failed).then_some(Signature(self.bytes))
    }
}

/// The texts of things whose order does not matter.
fn sorted<T: Serialize>(items: impl IntoIterator<Item = T>) -> Texts {
    let mut texts = items.into_iter().map(|item| serde_json::to_string(&item)).collect::<Result<Vec<_>, _>>()?;
    texts.sort();
    Ok(texts)
}

fn requirements(given: Option<&Vec<NodeSelectorRequirement>>) -> Texts {
    sorted(given.into_iter().flatten().map(|requirement| {
        let mut requirement = requirement.clone();
        requirement.values.iter_mut().for_each(|values| values.sort());
        requirement
    }))
}

fn term(term: &NodeSelectorTerm) -> Result<(Vec<String>, Vec<String>), serde_json::Error> {
    Ok((requirements(term.match_expressions.as_ref())?, requirements(term.match_fields.as_ref())?))
}

/// The terms of a node selector.
pub(crate) fn terms<'a>(given: impl Iterator<Item = &'a NodeSelectorTerm>) -> Texts {
    sorted(given.map(term).collect::<Result<Vec<_>, _>>()?)
}

/// Terms with weights.
pub(crate) fn weighted_terms<'a>(given: impl Iterator<Item = &'a PreferredSchedulingTerm>) -> Texts {
    let weighted = given.map(|preferred| Ok((preferred.weight, term(&preferred.preference)?)));
    sorted(weighted.collect::<Result<Vec<_>, serde_json::Error>>()?)
}
