//! Which patch, by its content type (<https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-update>).

use apimachinery::{GroupVersionKind, Status, Value};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

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

const SUPPORTED: &[&str] = &["application/json-patch+json", "application/merge-patch+json"];

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
    pub(crate) fn new(
        kind: PatchType,
        bytes: &[u8],
        write: Write<'a>,
        options: &WriteOptions,
    ) -> Result<Patched<'a>, Status> {
        if matches!(kind, PatchType::Strategic | PatchType::Apply) {
            return Err(Status::unsupported_media_type(SUPPORTED));
        }
        let patch = Value::from_slice(bytes)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
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

impl Change for Patched<'_> {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let current = current.cloned().unwrap_or_else(Value::object);
        let current = convert(current, self.served_kind);
        let mut patched = match self.kind {
            PatchType::Json => super::json_patch::apply(&current, &self.patch)?,
            _ => super::json_patch::merge(current.clone(), &self.patch),
        };
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
        super::codecs::check_fields(&mut patched, self.served_kind, self.mode, self.context)?;
        Ok(convert(patched, self.stored_kind))
    }

    fn options_kind(&self) -> &'static str {
        "PatchOptions"
    }
}
