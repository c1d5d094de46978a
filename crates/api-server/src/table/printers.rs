//! Which printer prints which resource.

use apimachinery::Value;

use super::{Column, Printer};
use crate::registry::Resource;

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};
const CREATED_AT: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.",
    priority: 0,
};

/// The printer of a resource.
pub(super) fn find(_resource: &Resource) -> &'static dyn Printer {
    &DefaultPrinter
}

/// For kinds without a printer of their own.
struct DefaultPrinter;

impl Printer for DefaultPrinter {
    fn columns(&self) -> &[Column] {
        &[NAME, CREATED_AT]
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let meta = object.meta();
        vec![meta.name().into(), meta.creation_timestamp().unwrap_or_default().into()]
    }
}
