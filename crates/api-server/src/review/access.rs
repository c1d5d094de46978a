//! May this user do that: SubjectAccessReview, its local and its self forms, and SelfSubjectRulesReview
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>).

use apimachinery::field::{self, Path};
use apimachinery::selector::escape_field_value;
use apimachinery::{GroupKind, Status, Value};
use k8s_openapi::api::authorization::v1 as api;

use super::{decode, encode, selectors};
use crate::auth::{Attributes, Decision, UserInfo};
use crate::http::RequestContext;
use crate::kinds::Shown;
use crate::server::ApiServer;

const GROUP: &str = "authorization.k8s.io";

/// What is asked, of either kind.
struct Question {
    resource: Option<api::ResourceAttributes>,
    path: Option<api::NonResourceAttributes>,
}

impl Question {
    /// `subject` is what is wrong with whom it is about, `also` what a kind forbids beside that.
    fn check(&self, object: &Value, subject: field::ErrorList, also: field::ErrorList) -> Result<(), Status> {
        let mut errors = Vec::new();
        let spec = Path::new("spec");
        let both = "cannot be specified in combination with resourceAttributes";
        match (&self.resource, &self.path) {
            (Some(_), Some(path)) => errors.push(path_error(path, both)),
            (None, None) => errors.push(field::Error::invalid(
                &spec.child("resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )),
            _ => {}
        }
        errors.extend(subject);
        errors.extend(selectors::check(&object["spec"]["resourceAttributes"]));
        errors.extend(also);
        // Upstream's error names no kind: its object has none by then.
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupKind::new(GROUP, ""), "", &errors)) }
    }

    async fn decide(&self, server: &ApiServer, user: &UserInfo, object: &Value) -> api::SubjectAccessReviewStatus {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let selector = self.resource.as_ref().map(field_selector).unwrap_or_default();
        let resource = self.resource.clone().unwrap_or_default();
        let path = self.path.clone().unwrap_or_default();
        let [verb, group, plural, sub, namespace, name] = [
            text(if self.path.is_some() { &path.verb } else { &resource.verb }),
            text(&resource.group),
            text(&resource.resource),
            text(&resource.subresource),
            text(&resource.namespace),
            text(&resource.name),
        ];
        let path = text(&path.path);
        let attributes = match &self.path {
            Some(_) => Attributes::path(user, &verb, &path),
            None => Attributes {
                field_selector: &selector,
                ..Attributes::resource(user, &verb, &group, &plural).subresource(&sub).named(&namespace, &name)
            },
        };
        let mut status = api::SubjectAccessReviewStatus::default();
        let reason = match server.access().authorizers.authorize(&attributes).await {
            Ok(Decision::Allow(reason)) => {
                status.allowed = true;
                reason
            }
            Ok(Decision::Deny(reason)) => {
                status.denied = Some(true);
                reason
            }
            Ok(Decision::NoOpinion(reason)) => reason,
            Err(error) => {
                status.evaluation_error = Some(error.to_string());
                String::new()
            }
        };
        status.reason = Some(reason).filter(|r| !r.is_empty());
        if let Some(ignored) = selectors::evaluation_error(&object["spec"]["resourceAttributes"]) {
            status.evaluation_error = Some(match status.evaluation_error {
                Some(error) => format!("{error}; {ignored}"),
                None => ignored,
            });
        }
        status
    }
}

/// A path that is asked about where it may not be, shown as upstream's internal type.
fn path_error(path: &api::NonResourceAttributes, why: &str) -> field::Error {
    let text = |text: &Option<String>| Value::from(text.as_deref().unwrap_or_default()).to_json();
    let shown = format!(r#"{{"Path":{},"Verb":{}}}"#, text(&path.path), text(&path.verb));
    field::Error::invalid(&Path::new("spec").child("nonResourceAttributes"), Value::Null, why).shown_as(shown)
}

/// A question has no metadata of its own.
fn metadata_errors(object: &Value, local: bool) -> field::ErrorList {
    let metadata = &object["metadata"];
    let own = |key: &str| key != "managedFields" && !(local && key == "namespace");
    if !metadata.as_object().into_iter().flatten().any(|(key, value)| own(key) && !value.is_null()) {
        return Vec::new();
    }
    let why = if local { "must be empty except for namespace" } else { "must be empty" };
    let shown = crate::kinds::tagged_text(metadata, "meta.v1.ObjectMeta");
    vec![field::Error::invalid(&Path::new("metadata"), metadata.clone(), why).shown_as(shown)]
}

/// The parts of a field selector that an authorizer can use, as a client writes them.
fn field_selector(resource: &api::ResourceAttributes) -> String {
    let Some(selector) = &resource.field_selector else { return String::new() };
    if let Some(raw) = &selector.raw_selector {
        return raw.clone();
    }
    let requirements = selector.requirements.iter().flatten();
    let equal = requirements.filter_map(|r| match (r.operator.as_str(), r.values.as_deref()) {
        ("In", Some([value])) => Some(format!("{}={}", r.key, escape_field_value(value))),
        _ => None,
    });
    equal.collect::<Vec<_>>().join(",")
}

fn subject_of(spec: &api::SubjectAccessReviewSpec) -> UserInfo {
    UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn check_subject(spec: &api::SubjectAccessReviewSpec) -> field::ErrorList {
    if spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_deref().unwrap_or_default().is_empty() {
        let detail = "at least one of user or group must be specified";
        return vec![field::Error::invalid(&Path::new("spec").child("user"), "", detail)];
    }
    Vec::new()
}

pub(super) async fn subject(server: &ApiServer, object: &Value) -> Result<Value, Status> {
    let mut review: api::SubjectAccessReview = decode(object)?;
    let spec = &review.spec;
    let question = Question { resource: spec.resource_attributes.clone(), path: spec.non_resource_attributes.clone() };
    question.check(object, check_subject(spec), metadata_errors(object, false))?;
    review.status = Some(question.decide(server, &subject_of(spec), object).await);
    encode(&review)
}

pub(super) async fn local(server: &ApiServer, context: &RequestContext, object: &Value) -> Result<Value, Status> {
    let mut review: api::LocalSubjectAccessReview = decode(object)?;
    let (spec, namespace) = (&review.spec, context.info.namespace.as_str());
    let mut errors = metadata_errors(object, true);
    let asked = spec.resource_attributes.as_ref().map(|resource| resource.namespace.as_deref().unwrap_or_default());
    if let Some(asked) = asked.filter(|asked| *asked != object.meta().namespace()) {
        let path = Path::new("spec").child("resourceAttributes").child("namespace");
        errors.push(field::Error::invalid(&path, asked, "must match metadata.namespace"));
    }
    if let Some(path) = &spec.non_resource_attributes {
        errors.push(path_error(path, "disallowed on this kind of request"));
    }
    let question = Question { resource: spec.resource_attributes.clone(), path: spec.non_resource_attributes.clone() };
    question.check(object, check_subject(spec), errors)?;
    if object.meta().namespace() != namespace {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
    }
    review.status = Some(question.decide(server, &subject_of(spec), object).await);
    encode(&review)
}

pub(super) async fn own(server: &ApiServer, context: &RequestContext, object: &Value) -> Result<Value, Status> {
    let mut review: api::SelfSubjectAccessReview = decode(object)?;
    let spec = &review.spec;
    let question = Question { resource: spec.resource_attributes.clone(), path: spec.non_resource_attributes.clone() };
    question.check(object, Vec::new(), metadata_errors(object, false))?;
    review.status = Some(question.decide(server, &context.user, object).await);
    encode(&review)
}

pub(super) fn own_rules(server: &ApiServer, context: &RequestContext, object: &Value) -> Result<Value, Status> {
    let review: api::SelfSubjectRulesReview = decode(object)?;
    let namespace = review.spec.namespace.clone().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (rules, complete) = server.access().authorizers.rules_for(&context.user, &namespace);
    let mut status = api::SubjectRulesReviewStatus { incomplete: !complete, ..Default::default() };
    if !complete {
        status.evaluation_error = Some("node authorizer does not support user rule resolution".to_owned());
    }
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    for rule in rules {
        if rule.resources.is_empty() {
            let rule = api::NonResourceRule { verbs: rule.verbs, non_resource_urls: some(rule.non_resource_urls) };
            status.non_resource_rules.push(rule);
        } else {
            status.resource_rules.push(api::ResourceRule {
                verbs: rule.verbs,
                api_groups: some(rule.api_groups),
                resources: some(rule.resources),
                resource_names: some(rule.resource_names),
            });
        }
    }
    // The answer does not say the question again.
    encode(&api::SelfSubjectRulesReview { status: Some(status), ..Default::default() })
}
