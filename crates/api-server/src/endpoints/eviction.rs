//! Evicting a pod: a deletion that respects PodDisruptionBudgets
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use apimachinery::selector::LabelSelector;
use apimachinery::{GroupVersionKind, Status, StatusCause, StatusDetails, Value};

use super::negotiate::{Answer, negotiate};
use super::respond::value_response;
use crate::http::{Body, RequestContext};
use crate::registry::{Change, DeleteOptions, Engine, Write, WriteOptions, now};
use crate::server::ApiServer;

/// Deletes the pod unless a budget forbids it now.
pub(crate) async fn create(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), &context.query, Answer::Fixed)?;
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let eviction = super::read_object(server, &GroupVersionKind::new("policy", "v1", "Eviction"), context, request).await?;
    let name = &context.info.name;
    if !eviction.meta().name().is_empty() && eviction.meta().name() != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut deletion = DeleteOptions::parse(&context.query, eviction.get("deleteOptions"))?;
    deletion.dry_run |= options.dry_run;
    let pods = write(server, context, "", "pods")?;
    let current = pods.current(name).await?.ok_or_else(|| pods.not_found(name))?;
    if !may_ignore_budgets(&current.object) {
        take_from_budget(server, context, &current.object, deletion.dry_run).await?;
    }
    pods.delete(name, &deletion).await?;
    Ok(value_response(StatusCode::CREATED, &Status::success(&StatusDetails::default()), accepted))
}

fn write<'a>(server: &'a Arc<ApiServer>, context: &'a RequestContext, group: &str, resource: &str) -> Result<Write<'a>, Status> {
    let endpoint = server.engine().catalog.get(group, "v1", resource).ok_or_else(Status::path_not_found)?;
    let stored = endpoint.stored.as_ref().ok_or_else(Status::path_not_found)?;
    Ok(Write { engine: server.engine(), endpoint, stored, context, namespace: &context.info.namespace, subresource: "" })
}

/// Pods that serve nobody any more, or not yet.
fn may_ignore_budgets(pod: &Value) -> bool {
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.meta().deletion_timestamp().is_some()
}

/// The budgets whose selector matches the pod.
async fn budgets(engine: &Engine, write: &Write<'_>, pod: &Value) -> Result<Vec<Value>, Status> {
    engine.fresh(write.stored).await?;
    let snapshot = engine.snapshot(write.stored);
    let mut found = Vec::new();
    for entry in snapshot.entries.values().filter(|entry| entry.namespace() == write.namespace) {
        let budget = entry.served.object().map_err(Status::internal_error)?;
        let selector = LabelSelector::from_value(&budget["spec"]["selector"]);
        if selector.is_ok_and(|selector| selector.matches(pod)) {
            found.push(budget);
        }
    }
    Ok(found)
}

async fn take_from_budget(server: &Arc<ApiServer>, context: &RequestContext, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let write = write(server, context, "policy", "poddisruptionbudgets")?;
    let budgets = budgets(server.engine(), &write, pod).await?;
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            return Err(Status::internal_error(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let ready = pod.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
    let healthy = budget.i64_at(&["status", "currentHealthy"]).unwrap_or(0);
    let desired = budget.i64_at(&["status", "desiredHealthy"]).unwrap_or(0);
    if !ready && (always || (healthy >= desired && desired > 0)) {
        return Ok(());
    }
    let options = WriteOptions { dry_run, ..WriteOptions::internal() };
    let write = Write { subresource: "status", ..write };
    let change = Disrupt { pod: pod.meta().name().to_owned() };
    write.update(budget.meta().name(), &change, &options).await.map(drop)
}

/// Counts one disruption.
struct Disrupt {
    pod: String,
}

impl Change for Disrupt {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let mut budget = current.cloned().unwrap_or_default();
        let name = budget.meta().name().to_owned();
        let number = |path: &str| budget.i64_at(&["status", path]).unwrap_or(0);
        if number("observedGeneration") < budget.meta().generation() {
            return Err(refused(&name, "The disruption budget is still being processed by the server.", 10));
        }
        let allowed = number("disruptionsAllowed");
        if allowed <= 0 {
            let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
            let why = format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently");
            return Err(refused(&name, &why, 0));
        }
        budget.set_path(&["status", "disruptionsAllowed"], allowed - 1);
        budget.set_path(&["status", "disruptedPods", &self.pod], now());
        Ok(budget)
    }
}

fn refused(_name: &str, why: &str, retry_after_seconds: i32) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, retry_after_seconds);
    let cause = StatusCause { reason: "DisruptionBudget".to_owned(), message: why.to_owned(), field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}
