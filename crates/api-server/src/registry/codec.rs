//! The JSON of objects: as it lies in the store, and as it is served.
//!
//! A stored value begins with `{"kind":K,"apiVersion":V,"metadata":{` and has no resourceVersion. The served form is the same text with
//! the resourceVersion spliced in as the first member of the metadata, once, at commit. List items are the same bytes without kind and
//! apiVersion (upstream's typed lists leave them out), deleted objects the same with another resourceVersion.

use std::sync::atomic::{AtomicBool, Ordering};

use apimachinery::{GroupVersionKind, Value, Wanted, protobuf, schema};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

const RESOURCE_VERSION: &[u8] = br#""resourceVersion":""#;

/// The fixed beginning of all objects of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// `{"kind":K,"apiVersion":V,"metadata":{`
    text: Bytes,
    /// The length of `{"kind":K,"apiVersion":V,`.
    members_start: usize,
}

/// An object as served.
#[derive(Debug)]
pub(crate) struct Served {
    json: Bytes,
    /// Where the object's members after kind and apiVersion start.
    members_start: u16,
    /// Where the resourceVersion's digits start, and how many there are.
    version_start: u16,
    version_len: u8,
    /// The protobuf message, made when the first client asks for it and then shared by all lists and watches.
    message: Message,
}

/// A protobuf message that stays while it is asked for: for all objects together they would double the cache.
#[derive(Debug, Default)]
struct Message {
    bytes: Mutex<Option<Bytes>>,
    /// Somebody asked since [`Served::forget_unused_message`].
    used: AtomicBool,
}

/// A stored value is not an object of its kind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not JSON.
    #[error("a stored value is not JSON")]
    Json(#[from] apimachinery::JsonError),
}

impl Header {
    pub(crate) fn new(kind: &GroupVersionKind) -> Header {
        let members = format!(r#"{{"kind":"{}","apiVersion":"{}","#, kind.kind, kind.api_version());
        Header { members_start: members.len(), text: format!(r#"{members}"metadata":{{"#).into() }
    }

    /// The stored form of an object.
    pub(crate) fn encode(&self, object: &Value) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.text);
        let mut first = true;
        for (key, value) in object["metadata"].as_object().into_iter().flatten() {
            if key != "resourceVersion" && key != "selfLink" {
                member(&mut out, &mut first, key, value);
            }
        }
        out.push(b'}');
        let mut first = false;
        for (key, value) in object.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                member(&mut out, &mut first, key, value);
            }
        }
        out.push(b'}');
        out.into()
    }

    /// The served form of a stored value. Values that others wrote are brought into our form first.
    pub(crate) fn serve(&self, stored: &Bytes, revision: i64) -> Result<Served, CodecError> {
        if stored.starts_with(&self.text) {
            return Ok(self.splice(&stored[self.text.len()..], revision));
        }
        let stored = self.encode(&Value::from_slice(stored)?);
        Ok(self.splice(&stored[self.text.len()..], revision))
    }

    fn splice(&self, rest: &[u8], revision: i64) -> Served {
        let digits = revision.to_string();
        let mut json = BytesMut::with_capacity(self.text.len() + RESOURCE_VERSION.len() + digits.len() + 2 + rest.len());
        json.put_slice(&self.text);
        json.put_slice(RESOURCE_VERSION);
        let version_start = json.len();
        json.put_slice(digits.as_bytes());
        json.put_u8(b'"');
        if !rest.starts_with(b"}") {
            json.put_u8(b',');
        }
        json.put_slice(rest);
        Served {
            json: json.freeze(),
            // Kinds and groups are at most a few hundred bytes, digits at most 19.
            members_start: self.members_start as u16,
            version_start: version_start as u16,
            version_len: digits.len() as u8,
            message: Message::default(),
        }
    }
}

fn member(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    Value::from(key).write_to(out);
    out.push(b':');
    value.write_to(out);
}

impl Served {
    /// The whole object.
    pub(crate) fn json(&self) -> &Bytes {
        &self.json
    }

    /// What follows `{` in a list item: the members without kind and apiVersion, with the closing brace.
    pub(crate) fn members(&self) -> &[u8] {
        &self.json[usize::from(self.members_start)..]
    }

    /// The same object with another resourceVersion.
    pub(crate) fn at_revision(&self, revision: i64) -> Bytes {
        let start = usize::from(self.version_start);
        let end = start + usize::from(self.version_len);
        let digits = revision.to_string();
        let mut json = BytesMut::with_capacity(self.json.len() + digits.len());
        json.put_slice(&self.json[..start]);
        json.put_slice(digits.as_bytes());
        json.put_slice(&self.json[end..]);
        json.freeze()
    }

    /// The object as a protobuf message without an envelope; `None` if its kind has no schema.
    pub(crate) fn message(&self) -> Option<Bytes> {
        self.message.used.store(true, Ordering::Relaxed);
        let mut bytes = self.message.bytes.lock();
        if bytes.is_none() {
            *bytes = message(&self.object().ok()?);
        }
        bytes.clone()
    }

    /// Drops the protobuf message if nobody has asked for it since the last call. Returns whether there is one to drop later.
    pub(crate) fn forget_unused_message(&self) -> bool {
        let mut bytes = self.message.bytes.lock();
        if !self.message.used.swap(false, Ordering::Relaxed) {
            *bytes = None;
        }
        bytes.is_some()
    }

    /// A tree of some members only.
    pub(crate) fn project(&self, wanted: &[Wanted]) -> Result<Value, CodecError> {
        Ok(Value::project(&self.json, wanted)?)
    }

    /// The tree.
    pub(crate) fn object(&self) -> Result<Value, CodecError> {
        Ok(Value::from_slice(&self.json)?)
    }
}

/// An object as a protobuf message without an envelope; `None` if its kind has no schema.
pub(crate) fn message(object: &Value) -> Option<Bytes> {
    Some(protobuf::encode_message(object, schema::lookup(&object.gvk()?)?).into())
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn splices_the_resource_version() {
        let header = Header::new(&GroupVersionKind::new("", "v1", "ConfigMap"));
        let object = value!({"apiVersion": "v1", "kind": "ConfigMap", "binaryData": {"a": "b"},
            "metadata": {"name": "x", "resourceVersion": "5"}, "data": {"k": "v"}});
        let stored = header.encode(&object);
        assert_eq!(
            stored,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"binaryData":{"a":"b"},"data":{"k":"v"}}"#
        );
        let served = header.serve(&stored, 42).expect("our own form");
        assert_eq!(
            served.json(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"x"},"binaryData":{"a":"b"},"data":{"k":"v"}}"#
        );
        assert!(served.members().starts_with(br#""metadata":{"resourceVersion":"42""#));
        let moved = served.at_revision(1234);
        assert_eq!(Value::from_slice(&moved).expect("JSON").meta().resource_version(), "1234");
        let foreign = header.serve(&Bytes::from_static(br#"{"apiVersion":"v1","metadata":{"name":"x"},"kind":"ConfigMap"}"#), 7);
        assert_eq!(
            foreign.expect("JSON").json(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x"}}"#
        );
    }

    #[test]
    fn a_message_stays_while_it_is_asked_for() {
        let header = Header::new(&GroupVersionKind::new("", "v1", "ConfigMap"));
        let stored = header.encode(&value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}));
        let served = header.serve(&stored, 1).expect("our own form");
        assert!(!served.forget_unused_message(), "nobody has asked");
        let made = served.message().expect("ConfigMaps have a schema");
        assert!(served.forget_unused_message(), "it was asked for");
        assert_eq!(served.message().expect("it is there").as_ptr(), made.as_ptr());
        assert!(served.forget_unused_message());
        assert!(!served.forget_unused_message(), "nobody has asked since");
        let again = served.message().expect("it is made anew");
        assert_eq!(again, made);
        assert_ne!(again.as_ptr(), made.as_ptr());
    }
}
