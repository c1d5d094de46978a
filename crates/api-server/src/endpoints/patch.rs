//! Which patch, by its content type (<https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-update>).

use apimachinery::patch::{JsonPatch, JsonPatchError, PatchSchema, merge_patch, strategic_merge_patch};
use apimachinery::{GroupVersionKind, Reason, Status, StatusDetails, Value, schema};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::body::Encoding;
use super::codecs;
use crate::http::RequestContext;
use crate::registry::{Change, FieldValidation, Write, WriteOptions, convert};

/// The patch formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, by the fields' merge strategies.
    Strategic,
    /// Server-side apply.
    Apply,
}

const SUPPORTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl PatchType {
    pub(crate) fn of(headers: &HeaderMap) -> Result<PatchType, Status> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match value.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchType::Json),
            "application/merge-patch+json" => Ok(PatchType::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
            "application/apply-patch+yaml" => Ok(PatchType::Apply),
            _ => Err(Status::unsupported_media_type(SUPPORTED)),
        }
    }
}

/// A patch as a change of an object.
pub(crate) struct Patched<'a> {
    kind: PatchType,
    patch: Value,
    served_kind: &'a GroupVersionKind,
    stored_kind: &'a GroupVersionKind,
    mode: FieldValidation,
    context: &'a RequestContext,
}

impl<'a> Patched<'a> {
    pub(crate) fn new(kind: PatchType, bytes: &[u8], write: Write<'a>, options: &WriteOptions) -> Result<Patched<'a>, Status> {
        let (patch, complaints) = codecs::parse(bytes, Encoding::Json, &write.endpoint.row.kind)
            .map_err(|status| Status::bad_request(format!("error decoding patch: {}", status.message)))?;
        codecs::judge(complaints, options.field_validation, write.context).map_err(Status::bad_request)?;
        Ok(Patched {
            kind,
            patch,
            served_kind: &write.endpoint.row.kind,
            stored_kind: &write.stored.kind,
            mode: options.field_validation,
            context: write.context,
        })
    }
}

/// Applies a patch to an object of a kind.
pub(crate) fn apply_patch(kind: PatchType, current: &Value, patch: &Value, gvk: &GroupVersionKind) -> Result<Value, Status> {
    match kind {
        PatchType::Json => JsonPatch::parse(patch).and_then(|patch| patch.apply(current)).map_err(json_patch_status),
        PatchType::Strategic => {
            let schema = schema::lookup(gvk).map(|info| info as &dyn PatchSchema);
            strategic_merge_patch(current, patch, schema).map_err(|error| Status::bad_request(error.to_string()))
        }
        PatchType::Merge => {
            let mut patched = current.clone();
            merge_patch(&mut patched, patch);
            Ok(patched)
        }
        PatchType::Apply => Err(Status::unsupported_media_type(SUPPORTED)),
    }
}

fn json_patch_status(error: JsonPatchError) -> Status {
    match error {
        JsonPatchError::Malformed(_) => Status::bad_request(error.to_string()),
        JsonPatchError::TooManyOperations(_) => Status::request_entity_too_large(&error.to_string()),
        JsonPatchError::NotApplicable(_) => {
            let mut status = Status::new(Reason::Invalid, "the server rejected our request due to an error in our request");
            status.details = Some(StatusDetails::default());
            status.message = error.to_string();
            status
        }
    }
}

impl Change for Patched<'_> {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let current = current.cloned().unwrap_or_else(Value::object);
        let current = convert(current, self.served_kind);
        let mut patched = apply_patch(self.kind, &current, &self.patch, self.served_kind)?;
        if patched.as_object().is_none() {
            return Err(Status::bad_request("the patch did not leave an object"));
        }
        if patched.meta().name() != current.meta().name() {
            // Upstream validates this as an immutable field.
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                patched.meta().name(),
                current.meta().name()
            )));
        }
        patched.set_gvk(self.served_kind);
        let patched = codecs::patched(patched, self.served_kind, self.mode, self.context, &self.patch)?;
        Ok(convert(patched, self.stored_kind))
    }

    fn options_kind(&self) -> &'static str {
        "PatchOptions"
    }
}
