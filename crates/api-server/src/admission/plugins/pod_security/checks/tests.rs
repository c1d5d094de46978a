use apimachinery::{Value, value};

use super::*;

/// A pod with one container `c`, and these fields of pod and container besides.
fn pod(spec: &Value, container: &Value) -> Value {
    let mut merged = value!({"metadata": {"name": "p"}, "spec": spec.clone()});
    let mut all = vec![value!({"name": "c"})];
    for (key, value) in container.as_object().into_iter().flat_map(|fields| fields.iter()) {
        all[0].insert(key.as_str(), value.clone());
    }
    merged.set_path(&["spec", "containers"], all);
    merged
}

/// What the level of a release has against a pod.
fn told(level: Level, minor: u64, object: &Value) -> String {
    let policy = LevelVersion { level, version: Version::Minor(minor) };
    details(&violations(policy, &Pod::of(object).expect("a spec")))
}

/// A pod to which the restricted level has no objection.
fn good() -> Value {
    value!({
        "metadata": {"name": "p"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

#[test]
fn table_is_in_order() {
    assert!(CHECKS.is_sorted_by_key(|check| (check.level, check.id)));
    for check in CHECKS {
        assert!(check.revisions.is_sorted_by_key(|(since, _)| *since) && !check.revisions.is_empty(), "{}", check.id);
        assert!(check.revisions.iter().all(|(since, _)| *since <= LAST_CHANGE_MINOR), "{}", check.id);
        let replaced = CHECKS.iter().any(|other| other.id == check.instead_of && other.level == Level::Baseline);
        assert!(check.instead_of.is_empty() || replaced, "{}", check.id);
    }
}

#[test]
fn restricted_words() {
    let bare = value!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}});
    assert_eq!(
        told(Level::Restricted, 35, &bare),
        concat!(
            r#"allowPrivilegeEscalation != false (containers "i", "c" must set securityContext.allowPrivilegeEscalation=false), "#,
            r#"unrestricted capabilities (containers "i", "c" must set securityContext.capabilities.drop=["ALL"]), "#,
            r#"runAsNonRoot != true (pod or containers "i", "c" must set securityContext.runAsNonRoot=true), "#,
            r#"seccompProfile (pod or containers "i", "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
        )
    );
    assert_eq!(told(Level::Restricted, 35, &good()), "");
    let old = told(Level::Restricted, 7, &bare);
    assert_eq!(old, r#"runAsNonRoot != true (pod or containers "i", "c" must set securityContext.runAsNonRoot=true)"#);
    let policy = LevelVersion { level: Level::Restricted, version: Version::Latest };
    assert_eq!(details(&violations(policy, &Pod::of(&bare).expect("a spec"))), told(Level::Restricted, 99, &bare));
}

#[test]
fn baseline() {
    // The pod's spec, the container, the release from which it counts and what is told then.
    let cases = [
        (
            value!({}),
            value!({"securityContext": {"privileged": true}}),
            0,
            r#"privileged (container "c" must not set securityContext.privileged=true)"#,
        ),
        (value!({"hostNetwork": true, "hostIPC": true}), value!({}), 0, "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            value!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]}),
            value!({}),
            0,
            r#"hostPath volumes (volumes "a", "b")"#,
        ),
        (
            value!({}),
            value!({"ports": [{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]}),
            0,
            r#"hostPort (container "c" uses hostPorts 443, 80)"#,
        ),
        (
            value!({}),
            value!({"livenessProbe": {"httpGet": {"host": "h"}}, "lifecycle": {"preStop": {"tcpSocket": {"host": "g"}}}}),
            34,
            r#"probe or lifecycle host (container "c" uses probe or lifecycle hosts "g", "h")"#,
        ),
        (
            value!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            value!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            0,
            r#"hostProcess (pod and container "c" must not set securityContext.windowsOptions.hostProcess=true)"#,
        ),
        (
            value!({}),
            value!({"securityContext": {"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}}}),
            0,
            r#"non-default capabilities (container "c" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)"#,
        ),
        (
            value!({}),
            value!({"securityContext": {"procMount": "Unmasked"}}),
            0,
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            value!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            value!({}),
            0,
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            value!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            value!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            19,
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            value!({"securityContext": {"seLinuxOptions": {"type": "a", "user": "u"}}}),
            value!({"securityContext": {"seLinuxOptions": {"type": "b", "role": "r"}}}),
            0,
            concat!(
                r#"seLinuxOptions (pod and container "c" set forbidden securityContext.seLinuxOptions: "#,
                r#"types "a", "b"; user may not be set; role may not be set)"#,
            ),
        ),
        (
            value!({"securityContext": {"sysctls": [{"name": "kernel.shmmax"}, {"name": "net.ipv4.tcp_syncookies"}]}}),
            value!({}),
            0,
            "forbidden sysctls (kernel.shmmax)",
        ),
    ];
    for (spec, container, since, expected) in &cases {
        let object = pod(spec, container);
        assert_eq!(told(Level::Baseline, 35, &object), *expected);
        assert_eq!(told(Level::Baseline, *since, &object), *expected);
        if let Some(before) = since.checked_sub(1) {
            assert_eq!(told(Level::Baseline, before, &object), "", "{expected}");
        }
        assert_eq!(told(Level::Privileged, 35, &object), "");
    }
}

#[test]
fn what_later_releases_allow() {
    let sysctl = |name: &str| pod(&value!({"securityContext": {"sysctls": [{"name": name}]}}), &value!({}));
    let hidden = value!({"hostUsers": false});
    let cases = [
        (Level::Baseline, 27, sysctl("net.ipv4.ip_local_reserved_ports")),
        (Level::Baseline, 29, sysctl("net.ipv4.tcp_fin_timeout")),
        (Level::Baseline, 32, sysctl("net.ipv4.tcp_wmem")),
        (Level::Baseline, 31, pod(&value!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}), &value!({}))),
        (Level::Baseline, 35, pod(&hidden, &value!({"securityContext": {"procMount": "Unmasked"}}))),
    ];
    for (level, since, object) in &cases {
        assert_ne!(told(*level, since - 1, object), "", "{object:?}");
        assert_eq!(told(*level, *since, object), "", "{object:?}");
    }
}

#[test]
fn annotations_of_old_releases() {
    let mut object = pod(&value!({}), &value!({}));
    object.meta_mut().set_annotation("container.apparmor.security.beta.kubernetes.io/c", "unconfined");
    let app_armor = concat!(
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to ",
        r#""container.apparmor.security.beta.kubernetes.io/c="unconfined"")"#,
    );
    assert_eq!(told(Level::Baseline, 35, &object), app_armor);
    object.meta_mut().set_annotation("container.apparmor.security.beta.kubernetes.io/c", "localhost/mine");
    object.meta_mut().set_annotation("seccomp.security.alpha.kubernetes.io/pod", "unconfined");
    object.meta_mut().set_annotation("container.seccomp.security.alpha.kubernetes.io/c", "docker/default");
    let seccomp = r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#;
    assert_eq!(told(Level::Baseline, 18, &object), seccomp);
    assert_eq!(told(Level::Baseline, 19, &object), "");
}

#[test]
fn restricted() {
    // What is changed about a good pod, and what is told.
    type Case = (&'static [&'static str], Value, &'static str);
    let cases: [Case; 5] = [
        (
            &["spec", "volumes"],
            value!([{"name": "a", "nfs": {}}, {"name": "b", "secret": {}}, {"name": "c", "hostPath": {}}, {"name": "d"}]),
            r#"restricted volume types (volumes "a", "c", "d" use restricted volume types "hostPath", "nfs", "unknown")"#,
        ),
        (
            &["spec", "securityContext", "runAsNonRoot"],
            value!(false),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (&["spec", "securityContext", "runAsUser"], value!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
        (
            &["spec", "securityContext", "seccompProfile"],
            value!({"type": "Unconfined"}),
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            &["spec", "ephemeralContainers"],
            value!([{"name": "e", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"add": ["CHOWN", "NET_BIND_SERVICE"]},
            }}]),
            concat!(
                r#"unrestricted capabilities (container "e" must set securityContext.capabilities.drop=["ALL"]; "#,
                r#"container "e" must not include "CHOWN" in securityContext.capabilities.add)"#,
            ),
        ),
    ];
    for (path, value, expected) in cases {
        let mut object = good();
        object.set_path(path, value);
        assert_eq!(told(Level::Restricted, 35, &object), expected);
    }
}

#[test]
fn what_excuses() {
    let mut windows = value!({"spec": {"os": {"name": "windows"}, "containers": [{"name": "c"}]}});
    windows.set_path(&["spec", "securityContext"], value!({"runAsNonRoot": true}));
    assert_eq!(told(Level::Restricted, 25, &windows), "");
    assert_eq!(told(Level::Restricted, 24, &windows).matches(" (").count(), 3);
    let mut hidden = good();
    hidden.set_path(&["spec", "hostUsers"], false);
    hidden.set_path(&["spec", "securityContext"], value!({"runAsUser": 0, "seccompProfile": {"type": "Localhost"}}));
    assert_eq!(told(Level::Restricted, 35, &hidden), "");
    assert_eq!(
        told(Level::Restricted, 34, &hidden),
        concat!(
            r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), "#,
            "runAsUser=0 (pod must not set runAsUser=0)",
        )
    );
    // The restricted level does not share the baseline's excuse.
    let unmasked = pod(&value!({"hostUsers": false}), &value!({"securityContext": {"procMount": "Unmasked"}}));
    assert!(told(Level::Restricted, 35, &unmasked).contains("procMount (container"));
}
