use serde_json::{Value as Json, json};

use super::*;
use crate::admission::plugins::testing::create;
use crate::objects::memory::MemoryObjects;

fn plugin(labels: &Json) -> (PodSecurity, Arc<MemoryObjects>) {
    let objects = Arc::new(MemoryObjects::default());
    objects.put("namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    (PodSecurity::new(objects.clone(), PodSecurityConfig::default()), objects)
}

fn value(json: &Json) -> Value {
    Value::from_slice(json.to_string().as_bytes()).expect("JSON")
}

fn bad_pod() -> Json {
    json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "a"}]}})
}

const WARNING: &str = r#"would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#;

#[tokio::test]
async fn pods() {
    let pod = create("", "pods", "Pod", &bad_pod());
    let (plugin, objects) = plugin(&json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let refused = plugin.validate(&pod).await.expect_err("host network");
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message,
        r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#
    );
    let mut status = pod.clone();
    status.subresource = "status".to_owned();
    plugin.validate(&status).await.expect("not the spec");

    let labels = json!({"pod-security.kubernetes.io/warn": "baseline"});
    objects.put("namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    plugin.validate(&pod).await.expect("a warning");
    assert_eq!(pod.warnings.take(), [WARNING]);

    let labels = json!({"pod-security.kubernetes.io/enforce": "none"});
    objects.put("namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    let refused = plugin.validate(&pod).await.expect_err("the strictest");
    assert!(refused.message.contains(r#"violates PodSecurity "restricted:latest""#), "{}", refused.message);

    objects.put("namespaces", json!({"metadata": {"name": "ns"}}));
    plugin.validate(&pod).await.expect("privileged");
    assert_eq!(pod.warnings.take(), [""; 0]);
    objects.remove("namespaces", "", "ns");
    let failed = plugin.validate(&pod).await.expect_err("no namespace");
    assert_eq!((failed.code, failed.message.as_str()), (500, r#"Internal error occurred: failed to lookup namespace "ns""#));
}

#[tokio::test]
async fn updates_of_pods() {
    let (plugin, _) = plugin(&json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let mut image = bad_pod();
    image["spec"]["containers"][0]["image"] = json!("b");
    let mut ephemeral = bad_pod();
    ephemeral["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "a"}]);
    let mut label = bad_pod();
    label["metadata"]["labels"] = json!({"a": "b"});
    for (object, significant) in [(image, true), (ephemeral, true), (label, false)] {
        let mut update = create("", "pods", "Pod", &object);
        update.operation = Operation::Update;
        update.old_object = Some(value(&bad_pod()));
        assert_eq!(plugin.validate(&update).await.is_err(), significant, "{object}");
        update.old_object = Some(value(&object));
        plugin.validate(&update).await.expect("nothing changed");
    }
}

#[tokio::test]
async fn templates() {
    let (plugin, _) = plugin(&json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let (pod, spec) = (bad_pod(), json!({"template": bad_pod()}));
    for (group, resource, object) in [
        ("", "podtemplates", json!({"template": pod})),
        ("", "replicationcontrollers", json!({"spec": spec})),
        ("apps", "replicasets", json!({"spec": spec})),
        ("apps", "deployments", json!({"spec": spec})),
        ("apps", "statefulsets", json!({"spec": spec})),
        ("apps", "daemonsets", json!({"spec": spec})),
        ("batch", "jobs", json!({"spec": spec})),
        ("batch", "cronjobs", json!({"spec": {"jobTemplate": {"spec": spec}}})),
    ] {
        let mut attributes = create(group, resource, "Any", &object);
        plugin.validate(&attributes).await.expect("never refused");
        assert_eq!(attributes.warnings.take(), [WARNING], "{resource}");
        attributes.subresource = "status".to_owned();
        plugin.validate(&attributes).await.expect("never refused");
        assert_eq!(attributes.warnings.take(), [""; 0], "{resource}");
    }
    let without = create("", "replicationcontrollers", "ReplicationController", &json!({"spec": {}}));
    plugin.validate(&without).await.expect("no template");
}

#[tokio::test]
async fn namespaces() {
    let (plugin, objects) = plugin(&json!({}));
    let mut pod = bad_pod();
    pod["metadata"]["namespace"] = json!("ns");
    objects.put("pods", pod);
    let labelled = |labels: &Json| json!({"metadata": {"name": "ns", "labels": labels}});
    let wrong = json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/audit-version": "1.2"});
    let mut attributes = create("", "namespaces", "Namespace", &labelled(&wrong));
    let refused = plugin.validate(&attributes).await.expect_err("invalid labels");
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message,
        concat!(
            r#"Namespace "ns" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of "#,
            r#"privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: "1.2": "#,
            r#"must be "latest" or "v1.x"]"#,
        )
    );
    attributes.operation = Operation::Update;
    attributes.old_object = Some(value(&labelled(&json!({}))));
    assert_eq!(plugin.validate(&attributes).await.expect_err("made wrong").code, 422);
    attributes.old_object = attributes.object.clone();
    plugin.validate(&attributes).await.expect("as wrong as before");

    let summary = r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest""#;
    let told = [summary, "p: host namespaces"];
    let version = "pod-security.kubernetes.io/enforce-version";
    let cases: [(&str, Json, &[&str]); 5] = [
        ("", json!({"pod-security.kubernetes.io/enforce": "baseline"}), &told),
        ("restricted", json!({"pod-security.kubernetes.io/enforce": "baseline"}), &[]),
        ("baseline", json!({"pod-security.kubernetes.io/enforce": "baseline", "other": "x"}), &[]),
        ("baseline", json!({"pod-security.kubernetes.io/enforce": "privileged", version: "v1.0"}), &[]),
        ("", json!({"pod-security.kubernetes.io/warn": "baseline"}), &[]),
    ];
    for (old, new, expected) in cases {
        let old = if old.is_empty() { json!({}) } else { json!({"pod-security.kubernetes.io/enforce": old}) };
        attributes.object = Some(value(&labelled(&new)));
        attributes.old_object = Some(value(&labelled(&old)));
        plugin.validate(&attributes).await.expect("valid labels");
        assert_eq!(attributes.warnings.take(), expected, "{old} to {new}");
    }
}

#[tokio::test]
async fn a_configuration() {
    let config = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline"},
        "exemptions": {"usernames": ["ada"], "namespaces": ["free"], "runtimeClasses": ["vm"]},
    });
    let objects = Arc::new(MemoryObjects::default());
    for name in ["ns", "free"] {
        objects.put("namespaces", json!({"metadata": {"name": name}}));
    }
    let plugin = PodSecurity::new(objects, PodSecurityConfig::read(&config).expect("reads"));
    let refused = async |change: fn(&mut Attributes)| {
        let mut pod = create("", "pods", "Pod", &bad_pod());
        change(&mut pod);
        plugin.validate(&pod).await.is_err()
    };
    assert!(refused(|_| {}).await, "the default");
    assert!(!refused(|pod| pod.namespace = "free".to_owned()).await);
    assert!(!refused(|pod| pod.user = Arc::new(crate::auth::UserInfo::component("ada"))).await);
    assert!(!refused(|pod| pod.object.as_mut().expect("a pod").set_path(&["spec", "runtimeClassName"], "vm")).await);
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let mut namespace = create("", "namespaces", "Namespace", &json!({"metadata": {"name": "free", "labels": labels}}));
    namespace.namespace = "free".to_owned();
    plugin.validate(&namespace).await.expect("labels that say nothing");
    let told = r#"namespace "free" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored"#;
    assert_eq!(namespace.warnings.take(), [told]);
}
