//! Server-side apply: `PATCH` with `application/apply-patch+yaml`
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).

use apimachinery::decode::DecodeError;
use apimachinery::{GroupVersionKind, Reason, Status, Value, field};

use super::body::Encoding;
use super::codecs;
use super::patch::PatchType;
use crate::http::Query;
use crate::registry::{Change, FieldValidation, Write, WriteOptions, apply_managed, convert};

/// A configuration to apply.
pub(crate) struct Applied<'a> {
    config: Value,
    /// What strict decoding complains about.
    complaints: Vec<String>,
    write: Write<'a>,
    options: &'a WriteOptions,
}

/// Options that only apply, or only other patches, may have.
pub(crate) fn option_errors(kind: PatchType, query: &Query) -> field::ErrorList {
    let path = |name: &str| field::Path::new(name);
    match kind {
        PatchType::Apply(_) if query.get("fieldManager").unwrap_or_default().is_empty() => {
            vec![field::Error::required(&path("fieldManager"), "is required for apply patch")]
        }
        PatchType::Apply(_) => Vec::new(),
        _ if query.get("force").is_some() => {
            vec![field::Error::forbidden(&path("force"), "may not be specified for non-apply patch")]
        }
        _ => Vec::new(),
    }
}

impl<'a> Applied<'a> {
    pub(crate) fn new(
        bytes: &[u8],
        encoding: Encoding,
        write: Write<'a>,
        options: &'a WriteOptions,
    ) -> Result<Applied<'a>, Status> {
        let (config, complaints) = codecs::parse(bytes, encoding, &write.endpoint.row.kind)
            .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?;
        if config.as_object().is_none() && !config.is_null() {
            let found = config.type_name();
            return Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type \
                 map[string]interface {{}}"
            )));
        }
        let config = if config.is_null() { Value::object() } else { config };
        Ok(Applied { config, complaints, write, options })
    }

    /// Upstream parses the configuration once more, strictly, and says all that is wrong with it at once.
    fn judge(&self) -> Result<(), Status> {
        if self.complaints.is_empty() {
            return Ok(());
        }
        match self.options.field_validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                codecs::warn(&self.complaints, self.write.context);
                Ok(())
            }
            FieldValidation::Strict => {
                let why = format!("error converting YAML to JSON: {}", self.complaints.join(", "));
                Err(Status::bad_request(format!("error strict decoding YAML: {why}")))
            }
        }
    }

    fn check_name(&self, object: &Value) -> Result<(), Status> {
        let (name, wanted) = (object.meta().name(), self.write.context.info.name.as_str());
        if name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
            )));
        }
        if name != wanted {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({wanted})"
            )));
        }
        Ok(())
    }
}

impl Change for Applied<'_> {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let write = &self.write;
        let kind = &write.endpoint.row.kind;
        let current = current.map(|current| convert(current.clone(), kind));
        let mut object = apply_managed(write, current.as_ref(), &self.config, self.options)?;
        self.judge()?;
        match &current {
            None if !object.meta().uid().is_empty() => {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    object.meta().uid()
                );
                return Err(Status::conflict(&write.endpoint.row.group_resource(), &write.context.info.name, why));
            }
            // Nothing but ownership has changed: what is stored stays as it is.
            Some(current) if without_managers(current) == without_managers(&object) => {}
            _ => {
                codecs::restored(&mut object, kind).map_err(|why| unconvertible(&object_name(&self.config), kind, &why))?;
            }
        }
        self.check_name(&object)?;
        Ok(convert(object, &write.stored.kind))
    }

    fn may_create(&self) -> bool {
        self.write.subresource.is_empty()
    }

    fn manages_fields(&self) -> bool {
        true
    }

    fn is_apply(&self) -> bool {
        true
    }

    fn options_kind(&self) -> &'static str {
        "PatchOptions"
    }
}

/// Namespace and name, as upstream's errors about a configuration have them.
fn object_name(config: &Value) -> String {
    format!("{}/{}", config.meta().namespace(), config.meta().name())
}

/// The applied object is not one of its type.
fn unconvertible(name: &str, kind: &GroupVersionKind, why: &DecodeError) -> Status {
    let version = kind.api_version();
    let version = if version.contains('/') { version } else { format!("/{version}") };
    let kind = format!("{version}, Kind={}", kind.kind);
    let why = format!(
        "failed to convert new object ({name}; {kind}) to proper version: unable to convert unstructured object to {kind}: {why}"
    );
    Status::new(Reason::Unknown, why)
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    object.meta_mut().remove("managedFields");
    object
}
