//! Server-side apply: `PATCH` with `application/apply-patch+yaml`
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).

use apimachinery::{GroupKind, Status, Value, field};

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
pub(crate) fn check_options(kind: PatchType, query: &Query) -> Result<(), Status> {
    let path = |name: &str| field::Path::new(name);
    let error = match kind {
        PatchType::Apply(_) if query.get("fieldManager").unwrap_or_default().is_empty() => {
            field::Error::required(&path("fieldManager"), "is required for apply patch")
        }
        PatchType::Apply(_) => return Ok(()),
        _ if query.get("force").is_some() => field::Error::forbidden(&path("force"), "may not be specified for non-apply patch"),
        _ => return Ok(()),
    };
    Err(Status::invalid(&GroupKind::new("meta.k8s.io", "PatchOptions"), "", &[error]))
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
        if config.as_object().is_none() {
            return Err(Status::bad_request("error decoding YAML: the configuration is not an object"));
        }
        Ok(Applied { config, complaints, write, options })
    }

    fn check_name(&self, object: &Value) -> Result<(), Status> {
        let (name, wanted) = (object.meta().name(), self.write.context.info.name.as_str());
        if !name.is_empty() && name != wanted {
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
        if self.options.field_validation != FieldValidation::Ignore {
            codecs::judge(self.complaints.clone(), self.options.field_validation, write.context)
                .map_err(|why| Status::bad_request(format!("error strict decoding YAML: {why}")))?;
        }
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
                codecs::conform(&mut object, kind).map_err(|error| codecs::unfit(kind, error))?;
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

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    object.meta_mut().remove("managedFields");
    object
}
