//! Objects there and back, and hostile bytes. (Upstream's own files: `cargo xtask vectors`.)

use super::*;
use crate::schema::lookup;
use crate::value;

fn info(group: &str, version: &str, kind: &str) -> &'static TypeInfo {
    lookup(&GroupVersionKind::new(group, version, kind)).expect("known kind")
}

#[test]
fn there_and_back() {
    let objects = [
        value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {"x": "y", "a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": -5}}], "hostNetwork": true, "terminationGracePeriodSeconds": 0},
            "status": {"hostIPs": [{"ip": "1.2.3.4"}]}}),
        value!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "AAEC", "e": ""}, "immutable": false, "type": "Opaque"}),
        value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"renewTime": "2020-01-01T00:00:00.123456Z", "leaseDurationSeconds": 40}}),
        value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "default": {"a": [1, null]}, "maximum": 1.5,
                "properties": {"x": {"items": {"type": "string"}, "additionalProperties": false, "enum": ["a", 1]}}}}}]}}),
        value!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "u", "extra": {"k": ["a", "b"], "e": []}}}),
    ];
    for mut object in objects {
        let info = lookup(&object.gvk().expect("has a kind")).expect("known");
        crate::decode::conform(&mut object, info).expect("fits");
        let bytes = encode(&object, info);
        assert_eq!(decode(&bytes, &object.gvk().expect("has a kind")).expect("reads"), object);
    }
}

#[test]
fn small_messages_are_as_upstream_writes_them() {
    let lease = value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}, "spec": {}});
    let bytes = encode(&lease, info("coordination.k8s.io", "v1", "Lease"));
    assert!(bytes.starts_with(b"k8s\0\x0a\x1f\x0a\x16coordination.k8s.io/v1\x12\x05Lease\x12"), "{bytes:?}");
    assert!(bytes.ends_with(&[0x1a, 0, 0x22, 0]));
    let envelope = open(&bytes).expect("opens");
    assert_eq!(envelope.gvk, Some(GroupVersionKind::new("coordination.k8s.io", "v1", "Lease")));
    // name, generateName, namespace, selfLink, uid, resourceVersion empty, generation 0, creationTimestamp zero; then spec.
    assert_eq!(envelope.raw, [b"\x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0".as_slice(), b"\x12\0"].concat());
}

#[test]
fn lists_and_watch_events_are_gathered_from_encoded_objects() {
    let lease = info("coordination.k8s.io", "v1", "Lease");
    let leases = ["a", "b"]
        .map(|name| value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}));
    let encoded = leases.each_ref().map(|object| encode(object, lease));
    let items: Vec<&[u8]> = encoded.iter().map(|bytes| open(bytes).expect("opens").raw).collect();
    let metadata = value!({"resourceVersion": "7"});
    let frame = list_frame("coordination.k8s.io/v1", "LeaseList", &metadata, items.iter().map(|item| item.len()));
    let mut gathered = frame.head;
    for item in items {
        list_item(item, &mut gathered);
    }
    gathered.extend(frame.tail);
    let whole = value!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {"resourceVersion": "7"}, "items": (leases.to_vec())});
    assert_eq!(gathered, encode(&whole, info("coordination.k8s.io", "v1", "LeaseList")));

    let frame = watch_frame("ADDED", &encoded[0]);
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().expect("four bytes")) as usize, event.len());
    assert!(event.starts_with(b"\x0a\x05ADDED\x12"));
    assert!(event.ends_with(&encoded[0]));
}

#[test]
fn lengths_of_numbers_are_known_before_they_are_written() {
    for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
        let mut out = Vec::new();
        wire::varint(value, &mut out);
        assert_eq!(wire::varint_len(value), out.len(), "{value}");
    }
}

#[test]
fn nested_messages_of_any_length() {
    for length in [0, 1, 127, 128, 129, 16_383, 16_384, 3_000_000] {
        let content = vec![7; length];
        let (mut out, mut expected) = (b"before".to_vec(), b"before".to_vec());
        wire::nested(300, &mut out, |out| out.extend_from_slice(&content));
        wire::bytes(300, &content, &mut expected);
        assert!(out == expected, "{length}");
    }
}

#[test]
fn zeros_are_read_where_they_matter() {
    // A ServicePort of name "a" and nodePort 5, then both again as zero; protocol, a pointer's zero.
    let port = crate::schema::type_named("core.v1.ServicePort").expect("known");
    let raw = [b"\x0a\x01a\x28\x05\x18\x00".as_slice(), b"\x0a\x00\x28\x00", b"\x32\x00"].concat();
    let read = decode_message(&raw, port).expect("reads");
    assert_eq!(read, value!({"appProtocol": "", "port": 0, "targetPort": 0}));
    let wrong = decode_message(b"\x0a\x01a\x28\x05\x08\x00", port);
    assert_eq!(wrong, Err(ProtobufError::WireType { wire_type: 0, field: "name".into() }));
}

#[test]
fn hostile_bytes_are_errors() {
    let pod = info("", "v1", "Pod");
    assert_eq!(decode(b"{}", &GroupVersionKind::new("", "v1", "Pod")), Err(ProtobufError::NoPrefix));
    let unknown = GroupVersionKind::new("g", "v1", "K");
    assert_eq!(decode(&seal("g/v1", "K", b""), &unknown), Err(ProtobufError::UnknownKind(unknown)));
    assert_eq!(decode_message(&[0x0a, 0x05, 0x01], pod), Err(ProtobufError::Truncated));
    assert_eq!(decode_message(&[0x0a; 3], pod), Err(ProtobufError::Truncated));
    assert_eq!(decode_message(&[0xff; 20], pod), Err(ProtobufError::Truncated));
    assert_eq!(decode_message(&[0x08, 0x01], pod), Err(ProtobufError::WireType { wire_type: 0, field: "metadata".into() }));
    assert!(decode_message(&[0xf8, 0xff, 0x7f, 0x01], pod).is_ok(), "unknown fields are skipped");
    // A JSON schema within a JSON schema (number 28 is `not`), far too often.
    let mut nested = Vec::new();
    for _ in 0..5_000 {
        let mut outer = Vec::new();
        wire::bytes(28, &nested, &mut outer);
        nested = outer;
    }
    let schema = crate::schema::type_named("apiextensions.v1.JSONSchemaProps").expect("known");
    assert_eq!(schema.field("not").map(|f| f.number), Some(28));
    assert_eq!(decode_message(&nested, schema), Err(ProtobufError::TooDeep));
}
