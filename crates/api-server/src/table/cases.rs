//! Tables of objects in all states against what upstream's printers say of them.
//!
//! `cases.jsonl` has an object in each line with upstream's cells (and, for the first of its kind, columns), as
//! `conformance/printers` printed them: `jq -c .object cases.jsonl | go run ./printers` in `conformance/` prints them again. No object has a
//! time of creation, so that the answers stay true. CSIStorageCapacity is not among them: upstream has a printer for it that its storage does
//! not use.

use apimachinery::{GroupVersionKind, Value, schema, value};

use super::{Include, table};
use crate::registry::Resource;

fn resource(kind: &GroupVersionKind) -> Resource {
    let found = schema::resources().iter().find(|info| info.gvk() == *kind);
    Resource::from(found.unwrap_or_else(|| panic!("{kind} is a resource")))
}

fn definitions(table: &Value) -> Value {
    let short = |column: &Value| {
        let part = |field: &str| column[field].clone();
        value!([(part("name")), (part("type")), (part("format")), (part("priority"))])
    };
    table["columnDefinitions"].as_array().unwrap_or_default().iter().map(short).collect()
}

#[test]
fn tables_are_upstreams() {
    let mut wrong = Vec::new();
    for line in include_str!("cases.jsonl").lines() {
        let case = Value::from_slice(line.as_bytes()).expect("a line is JSON");
        let object = case["object"].clone();
        let resource = resource(&object.gvk().expect("a kind"));
        let table = table(&resource, "v1", Value::object(), &[object], Include::None, true);
        let mut check = |what: &str, ours: &Value, upstream: Option<&Value>| {
            if upstream.is_some_and(|upstream| upstream != ours) {
                wrong.push(format!(
                    "{what} of {}:\n  upstream {}\n  ours     {ours}",
                    case["object"],
                    upstream.unwrap_or(&Value::Null)
                ));
            }
        };
        check("columns", &definitions(&table), case.get("columns"));
        let row = &table["rows"][0];
        check("cells", &row["cells"], case.get("cells"));
        check("conditions", &row["conditions"], Some(&case["conditions"]));
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn kinds_without_a_printer_have_a_name_and_a_time() {
    let role = GroupVersionKind::new("rbac.authorization.k8s.io", "v1", "Role");
    let object = value!({"metadata": {"name": "x", "creationTimestamp": "2020-01-01T00:00:00Z"}});
    let table = table(&resource(&role), "v1", Value::object(), &[object], Include::None, true);
    assert_eq!(definitions(&table), value!([["Name", "string", "name", 0], ["Created At", "date", "", 0]]));
    assert_eq!(table["rows"][0]["cells"], value!(["x", "2020-01-01T00:00:00Z"]));
}

#[test]
fn flow_schemas_come_as_they_are_tried() {
    let kind = GroupVersionKind::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema");
    let schema = |name: &str, precedence: i64| value!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}});
    let table =
        table(&resource(&kind), "v1", Value::object(), &[schema("a", 9), schema("c", 1), schema("b", 1)], Include::None, true);
    let names: Vec<&str> = table["rows"].as_array().expect("rows").iter().filter_map(|row| row["cells"][0].as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
}
