//! Reviews: questions asked by creating an object that is answered and not stored. Who is this token, who am I, may I; and
//! TokenRequest, which issues tokens.
//!
//! Every row of the resource table without stored objects in the groups `authentication.k8s.io` and `authorization.k8s.io` ends here.

mod access;
mod identity;
mod selectors;
mod token_request;

use apimachinery::{GroupResource, GroupVersionResource, Status, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{RequestContext, Verb};
use crate::server::ApiServer;

/// Answers the creation of a review, or `None` if the request is for something else. `object` is the decoded body.
pub(crate) async fn respond(server: &ApiServer, context: &RequestContext, object: &Value) -> Option<Result<Value, Status>> {
    let info = &context.info;
    if info.verb != Verb::Create {
        return None;
    }
    let resource = (info.api_group.as_str(), info.resource.as_str(), info.subresource.as_str());
    Some(match resource {
        ("", "serviceaccounts", "token") => token_request::create(server, context, object).await,
        ("authentication.k8s.io", "tokenreviews", "") => identity::token_review(server, object).await,
        ("authentication.k8s.io", "selfsubjectreviews", "") => identity::self_subject_review(context, object),
        ("authorization.k8s.io", "subjectaccessreviews", "") => access::subject(server, object).await,
        ("authorization.k8s.io", "localsubjectaccessreviews", "") => access::local(server, context, object).await,
        ("authorization.k8s.io", "selfsubjectaccessreviews", "") => access::own(server, context, object).await,
        ("authorization.k8s.io", "selfsubjectrulesreviews", "") => access::own_rules(server, context, object),
        _ => return None,
    })
}

/// Whether creations of this resource are answered by [`respond`].
pub(crate) fn answers(resource: &GroupVersionResource, subresource: &str) -> bool {
    matches!(resource.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
        || (resource.group.is_empty() && resource.resource == "serviceaccounts" && subresource == "token")
}

/// A review as its type. What the client sends as its status is no part of the question.
fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, Status> {
    let mut question = object.clone();
    question.remove("status");
    question.to_typed().map_err(|error| Status::bad_request(format!("the object provided is unrecognized: {error}")))
}

/// The answer as a tree. An empty `metadata` is part of it, as upstream writes it.
fn encode<T: Serialize>(review: &T) -> Result<Value, Status> {
    let mut object = Value::from_typed(review).map_err(Status::internal_error)?;
    if object.get("metadata").is_none() {
        object.insert("metadata", Value::object());
    }
    Ok(object)
}

fn service_accounts() -> GroupResource {
    GroupResource::new("", "serviceaccounts")
}
