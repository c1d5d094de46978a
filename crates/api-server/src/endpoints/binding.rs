//! Binding a pod to a node: `pods/NAME/binding`, and the old `bindings`.

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use apimachinery::{GroupResource, GroupVersionKind, Reason, Status, Value, field, value};

use super::negotiate::{Answer, negotiate};
use super::respond::{created, value_response};
use crate::admission::Operation;
use crate::gates::Feature;
use crate::http::{Body, RequestContext};
use crate::registry::{Change, Write, WriteOptions, now};
use crate::server::ApiServer;

/// Writes the node into the pod.
pub(crate) async fn create(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), context, Answer::Fixed)?;
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let binding = super::read_object(server, &GroupVersionKind::new("", "v1", "Binding"), context, request).await?;
    let name = match context.info.name.as_str() {
        "" => binding.meta().name().to_owned(),
        name => name.to_owned(),
    };
    if binding.meta().name() != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let catalog = &server.engine().catalog;
    let endpoint = catalog.get("", "v1", "pods").ok_or_else(Status::path_not_found)?;
    let stored = endpoint.stored.as_ref().ok_or_else(Status::path_not_found)?;
    let (namespace, authorizers) = (context.info.namespace.as_str(), &server.access().authorizers);
    let write = Write { engine: server.engine(), authorizers, endpoint, stored, context, namespace, subresource: "binding" };
    let mut attributes = write.attributes(Operation::Create, &name, options.to_value("CreateOptions"), options.dry_run);
    attributes.object = Some(binding);
    server.engine().admission.admit(&mut attributes).await?;
    validate(attributes.object.as_ref().unwrap_or(&Value::Null))?;
    server.engine().admission.validate(&attributes).await?;
    let binding = attributes.object.unwrap_or_default();
    let bind = Bind {
        binding,
        ends_nomination: context.gates.has(Feature::ClearingNominatedNodeNameAfterBinding),
        takes_labels: context.gates.has(Feature::PodTopologyLabelsAdmission),
    };
    write.update(&name, &bind, &options).await?;
    Ok(value_response(StatusCode::CREATED, &created(), accepted))
}

/// Upstream's `ValidatePodBinding`, whose errors it does not make into one of an invalid object.
fn validate(binding: &Value) -> Result<(), Status> {
    let place = field::Path::new("target");
    let (kind, name) = (&binding["target"]["kind"], binding["target"]["name"].as_str().unwrap_or_default());
    let mut errors = field::ErrorList::new();
    if !matches!(kind.as_str(), None | Some("" | "Node")) {
        errors.push(field::Error::not_supported(&place.child("kind"), kind.clone(), &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(field::Error::required(&place.child("name"), ""));
    }
    match field::aggregate(&errors) {
        Some(why) => Err(Status::new(Reason::Unknown, why.to_string())),
        None => Ok(()),
    }
}

struct Bind {
    binding: Value,
    ends_nomination: bool,
    /// The labels of the Binding become the pod's.
    takes_labels: bool,
}

impl Change for Bind {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let mut pod = current.cloned().unwrap_or_default();
        let name = pod.meta().name().to_owned();
        let conflict = |why: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), &name, why));
        let target = &self.binding["target"];
        let node = target["name"].as_str().unwrap_or_default();
        let uid = self.binding.meta().uid();
        if !uid.is_empty() && uid != pod.meta().uid() {
            let found = pod.meta().uid();
            return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"));
        }
        let version = self.binding.meta().resource_version();
        if !version.is_empty() && version != pod.meta().resource_version() {
            let found = pod.meta().resource_version();
            return conflict(format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {found}"
            ));
        }
        if pod.meta().deletion_timestamp().is_some() {
            return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        match pod.str_at(&["spec", "nodeName"]).unwrap_or_default() {
            "" => {}
            assigned => return conflict(format!("pod {name} is already assigned to node \"{assigned}\"")),
        }
        if !pod.array_at(&["spec", "schedulingGates"]).is_empty() {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        pod.set_path(&["spec", "nodeName"], node);
        if self.ends_nomination {
            pod.remove_path(&["status", "nominatedNodeName"]);
        }
        for (key, value) in self.binding.meta().annotations() {
            pod.meta_mut().set_annotation(key, value);
        }
        if self.takes_labels {
            for (key, value) in self.binding.meta().labels() {
                pod.meta_mut().set_label(key, value);
            }
        }
        set_scheduled(&mut pod);
        Ok(pod)
    }

    fn is_admitted(&self) -> bool {
        false
    }

    fn options_kind(&self) -> &'static str {
        "CreateOptions"
    }
}

/// The condition `PodScheduled` becomes true.
fn set_scheduled(pod: &mut Value) {
    let mut conditions = pod.array_at(&["status", "conditions"]).to_vec();
    let found = conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled");
    let scheduled = value!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    match found {
        Some(condition) if condition["status"] == "True" => return,
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    pod.set_path(&["status", "conditions"], conditions);
}
