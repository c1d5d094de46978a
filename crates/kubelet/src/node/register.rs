//! Creates the Node object, or brings an existing one's labels up to date.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::Core;
use crate::node::machine::architecture;

fn well_known_labels(core: &Core) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = core.config.node_labels.iter().cloned().collect();
    for (key, value) in [
        ("kubernetes.io/hostname", core.config.hostname.as_str()),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn initial_node(core: &Core) -> Node {
    let taints = core.config.register_taints.clone();
    Node {
        metadata: ObjectMeta {
            name: Some(core.config.node_name.clone()),
            labels: Some(well_known_labels(core)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: core.config.provider_id.clone(),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Registers the node once; an existing Node keeps its taints and everything that is not a label of ours.
pub(crate) async fn register(core: &Core) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(core.client.clone());
    let node = match api.create(&PostParams::default(), &initial_node(core)).await {
        Ok(node) => node,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let existing = api.get(&core.config.node_name).await?;
            let wanted = well_known_labels(core);
            let current = existing.metadata.labels.as_ref();
            if wanted.iter().all(|(key, value)| current.and_then(|l| l.get(key)) == Some(value)) {
                existing
            } else {
                api.patch(&core.config.node_name, &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": wanted}})))
                    .await?
            }
        }
        Err(error) => return Err(error),
    };
    *core.node.lock() = Some(node);
    Ok(())
}
