//! Makes a tree conform to a type: what Go's decoder accepts, rejects and ignores, and what its encoder would then write.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::zero::{self, Empty};
use super::{DecodeError, STRICT_MAX};
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind, type_named};
use crate::{Key, Map, Quantity, Value, time};

/// Makes an object conform to its type. Returns the strict messages for unknown fields. On error the object is `null`.
pub fn conform(object: &mut Value, info: &'static TypeInfo) -> Result<Vec<String>, DecodeError> {
    Walk::default().run(object, info)
}

/// As [`conform_sent`], for a tree that a strategic merge made: upstream restores its object by a conversion that complains in other words
/// than a decoder does, and cuts numbers off that are too large.
pub fn restore(object: &mut Value, info: &'static TypeInfo) -> Result<Vec<String>, DecodeError> {
    Walk { restores: true, empty: Empty::Kept, ..Walk::default() }.run(object, info)
}

/// As [`conform`], for what a client sends: lists and maps that it says are empty stay, as they do in Go's variables. They are `[]` and `{}`
/// until [`drop_empty`](super::drop_empty) takes them out.
pub fn conform_sent(object: &mut Value, info: &'static TypeInfo) -> Result<Vec<String>, DecodeError> {
    Walk { empty: Empty::Kept, ..Walk::default() }.run(object, info)
}

/// As [`conform`], for an object whose empty lists and maps were kept: of these there are still those that Go writes, and all inside of lists
/// that have one owner. Upstream compares such lists as Go's variables, which tell empty from nothing everywhere.
pub fn conform_written(object: &mut Value, info: &'static TypeInfo) -> Result<Vec<String>, DecodeError> {
    Walk { empty: Empty::Written, ..Walk::default() }.run(object, info)
}

enum Step {
    Field(&'static FieldInfo),
    Key(Key),
    Index(usize),
}

#[derive(Default)]
struct Walk {
    /// The way from the root to here.
    steps: Vec<Step>,
    /// The type whose field is being decoded, for messages.
    owner: Option<&'static TypeInfo>,
    strict: Vec<String>,
    /// The tree is restored, not decoded.
    restores: bool,
    /// What becomes of empty lists and maps.
    empty: Empty,
    /// Whether what is here has one owner.
    whole: Whole,
    /// The first value of a wrong type: Go's decoder goes on after such, and only what a type's own decoder refuses ends it.
    wrong_type: Option<DecodeError>,
    /// A type's own decoder has refused a value.
    refused: bool,
}

/// Whether a place is inside of something with one owner.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Whole {
    #[default]
    No,
    /// In a struct or map, the lists of which are then compared whole, too.
    Atomic,
    /// In a list.
    List,
}

impl Whole {
    /// That of a field's own value.
    fn inside(self, field: &FieldInfo) -> Whole {
        match field.shape {
            _ if self == Whole::List => Whole::List,
            Shape::List(_) if self == Whole::Atomic || !matches!(field.list_type(), Some("set" | "map")) => Whole::List,
            Shape::Map(_) if field.map_type() == Some("atomic") => Whole::Atomic,
            Shape::Type(id) if field.map_type().or(id.info().map_type) == Some("atomic") => Whole::Atomic,
            _ => self,
        }
    }
}

impl Walk {
    fn run(mut self, object: &mut Value, info: &'static TypeInfo) -> Result<Vec<String>, DecodeError> {
        let conformed = self.typed(object.take(), info)?;
        if let Some(error) = self.wrong_type {
            return Err(error);
        }
        *object = conformed;
        Ok(self.strict)
    }

    /// Notes a wrong type and goes on.
    fn noted(&mut self, result: Result<Value, DecodeError>) -> Result<Value, DecodeError> {
        match result {
            Err(error) if !self.restores && !self.refused => {
                self.wrong_type.get_or_insert(error);
                Ok(Value::Null)
            }
            result => result,
        }
    }

    fn shape(&mut self, value: Value, shape: &'static Shape) -> Result<Value, DecodeError> {
        if value.is_null() {
            return Ok(value);
        }
        match shape {
            Shape::String(name) => match value {
                Value::String(_) => Ok(value),
                other => Err(self.mismatch(&other, name.go_name_or("string"))),
            },
            Shape::Bool => match value {
                Value::Bool(_) => Ok(value),
                other => Err(self.mismatch(&other, "bool")),
            },
            Shape::Int32(name) => match value {
                Value::Int(i) if i32::try_from(i).is_ok() => Ok(value),
                // The lower half, as Go's conversion.
                Value::Int(i) if self.restores => Ok(Value::from(i64::from(i as i32))),
                other => Err(self.number_mismatch(&other, name.go_name_or("int32"))),
            },
            Shape::Int64(name) => match value {
                Value::Int(_) => Ok(value),
                other => Err(self.number_mismatch(&other, name.go_name_or("int64"))),
            },
            Shape::Float => match value {
                Value::Int(_) | Value::Float(_) => Ok(value),
                other => Err(self.mismatch(&other, "float64")),
            },
            Shape::Bytes => self.bytes(value),
            Shape::List(inner) => self.list(value, shape, inner),
            Shape::Map(inner) => self.map(value, shape, inner),
            Shape::Type(id) => {
                let result = self.typed(value, id.info());
                self.refused |= result.is_err() && id.info().kind != TypeKind::Struct;
                result
            }
        }
    }

    fn bytes(&self, value: Value) -> Result<Value, DecodeError> {
        if let Value::Array(items) = &value
            && !self.restores
        {
            return self.byte_list(items);
        }
        let Value::String(text) = &value else { return Err(self.no_container(&value, "slice from", "[]uint8")) };
        // Go's decoder skips line breaks.
        let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(&clean) {
            Ok(_) if clean.len() == text.len() => Ok(value),
            Ok(_) => Ok(Value::from(clean)),
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => clean.len() / 4 * 4,
                };
                let how = if self.restores { "error decoding from json: " } else { "" };
                Err(DecodeError::Type(format!("{how}illegal base64 data at input byte {at}")))
            }
        }
    }

    /// Go's decoder takes a list of numbers, too.
    fn byte_list(&self, items: &[Value]) -> Result<Value, DecodeError> {
        let bytes = items.iter().map(|item| match item {
            Value::Null => Ok(0),
            Value::Int(number) if u8::try_from(*number).is_ok() => Ok(*number as u8),
            other => Err(self.number_mismatch(other, "uint8")),
        });
        Ok(Value::from(STANDARD.encode(bytes.collect::<Result<Vec<u8>, _>>()?)))
    }

    fn list(&mut self, value: Value, shape: &'static Shape, inner: &'static Shape) -> Result<Value, DecodeError> {
        let Value::Array(items) = value else { return Err(self.no_container(&value, "slice from", &go_type(shape))) };
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in Arc::unwrap_or_clone(items).into_iter().enumerate() {
            self.steps.push(Step::Index(i));
            let item = self.shape(item, inner);
            self.steps.pop();
            let item = self.noted(item)?;
            out.push(if item.is_null() { zero::of_shape(inner) } else { item });
        }
        Ok(Value::Array(Arc::new(out)))
    }

    fn map(&mut self, value: Value, shape: &'static Shape, inner: &'static Shape) -> Result<Value, DecodeError> {
        let Value::Object(members) = value else {
            let named = self.named_keys().map(|keys| format!("map[{keys}]{}", go_type(inner)));
            return Err(self.no_container(&value, "map from", &named.unwrap_or_else(|| go_type(shape))));
        };
        // The common case, strings, needs no copy.
        if matches!(inner, Shape::String(_)) && members.values().all(|v| matches!(v, Value::String(_))) {
            return Ok(Value::Object(members));
        }
        let mut out = Vec::with_capacity(members.len());
        for (key, member) in Arc::unwrap_or_clone(members) {
            self.steps.push(Step::Key(key.clone()));
            let member = self.shape(member, inner);
            self.steps.pop();
            let member = self.noted(member)?;
            // Upstream's store does not tell no bytes from none.
            let zero = || if matches!(inner, Shape::Bytes) { Value::from("") } else { zero::of_shape(inner) };
            out.push((key, if member.is_null() { zero() } else { member }));
        }
        Ok(Value::from(Map::from_sorted(out)))
    }

    /// The type of the keys of the map that is being decoded, where it is not `string` and the map's type has no name of its own.
    fn named_keys(&self) -> Option<&'static str> {
        let Some(Step::Field(field)) = self.steps.last() else { return None };
        match (self.owner?.name.rsplit_once('.')?, field.name) {
            (("resource.v1", _), "attributes" | "capacity" | "consumedCapacity" | "requests") => Some("v1.QualifiedName"),
            (("core.v1", "PersistentVolumeClaimStatus"), "allocatedResourceStatuses") => Some("v1.ResourceName"),
            _ => None,
        }
    }

    fn typed(&mut self, value: Value, info: &'static TypeInfo) -> Result<Value, DecodeError> {
        match info.kind {
            TypeKind::Struct => self.object(value, info),
            TypeKind::Quantity => match &value {
                Value::String(s) => {
                    Quantity::canonicalize(s).map(|text| if *text == **s { value.clone() } else { Value::from(&*text) })
                }
                other => Quantity::from_value(other).map(Value::from),
            }
            .map_err(|e| DecodeError::Type(e.to_string())),
            TypeKind::IntOrString => match value {
                Value::String(_) => Ok(value),
                Value::Int(i) if i32::try_from(i).is_ok() => Ok(value),
                other if self.restores => Err(unmarshal_error(&other, "int32", true)),
                other => Err(self.number_mismatch(&other, "int32")),
            },
            TypeKind::Time => self.text(value, |s| time::parse_time(s).map(time::format_time)),
            TypeKind::MicroTime => self.text(value, |s| time::parse_micro_time(s).map(time::format_micro_time)),
            TypeKind::Duration => self.text(value, |s| time::parse_duration(s).map(time::format_duration)),
            TypeKind::Fields | TypeKind::Raw | TypeKind::Any => Ok(value),
            TypeKind::SchemaOrBool => match value {
                Value::Bool(_) => Ok(value),
                Value::Object(_) => self.object(value, json_schema()),
                _ => Err(DecodeError::Type("boolean or JSON schema expected".into())),
            },
            TypeKind::SchemaOrArray => match value {
                Value::Array(items) => {
                    let items: Result<Vec<Value>, _> =
                        Arc::unwrap_or_clone(items).into_iter().map(|i| self.object(i, json_schema())).collect();
                    Ok(Value::Array(Arc::new(items?)))
                }
                other => self.object(other, json_schema()),
            },
            TypeKind::SchemaOrStrings => match value {
                Value::Array(_) => Ok(value),
                other => self.object(other, json_schema()),
            },
        }
    }

    fn text(&self, value: Value, canonical: impl Fn(&str) -> Result<String, time::TimeError>) -> Result<Value, DecodeError> {
        let Value::String(text) = &value else {
            let error = if self.restores { unmarshal_error(&value, "string", false) } else { self.mismatch(&value, "string") };
            return Err(error);
        };
        let canonical = canonical(text).map_err(|e| DecodeError::Type(e.to_string()))?;
        Ok(if canonical == **text { value } else { Value::from(canonical) })
    }

    /// A struct: members and fields are both sorted by name, so that one pass over both suffices.
    fn object(&mut self, value: Value, info: &'static TypeInfo) -> Result<Value, DecodeError> {
        let Value::Object(members) = value else { return Err(self.no_container(&value, "struct from:", info.go_name())) };
        let owner = self.owner.replace(info);
        let mut fields = info.fields.iter().peekable();
        let mut out = Vec::with_capacity(members.len() + 4);
        for (key, member) in Arc::unwrap_or_clone(members) {
            while let Some(field) = fields.next_if(|f| f.name < key.as_str()) {
                push(&mut out, field, zero::of_field(field));
            }
            let Some(field) = fields.next_if(|f| f.name == key.as_str()) else {
                self.unknown(&key);
                continue;
            };
            self.steps.push(Step::Field(field));
            let whole = self.whole;
            if self.empty == Empty::Written {
                self.whole = whole.inside(field);
            }
            let member = self.shape(member, field.shape);
            self.whole = whole;
            self.steps.pop();
            let member = self.noted(member)?;
            let compared = self.empty == Empty::Written && whole == Whole::List;
            push(&mut out, field, zero::emitted(field, member, if compared { Empty::Kept } else { self.empty }));
        }
        for field in fields {
            push(&mut out, field, zero::of_field(field));
        }
        self.owner = owner;
        Ok(Value::from(Map::from_sorted(out)))
    }

    fn unknown(&mut self, key: &str) {
        if self.strict.len() < STRICT_MAX {
            let mut path = self.path();
            if !path.is_empty() {
                path.push('.');
            }
            self.strict.push(format!("unknown field \"{path}{key}\""));
        }
    }

    /// `spec.containers[0].name`
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            let name = match step {
                Step::Field(field) => field.name,
                Step::Key(key) => key.as_str(),
                Step::Index(i) => {
                    write!(path, "[{i}]").expect("a String takes any text");
                    continue;
                }
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        path
    }

    /// Something else where a list, a map or a struct should be.
    fn no_container(&self, value: &Value, wanted: &str, go_type: &str) -> DecodeError {
        match self.restores {
            true => DecodeError::Type(format!("cannot restore {wanted} {}", go_kind(value))),
            false => self.mismatch_text(value.type_name(), go_type),
        }
    }

    fn mismatch(&self, value: &Value, go_type: &str) -> DecodeError {
        if self.restores {
            return unrestorable(value, go_type);
        }
        self.mismatch_text(value.type_name(), go_type)
    }

    /// As [`mismatch`](Self::mismatch), but a number that does not fit is shown.
    fn number_mismatch(&self, value: &Value, go_type: &str) -> DecodeError {
        match value {
            Value::Int(_) | Value::Float(_) if !self.restores => {
                self.mismatch_text(&format!("number {}", value.to_json()), go_type)
            }
            other => self.mismatch(other, go_type),
        }
    }

    fn mismatch_text(&self, found: &str, go_type: &str) -> DecodeError {
        // Go's decoder names the embedded structs on the way too.
        let fields = self.steps.iter().filter_map(|step| if let Step::Field(field) = step { Some(*field) } else { None });
        let fields: Vec<&str> =
            fields.flat_map(|f| [f.embedded_names[0], f.embedded_names[1], f.name]).filter(|name| !name.is_empty()).collect();
        DecodeError::Type(match self.owner {
            Some(owner) if !fields.is_empty() => {
                format!(
                    "json: cannot unmarshal {found} into Go struct field {}.{} of type {go_type}",
                    owner.short_name(),
                    fields.join(".")
                )
            }
            _ => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        })
    }
}

/// A scalar of another kind, in the words of upstream's `fromUnstructured`. Go converts integers to texts and fractions to integers, so
/// that only those are called conversions.
fn unrestorable(value: &Value, go_type: &str) -> DecodeError {
    let integer = matches!(go_type, "int32" | "int64");
    DecodeError::Type(match (value, go_type) {
        (Value::Int(_), _) if !integer && !matches!(go_type, "bool" | "float64") => format!("cannot convert int64 to {go_type}"),
        (Value::Float(_), _) if integer => format!("cannot convert float64 to {go_type}"),
        (_, "bool" | "int32" | "int64" | "float64") => format!("unrecognized type: {go_type}"),
        _ => "unrecognized type: string".to_owned(),
    })
}

/// What a type's own decoder says of another type, which is asked even where the object is restored.
fn unmarshal_error(value: &Value, go_type: &str, shows_number: bool) -> DecodeError {
    let found = match value {
        Value::Int(_) | Value::Float(_) if shows_number => format!("number {}", value.to_json()),
        other => other.type_name().to_owned(),
    };
    DecodeError::Type(format!("json: cannot unmarshal {found} into Go value of type {go_type}"))
}

/// What Go's reflection calls the kind of a value.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        other => other.type_name(),
    }
}

fn push(out: &mut Vec<(Key, Value)>, field: &FieldInfo, value: Option<Value>) {
    if let Some(value) = value {
        out.push((Key::constant(field.name), value));
    }
}

fn json_schema() -> &'static TypeInfo {
    type_named("apiextensions.v1.JSONSchemaProps").expect("the facts have the type")
}

/// A shape's type as Go prints it: `[]v1.Container`, `map[string]string`.
fn go_type(shape: &'static Shape) -> String {
    match shape {
        Shape::String(name) => name.go_name_or("string").into(),
        Shape::Bool => "bool".into(),
        Shape::Int32(name) => name.go_name_or("int32").into(),
        Shape::Int64(name) => name.go_name_or("int64").into(),
        Shape::Float => "float64".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::List(inner) => format!("[]{}", go_type(inner)),
        Shape::Map(Shape::Type(id)) if id.info().kind == TypeKind::Quantity => "v1.ResourceList".into(),
        Shape::Map(inner) => format!("map[string]{}", go_type(inner)),
        Shape::Type(id) => id.info().go_name().into(),
    }
}
