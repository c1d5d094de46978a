//! The largest object that is stored: as large as etcd takes it, so that what is stored here can be stored there too.

use apimachinery::{Reason, Status, Value};
use bytes::Bytes;

use super::codec::{Header, message};

/// etcd's `--max-request-bytes` by default.
const BYTES_MAX: usize = 1536 * 1024;

/// An object's bytes for the store. Who set what may be as large as the object: if that alone makes it too large and `droppable` says
/// so, it is forgotten (upstream does so for all writes but server-side apply).
pub(super) fn encode(header: &Header, object: &mut Value, droppable: bool) -> Result<Bytes, Status> {
    let bytes = header.encode(object);
    if !is_too_large(object, &bytes) {
        return Ok(bytes);
    }
    if droppable && object.meta_mut().remove("managedFields").is_some() {
        let bytes = header.encode(object);
        if !is_too_large(object, &bytes) {
            return Ok(bytes);
        }
    }
    let mut status = Status::new(Reason::Unknown, "etcdserver: request is too large");
    status.code = 500;
    Err(status)
}

/// etcd holds protobuf, which is never much larger than JSON.
fn is_too_large(object: &Value, json: &Bytes) -> bool {
    json.len() > BYTES_MAX && message(object).is_none_or(|message| message.len() > BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupVersionKind, value};

    use super::*;

    #[test]
    fn owners_are_forgotten_before_objects() {
        let kind = GroupVersionKind::new("", "v1", "ConfigMap");
        let map = |data: usize, fields: usize| {
            let mut map = value!({"metadata": {"name": "m"}, "data": {"k": "x".repeat(data)}});
            map.set_gvk(&kind);
            if fields > 0 {
                let fields = value!({("f:".to_owned() + &"y".repeat(fields)): {}});
                let entry = value!({"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields});
                map.meta_mut().set("managedFields", vec![entry]);
            }
            map
        };
        let header = Header::new(&kind);
        let check = |data: usize, fields: usize, droppable: bool, expected: Option<bool>| {
            let mut object = map(data, fields);
            let encoded = encode(&header, &mut object, droppable);
            let kept = encoded.ok().map(|_| object.meta().get("managedFields").is_some());
            assert_eq!(kept, expected, "{data} {fields} {droppable}");
        };
        check(BYTES_MAX / 2, 100, true, Some(true));
        check(BYTES_MAX - 1000, 2000, true, Some(false));
        check(BYTES_MAX - 1000, 2000, false, None);
        check(BYTES_MAX + 1, 0, true, None);
    }
}
