//! What a search found, as the API has it.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClaimConfiguration,
    DeviceRequestAllocationResult, ResourceClaim,
};

use super::allocator::{Chosen, Search, requests_of};

/// The results, a claim each.
pub(super) fn collect(search: &Search<'_>) -> Result<Vec<AllocationResult>, String> {
    let claims = search.claims.iter().enumerate();
    claims
        .map(|(c, claim)| {
            Ok(AllocationResult {
                allocation_timestamp: None,
                devices: Some(DeviceAllocationResult {
                    config: Some(configurations(search, c, claim)).filter(|config| !config.is_empty()),
                    results: Some(search.chosen[c].iter().map(|chosen| result(search, chosen)).collect()),
                }),
                node_selector: node_selector(search, &search.chosen[c]).map_err(|error| {
                    format!("create NodeSelector for claim {}: {error}", claim.metadata.name.as_deref().unwrap_or_default())
                })?,
            })
        })
        .collect()
}

fn result(search: &Search<'_>, chosen: &Chosen) -> DeviceRequestAllocationResult {
    let spec = &search.inventory.slice(chosen.at).spec;
    DeviceRequestAllocationResult {
        request: search.requests[&chosen.request].full_name(),
        driver: spec.driver.clone(),
        pool: spec.pool.name.clone(),
        device: search.inventory.device(chosen.at).name.clone(),
        admin_access: chosen.admin.then_some(true),
        ..DeviceRequestAllocationResult::default()
    }
}

/// The configuration of classes, once a class, then that of the claim.
fn configurations(search: &Search<'_>, c: usize, claim: &ResourceClaim) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut of_class: HashMap<&str, std::ops::Range<usize>> = HashMap::new();
    for r in 0..requests_of(claim).len() {
        let s = search.selected.get(&(c, r)).copied().unwrap_or_default();
        let Some(request) = search.requests.get(&(c, r, s)) else { continue };
        let class = request.class.metadata.name.as_deref().unwrap_or_default();
        if let Some(known) = of_class.get(class) {
            for config in &mut all[known.clone()] {
                config.requests.get_or_insert_default().push(request.full_name());
            }
            continue;
        }
        let start = all.len();
        all.extend(request.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(vec![request.full_name()]),
            opaque: config.opaque.clone(),
        }));
        of_class.insert(class, start..all.len());
    }
    for config in claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten()) {
        let uses = uses(search, c, claim, config);
        all.extend((0..uses).map(|_| DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: config.requests.clone(),
            opaque: config.opaque.clone(),
        }));
    }
    all
}

/// How many requests a configuration of the claim is for; one for all of them counts once.
fn uses(search: &Search<'_>, c: usize, claim: &ResourceClaim, config: &DeviceClaimConfiguration) -> usize {
    let named = config.requests.as_deref().unwrap_or_default();
    if named.is_empty() {
        return 1;
    }
    let requests = requests_of(claim).iter().enumerate();
    let used = requests.filter(|(r, request)| {
        let part = search.selected.get(&(c, *r)).and_then(|s| request.first_available.as_ref()?.get(*s));
        named.contains(&request.name) || part.is_some_and(|part| named.contains(&format!("{}/{}", request.name, part.name)))
    });
    used.count()
}

/// The nodes on which all of the devices can be used; `None` for all nodes.
fn node_selector(search: &Search<'_>, chosen: &[Chosen]) -> Result<Option<NodeSelector>, String> {
    let mut term = NodeSelectorTerm::default();
    for chosen in chosen {
        let spec = &search.inventory.slice(chosen.at).spec;
        if let Some(name) = &spec.node_name {
            let requirement = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![name.clone()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
            return Ok(Some(NodeSelector { node_selector_terms: vec![term] }));
        }
        match spec.node_selector.as_ref().map(|selector| selector.node_selector_terms.as_slice()) {
            None | Some([]) => {}
            Some([one]) => {
                add(one.match_fields.as_deref(), &mut term.match_fields);
                add(one.match_expressions.as_deref(), &mut term.match_expressions);
            }
            Some(many) => return Err(format!("unsupported ResourceSlice.NodeSelector with {} terms", many.len())),
        }
    }
    let any = term.match_fields.is_some() || term.match_expressions.is_some();
    Ok(any.then(|| NodeSelector { node_selector_terms: vec![term] }))
}

fn add(from: Option<&[NodeSelectorRequirement]>, to: &mut Option<Vec<NodeSelectorRequirement>>) {
    for requirement in from.unwrap_or_default() {
        let sorted = |requirement: &NodeSelectorRequirement| {
            let mut values = requirement.values.clone().unwrap_or_default();
            values.sort();
            values
        };
        let same = |other: &NodeSelectorRequirement| {
            other.key == requirement.key && other.operator == requirement.operator && sorted(other) == sorted(requirement)
        };
        let to = to.get_or_insert_default();
        if !to.iter().any(same) {
            to.push(requirement.clone());
        }
    }
}
