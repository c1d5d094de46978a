//! TokenRequest: issues a ServiceAccount token, bound to a pod, secret or node if asked (KEP-1205).

use apimachinery::field::{self, Path};
use apimachinery::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource, Status, Value};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{decode, encode, service_accounts};
use crate::admission::{Attributes as AdmissionAttributes, Operation};
use crate::auth::{Reference, TokenSpec};
use crate::gates::Feature;
use crate::http::RequestContext;
use crate::objects;
use crate::server::ApiServer;

const GROUP: &str = "authentication.k8s.io";
/// Upstream's bounds and defaults.
const EXPIRATION_SECONDS_MIN: i64 = 10 * 60;
const EXPIRATION_SECONDS_MAX: i64 = 1 << 32;
const EXPIRATION_SECONDS_DEFAULT: i64 = 3600;
/// What kubelets ask for on behalf of clients that may not reload their token: it is extended, and late use only counted.
const EXPIRATION_SECONDS_EXTENDED_FOR: i64 = 3607;
const EXPIRATION_SECONDS_EXTENDED: i64 = 365 * 24 * 3600;

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

pub(super) async fn create(server: &ApiServer, context: &RequestContext, object: &Value) -> Result<Value, Status> {
    // Admission sees what the client sent, before anything is filled in.
    let mut attributes = attributes(context, object.clone());
    server.admission().admit(&mut attributes).await?;
    let mut request: TokenRequest = decode(&attributes.object.take().unwrap_or_default())?;
    let (namespace, name) = (context.info.namespace.as_str(), context.info.name.as_str());
    let Some(issuer) = server.access().tokens() else {
        return Err(Status::internal_error("this server signs no tokens: it has no ServiceAccount key"));
    };
    check_account(&request, namespace, name)?;
    let account: Option<ServiceAccount> =
        objects::get(server.loopback(), namespace, name).await.map_err(Status::internal_error)?;
    let account = account.ok_or_else(|| Status::not_found(&service_accounts(), name))?;
    complete(context, &mut request, &account, issuer.api_audiences())?;
    validate(&request)?;
    attributes.object = Some(encode(&request)?);
    server.admission().validate(&attributes).await?;
    let bound = match request.spec.bound_object_ref.clone() {
        Some(reference) => bind(server, context, name, &reference).await?,
        None => Bound::default(),
    };
    let lifetime = issuer.lifetime();
    let wanted = request.spec.expiration_seconds.unwrap_or(EXPIRATION_SECONDS_DEFAULT);
    let asked = lifetime.seconds_max.map_or(wanted, |max| wanted.min(max));
    if asked < wanted {
        context.warnings.add(format!("requested expiration of {wanted} seconds shortened to {asked} seconds"));
    }
    request.spec.expiration_seconds = Some(asked);
    let own = request.spec.audiences.iter().all(|a| issuer.api_audiences().contains(a));
    let extend = lifetime.extend && bound.pod.is_some() && asked == EXPIRATION_SECONDS_EXTENDED_FOR && own;
    let now = Timestamp::now();
    let (token, _) = issuer
        .sign(
            TokenSpec {
                namespace: namespace.to_owned(),
                account: Reference { name: name.to_owned(), uid: account.metadata.uid.unwrap_or_default() },
                pod: bound.pod,
                secret: bound.secret,
                node: bound.node,
                audiences: request.spec.audiences.clone(),
                expiration_seconds: if extend { EXPIRATION_SECONDS_EXTENDED } else { asked },
                warn_after_seconds: extend.then_some(asked),
            },
            now,
        )
        .map_err(Status::internal_error)?;
    let seconds = |t: i64| Time(Timestamp::from_second(t).unwrap_or(Timestamp::MAX));
    request.metadata.creation_timestamp = Some(seconds(now.as_second()));
    request.status = Some(TokenRequestStatus { token, expiration_timestamp: seconds(now.as_second().saturating_add(asked)) });
    let mut answer = encode(&request)?;
    // Upstream's type writes it where there is none.
    if request.spec.bound_object_ref.is_none() {
        answer.set_path(&["spec", "boundObjectRef"], Value::Null);
    }
    Ok(answer)
}

/// Fills in what the client left out.
fn complete(
    context: &RequestContext,
    request: &mut TokenRequest,
    account: &ServiceAccount,
    audiences: &[String],
) -> Result<(), Status> {
    let uid = account.metadata.uid.clone().unwrap_or_default();
    if let Some(wanted) = request.metadata.uid.as_ref().filter(|wanted| !wanted.is_empty() && **wanted != uid) {
        let name = account.metadata.name.clone().unwrap_or_default();
        let why = format!("the UID in the token request ({wanted}) does not match the UID of the service account ({uid})");
        if context.gates.has(Feature::TokenRequestServiceAccountUidValidation) {
            return Err(Status::conflict(&GroupResource::new(GROUP, "TokenRequest"), &name, why));
        }
        let gate = "TokenRequestServiceAccountUIDValidation is not enabled";
        context.warnings.add(format!("{why} but {gate}. In the future, this will return a conflict error"));
    }
    if request.spec.audiences.is_empty() {
        request.spec.audiences = audiences.to_vec();
    }
    request.spec.expiration_seconds.get_or_insert(EXPIRATION_SECONDS_DEFAULT);
    let empty = |field: &Option<String>| field.as_deref().unwrap_or_default().is_empty();
    if empty(&request.metadata.name) {
        request.metadata.name.clone_from(&account.metadata.name);
    }
    if empty(&request.metadata.namespace) {
        request.metadata.namespace.clone_from(&account.metadata.namespace);
    }
    if empty(&request.metadata.uid) {
        request.metadata.uid = Some(uid);
    }
    request.status = None;
    Ok(())
}

/// That the request is about the account in the URL, if it says so. Asked before the account is looked for.
fn check_account(request: &TokenRequest, namespace: &str, name: &str) -> Result<(), Status> {
    let (named, placed) = (request.metadata.name.as_deref(), request.metadata.namespace.as_deref());
    for (member, given, expected) in [("name", named, name), ("namespace", placed, namespace)] {
        if let Some(given) = given.filter(|given| !given.is_empty() && *given != expected) {
            let why = format!("must match the service account {member} if specified");
            let error = field::Error::invalid(&Path::new("metadata").child(member), given, why);
            return Err(Status::invalid(&GroupKind::new(GROUP, "TokenRequest"), name, &[error]));
        }
    }
    Ok(())
}

fn validate(request: &TokenRequest) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("expirationSeconds");
    let seconds = request.spec.expiration_seconds.unwrap_or(EXPIRATION_SECONDS_DEFAULT);
    if seconds < EXPIRATION_SECONDS_MIN {
        errors.push(field::Error::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > EXPIRATION_SECONDS_MAX {
        errors.push(field::Error::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    // Upstream names nothing here.
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupKind::new(GROUP, "TokenRequest"), "", &errors)) }
}

/// The request is like any other creation of a subresource.
fn attributes(context: &RequestContext, object: Value) -> AdmissionAttributes {
    AdmissionAttributes {
        kind: GroupVersionKind::new(GROUP, "v1", "TokenRequest"),
        resource: GroupVersionResource::new("", "v1", "serviceaccounts"),
        subresource: "token".to_owned(),
        namespace: context.info.namespace.clone(),
        name: context.info.name.clone(),
        operation: Operation::Create,
        object: Some(object),
        old_object: None,
        options: Value::object(),
        dry_run: false,
        user: context.user.clone(),
        warnings: context.warnings.clone(),
    }
}

async fn bind(
    server: &ApiServer,
    context: &RequestContext,
    account: &str,
    reference: &BoundObjectReference,
) -> Result<Bound, Status> {
    let namespace = context.info.namespace.as_str();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (version, kind, name) = (text(&reference.api_version), text(&reference.kind), text(&reference.name));
    let objects = server.loopback();
    let mut bound = Bound::default();
    let plural = match kind.as_str() {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        _ => "",
    };
    let missing = || Status::not_found(&GroupResource::new("", plural), &name);
    let uid_of = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
    let found = |uid: &str| Some(Reference { name: name.clone(), uid: uid.to_owned() });
    let uid = match (version.as_str(), kind.as_str()) {
        ("v1", "Pod") => {
            let pod: Pod = objects::get(objects, namespace, &name).await.map_err(Status::internal_error)?.ok_or_else(missing)?;
            let spec = pod.spec.unwrap_or_default();
            if spec.service_account_name.as_deref() != Some(account) {
                let message = format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                );
                return Err(Status::bad_request(message));
            }
            if let Some(node) = spec.node_name.filter(|node| !node.is_empty()) {
                // A node that is not there yet is still named, without uid.
                let object: Option<Node> = objects::get(objects, "", &node).await.map_err(Status::internal_error)?;
                bound.node = Some(Reference { name: node, uid: object.map(|n| uid_of(&n.metadata)).unwrap_or_default() });
            }
            let uid = uid_of(&pod.metadata);
            bound.pod = found(&uid);
            uid
        }
        ("v1", "Secret") => {
            let secret: Secret =
                objects::get(objects, namespace, &name).await.map_err(Status::internal_error)?.ok_or_else(missing)?;
            let uid = uid_of(&secret.metadata);
            bound.secret = found(&uid);
            uid
        }
        ("v1", "Node") if !context.gates.has(Feature::ServiceAccountTokenNodeBinding) => {
            let gate = r#"the "ServiceAccountTokenNodeBinding" feature-gate is disabled"#;
            return Err(Status::bad_request(format!("cannot bind token to a Node object as {gate}")));
        }
        ("v1", "Node") => {
            let node: Node = objects::get(objects, "", &name).await.map_err(Status::internal_error)?.ok_or_else(missing)?;
            let uid = uid_of(&node.metadata);
            bound.node = found(&uid);
            uid
        }
        _ => {
            // As Go prints a group, a version and a kind.
            let slash = if version.contains('/') { "" } else { "/" };
            return Err(Status::bad_request(format!("cannot bind token to object of type {slash}{version}, Kind={kind}")));
        }
    };
    if let Some(wanted) = reference.uid.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != uid) {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), &name, why));
    }
    Ok(bound)
}
