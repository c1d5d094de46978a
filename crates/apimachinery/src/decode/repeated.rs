//! Members that a JSON document says more than once. Go's decoder fills the same variable each time: structs and maps keep what the earlier
//! member set and the later one does not, the elements of a list are filled where they are, and a mistake in any of them is a mistake.

use super::{DecodeError, conform};
use crate::Value;
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind};
use crate::value::{Place, parse_with_repeated};

/// Makes `object`, which was parsed from the document with the last of repeated members, what Go's decoder makes of all of them. Where there
/// are very many, the last ones stand.
pub fn merge_repeated(json: &[u8], object: &mut Value, info: &'static TypeInfo) -> Result<(), DecodeError> {
    let repeated = parse_with_repeated(json).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    for member in &repeated {
        conform(&mut alone(&member.path, member.value.clone()), info)?;
    }
    // From the last to the first, so that of several the later ones win.
    for member in repeated.into_iter().rev() {
        let Some((shape, pointer)) = shape_at(&member.path, info) else { continue };
        if let Some(slot) = slot(object, &member.path) {
            *slot = merged(member.value, slot.take(), shape, pointer);
        }
    }
    Ok(())
}

/// A document with nothing but one member.
fn alone(path: &[Place], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, place| match place {
        Place::Member(key) => {
            let mut object = Value::object();
            object.insert(key.as_str(), inner);
            object
        }
        Place::Element(_) => vec![inner].into(),
    })
}

fn slot<'v>(object: &'v mut Value, path: &[Place]) -> Option<&'v mut Value> {
    path.iter().try_fold(object, |at, place| match place {
        Place::Member(key) => at.get_mut(key),
        Place::Element(index) => at.as_array_mut()?.get_mut(*index),
    })
}

/// What the place holds, and whether a pointer does; `None` where the type says nothing, and in maps: each member of one is a new variable.
fn shape_at(path: &[Place], info: &'static TypeInfo) -> Option<(&'static Shape, bool)> {
    let mut at: Option<&'static Shape> = None;
    let mut pointer = false;
    for (index, place) in path.iter().enumerate() {
        let inner = match (at, place) {
            (None, Place::Member(key)) => field(info, key)?,
            (Some(Shape::Type(id)), Place::Member(key)) => field(id.info(), key)?,
            (Some(Shape::Map(_)), Place::Member(_)) if index + 1 == path.len() => return None,
            (Some(Shape::Map(inner)), Place::Member(_)) | (Some(Shape::List(inner)), Place::Element(_)) => {
                (at, pointer) = (Some(*inner), false);
                continue;
            }
            _ => return None,
        };
        (at, pointer) = (Some(inner.shape), inner.pointer());
    }
    at.map(|shape| (shape, pointer))
}

fn field(info: &'static TypeInfo, name: &str) -> Option<&'static FieldInfo> {
    (info.kind == TypeKind::Struct).then(|| info.field(name))?
}

fn merged(earlier: Value, later: Value, shape: &'static Shape, pointer: bool) -> Value {
    if later.is_null() {
        // Null empties pointers, lists and maps, and leaves everything else as it is.
        let emptied = pointer || matches!(shape, Shape::List(_) | Shape::Map(_) | Shape::Bytes);
        return if emptied { Value::Null } else { earlier };
    }
    match (shape, &earlier, &later) {
        (Shape::Type(id), Value::Object(_), Value::Object(_)) if id.info().kind == TypeKind::Struct => {
            members(earlier, later, |key, earlier, later| match field(id.info(), key) {
                Some(field) => merged(earlier, later, field.shape, field.pointer()),
                None => later,
            })
        }
        (Shape::Map(_), Value::Object(_), Value::Object(_)) => members(earlier, later, |_, _, later| later),
        (Shape::List(inner), Value::Array(before), Value::Array(_)) => {
            let before = before.clone();
            let mut list = later;
            for (element, before) in list.as_array_mut().into_iter().flatten().zip(before.iter()) {
                *element = merged(before.clone(), element.take(), inner, false);
            }
            list
        }
        _ => later,
    }
}

fn members(earlier: Value, later: Value, both: impl Fn(&str, Value, Value) -> Value) -> Value {
    let mut all = earlier;
    for (key, value) in later.as_object().into_iter().flatten() {
        let value = match all.get_mut(key) {
            Some(before) => both(key, before.take(), value.clone()),
            None => value.clone(),
        };
        all.insert(key.clone(), value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn later_members_fill_what_earlier_ones_left() {
        let check = |json: &str, expected: Result<&str, &str>| {
            let mut object = Value::from_slice(json.as_bytes()).expect(json);
            let info = schema::type_named("core.v1.Pod").expect("known");
            let result = merge_repeated(json.as_bytes(), &mut object, info).map(|()| object.to_json()).map_err(|e| e.to_string());
            assert_eq!(result.as_deref().map_err(String::as_str), expected, "{json}");
        };
        check(
            r#"{"metadata":{"name":"a","labels":{"x":"1","y":"2"},"labels":{"y":"3"}}}"#,
            Ok(r#"{"metadata":{"labels":{"x":"1","y":"3"},"name":"a"}}"#),
        );
        check(
            r#"{"spec":{"containers":[{"name":"a","tty":true},{"name":"b"}]},"spec":{"containers":[{"name":"c"}],"hostname":"h"}}"#,
            Ok(r#"{"spec":{"containers":[{"name":"c","tty":true}],"hostname":"h"}}"#),
        );
        check(
            r#"{"spec":{"nodeSelector":{"a":"b"},"nodeSelector":null,"hostname":"h","hostname":null,"os":{"name":"linux"},"os":null}}"#,
            Ok(r#"{"spec":{"hostname":"h","nodeSelector":null,"os":null}}"#),
        );
        check(
            r#"{"metadata":{"labels":{"x":"1","z":"1"},"labels":{"x":"2","y":"1"},"labels":{"y":"3"}}}"#,
            Ok(r#"{"metadata":{"labels":{"x":"2","y":"3","z":"1"}}}"#),
        );
        check(
            r#"{"spec":{"hostname":1,"hostname":"h"}}"#,
            Err("json: cannot unmarshal number into Go struct field PodSpec.spec.hostname of type string"),
        );
        check(r#"{"spec":{"hostname":"h"}}"#, Ok(r#"{"spec":{"hostname":"h"}}"#));
    }

    #[test]
    fn members_of_maps_are_new_each_time() {
        let json = r#"{"spec":{"devices":[{"attributes":{"numa":{"bool":false,"int":2},"numa":{"int":1}}}]}}"#;
        let mut object = Value::from_slice(json.as_bytes()).expect("JSON");
        merge_repeated(json.as_bytes(), &mut object, schema::type_named("resource.v1.ResourceSlice").expect("known"))
            .expect("fits");
        assert_eq!(object.to_json(), r#"{"spec":{"devices":[{"attributes":{"numa":{"int":1}}}]}}"#);
    }
}
