//! Tables: what `kubectl get` prints (<https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>).
//!
//! A printer knows a kind's columns and makes a row out of an object. Kinds without one have NAME and CREATED AT, as upstream.

use apimachinery::{Status, Value, value};

use crate::endpoints::partial_metadata;
use crate::registry::Resource;

#[cfg(test)]
mod cases;
mod printers;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) name: &'static str,
    /// `string`, `integer`, `date`, ...
    pub(crate) kind: &'static str,
    /// `name` for the column of names.
    pub(crate) format: &'static str,
    /// What it shows.
    pub(crate) description: &'static str,
    /// Above 0: only for `-o wide`.
    pub(crate) priority: i64,
}

/// The columns of a kind and how an object fills them.
pub(crate) trait Printer: Send + Sync {
    /// The columns.
    fn columns(&self) -> &[Column];
    /// One cell for each column.
    fn cells(&self, object: &Value) -> Vec<Value>;
}

/// What a row holds beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Include, Status> {
        match text {
            None | Some("" | "Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                apimachinery::go_quote(other)
            ))),
        }
    }
}

/// A Table of objects, which are in the served version. Later events of a watch leave the headers out.
pub(crate) fn table(
    resource: &Resource,
    version: &str,
    metadata: Value,
    objects: &[Value],
    include: Include,
    headers: bool,
) -> Value {
    let printer = printers::find(resource);
    let with_conditions = |object: &Value| {
        let mut row = row(printer, version, object, include);
        if let Some(conditions) = printers::conditions(resource, object) {
            row.insert("conditions", conditions);
        }
        row
    };
    let mut ordered: Vec<&Value> = objects.iter().collect();
    printers::order(resource, &mut ordered);
    let mut table = whole(printer, version, metadata, ordered.into_iter().map(with_conditions).collect(), headers);
    if objects.is_empty() && printers::is_plain(resource) {
        table.insert("rows", Value::Null);
    }
    table
}

/// A Table of one Scale, whatever it scales.
pub(crate) fn scale_table(version: &str, scale: &Value, include: Include) -> Value {
    let metadata = value!({"resourceVersion": scale.meta().resource_version()});
    let printer = printers::scales();
    whole(printer, version, metadata, vec![row(printer, version, scale, include)], true)
}

fn row(printer: &dyn Printer, version: &str, object: &Value, include: Include) -> Value {
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial_metadata(object, version),
        Include::Object => object.clone(),
    };
    value!({"cells": printer.cells(object), "object": shown})
}

fn whole(printer: &dyn Printer, version: &str, metadata: Value, rows: Vec<Value>, headers: bool) -> Value {
    let definition = |column: &Column| {
        value!({"name": column.name, "type": column.kind, "format": column.format, "description": column.description,
            "priority": column.priority})
    };
    let definitions = headers.then(|| printer.columns().iter().map(definition).collect::<Vec<Value>>());
    value!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": definitions.map_or(Value::Null, Value::from),
        "rows": rows,
    })
}
