//! Lists, maps and bytes that are there and empty. Go's variables tell them from those that are not there; upstream's store does not.
//!
//! An object that a client sends keeps them ([`conform_sent`](super::conform_sent)) for what looks at such variables: defaults, owners of
//! fields, a few generations. Then they go, and what is left of them is where they were.

use std::sync::Arc;

use super::zero::{self, Empty};
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind};
use crate::{Map, Value};

/// An empty list, map or text of bytes that was taken out of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyMember {
    /// Where it was, as errors name places: `spec.ports[0].x`.
    pub path: String,
    /// As JSON: `[]`, `{}` or `""`.
    pub json: &'static str,
}

/// Takes the empty lists and maps out of an object of a type, as storing it does, and says where they were.
pub fn drop_empty(object: &mut Value, info: &'static TypeInfo) -> Vec<EmptyMember> {
    let mut search = Search { path: Vec::new(), found: Vec::new() };
    search.fields(object, info);
    let found = search.found;
    if !found.is_empty() {
        *object = without_fields(object.take(), info);
    }
    found
}

/// An object without what the search found in it.
fn without_fields(object: Value, info: &'static TypeInfo) -> Value {
    let Value::Object(members) = object else { return object };
    let mut fields = info.fields.iter().peekable();
    let mut left = Vec::with_capacity(members.len());
    for (key, member) in Arc::unwrap_or_clone(members) {
        while fields.next_if(|field| field.name < key.as_str()).is_some() {}
        let member = match fields.next_if(|field| field.name == key.as_str()) {
            Some(field) => without(field, member),
            None => Some(member),
        };
        left.extend(member.map(|member| (key, member)));
    }
    Value::from(Map::from_sorted(left))
}

/// What Go writes for a field with this member; `None` when it leaves it out.
fn without(field: &'static FieldInfo, member: Value) -> Option<Value> {
    if empty_json(field, &member).is_some() {
        return zero::of_field(field);
    }
    match (field.shape, without_inside(member, field.shape)) {
        // It may have been all that the struct held.
        (Shape::Type(_), member) if field.omit_zero() => zero::emitted(field, member, Empty::None),
        (_, member) => Some(member),
    }
}

fn without_inside(value: Value, shape: &'static Shape) -> Value {
    match (shape, value) {
        (Shape::Type(id), value @ Value::Object(_)) if id.info().kind == TypeKind::Struct => without_fields(value, id.info()),
        (Shape::List(inner), Value::Array(items)) if is_composite(inner) => {
            let items = Arc::unwrap_or_clone(items).into_iter().map(|item| without_inside(item, inner)).collect();
            Value::Array(Arc::new(items))
        }
        (Shape::Map(inner), Value::Object(members)) if is_composite(inner) => {
            let members = Arc::unwrap_or_clone(members).into_iter().map(|(key, member)| (key, without_inside(member, inner)));
            Value::from(Map::from_sorted(members.collect()))
        }
        (_, value) => value,
    }
}

/// How an empty member of a field is written, if it is one that goes.
fn empty_json(field: &FieldInfo, member: &Value) -> Option<&'static str> {
    match (field.shape, member) {
        (Shape::List(_), Value::Array(items)) if items.is_empty() => Some("[]"),
        (Shape::Map(_), Value::Object(members)) if members.is_empty() => Some("{}"),
        (Shape::Bytes, Value::String(text)) if text.is_empty() && field.omit_empty() => Some("\"\""),
        _ => None,
    }
}

enum Step<'a> {
    Field(&'static str),
    Key(&'a str),
    Index(usize),
}

struct Search<'a> {
    path: Vec<Step<'a>>,
    found: Vec<EmptyMember>,
}

impl<'a> Search<'a> {
    /// Members and fields are both sorted by name.
    fn fields(&mut self, object: &'a Value, info: &'static TypeInfo) {
        let mut fields = info.fields.iter().peekable();
        for (key, member) in object.as_object().into_iter().flatten() {
            while fields.next_if(|field| field.name < key.as_str()).is_some() {}
            let Some(field) = fields.next_if(|field| field.name == key.as_str()) else { continue };
            self.path.push(Step::Field(field.name));
            match empty_json(field, member) {
                Some(json) => self.note(json),
                None => self.inside(member, field.shape),
            }
            self.path.pop();
        }
    }

    fn inside(&mut self, value: &'a Value, shape: &'static Shape) {
        match (shape, value) {
            (Shape::Type(id), Value::Object(_)) if id.info().kind == TypeKind::Struct => self.fields(value, id.info()),
            (Shape::List(inner), Value::Array(items)) if is_composite(inner) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.inside(item, inner);
                    self.path.pop();
                }
            }
            (Shape::Map(inner), Value::Object(members)) if is_composite(inner) => {
                for (key, member) in members.iter() {
                    self.path.push(Step::Key(key.as_str()));
                    self.inside(member, inner);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, json: &'static str) {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(key) => path.push_str(&format!("[{key}]")),
                Step::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
            }
        }
        self.found.push(EmptyMember { path, json });
    }
}

fn is_composite(shape: &Shape) -> bool {
    matches!(shape, Shape::Type(_) | Shape::List(_) | Shape::Map(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{conform, conform_sent, conform_written};
    use crate::{GroupVersionKind, schema, value};

    fn info(group: &str, kind: &str) -> &'static TypeInfo {
        schema::lookup(&GroupVersionKind::new(group, "v1", kind)).expect("a built-in kind")
    }

    #[test]
    fn empty_members_go_and_are_remembered() {
        let mut policy =
            value!({"metadata": {"labels": {}}, "spec": {"podSelector": {}, "ingress": [{"from": []}], "egress": []}});
        conform_sent(&mut policy, info("networking.k8s.io", "NetworkPolicy")).expect("fits");
        assert_eq!(policy["spec"]["egress"], Value::array());
        let found = drop_empty(&mut policy, info("networking.k8s.io", "NetworkPolicy"));
        let found: Vec<(&str, &str)> = found.iter().map(|member| (member.path.as_str(), member.json)).collect();
        assert_eq!(found, [("metadata.labels", "{}"), ("spec.egress", "[]"), ("spec.ingress[0].from", "[]")]);
        assert_eq!(policy["spec"], value!({"ingress": [{}], "podSelector": {}}));
        assert!(drop_empty(&mut policy, info("networking.k8s.io", "NetworkPolicy")).is_empty());
    }

    #[test]
    fn what_is_left_is_what_conforms() {
        let sent = value!({
            "metadata": {"name": "a", "annotations": {}, "managedFields": []},
            "data": {"a": ""}, "stringData": {}, "immutable": false,
        });
        let pod = value!({
            "metadata": {"labels": {"a": ""}, "finalizers": []},
            "spec": {
                "containers": [{"name": "c", "env": [], "resources": {"limits": {}}, "securityContext": {"capabilities": {"add": []}}}],
                "volumes": [{"name": "v", "projected": {"sources": []}}, {"name": "e", "emptyDir": {}}], "nodeSelector": {},
            },
            "status": {"conditions": []},
        });
        for (object, info) in [(sent, info("", "Secret")), (pod, info("", "Pod"))] {
            let mut dropped = object.clone();
            conform_sent(&mut dropped, info).expect("fits");
            let mut wanted = dropped.clone();
            assert!(!drop_empty(&mut dropped, info).is_empty());
            conform(&mut wanted, info).expect("fits");
            assert_eq!(dropped, wanted);
        }
    }

    #[test]
    fn they_go_whatever_else_is_wrong() {
        let mut pod = value!({"metadata": {"labels": {}}, "spec": {"hostNetwork": "a rule's mistake", "containers": []}});
        assert_eq!(drop_empty(&mut pod, info("", "Pod")).len(), 2);
        assert_eq!(pod, value!({"metadata": {}, "spec": {"hostNetwork": "a rule's mistake", "containers": null}}));
    }

    #[test]
    fn only_what_go_writes_is_written() {
        let mut role = value!({"metadata": {"labels": {}}, "rules": []});
        conform_sent(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        conform_written(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        assert_eq!(role, value!({"metadata": {}, "rules": []}));
        conform(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        assert_eq!(role, value!({"metadata": {}, "rules": null}));
    }
    #[test]
    fn lists_with_one_owner_keep_all() {
        let sent = value!({"spec": {
            "containers": [{"name": "c", "args": [], "env": [{"name": "e"}]}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaces": []}]}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": []}],
            "dnsConfig": {"searches": []},
        }});
        let mut pod = sent.clone();
        conform_sent(&mut pod, info("", "Pod")).expect("fits");
        conform_written(&mut pod, info("", "Pod")).expect("fits");
        let spec = &pod["spec"];
        // Told apart by keys, so that each container is a struct of its own.
        assert_eq!((spec["containers"][0].get("args"), spec["topologySpreadConstraints"][0].get("matchLabelKeys")), (None, None));
        assert_eq!(spec["dnsConfig"].get("searches"), None);
        let terms = &spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(terms[0]["namespaces"], value!([]));
        let mut role = value!({"rules": [{"verbs": ["get"], "apiGroups": []}]});
        conform_sent(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        conform_written(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        assert_eq!(role["rules"][0]["apiGroups"], value!([]));
    }
}
