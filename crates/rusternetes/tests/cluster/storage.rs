//! Volumes that outlive pods, and quotas that refuse.

use crate::harness::Cluster;
use crate::images::{BUSYBOX, import_busybox};
use crate::kubectl::text;

/// A claim is bound to a `hostPath` volume, a pod writes into it, and the next pod reads what the first wrote.
#[test]
fn data_in_a_claim_survives_its_pod() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    let directory = cluster.scratch().join("volume");
    kubectl.apply(&format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: disk}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  hostPath: {{path: {}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec:
  storageClassName: manual
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 100Mi}}}}
",
        directory.display()
    ));
    let pod = |name: &str, command: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {BUSYBOX}, command: [sh, -c, '{command}'], volumeMounts: [{{name: data, mountPath: /data}}]}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
"
        )
    };
    kubectl.apply(&pod("first", "echo kept > /data/file; sleep 3600"));
    kubectl.ok("wait --for=condition=Ready pod/first --timeout=120s");
    let claim = kubectl.json("get pvc data");
    assert_eq!((text(&claim["status"]["phase"]), text(&claim["spec"]["volumeName"])), ("Bound".to_owned(), "disk".to_owned()));

    // While the pod uses it the claim stays.
    kubectl.ok("delete pvc data --wait=false");
    assert_ne!(kubectl.json("get pvc data")["metadata"]["deletionTimestamp"], serde_json::Value::Null);
    cluster.wait_for("the file", |_| directory.join("file").exists());
    kubectl.ok("delete pod first");
    cluster.wait_for("the claim to go", |_| kubectl.json("get pvc")["items"].as_array().is_some_and(Vec::is_empty));
    cluster.wait_for("the volume to be released", |_| text(&kubectl.json("get pv disk")["status"]["phase"]) == "Released");

    // An administrator frees the volume; a new claim finds the data.
    kubectl.ok_arguments(["patch", "pv", "disk", "--type=json", "-p", r#"[{"op":"remove","path":"/spec/claimRef"}]"#]);
    kubectl.apply(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  storageClassName: manual
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 100Mi}}
",
    );
    kubectl.apply(&pod("second", "cat /data/file"));
    cluster.wait_for("the second pod to end", |_| text(&kubectl.json("get pod second")["status"]["phase"]) == "Succeeded");
    assert_eq!(kubectl.ok("logs second"), "kept\n");
}

/// A claim that names no class gets a directory of the node when a pod wants it; the directory goes with the claim.
#[test]
fn a_claim_without_a_class_gets_a_directory() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    cluster.wait_for("the class", |_| kubectl.output(["get", "storageclass", "local-path"]).status.success());
    kubectl.apply(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 100Mi}}
",
    );
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: writer}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsUser: 1000}}
  containers:
  - {{name: main, image: {BUSYBOX}, command: [sh, -c, 'echo kept > /data/file; sleep 3600'], volumeMounts: [{{name: data, mountPath: /data}}]}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
"
    ));
    kubectl.ok("wait --for=condition=Ready pod/writer --timeout=120s");
    let claim = kubectl.json("get pvc data");
    let volume = text(&claim["spec"]["volumeName"]);
    let directory = cluster.data_dir().join("local-volumes").join(format!("{volume}_default_data"));
    cluster.wait_for("the file", |_| std::fs::read_to_string(directory.join("file")).is_ok_and(|text| text == "kept\n"));

    kubectl.ok("delete pod writer");
    kubectl.ok("delete pvc data");
    cluster.wait_for("the volume to go", |_| kubectl.json("get pv")["items"].as_array().is_some_and(Vec::is_empty));
    assert!(!directory.exists());
}

/// What is over a quota is refused with upstream's words, and the room of what is deleted comes back.
#[test]
fn a_quota_refuses() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.ok("create quota small --hard=pods=1,count/configmaps=3,services.nodeports=0");
    cluster.wait_for("the quota to be counted", |_| {
        text(&kubectl.json("get quota small")["status"]["used"]["count/configmaps"]) == "1"
    });
    kubectl.ok(&format!("run one --image={BUSYBOX} -- sleep 3600"));
    let refused = kubectl.fails(&format!("run two --image={BUSYBOX} -- sleep 3600"));
    let expected = "pods \"two\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1";
    assert!(refused.contains(expected), "{refused}");
    let refused = kubectl.fails("create service nodeport web --tcp=80");
    assert!(refused.contains("exceeded quota: small, requested: services.nodeports=1"), "{refused}");
    kubectl.ok("delete pod one --grace-period=1");
    cluster.wait_for("the room to come back", |_| text(&kubectl.json("get quota small")["status"]["used"]["pods"]) == "0");
    kubectl.ok(&format!("run two --image={BUSYBOX} -- sleep 3600"));
    assert!(kubectl.ok("describe quota small").contains("count/configmaps"));
}
