//! Which printer prints which resource: one line for each kind, upstream's columns.

mod access;
mod cluster;
mod format;
mod network;
mod pods;
mod policies;
mod storage;
mod workloads;

use std::sync::LazyLock;

use apimachinery::Value;

use super::{Column, Printer};
use crate::registry::Resource;

/// A printer as it is registered: resource name and group, columns, and the function that fills those after the name.
///
/// A column is written as its heading with marks in front: `+` only in wide output, `#` an integer, `?` a boolean, `@` shown as a name,
/// `-` not (as `Name` otherwise is).
pub(super) struct Registration {
    pub(super) resource: &'static str,
    pub(super) group: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) cells: fn(&Value) -> Vec<Value>,
}

/// Shorthand for the registries of the modules.
const fn printer(
    resource: &'static str,
    group: &'static str,
    columns: &'static [&'static str],
    cells: fn(&Value) -> Vec<Value>,
) -> Registration {
    Registration { resource, group, columns, cells }
}

/// Whether the resource has no printer of its own. Upstream's for such has no rows where a list is empty, not an empty list of them.
pub(super) fn is_plain(resource: &Resource) -> bool {
    find(resource).columns().get(1).is_some_and(|column| column.name == "Created At")
}

/// The printer of a resource.
pub(super) fn find(resource: &Resource) -> &'static dyn Printer {
    static PRINTERS: LazyLock<Vec<(&Registration, Built)>> = LazyLock::new(|| {
        let all = [
            pods::PRINTERS,
            workloads::PRINTERS,
            network::PRINTERS,
            storage::PRINTERS,
            cluster::PRINTERS,
            access::PRINTERS,
            policies::PRINTERS,
        ];
        all.into_iter().flatten().map(|registration| (registration, Built::from(registration))).collect()
    });
    static DEFAULT: LazyLock<Built> = LazyLock::new(|| Built::from(&printer("", "", &["Name", "Created At"], created_at)));
    let is_for =
        |registration: &Registration| registration.group == resource.gvr.group && registration.resource == resource.gvr.resource;
    // Some sixty lines, once a request: not worth an index.
    PRINTERS.iter().find(|(registration, _)| is_for(registration)).map_or(&*DEFAULT, |(_, built)| built)
}

/// The printer of Scales.
pub(super) fn scales() -> &'static dyn Printer {
    static SCALES: LazyLock<Built> = LazyLock::new(|| Built::from(&workloads::SCALES));
    &*SCALES
}

/// What a row says about its object's state beside the cells: upstream marks pods that are over.
pub(super) fn conditions(resource: &Resource, object: &Value) -> Option<Value> {
    let is_pod = resource.gvr.group.is_empty() && resource.gvr.resource == "pods";
    is_pod.then(|| pods::conditions(object)).flatten()
}

/// The order of rows where it is not that of the objects: flow schemas come as they are tried.
pub(super) fn order(resource: &Resource, objects: &mut [&Value]) {
    if resource.gvr.resource == "flowschemas" {
        objects.sort_by(|a, b| {
            let key = |object: &Value| (format::number(object, &["spec", "matchingPrecedence"]), object.meta().name().to_owned());
            key(a).cmp(&key(b))
        });
    }
}

/// For kinds without a printer of their own.
fn created_at(object: &Value) -> Vec<Value> {
    vec![format::name(object), object.meta().creation_timestamp().unwrap_or_default().into()]
}

struct Built {
    columns: Vec<Column>,
    cells: fn(&Value) -> Vec<Value>,
}

impl From<&Registration> for Built {
    fn from(registration: &Registration) -> Self {
        Self { columns: registration.columns.iter().map(|column| parse_column(column)).collect(), cells: registration.cells }
    }
}

impl Printer for Built {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        (self.cells)(object)
    }
}

fn parse_column(column: &'static str) -> Column {
    let (priority, column) = column.strip_prefix('+').map_or((0, column), |rest| (1, rest));
    let (mark, name) = match column.split_at(1) {
        (mark @ ("#" | "?" | "@" | "-"), name) => (mark, name),
        _ => ("", column),
    };
    let kind = match (mark, name) {
        ("#", _) => "integer",
        ("?", _) => "boolean",
        (_, "Created At") => "date",
        _ => "string",
    };
    let shown_as_name = mark == "@" || (name == "Name" && mark != "-");
    Column { name, kind, format: if shown_as_name { "name" } else { "" }, description: "", priority }
}
