//! What ownership needs of a schema: which places are merged member by member, and which are one thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::path::PathElement;
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind};
use crate::{Key, Map, Value};

/// A place in a schema.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// The root of a built-in kind.
    Kind(&'static TypeInfo),
    /// Something in a built-in kind; the field is there when it is a field's own value, not an element of it.
    Fact(&'static Shape, Option<&'static FieldInfo>),
    /// A place in a custom resource's schema.
    Tree(&'a Tree),
    /// No schema: objects are merged, lists are one thing.
    Deduced,
}

/// A custom resource's schema, as far as ownership needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// Number, string, boolean.
    Scalar(Scalar),
    /// Whatever it is, it has one owner.
    Atomic,
    /// No schema: objects are merged, lists are one thing.
    Deduced,
    /// A list without equal elements.
    Set,
    /// A list of objects that are told apart by keys.
    Keyed {
        /// The keys with their defaults.
        keys: Vec<(String, Option<Value>)>,
        /// The elements.
        element: Box<Tree>,
    },
    /// A list with one owner; its elements are checked, but not told apart.
    List(Box<Tree>),
    /// An object.
    Object {
        /// Named fields.
        fields: BTreeMap<String, Tree>,
        /// All other members; `None` when there are none.
        others: Option<Box<Tree>>,
    },
}

/// What kind of scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Integer or not.
    Number,
    /// Text.
    String,
    /// True or false.
    Boolean,
    /// Any of them.
    Any,
}

/// How a place is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Scalar(Scalar),
    /// One owner, whatever is in it.
    Atomic,
    Set,
    Keyed,
    Object,
    /// An object is merged, everything else has one owner.
    Deduced,
}

impl<'a> Node<'a> {
    pub(super) fn atom(self) -> Atom {
        match self {
            Node::Deduced => Atom::Deduced,
            Node::Kind(_) => Atom::Object,
            Node::Fact(shape, field) => fact_atom(shape, field),
            Node::Tree(tree) => match tree {
                Tree::Scalar(scalar) => Atom::Scalar(*scalar),
                Tree::Atomic | Tree::List(_) => Atom::Atomic,
                Tree::Deduced => Atom::Deduced,
                Tree::Set => Atom::Set,
                Tree::Keyed { .. } => Atom::Keyed,
                Tree::Object { .. } => Atom::Object,
            },
        }
    }

    fn type_info(self) -> Option<&'static TypeInfo> {
        match self {
            Node::Kind(info) => Some(info),
            Node::Fact(Shape::Type(id), _) => Some(id.info()).filter(|info| info.kind == TypeKind::Struct),
            _ => None,
        }
    }

    /// Whether the schema names all members.
    pub(super) fn is_struct(self) -> bool {
        self.type_info().is_some()
    }

    /// Whether the schema names this member.
    pub(super) fn has_field(self, name: &str) -> bool {
        match self {
            Node::Tree(Tree::Object { fields, .. }) => fields.contains_key(name),
            _ => self.type_info().is_some_and(|info| info.field(name).is_some()),
        }
    }

    /// The member of an object; `None` when the schema has no such member.
    pub(super) fn member(self, name: &str) -> Option<Node<'a>> {
        match self {
            Node::Deduced | Node::Tree(Tree::Deduced) => Some(Node::Deduced),
            Node::Tree(Tree::Object { fields, others }) => fields.get(name).or(others.as_deref()).map(Node::Tree),
            Node::Tree(_) => None,
            Node::Fact(Shape::Map(inner), _) => Some(Node::Fact(inner, None)),
            _ => self.type_info()?.field(name).map(|field| Node::Fact(field.shape, Some(field))),
        }
    }

    /// The elements of a list.
    pub(super) fn element(self) -> Option<Node<'a>> {
        match self {
            Node::Fact(Shape::List(inner), _) => Some(Node::Fact(inner, None)),
            Node::Tree(Tree::Keyed { element, .. } | Tree::List(element)) => Some(Node::Tree(element)),
            Node::Tree(Tree::Set) => Some(Node::Tree(&Tree::Scalar(Scalar::Any))),
            _ => None,
        }
    }

    /// What tells an element from the others of its list; the error is upstream's.
    pub(super) fn path_element(self, element: &Value) -> Result<PathElement, String> {
        match self.atom() {
            Atom::Set => match element {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::Value(scalar.clone())),
            },
            Atom::Keyed => self.keyed_path_element(element),
            _ => Err("invalid indexing of non-associative list".to_owned()),
        }
    }

    fn keyed_path_element(self, element: &Value) -> Result<PathElement, String> {
        let members = match element {
            Value::Object(members) => members,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut found = Map::new();
        let mut keys = Vec::new();
        let mut take = |name: &str, default: Option<Value>| {
            keys.push(name.to_owned());
            if let Some(value) = members.get(name).cloned().or(default) {
                found.insert(Key::new(name), value);
            }
        };
        match self {
            Node::Fact(Shape::List(inner), Some(field)) => {
                let element_type = Node::Fact(inner, None).type_info();
                for name in field.list_map_keys() {
                    let default = element_type.and_then(|info| info.field(name)).and_then(key_default);
                    take(name, default);
                }
            }
            Node::Tree(Tree::Keyed { keys, .. }) => keys.iter().for_each(|(name, default)| take(name, default.clone())),
            _ => {}
        }
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| crate::go_quote(key)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ));
        }
        Ok(PathElement::Key(Arc::new(found)))
    }
}

/// The published default, or Go's zero value of what is always written, which is published as one.
fn key_default(field: &FieldInfo) -> Option<Value> {
    if let Some(json) = field.default_json() {
        return Value::from_slice(json.as_bytes()).ok();
    }
    match field.shape {
        _ if field.pointer() || field.omit_empty() => None,
        Shape::String(_) => Some(Value::from("")),
        Shape::Int32(_) | Shape::Int64(_) => Some(Value::Int(0)),
        Shape::Bool => Some(Value::Bool(false)),
        _ => None,
    }
}

fn fact_atom(shape: &'static Shape, field: Option<&'static FieldInfo>) -> Atom {
    match shape {
        Shape::String(_) | Shape::Bytes => Atom::Scalar(Scalar::String),
        Shape::Bool => Atom::Scalar(Scalar::Boolean),
        Shape::Int32(_) | Shape::Int64(_) | Shape::Float => Atom::Scalar(Scalar::Number),
        Shape::List(_) => match field.and_then(|field| field.list_type()) {
            Some("set") => Atom::Set,
            Some("map") => Atom::Keyed,
            _ => Atom::Atomic,
        },
        Shape::Map(_) => match field.and_then(|field| field.map_type()) {
            Some("atomic") => Atom::Atomic,
            _ => Atom::Object,
        },
        Shape::Type(id) => {
            let info = id.info();
            match info.kind {
                // What the field says goes before what its type says.
                TypeKind::Struct => match field.and_then(|field| field.map_type()).or(info.map_type) {
                    Some("atomic") => Atom::Atomic,
                    _ => Atom::Object,
                },
                TypeKind::Quantity | TypeKind::IntOrString | TypeKind::Time | TypeKind::MicroTime | TypeKind::Duration => {
                    Atom::Scalar(Scalar::Any)
                }
                _ => Atom::Atomic,
            }
        }
    }
}

impl Tree {
    /// From a custom resource's structural schema (`openAPIV3Schema`). `metadata` at the root should be what every object has:
    /// see [`Tree::root`].
    pub fn from_structural(schema: &Value) -> Tree {
        let flag = |name: &str| schema[name].as_bool() == Some(true);
        if flag("x-kubernetes-int-or-string") {
            return Tree::Scalar(Scalar::Any);
        }
        let preserves = flag("x-kubernetes-preserve-unknown-fields");
        match schema["type"].as_str() {
            Some("string") => Tree::Scalar(Scalar::String),
            Some("integer" | "number") => Tree::Scalar(Scalar::Number),
            Some("boolean") => Tree::Scalar(Scalar::Boolean),
            Some("array") => Tree::list(schema),
            Some("object") if schema["x-kubernetes-map-type"] == "atomic" => Tree::Atomic,
            Some("object") => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                let fields: BTreeMap<_, _> =
                    fields.map(|(name, inner)| (name.to_string(), Tree::from_structural(inner))).collect();
                let others = match &schema["additionalProperties"] {
                    Value::Object(_) => Some(Tree::from_structural(&schema["additionalProperties"])),
                    Value::Bool(true) => Some(Tree::Deduced),
                    _ => preserves.then_some(Tree::Deduced),
                };
                Tree::Object { fields, others: others.map(Box::new) }
            }
            _ => Tree::Deduced,
        }
    }

    fn list(schema: &Value) -> Tree {
        let items = &schema["items"];
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Tree::Set,
            Some("map") => {
                let keys = schema.array_at(&["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str);
                let keys = keys.map(|key| (key.to_owned(), items.get_path(&["properties", key, "default"]).cloned())).collect();
                Tree::Keyed { keys, element: Box::new(Tree::from_structural(items)) }
            }
            _ => Tree::List(Box::new(Tree::from_structural(items))),
        }
    }

    /// The schema of a custom resource: what its author wrote, with apiVersion, kind and metadata as all objects have them.
    pub fn root(schema: &Value) -> Tree {
        let mut root = match Tree::from_structural(schema) {
            object @ Tree::Object { .. } => object,
            _ => Tree::Object { fields: BTreeMap::new(), others: Some(Box::new(Tree::Deduced)) },
        };
        if let Tree::Object { fields, .. } = &mut root {
            fields.insert("apiVersion".into(), Tree::Scalar(Scalar::String));
            fields.insert("kind".into(), Tree::Scalar(Scalar::String));
            fields.insert("metadata".into(), Tree::object_meta());
        }
        root
    }

    fn object_meta() -> Tree {
        let info = crate::schema::type_named("meta.v1.ObjectMeta").expect("every schema has ObjectMeta");
        let fields = info.fields.iter().map(|field| (field.name.to_owned(), Tree::from_fact(field.shape, Some(field)))).collect();
        Tree::Object { fields, others: None }
    }

    fn from_fact(shape: &'static Shape, field: Option<&'static FieldInfo>) -> Tree {
        let node = Node::Fact(shape, field);
        match (node.atom(), shape) {
            (Atom::Scalar(scalar), _) => Tree::Scalar(scalar),
            (Atom::Set, _) => Tree::Set,
            (Atom::Keyed, Shape::List(inner)) => {
                let keys = field.into_iter().flat_map(|field| field.list_map_keys()).map(|key| (key.to_owned(), None)).collect();
                Tree::Keyed { keys, element: Box::new(Tree::from_fact(inner, None)) }
            }
            (Atom::Object, Shape::Map(inner)) => {
                Tree::Object { fields: BTreeMap::new(), others: Some(Box::new(Tree::from_fact(inner, None))) }
            }
            (Atom::Object, Shape::Type(id)) => {
                let fields = id.info().fields.iter();
                let fields = fields.map(|field| (field.name.to_owned(), Tree::from_fact(field.shape, Some(field)))).collect();
                Tree::Object { fields, others: None }
            }
            _ => Tree::Atomic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupVersionKind, value};

    fn kind(group: &str, kind: &str) -> Node<'static> {
        Node::Kind(crate::schema::lookup(&GroupVersionKind::new(group, "v1", kind)).expect("a built-in kind"))
    }

    fn at(root: Node<'static>, path: &[&str]) -> Node<'static> {
        path.iter().fold(root, |node, name| match *name {
            "*" => node.element().expect("a list"),
            name => node.member(name).expect(name),
        })
    }

    #[test]
    fn built_in_places() {
        let deployment = kind("apps", "Deployment");
        for (path, atom) in [
            (&["spec"][..], Atom::Object),
            (&["spec", "selector"], Atom::Atomic),
            (&["spec", "replicas"], Atom::Scalar(Scalar::Number)),
            (&["metadata", "labels"], Atom::Object),
            (&["metadata", "finalizers"], Atom::Set),
            (&["metadata", "managedFields"], Atom::Atomic),
            (&["metadata", "ownerReferences"], Atom::Keyed),
            (&["metadata", "ownerReferences", "*"], Atom::Atomic),
            (&["metadata", "creationTimestamp"], Atom::Scalar(Scalar::Any)),
            (&["spec", "template", "spec", "containers"], Atom::Keyed),
            (&["spec", "template", "spec", "containers", "*", "args"], Atom::Atomic),
            (&["spec", "template", "spec", "nodeSelector"], Atom::Atomic),
        ] {
            assert_eq!(at(deployment, path).atom(), atom, "{path:?}");
        }
        assert_eq!(at(kind("", "PersistentVolume"), &["spec", "claimRef"]).atom(), Atom::Object);
        assert_eq!(at(kind("", "Event"), &["involvedObject"]).atom(), Atom::Atomic);
        assert!(deployment.member("nope").is_none());
    }

    #[test]
    fn keys_with_defaults() {
        let ports = at(kind("", "Pod"), &["spec", "containers", "*", "ports"]);
        let element = ports.path_element(&value!({"containerPort": 80})).map(|element| element.to_text());
        assert_eq!(element.as_deref(), Ok(r#"k:{"containerPort":80,"protocol":"TCP"}"#));
        let containers = at(kind("", "Pod"), &["spec", "containers"]);
        let element = containers.path_element(&value!({"image": "x"})).map(|element| element.to_text());
        assert_eq!(element.as_deref(), Ok(r#"k:{"name":""}"#));
    }

    #[test]
    fn custom_schema() {
        let tree = Tree::root(&value!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string", "default": "B"}}}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}}));
        let spec = Node::Tree(&tree).member("spec").expect("spec");
        let list = spec.member("list").expect("list");
        assert_eq!(list.path_element(&value!({"a": "x"})).map(|e| e.to_text()).as_deref(), Ok(r#"k:{"a":"x","b":"B"}"#));
        assert_eq!(spec.member("plain").map(Node::atom), Some(Atom::Atomic));
        assert_eq!(spec.member("free").and_then(|free| free.member("x")).map(Node::atom), Some(Atom::Deduced));
        assert_eq!(Node::Tree(&tree).member("metadata").and_then(|m| m.member("finalizers")).map(Node::atom), Some(Atom::Set));
    }
}
