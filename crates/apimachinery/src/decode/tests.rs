//! What decoding accepts, rejects, reports and gives back, against Go's texts. (Upstream's own files: `cargo xtask vectors`.)

use super::*;
use crate::GroupVersionKind;
use crate::schema::lookup;

fn info(group: &str, version: &str, kind: &str) -> &'static TypeInfo {
    lookup(&GroupVersionKind::new(group, version, kind)).expect("known kind")
}

#[test]
fn wrong_types_are_reported_as_go_does() {
    let deployment = info("apps", "v1", "Deployment");
    let pod = info("", "v1", "Pod");
    let cases = [
        (
            deployment,
            r#"{"spec":{"replicas":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployment,
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployment,
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            pod,
            r#"{"spec":{"containers":[{"image":1}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            pod,
            r#"{"spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            pod,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            pod,
            r#"{"spec":{"restartPolicy":true}}"#,
            "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (pod, r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (pod, "[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            pod,
            r#"{"metadata":{"creationTimestamp":"x"}}"#,
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
        ),
        (
            pod,
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (info("", "v1", "Secret"), r#"{"data":{"a":"x*"}}"#, "illegal base64 data at input byte 1"),
        (
            info("", "v1", "Service"),
            r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
            "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (pod, r#"{"spec""#, "unexpected end of JSON input"),
    ];
    for (info, json, message) in cases {
        assert_eq!(decode(json.as_bytes(), Format::Json, info).expect_err(json).to_string(), message);
    }
}

#[test]
fn strict_messages_have_paths_and_case_matters() {
    let json = br#"{"kind":"Pod","spec":{"Containers":[],"containers":[{"name":"a","name":"b","foo":1}],"nodeSelector":{"x":"1","x":"2"}},"bar":{}}"#;
    let decoded = decode(json, Format::Json, info("", "v1", "Pod")).expect("decodes");
    assert_eq!(
        strict_error(&decoded.strict).as_deref(),
        Some(
            "strict decoding error: duplicate field \"spec.containers[0].name\", duplicate field \"spec.nodeSelector.x\", unknown field \"bar\", unknown field \"spec.Containers\", unknown field \"spec.containers[0].foo\""
        )
    );
    assert_eq!(decoded.object["spec"]["containers"][0]["name"], "b");
    assert!(decoded.object.get("bar").is_none());
}

#[test]
fn objects_come_out_as_upstream_writes_them() {
    let cases = [
        (
            info("apps", "v1", "Deployment"),
            r#"{"metadata":{"name":"a","labels":null,"creationTimestamp":null},"spec":{"replicas":0,"paused":false,"template":{"spec":{"containers":[{"name":"c","image":"","env":[],"resources":{"limits":{"cpu":"1000m"}}}]}}}}"#,
            r#"{"metadata":{"name":"a"},"spec":{"replicas":0,"selector":null,"strategy":{},"template":{"metadata":{},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}}},"status":{}}"#,
        ),
        (
            info("", "v1", "Service"),
            r#"{"spec":{"ports":[{"port":80}]}}"#,
            r#"{"metadata":{},"spec":{"ports":[{"port":80,"targetPort":0}]},"status":{"loadBalancer":{}}}"#,
        ),
        (info("", "v1", "Secret"), r#"{"data":{"a":"YQ=\n=","b":null}}"#, r#"{"data":{"a":"YQ==","b":""},"metadata":{}}"#),
        (
            info("", "v1", "Pod"),
            r#"{"spec":{"securityContext":{},"containers":[null]}}"#,
            r#"{"metadata":{},"spec":{"containers":[{"name":"","resources":{}}],"securityContext":{}},"status":{}}"#,
        ),
        (
            info("coordination.k8s.io", "v1", "Lease"),
            r#"{"spec":{"renewTime":"2020-01-01T00:00:00.123456Z"}}"#,
            r#"{"metadata":{},"spec":{"renewTime":"2020-01-01T00:00:00.123456Z"}}"#,
        ),
    ];
    for (info, json, expected) in cases {
        let decoded = decode(json.as_bytes(), Format::Json, info).expect(json);
        assert_eq!(decoded.object.to_json(), expected);
        let again = decode(expected.as_bytes(), Format::Json, info).expect(expected);
        assert_eq!(again.object.to_json(), expected, "conforming is idempotent");
    }
}

#[test]
fn a_merged_tree_is_restored_by_a_conversion() {
    let cases = [
        (r#"{"metadata":{"name":5}}"#, "cannot convert int64 to string"),
        (r#"{"metadata":{"name":true}}"#, "unrecognized type: string"),
        (r#"{"spec":7}"#, "cannot restore struct from: int64"),
        (r#"{"spec":{"containers":{}}}"#, "cannot restore slice from map"),
        (r#"{"spec":{"nodeSelector":[]}}"#, "cannot restore map from slice"),
        (r#"{"spec":{"hostNetwork":"yes"}}"#, "unrecognized type: bool"),
        (r#"{"spec":{"priority":"1"}}"#, "unrecognized type: int32"),
    ];
    for (json, expected) in cases {
        let mut object = Value::from_slice(json.as_bytes()).expect(json);
        let error = restore(&mut object, info("", "v1", "Pod")).expect_err(json);
        assert_eq!(error.to_string(), expected, "{json}");
    }
    let mut object = Value::from_slice(br#"{"spec":{"priority":4294967297}}"#).expect("JSON");
    restore(&mut object, info("", "v1", "Pod")).expect("a number that is cut off");
    assert_eq!(object["spec"]["priority"].as_i64(), Some(1));
}
