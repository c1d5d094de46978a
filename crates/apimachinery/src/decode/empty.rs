//! Lists, maps and bytes that are there and empty. Go's variables tell them from those that are not there; upstream's store does not.
//!
//! An object that a client sends keeps them ([`conform_sent`](super::conform_sent)) for what looks at such variables: defaults, owners of
//! fields, a few generations. Then they go, and what is left of them is where they were.

use super::conform;
use crate::Value;
use crate::schema::{Shape, TypeInfo, TypeKind};

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
        let mut without = object.clone();
        // It conformed before: it cannot fail now, but for a member that some rule gave the wrong type.
        if conform(&mut without, info).is_ok() {
            *object = without;
        }
    }
    found
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
            match (field.shape, member) {
                (Shape::List(_), Value::Array(items)) if items.is_empty() => self.note("[]"),
                (Shape::Map(_), Value::Object(members)) if members.is_empty() => self.note("{}"),
                (Shape::Bytes, Value::String(text)) if text.is_empty() && field.omit_empty() => self.note("\"\""),
                (shape, member) => self.inside(member, shape),
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
    use crate::decode::{conform_sent, conform_written};
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
    fn only_what_go_writes_is_written() {
        let mut role = value!({"metadata": {"labels": {}}, "rules": []});
        conform_sent(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        conform_written(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        assert_eq!(role, value!({"metadata": {}, "rules": []}));
        conform(&mut role, info("rbac.authorization.k8s.io", "Role")).expect("fits");
        assert_eq!(role, value!({"metadata": {}, "rules": null}));
    }
}
