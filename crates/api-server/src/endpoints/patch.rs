//! Which patch, by its content type (<https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-update>).

use apimachinery::patch::{
    JsonPatch, JsonPatchError, PatchSchema, StrategicError, go_text, merge_patch, strategic_merge_patch, without_nulls,
};
use apimachinery::{GroupKind, GroupVersionKind, Reason, Status, StatusDetails, Value, field, schema};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::body::{Encoding, no_kind, unusable};
use super::change::check_name;
use super::codecs;
use crate::gates::Feature;
use crate::http::RequestContext;
use crate::registry::{Change, FieldValidation, NAMESPACE_MISMATCH, Write, WriteOptions, convert};

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
    Apply(Encoding),
}

/// The content types, for errors.
fn supported(context: &RequestContext) -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/apply-patch+cbor",
    ];
    if context.gates.has(Feature::CborServingAndStorage) { ALL } else { &ALL[..4] }
}

impl PatchType {
    pub(crate) fn of(headers: &HeaderMap, context: &RequestContext) -> Result<PatchType, Status> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match value.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(PatchType::Json),
            "application/merge-patch+json" => Ok(PatchType::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
            "application/apply-patch+yaml" => Ok(PatchType::Apply(Encoding::Yaml)),
            "application/apply-patch+cbor" if context.gates.has(Feature::CborServingAndStorage) => {
                Ok(PatchType::Apply(Encoding::Cbor))
            }
            _ => Err(Status::unsupported_media_type(supported(context))),
        }
    }
}

/// A patch as it was sent.
pub(crate) struct SentPatch {
    kind: PatchType,
    /// With what strict decoding finds wrong with it; or what is so wrong with it that it is none, which matters only where there is
    /// something to patch.
    patch: Result<(Value, Vec<String>), Status>,
    mode: FieldValidation,
}

impl SentPatch {
    /// Of an object that is served as this kind.
    pub(crate) fn read(kind: PatchType, bytes: &[u8], served: &GroupVersionKind, mode: FieldValidation) -> SentPatch {
        SentPatch { kind, patch: read(kind, bytes, served, mode), mode }
    }

    /// The object, of this kind, with the patch.
    pub(crate) fn patched(&self, current: &Value, served: &GroupVersionKind, context: &RequestContext) -> Result<Value, Status> {
        let (patch, complaints) = self.patch.as_ref().map_err(Status::clone)?;
        let merged = self.kind == PatchType::Strategic;
        let result = apply_patch(self.kind, current, patch, served)?;
        // Only errors show it, and its text is as long as the object.
        let refused = |why: String| {
            let shown = if merged { go_text(&as_merged(patch, current)) } else { result.to_json() };
            let error = field::Error::invalid(&field::Path::new("patch"), shown, why);
            Status::invalid(&GroupKind::default(), "", &[error])
        };
        if let Some(why) = no_kind(&result).filter(|_| result.as_object().is_none()) {
            return Err(refused(why));
        }
        if !merged {
            check_kind(&result, served).map_err(refused)?;
        }
        let mut patched = result.clone();
        patched.set_gvk(served);
        let patched = codecs::patched(patched, served, self.mode, context, complaints.clone(), merged).map_err(refused)?;
        let namespace = if current.meta().namespace().is_empty() { "" } else { context.info.namespace.as_str() };
        if !namespace.is_empty() && !patched.meta().namespace().is_empty() && patched.meta().namespace() != namespace {
            return Err(Status::bad_request(NAMESPACE_MISMATCH));
        }
        check_name(&patched, current.meta().name())?;
        Ok(patched)
    }
}

/// A strategic patch as upstream's merge leaves it: without the directives that it has followed, and without the nulls and the directives inside
/// of what the object does not have, or has as another type.
fn as_merged(patch: &Value, current: &Value) -> Value {
    let (Value::Object(members), Value::Object(_)) = (patch, current) else { return without_directives(&without_nulls(patch)) };
    let directive = patch.get("$patch");
    let kept = |key: &apimachinery::Key| !matches!(key.as_str(), "$patch" | "$retainKeys");
    if directive.is_some() {
        let replaces = directive.is_some_and(|directive| *directive == "replace");
        let members = members.iter().filter(|(key, _)| !replaces || key.as_str() != "$patch");
        return Value::from(members.map(|(key, value)| (key.clone(), value.clone())).collect::<apimachinery::Map>());
    }
    let merged = |(key, value): (&apimachinery::Key, &Value)| {
        let left = match current.get(key.as_str()) {
            Some(Value::Array(_)) if matches!(value, Value::Array(_)) => value.clone(),
            Some(now @ Value::Object(_)) if matches!(value, Value::Object(_)) => as_merged(value, now),
            _ => without_directives(&without_nulls(value)),
        };
        (key.clone(), left)
    };
    Value::from(members.iter().filter(|(key, _)| kept(key)).map(merged).collect::<apimachinery::Map>())
}

/// What is left of a value where upstream has taken the directives out of it: an object that is one stays whole, one inside of it is gone.
fn without_directives(value: &Value) -> Value {
    fn inside(value: &Value) -> Option<Value> {
        match value {
            Value::Object(_) if value.get("$patch").is_some() => None,
            Value::Array(items) => Some(items.iter().filter_map(inside).collect()),
            other => Some(without_directives(other)),
        }
    }
    match value {
        Value::Object(members) if value.get("$patch").is_none() => {
            let left = members.iter().filter_map(|(key, value)| Some((key.clone(), inside(value)?)));
            Value::from(left.collect::<apimachinery::Map>())
        }
        Value::Array(items) => items.iter().map(without_directives).collect(),
        other => other.clone(),
    }
}

/// A patch cannot make the object one of another kind.
fn check_kind(patched: &Value, served: &GroupVersionKind) -> Result<(), String> {
    let (version, kind) = (patched.api_version(), patched.kind());
    if version.is_empty() || kind.is_empty() {
        return Ok(());
    }
    let Ok(given) = GroupVersionKind::from_api_version(version, kind) else { return Ok(()) };
    unusable(&given, served).map_or(Ok(()), Err)
}

/// A patch as a change of an object.
pub(crate) struct Patched<'a> {
    sent: SentPatch,
    write: Write<'a>,
}

impl<'a> Patched<'a> {
    pub(crate) fn new(kind: PatchType, bytes: &[u8], write: Write<'a>, options: &WriteOptions) -> Patched<'a> {
        Patched { sent: SentPatch::read(kind, bytes, &write.endpoint.row.kind, options.field_validation), write }
    }
}

/// Reads a patch. Where nobody asks for its mistakes, upstream leaves it to its libraries, which take a list for a merge patch.
fn read(kind: PatchType, bytes: &[u8], served: &GroupVersionKind, mode: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let ignores = mode == FieldValidation::Ignore;
    let prefix = if kind == PatchType::Strategic { "" } else { "error decoding patch: " };
    let (patch, mut complaints) = codecs::parse(bytes, Encoding::Json, served).map_err(|status| match (kind, ignores) {
        (PatchType::Merge, true) => Status::bad_request("Invalid JSON Patch"),
        (_, true) => status,
        (_, false) => Status::bad_request(format!("{prefix}{}", status.message)),
    })?;
    let wanted = match kind {
        PatchType::Json if patch.as_array().is_none() && ignores => "jsonpatch.Patch",
        PatchType::Json if patch.as_array().is_none() => "[]handlers.jsonPatchOp",
        PatchType::Merge if patch.as_array().is_some() && ignores => "",
        PatchType::Merge | PatchType::Strategic if patch.as_object().is_none() => "map[string]interface {}",
        _ => "",
    };
    if !wanted.is_empty() && !patch.is_null() {
        let found = patch.type_name();
        let prefix = if ignores { "" } else { prefix };
        if ignores && kind == PatchType::Merge {
            return Err(Status::bad_request("Invalid JSON Patch"));
        }
        return Err(Status::bad_request(format!("{prefix}json: cannot unmarshal {found} into Go value of type {wanted}")));
    }
    if patch.is_null() && kind == PatchType::Merge {
        return Err(Status::bad_request("Invalid JSON Patch"));
    }
    if kind == PatchType::Json {
        complaints.iter_mut().for_each(|complaint| complaint.insert_str(0, "json patch "));
    }
    // No operations, no members.
    let nothing = if kind == PatchType::Json { Value::array() } else { Value::object() };
    Ok((if patch.is_null() { nothing } else { patch }, complaints))
}

/// Applies a patch to an object of a kind.
fn apply_patch(kind: PatchType, current: &Value, patch: &Value, gvk: &GroupVersionKind) -> Result<Value, Status> {
    match kind {
        PatchType::Json => JsonPatch::parse(patch).and_then(|patch| patch.apply(current)).map_err(json_patch_status),
        PatchType::Strategic => {
            let schema = schema::lookup(gvk).map(|info| info as &dyn PatchSchema);
            strategic_merge_patch(current, patch, schema).map_err(|error| strategic_status(&error))
        }
        PatchType::Merge => {
            let mut patched = current.clone();
            merge_patch(&mut patched, patch);
            Ok(patched)
        }
        PatchType::Apply(_) => Err(Status::internal_error("a configuration is applied, not merged")),
    }
}

/// Upstream's `interpretStrategicMergePatchError`: what it does not know is an error of the server's, without a reason.
fn strategic_status(error: &StrategicError) -> Status {
    match error {
        StrategicError::UnknownDirective { .. }
        | StrategicError::OrderMismatch { .. }
        | StrategicError::MixedList { .. }
        | StrategicError::NoMergeKey { .. } => Status::new(Reason::Unknown, error.to_string()),
        _ => Status::bad_request(error.to_string()),
    }
}

fn json_patch_status(error: JsonPatchError) -> Status {
    match error {
        JsonPatchError::Malformed(_) => Status::bad_request(error.to_string()),
        JsonPatchError::TooManyOperations(_) => Status::request_entity_too_large(&error.to_string()),
        JsonPatchError::NotApplicable(_) => {
            // Upstream does not say which operation did not apply.
            let mut status = Status::new(Reason::Invalid, "the server rejected our request due to an error in our request");
            status.details = Some(StatusDetails::default());
            status
        }
    }
}

impl Change for Patched<'_> {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        // Only a configuration that is applied makes what is not there.
        let current = current.ok_or_else(|| self.write.not_found(&self.write.context.info.name))?;
        let served = &self.write.endpoint.row.kind;
        let patched = self.sent.patched(&convert(current.clone(), served), served, self.write.context)?;
        Ok(convert(patched, &self.write.stored.kind))
    }

    fn options_kind(&self) -> &'static str {
        "PatchOptions"
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_a_merge_leaves_of_a_patch() {
        let current = value!({"a": {"b": 1}, "list": [1], "text": "x"});
        for (patch, left) in [
            (value!({"new": {"c": null, "d": 1}}), value!({"new": {"d": 1}})),
            (value!({"a": {"b": null, "c": {"d": null}}}), value!({"a": {"b": null, "c": {}}})),
            (value!({"list": {"e": null}}), value!({"list": {}})),
            (value!({"text": null}), value!({"text": null})),
            (value!({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}), value!({"spec": {"ports": []}})),
            (value!({"a": {"$patch": "replace", "b": 2}}), value!({"a": {"b": 2}})),
            (value!({"a": {"$patch": "nope", "b": 2}}), value!({"a": {"$patch": "nope", "b": 2}})),
            (value!({"new": {"$patch": "delete"}}), value!({"new": {"$patch": "delete"}})),
        ] {
            assert_eq!(as_merged(&patch, &current), left, "{patch}");
        }
    }
}
