//! Deletes everything in a namespace: pods first, and the rest only when no pod is left (KEP-5080), so that policies and
//! credentials outlive what they restrict.

use std::collections::BTreeMap;

use client::MetadataObject;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use kube::core::discovery::verbs;
use kube::{Api, ResourceExt};

use super::conditions::Report;
use crate::api_errors::{self, is_not_found};
use crate::discovery::{Resource, resources};
use crate::pod_state::is_terminal;

/// How long objects with finalizers may take (upstream's finalizerEstimateSeconds).
const FINALIZER_SECONDS: i64 = 15;

/// What is left of one resource.
#[derive(Default)]
struct Remaining {
    count: usize,
    finalizers: BTreeMap<String, usize>,
    estimate_seconds: i64,
}

pub(super) async fn delete_all(client: &kube::Client, namespace: &str, deleted_at: Timestamp, now: Timestamp) -> Report {
    let mut report = Report::default();
    let resources = match resources(client).await {
        Ok(resources) => resources,
        Err(error) => {
            report.discovery_error = Some(describe(&error));
            report.errors.push(describe(&error));
            return report;
        }
    };
    let deletable = |resource: &&Resource| resource.namespaced && resource.preferred && resource.supports(verbs::DELETE);
    let (pods, others): (Vec<_>, Vec<_>) =
        resources.iter().filter(deletable).partition(|resource| resource.api.group.is_empty() && resource.api.plural == "pods");
    let for_seconds = now.duration_since(deleted_at).as_secs();
    for resource in pods {
        let estimate = match grace_period(client, namespace).await {
            Ok(grace) if grace > for_seconds => grace,
            Ok(_) => 0,
            Err(error) => {
                report.errors.push(api_errors::message(&error));
                0
            }
        };
        delete(client, resource, namespace, estimate, &mut report).await;
    }
    if !report.remaining.is_empty() {
        report.pods_first = true;
        return report;
    }
    for resource in others {
        delete(client, resource, namespace, 0, &mut report).await;
    }
    report
}

fn describe(error: &client::ReconcileError) -> String {
    match error {
        client::ReconcileError::Api { source, .. } => api_errors::message(source),
        other => other.to_string(),
    }
}

/// The longest grace period of a pod that has not finished.
async fn grace_period(client: &kube::Client, namespace: &str) -> kube::Result<i64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default()).await?;
    let unfinished = pods.iter().filter(|pod| !is_terminal(pod));
    let grace = unfinished.filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds);
    Ok(grace.max().unwrap_or(0))
}

async fn delete(client: &kube::Client, resource: &Resource, namespace: &str, estimate: i64, report: &mut Report) {
    match delete_resource(client, resource, namespace, estimate).await {
        Err(error) => {
            let message = api_errors::message(&error);
            report.errors.push(message);
            report.estimate_seconds = report.estimate_seconds.max(estimate);
        }
        Ok(remaining) if remaining.count == 0 => {}
        Ok(remaining) => {
            if remaining.estimate_seconds == 0 {
                let (group, version, resource) = (&resource.api.group, &resource.api.version, &resource.api.plural);
                report.errors.push(format!(
                    "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={resource}"
                ));
            }
            report.remaining.insert(resource.group_resource(), remaining.count);
            for (finalizer, count) in remaining.finalizers {
                *report.finalizers.entry(finalizer).or_default() += count;
            }
            report.estimate_seconds = report.estimate_seconds.max(remaining.estimate_seconds);
        }
    }
}

fn is_unsupported(error: &kube::Error) -> bool {
    is_not_found(error) || matches!(error, kube::Error::Api(status) if status.code == 405)
}

async fn delete_resource(client: &kube::Client, resource: &Resource, namespace: &str, estimate: i64) -> kube::Result<Remaining> {
    let api: Api<MetadataObject> = Api::namespaced_with(client.clone(), namespace, &resource.api);
    let background = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..Default::default() };
    let lists = resource.supports(verbs::LIST);
    let mut collection_deleted = false;
    if resource.supports("deletecollection") {
        match api.delete_collection(&background, &ListParams::default()).await {
            Ok(_) => collection_deleted = true,
            Err(error) if is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if !collection_deleted && lists {
        for object in api.list(&ListParams::default()).await? {
            match api.delete(&object.name_any(), &background).await {
                Ok(_) => {}
                Err(error) if is_unsupported(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    if !lists {
        return Ok(Remaining::default());
    }
    let left = match api.list(&ListParams::default()).await {
        Ok(left) => left,
        Err(error) if is_unsupported(&error) => return Ok(Remaining::default()),
        Err(error) => return Err(error),
    };
    let mut remaining = Remaining { count: left.items.len(), ..Default::default() };
    for object in &left {
        for finalizer in object.finalizers() {
            *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    remaining.estimate_seconds = match estimate {
        0 if !remaining.finalizers.is_empty() => FINALIZER_SECONDS,
        estimate => estimate,
    };
    Ok(remaining)
}
