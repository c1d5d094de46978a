//! Evicting a pod: a deletion that respects PodDisruptionBudgets
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use apimachinery::selector::LabelSelector;
use apimachinery::{GroupResource, GroupVersionKind, Reason, Status, StatusCause, Value};

use super::body;
use super::negotiate::{Answer, negotiate};
use super::respond::{created, value_response};
use crate::http::{Body, RequestContext};
use crate::registry::{Change, DeleteOptions, Engine, NAMESPACE_MISMATCH, Write, WriteOptions, now};
use crate::server::ApiServer;

/// A pod that changes all the time is judged so often, and then the client hears of the conflict.
const ATTEMPTS: usize = 20;
/// Evictions that a budget's controller has not seen yet (upstream's `MaxDisruptedPodSize`).
const DISRUPTED_PODS_MAX: usize = 2000;

/// Deletes the pod unless a budget forbids it now.
pub(crate) async fn create(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), context, Answer::Fixed)?;
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let encoding = body::encoding(request.headers(), context)?;
    let bytes = body::read(request.into_body(), server.config().body_bytes_max).await?;
    let kind = GroupVersionKind::new("policy", "v1", "Eviction");
    let eviction = body::decode_like(&bytes, encoding, &kind, &["policy/v1beta1"], options.field_validation, context)?;
    let name = &context.info.name;
    let given = eviction.meta().namespace();
    if !given.is_empty() && given != context.info.namespace {
        return Err(Status::bad_request(NAMESPACE_MISMATCH));
    }
    if eviction.meta().name() != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let dry_run: Vec<&str> = context.query.all("dryRun").collect();
    let also: Vec<&str> = eviction.array_at(&["deleteOptions", "dryRun"]).iter().filter_map(Value::as_str).collect();
    if !dry_run.is_empty() && !also.is_empty() && dry_run != also {
        let (dry_run, also) = (dry_run.join(" "), also.join(" "));
        let why = format!("Non-matching dry-run options in request and content: [{dry_run}] and [{also}]");
        return Err(Status::new(Reason::Unknown, why));
    }
    let mut deletion = DeleteOptions::parse(&context.query, eviction.get("deleteOptions"))?;
    deletion.dry_run |= options.dry_run;
    let given_version = deletion.resource_version.is_some();
    let mut tries = 0;
    loop {
        let mut attempt = deletion.clone();
        match evict(server, context, &mut attempt).await {
            Ok(()) => return Ok(value_response(StatusCode::CREATED, &created(), accepted)),
            // The pod changed since it was judged: judge it again, unless the client named the state that it means.
            Err(status) if status.reason == Reason::Conflict && !given_version && tries < ATTEMPTS => tries += 1,
            Err(status) => return Err(status),
        }
    }
}

/// Judges the pod as it is now, and deletes it in that state.
async fn evict(server: &Arc<ApiServer>, context: &RequestContext, deletion: &mut DeleteOptions) -> Result<(), Status> {
    let name = &context.info.name;
    let pods = write(server, context, "", "pods")?;
    let current = pods.current(name).await?.ok_or_else(|| pods.not_found(name))?;
    let judged = match may_ignore_budgets(&current.object) {
        // A pending pod may become ready before it is deleted; one that ended cannot.
        true if is_over(&current.object) => Judged::Whatever,
        true => Judged::InThisState,
        false => take_from_budget(server, context, &current.object, deletion.dry_run).await?,
    };
    if matches!(judged, Judged::InThisState) && deletion.resource_version.is_none() {
        deletion.resource_version = Some(current.revision.to_string());
    }
    if !deletion.dry_run {
        let status = Write { subresource: "status", ..write(server, context, "", "pods")? };
        let change = Condemn { uid: deletion.uid.clone(), version: deletion.resource_version.clone() };
        let condemned = status.update(name, &change, &WriteOptions::internal()).await?;
        // Our own write moved it on.
        if deletion.resource_version.is_some() {
            deletion.resource_version = Some(condemned.object.meta().resource_version().to_owned());
        }
    }
    pods.delete(name, deletion).await.map(drop)
}

/// What was found out about a pod.
enum Judged {
    /// It may be deleted, also if it changes.
    Whatever,
    /// It may be deleted as long as it is as it was.
    InThisState,
}

/// Says in the pod's status why it goes.
struct Condemn {
    uid: Option<String>,
    version: Option<String>,
}

impl Change for Condemn {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let mut pod = current.cloned().unwrap_or_default();
        let meta = pod.meta();
        let conflict = |what: &str, wanted: &str, have: &str, why: &str| {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been {why}"
            );
            Err(Status::conflict(&GroupResource::new("", "Pod"), meta.name(), why))
        };
        match (&self.uid, &self.version) {
            (Some(uid), _) if uid != meta.uid() => return conflict("UID", uid, meta.uid(), "deleted and then recreated"),
            (_, Some(version)) if version != meta.resource_version() => {
                return conflict("ResourceVersion", version, meta.resource_version(), "modified");
            }
            _ => {}
        }
        let mut conditions: Vec<Value> = pod.array_at(&["status", "conditions"]).to_vec();
        let is_set = |condition: &Value| condition["type"] == "DisruptionTarget" && condition["status"] == "True";
        let since =
            conditions.iter().find(|condition| is_set(condition)).map(|condition| condition["lastTransitionTime"].clone());
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        let mut condition = Value::object();
        condition.set_path(&["type"], "DisruptionTarget");
        condition.set_path(&["status"], "True");
        condition.set_path(&["lastTransitionTime"], since.unwrap_or_else(|| Value::from(now())));
        condition.set_path(&["reason"], "EvictionByEvictionAPI");
        condition.set_path(&["message"], "Eviction API: evicting");
        conditions.push(condition);
        pod.set_path(&["status", "conditions"], Value::Array(Arc::new(conditions)));
        Ok(pod)
    }
}

fn write<'a>(server: &'a Arc<ApiServer>, context: &'a RequestContext, group: &str, resource: &str) -> Result<Write<'a>, Status> {
    let endpoint = server.engine().catalog.get(group, "v1", resource).ok_or_else(Status::path_not_found)?;
    let stored = endpoint.stored.as_ref().ok_or_else(Status::path_not_found)?;
    let (namespace, authorizers) = (context.info.namespace.as_str(), &server.access().authorizers);
    Ok(Write { engine: server.engine(), authorizers, endpoint, stored, context, namespace, subresource: "" })
}

/// Pods that serve nobody any more, or not yet.
fn may_ignore_budgets(pod: &Value) -> bool {
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.meta().deletion_timestamp().is_some()
}

/// Whether the pod has ended, or is about to.
fn is_over(pod: &Value) -> bool {
    pod.str_at(&["status", "phase"]) != Some("Pending") || pod.meta().deletion_timestamp().is_some()
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

async fn take_from_budget(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    pod: &Value,
    dry_run: bool,
) -> Result<Judged, Status> {
    let write = write(server, context, "policy", "poddisruptionbudgets")?;
    let budgets = budgets(server.engine(), &write, pod).await?;
    let budget = match budgets.as_slice() {
        [] => return Ok(Judged::Whatever),
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
        return Ok(Judged::InThisState);
    }
    let options = WriteOptions { dry_run, ..WriteOptions::internal() };
    let write = Write { subresource: "status", ..write };
    let change = Disrupt { pod: pod.meta().name().to_owned() };
    write.update(budget.meta().name(), &change, &options).await.map(|_| Judged::Whatever)
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
            return Err(refused(&format!("The disruption budget {name} is still being processed by the server."), 10));
        }
        let allowed = number("disruptionsAllowed");
        let forbidden = |why: &str| Err(Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), &name, why));
        if allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
            return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
        }
        if allowed == 0 {
            return Err(refused(&why_not(&name, &budget), 0));
        }
        budget.set_path(&["status", "disruptionsAllowed"], allowed - 1);
        if allowed == 1 {
            set_insufficient(&mut budget);
        }
        budget.set_path(&["status", "disruptedPods", &self.pod], now());
        Ok(budget)
    }
}

/// Why a budget allows no disruption now.
fn why_not(name: &str, budget: &Value) -> String {
    let number = |path: &str| budget.i64_at(&["status", path]).unwrap_or(0);
    let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
    let said = budget.array_at(&["status", "conditions"]).iter().find(|condition| condition["type"] == "DisruptionAllowed");
    let said = said.filter(|condition| condition["status"] == "False");
    let text = |field: &str| said.and_then(|condition| condition.str_at(&[field])).unwrap_or_default();
    match (text("reason"), text("message")) {
        // The numbers are not to be trusted then.
        ("SyncFailed", message) if !message.is_empty() => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}")
        }
        _ if has <= needs => format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
        (_, "") => format!("The disruption budget {name} does not allow evicting pods currently"),
        (reason, message) => format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"),
    }
}

/// The condition says that nothing more is allowed, until the controller has counted again.
fn set_insufficient(budget: &mut Value) {
    let mut conditions: Vec<Value> = budget.array_at(&["status", "conditions"]).to_vec();
    let at = conditions.iter().position(|condition| condition["type"] == "DisruptionAllowed");
    let mut condition = at.map_or_else(Value::object, |at| conditions.remove(at));
    if condition["status"] != "False" {
        condition.set_path(&["lastTransitionTime"], now());
    }
    condition.set_path(&["type"], "DisruptionAllowed");
    condition.set_path(&["status"], "False");
    condition.set_path(&["reason"], "InsufficientPods");
    condition.set_path(&["message"], "");
    condition.set_path(&["observedGeneration"], budget.i64_at(&["status", "observedGeneration"]).unwrap_or(0));
    conditions.insert(at.unwrap_or(conditions.len()), condition);
    budget.set_path(&["status", "conditions"], Value::Array(Arc::new(conditions)));
}

fn refused(why: &str, retry_after_seconds: i32) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, retry_after_seconds);
    let cause = StatusCause { reason: "DisruptionBudget".to_owned(), message: why.to_owned(), field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}
