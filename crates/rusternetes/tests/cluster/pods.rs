//! What a pod's specification asks for is what its container finds.

use crate::harness::Cluster;
use crate::images::{BUSYBOX, import_busybox};
use crate::kubectl::text;

/// Volumes, environment, downward API, init containers, resources and security context, seen from inside.
#[test]
fn a_container_finds_what_its_pod_asks_for() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.ok("create configmap settings --from-literal=colour=blue");
    kubectl.ok("create secret generic key --from-literal=password=hush");
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: full, labels: {{app: full}}, annotations: {{note: hi}}}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000}}
  initContainers:
  - name: prepare
    image: {BUSYBOX}
    command: [sh, -c, 'echo prepared > /work/file']
    volumeMounts: [{{name: work, mountPath: /work}}]
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, 'sleep 3600']
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: key, key: password}}}}}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: BOTH, value: '$(POD)-$(COLOUR)'}}
    resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}
    securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    volumeMounts:
    - {{name: work, mountPath: /work}}
    - {{name: settings, mountPath: /settings}}
    - {{name: key, mountPath: /key}}
    - {{name: info, mountPath: /info}}
    - {{name: ram, mountPath: /ram}}
    lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo hook > /work/hook']}}}}}}
    readinessProbe: {{exec: {{command: [test, -f, /work/hook]}}, periodSeconds: 1}}
  volumes:
  - {{name: work, emptyDir: {{}}}}
  - {{name: ram, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: key, secret: {{secretName: key, defaultMode: 0400}}}}
  - {{name: info, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
"
    ));
    kubectl.ok("wait --for=condition=Ready pod/full --timeout=120s");
    let inside = |command: &str| kubectl.ok_arguments(["exec", "full", "--", "sh", "-c", command]);
    assert_eq!(inside("echo $COLOUR $PASSWORD $POD $BOTH"), "blue hush full full-blue\n");
    assert_eq!(inside("cat /work/file /settings/colour /key/password /info/labels"), "prepared\nbluehushapp=\"full\"");
    assert_eq!(inside("id -u; id -g; id -G").split_whitespace().collect::<Vec<_>>(), ["1000", "2000", "2000", "3000"]);
    assert_eq!(inside("touch /x 2>/dev/null || echo readonly"), "readonly\n");
    assert_eq!(inside("grep CapEff /proc/self/status | head -n1").split_whitespace().last(), Some("0000000000000000"));
    assert!(inside("mount").lines().any(|line| line.contains(" /ram ") && line.contains("tmpfs")));
    assert_eq!(inside("stat -c %a /key/..data/password").trim(), "440", "fsGroup adds group read to 0400");
    assert_eq!(inside("hostname").trim(), "full");

    // A changed ConfigMap reaches the volume without a restart.
    kubectl.ok_arguments(["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#]);
    cluster.wait_for("the new value", |_| inside("cat /settings/colour") == "green");
    assert_eq!(inside("echo $COLOUR").trim(), "blue", "the environment is that of the start");
}

/// Restart with back-off, exit codes, a liveness probe that fails, OOM.
#[test]
fn containers_are_restarted_and_their_ends_are_told() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.ok_arguments([
        "run",
        "crash",
        &format!("--image={BUSYBOX}"),
        "--",
        "sh",
        "-c",
        "echo dying > /dev/termination-log; exit 3",
    ]);
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: sick}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, 'sleep 3600']
    livenessProbe: {{exec: {{command: ['false']}}, periodSeconds: 1, failureThreshold: 2}}
---
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, 'dd if=/dev/zero of=/dev/null bs=256M count=1']
    resources: {{limits: {{memory: 32Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: done}}
spec:
  restartPolicy: OnFailure
  containers: [{{name: main, image: {BUSYBOX}, command: ['true']}}]
"
    ));
    let status = |pod: &str| kubectl.json(&format!("get pod {pod}"))["status"].clone();
    cluster.wait_for("the crash loop", |_| {
        let crash = status("crash");
        let container = &crash["containerStatuses"][0];
        container["restartCount"].as_u64() >= Some(2) && container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let ended = status("crash")["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!((ended["exitCode"].as_u64(), text(&ended["reason"])), (Some(3), "Error".to_owned()));
    assert_eq!(text(&ended["message"]), "dying\n");
    cluster.wait_for("the liveness probe to act", |_| status("sick")["containerStatuses"][0]["restartCount"].as_u64() >= Some(1));
    assert!(kubectl.ok("describe pod sick").contains("Liveness probe failed"));
    cluster.wait_for("the memory limit to act", |_| {
        status("greedy")["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"
    });
    assert_eq!(text(&status("greedy")["phase"]), "Failed");
    cluster.wait_for("the pod that succeeds", |_| text(&status("done")["phase"]) == "Succeeded");
}
