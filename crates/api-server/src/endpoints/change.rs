//! Create, update, patch, delete, deletecollection.

use apimachinery::{GroupVersionKind, Status, Value};
use http::{HeaderMap, Request, Response, StatusCode};

use super::apply::{Applied, option_errors};
use super::body;
use super::negotiate::{Accepted, Answer, negotiate};
use super::patch::{PatchType, Patched};
use super::read;
use super::respond::{json_response, object_response, value_response};
use crate::http::{Body, RequestContext};
use crate::registry::{
    Change, DeleteOptions, Endpoint, Engine, ListOptions, NAMESPACE_MISMATCH, Stored, Write, WriteOptions, Written, convert,
};

/// What all writes of one request share.
pub(crate) struct Target<'a> {
    pub(crate) write: Write<'a>,
    pub(crate) body_bytes_max: usize,
}

impl Target<'_> {
    fn engine(&self) -> &Engine {
        self.write.engine
    }

    fn endpoint(&self) -> &Endpoint {
        self.write.endpoint
    }

    fn stored(&self) -> &Stored {
        self.write.stored
    }

    fn context(&self) -> &RequestContext {
        self.write.context
    }

    fn name(&self) -> &str {
        &self.context().info.name
    }
}

/// Answers with what was written.
pub(crate) fn written_response(written: Written, endpoint: &Endpoint, accepted: Accepted) -> Response<Body> {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let plain = accepted.is_plain_json() && !endpoint.converts();
    match written.served {
        Some(served) if plain => json_response(code, served.json().clone()),
        _ => object_response(code, written.object, endpoint, accepted),
    }
}

/// POST to a collection.
pub(crate) async fn create(target: &Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let context = target.context();
    let accepted = negotiate(request.headers(), context, Answer::Object)?;
    let encoding = body::encoding(request.headers(), context)?;
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
    let kind = &target.endpoint().row.kind;
    let object = body::decode_to_write(&bytes, encoding, kind, options.field_validation, context)?;
    let written = target.write.create(object, &options).await?;
    Ok(written_response(written, target.endpoint(), accepted))
}

/// An object that replaces the current one.
struct Replacement {
    object: Value,
    uid: String,
    stored_kind: apimachinery::GroupVersionKind,
}

impl Change for Replacement {
    fn is_sent_whole(&self) -> bool {
        true
    }

    fn apply(&self, _current: Option<&Value>) -> Result<Value, Status> {
        Ok(convert(self.object.clone(), &self.stored_kind))
    }

    fn uid(&self) -> Option<&str> {
        Some(self.uid.as_str()).filter(|uid| !uid.is_empty())
    }
}

/// PUT of an object or of a part of it.
pub(crate) async fn update(target: &Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let context = target.context();
    let accepted = negotiate(request.headers(), context, Answer::Object)?;
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    let encoding = body::encoding(request.headers(), context)?;
    let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
    let kind = &target.endpoint().row.kind;
    let object = body::decode_to_write(&bytes, encoding, kind, options.field_validation, context)?;
    let given = object.meta().namespace();
    if target.stored().namespaced && !given.is_empty() && given != target.context().info.namespace {
        return Err(Status::bad_request(NAMESPACE_MISMATCH));
    }
    check_name(&object, target.name())?;
    let uid = object.meta().uid().to_owned();
    let change = Replacement { uid, object, stored_kind: target.stored().kind.clone() };
    let written = target.write.update(target.name(), &change, &options).await?;
    Ok(written_response(written, target.endpoint(), accepted))
}

/// The name in the body is the one in the URL.
pub(super) fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    match object.meta().name() {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given == name => Ok(()),
        given => {
            Err(Status::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")))
        }
    }
}

/// PATCH of an object or of a part of it.
pub(crate) async fn patch(target: &Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let context = target.context();
    let accepted = negotiate(request.headers(), context, Answer::Object)?;
    let kind = PatchType::of(request.headers(), context)?;
    let options = WriteOptions::parse_patch(&context.query, option_errors(kind, &context.query))?;
    let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
    let written = match kind {
        PatchType::Apply(encoding) => {
            let change = Applied::new(&bytes, encoding, target.write, &options)?;
            target.write.update(target.name(), &change, &options).await?
        }
        _ => {
            let change = Patched::new(kind, &bytes, target.write, &options);
            target.write.update(target.name(), &change, &options).await?
        }
    };
    Ok(written_response(written, target.endpoint(), accepted))
}

/// The options of a deletion, from its body or its query.
async fn delete_options(request: Request<Body>, target: &Target<'_>) -> Result<DeleteOptions, Status> {
    let encoding = body::encoding(request.headers(), target.context());
    let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
    let context = target.context();
    match bytes.is_empty() {
        true => DeleteOptions::parse(&context.query, None),
        false => {
            let kind = GroupVersionKind::new("", "v1", "DeleteOptions");
            let encoding = encoding?;
            let (mut parsed, _) = super::codecs::parse(&bytes, encoding, &kind).map_err(|status| match encoding {
                body::Encoding::Json => Status::bad_request(format!("{}{}", body::NO_KIND, status.message)),
                _ => status,
            })?;
            if parsed.is_null() {
                parsed = Value::object();
            }
            if let Some(why) = body::no_kind(&parsed) {
                return Err(Status::bad_request(why));
            }
            let unknown = parsed.kind() != kind.kind && !parsed.kind().is_empty();
            if unknown {
                // The scheme is upstream's, and so is its name.
                return Err(Status::bad_request(format!(
                    "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
                    apimachinery::go_quote(parsed.kind()),
                    apimachinery::go_quote(parsed.api_version())
                )));
            }
            if let Some(info) = apimachinery::schema::lookup(&kind) {
                apimachinery::decode::conform(&mut parsed, info).map_err(|error| Status::bad_request(error.to_string()))?;
            }
            DeleteOptions::parse(&context.query, Some(&parsed))
        }
    }
}

/// A Job that is deleted without a word about its pods leaves them, which few expect.
fn warn_of_orphans(target: &Target<'_>, options: &DeleteOptions) {
    let resource = &target.stored().resource;
    let is_job = resource.group == "batch" && resource.resource == "jobs";
    if is_job && options.propagation_policy.is_none() && options.orphan_dependents.is_none() {
        target.context().warnings.add(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
             propagationPolicy=Orphan to suppress this warning",
        );
    }
}

/// DELETE of one object.
pub(crate) async fn delete(target: &Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), target.context(), Answer::Object)?;
    let options = delete_options(request, target).await?;
    warn_of_orphans(target, &options);
    let deleted = target.write.delete(target.name(), &options).await?;
    if deleted.gone && !target.stored().returns_deleted {
        return Ok(value_response(StatusCode::OK, &target.write.deleted_status(&deleted.object), accepted));
    }
    // Upstream: 202 only for clients that ask to wait for dependents in the old way.
    let code = match !deleted.gone && options.orphan_dependents == Some(false) {
        true => StatusCode::ACCEPTED,
        false => StatusCode::OK,
    };
    Ok(object_response(code, deleted.object, target.endpoint(), accepted))
}

/// DELETE of all objects that a list would find.
pub(crate) async fn delete_collection(target: &Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let headers: HeaderMap = request.headers().clone();
    let context = target.context();
    let accepted = negotiate(&headers, context, Answer::List)?;
    let list = ListOptions::parse(context, target.stored(), false)?;
    let options = delete_options(request, target).await?;
    warn_of_orphans(target, &options);
    let page = read::gather(target.engine(), target.stored(), context, &list).await?;
    for entry in &page.entries {
        let write = Write { namespace: entry.namespace(), ..target.write };
        match write.delete(entry.name(), &options).await {
            Ok(_) => {}
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    read::page_response(target.endpoint(), context, accepted, page).await
}
