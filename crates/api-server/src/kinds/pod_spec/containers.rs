//! Containers: of all three lists.

use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::{field_refs, probes, security, volumes};
use crate::kinds::at::{At, subdomain};
use crate::kinds::resources::{self, Of};

pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const NOT_RESTARTABLE: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// All containers of a pod; `volumes` are the valid ones, and mounts know no others.
pub(super) fn all(spec: &At, volumes: &[Value], e: &mut ErrorList) {
    let (regular, init, ephemeral) = (spec.get("containers"), spec.get("initContainers"), spec.get("ephemeralContainers"));
    if regular.len() == 0 {
        regular.require(e, "");
    }
    let mut names: HashSet<&str> = HashSet::new();
    for container in regular.items() {
        one(spec, &container, volumes, e);
        unique_name(&container, &mut names, e);
        probes::lifecycle(spec, &container, e);
        probes::all(&container, e);
        restart_policy(&container, e);
    }
    let all: Vec<At> = regular.items().collect();
    host_ports(&all, e);
    let mut names: HashSet<&str> = regular.items().map(|container| container.get("name").text()).collect();
    for container in init.items() {
        one(spec, &container, volumes, e);
        init_restart_policy(&container, e);
        // Init containers without a name do not repeat each other's.
        if !container.get("name").text().is_empty() || names.contains("") {
            unique_name(&container, &mut names, e);
        }
        host_ports(&[container], e);
        if container.get("restartPolicy").text() == "Always" {
            probes::lifecycle(spec, &container, e);
            probes::all(&container, e);
        } else {
            for member in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(set) = container.set(member) {
                    set.forbid(e, NOT_RESTARTABLE);
                }
            }
        }
    }
    names.extend(init.items().map(|container| container.get("name").text()));
    let others = names.clone();
    for container in ephemeral.items() {
        one(spec, &container, volumes, e);
        image_spaces(&container, e);
        unique_name(&container, &mut names, e);
        let target = container.get("targetContainerName");
        if !target.text().is_empty() && !others.contains(target.text()) {
            e.push(Error::not_found(&target.path(), target.text()));
        }
        only_ephemeral(&container, e);
    }
}

fn unique_name<'v>(container: &At<'_, 'v>, names: &mut HashSet<&'v str>, e: &mut ErrorList) {
    let name = container.get("name");
    if !names.insert(name.text()) {
        name.duplicate(e);
    }
}

/// Spaces around an image's name: refused in pods, not in templates.
pub(super) fn image_spaces(container: &At, e: &mut ErrorList) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        image.invalid(e, "must not have leading or trailing whitespace");
    }
}

fn only_ephemeral(container: &At, e: &mut ErrorList) {
    let refused = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    for member in refused {
        let at = container.get(member);
        // An empty struct behind a pointer is something, and so is an empty list.
        let pointer = !matches!(member, "ports" | "resources" | "resizePolicy" | "restartPolicyRules");
        if !at.value.is_empty() || (at.is_set() && pointer) || at.was_sent_empty() {
            container.get(member).forbid(e, NOT_EPHEMERAL);
        }
    }
    for mount in container.get("volumeMounts").items() {
        for member in ["subPath", "subPathExpr"] {
            if !mount.get(member).text().is_empty() {
                mount.get(member).forbid(e, NOT_EPHEMERAL);
            }
        }
    }
}

fn one(spec: &At, container: &At, volumes: &[Value], e: &mut ErrorList) {
    container.get("name").required_name(e, validation::is_dns1123_label);
    container.get("image").required(e);
    container.get("terminationMessagePolicy").required_one_of(e, &["File", "FallbackToLogsOnError"]);
    ports(&container.get("ports"), e);
    environment(container, e);
    mounts(container, volumes, e);
    devices(container, volumes, e);
    container.get("imagePullPolicy").required_one_of(e, &PULL_POLICIES);
    let claims = spec.value.array_at(&["resourceClaims"]);
    resources::requirements(&container.get("resources"), Of::Container, claims, e);
    resize_policy(&container.get("resizePolicy"), spec.get("restartPolicy").text(), e);
    security::of_container(&container.get("securityContext"), spec.value["hostUsers"].as_bool() != Some(false), e);
}

fn ports(at: &At, e: &mut ErrorList) {
    let mut names: HashSet<&str> = HashSet::new();
    for port in at.items() {
        let name = port.get("name");
        if !name.text().is_empty() {
            let before = e.len();
            name.check(e, validation::is_port_name);
            if e.len() == before && !names.insert(name.text()) {
                name.duplicate(e);
            }
        }
        let number = port.get("containerPort");
        if number.int() == 0 {
            number.require(e, "");
        } else {
            number.check_int(e, validation::is_port_number);
        }
        if port.get("hostPort").int() != 0 {
            port.get("hostPort").check_int(e, validation::is_port_number);
        }
        port.get("protocol").required_one_of(e, &PROTOCOLS);
    }
}

fn host_ports(containers: &[At], e: &mut ErrorList) {
    let mut seen: HashSet<String> = HashSet::new();
    for container in containers {
        for port in container.get("ports").items().filter(|port| port.get("hostPort").int() != 0) {
            let (protocol, ip, host) = (port.get("protocol").text(), port.get("hostIP").text(), port.get("hostPort"));
            let text = format!("{protocol}/{ip}/{}", host.int());
            if seen.contains(&text) {
                e.push(Error::duplicate(&host.path(), text));
            } else {
                seen.insert(text);
            }
        }
    }
}

const VALUE_FROM: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

fn environment(container: &At, e: &mut ErrorList) {
    for variable in container.get("env").items() {
        variable.get("name").required_name(e, validation::is_relaxed_env_var_name);
        if let Some(from) = variable.set("valueFrom") {
            value_from(&variable, &from, e);
        }
    }
    let at = container.get("envFrom");
    for source in at.items() {
        source.get("prefix").check_set(e, validation::is_relaxed_env_var_name);
        let mut found = 0;
        for member in ["configMapRef", "secretRef"] {
            if let Some(from) = source.set(member) {
                found += 1;
                from.get("name").required_name(e, |name| validation::name_is_dns_subdomain(name, true));
            }
        }
        let why = match found {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        e.push(Error::invalid(&at.path(), "", why));
    }
}

fn value_from(variable: &At, from: &At, e: &mut ErrorList) {
    let found = VALUE_FROM.iter().filter(|member| from.set(member).is_some()).count();
    if let Some(field) = from.set("fieldRef") {
        field_refs::object_field(&field, &field_refs::IN_ENVIRONMENT, e);
    }
    if let Some(resource) = from.set("resourceFieldRef") {
        field_refs::resource_field(&resource, false, e);
    }
    for member in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(key) = from.set(member) {
            key.get("name").check(e, subdomain);
            key.get("key").required_name(e, validation::is_config_map_key);
        }
    }
    if let Some(file) = from.set("fileKeyRef") {
        file.get("key").required_name(e, validation::is_relaxed_env_var_name);
        file.get("volumeName").required_name(e, validation::is_dns1123_label);
        if file.get("path").required(e) {
            file.get("path").no_backsteps(e);
        }
    }
    let why = match found {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !variable.get("value").text().is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    e.push(Error::invalid(&from.path(), "", why));
}

/// Environment variables from files name volumes that are empty directories.
pub(super) fn file_key_refs(spec: &At, e: &mut ErrorList) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get(list).items() {
            for variable in container.get("env").items() {
                let from = variable.get("valueFrom");
                let Some(file) = from.set("fileKeyRef") else { continue };
                let name = file.get("volumeName");
                match volumes::find(spec.value.array_at(&["volumes"]), name.text()) {
                    None => e.push(Error::not_found(&name.path(), name.text())),
                    Some(volume) if volume["emptyDir"].is_null() => {
                        name.invalid_text(e, "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn mounts(container: &At, volumes: &[Value], e: &mut ErrorList) {
    let list = container.get("volumeMounts");
    let devices = container.value.array_at(&["volumeDevices"]);
    let mut targets: HashSet<&str> = HashSet::new();
    for mount in list.items() {
        let (name, target) = (mount.get("name"), mount.get("mountPath"));
        name.required(e);
        if volumes::find(volumes, name.text()).is_none() {
            e.push(Error::not_found(&name.path(), name.text()));
        }
        target.required(e);
        if !targets.insert(target.text()) {
            target.invalid_text(e, "must be unique");
        }
        if devices.iter().any(|device| device["name"] == *name.text()) {
            name.invalid_text(e, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device["devicePath"] == *target.text()) {
            target.invalid_text(e, "must not already exist as a path in volumeDevices");
        }
        // Upstream names the list here, not the mount.
        let beside = |member: &'static str| list.get(member).with(mount.get(member).value).value;
        if !mount.get("subPath").text().is_empty() {
            list.get("subPath").with(beside("subPath")).local_path(e);
        }
        if !mount.get("subPathExpr").text().is_empty() {
            if !mount.get("subPath").text().is_empty() {
                mount.get("subPathExpr").invalid(e, "subPathExpr and subPath are mutually exclusive");
            }
            list.get("subPathExpr").with(beside("subPathExpr")).local_path(e);
        }
        propagation(&list, &mount, container, e);
    }
}

fn propagation(list: &At, mount: &At, container: &At, e: &mut ErrorList) {
    let propagation = list.get("mountPropagation");
    let propagation = propagation.with(mount.get("mountPropagation").value);
    if propagation.is_set() {
        propagation.one_of(e, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.value.bool_at(&["securityContext", "privileged"]) == Some(true);
        if propagation.text() == "Bidirectional" && !privileged {
            propagation.forbid(e, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let recursive = list.get("recursiveReadOnly");
    let recursive = recursive.with(mount.get("recursiveReadOnly").value);
    if recursive.is_set() && recursive.text() != "Disabled" {
        recursive.one_of(e, &["Disabled", "Enabled", "IfPossible"]);
        if matches!(recursive.text(), "Enabled" | "IfPossible") {
            if !mount.get("readOnly").is_true() {
                recursive.forbid(e, "may only be specified when readOnly is true");
            }
            if !matches!(propagation.text(), "" | "None") {
                recursive.forbid(e, "may only be specified when mountPropagation is None or not specified");
            }
        }
    }
}

fn devices(container: &At, volumes: &[Value], e: &mut ErrorList) {
    let mounts = container.value.array_at(&["volumeMounts"]);
    let (mut paths, mut names): (HashSet<&str>, HashSet<&str>) = (HashSet::new(), HashSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        name.required(e);
        if names.contains(name.text()) {
            name.invalid_text(e, "must be unique");
        }
        match volumes::find(volumes, name.text()) {
            None => e.push(Error::not_found(&name.path(), name.text())),
            Some(volume) if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                name.invalid_text(e, why);
            }
            Some(_) => {}
        }
        path.required(e);
        if paths.contains(path.text()) {
            path.invalid_text(e, "must be unique");
        }
        if path.text().split('/').any(|part| part == "..") {
            path.invalid_text(e, "can not contain backsteps ('..')");
        } else {
            paths.insert(path.text());
        }
        if mounts.iter().any(|mount| mount["name"] == *name.text()) {
            name.invalid_text(e, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount["mountPath"] == *path.text()) {
            path.invalid_text(e, "must not already exist as a path in volumeMounts");
        }
        if !name.text().is_empty() {
            names.insert(name.text());
        }
    }
}

fn resize_policy(at: &At, restart: &str, e: &mut ErrorList) {
    let mut seen: HashSet<&str> = HashSet::new();
    for policy in at.items() {
        let (resource, how) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !seen.insert(resource.text()) {
            e.push(Error::duplicate(&policy.path(), resource.text()));
        }
        // Upstream names the list.
        at.with(resource.value).required_one_of(e, &["cpu", "memory"]);
        at.with(how.value).required_one_of(e, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && how.text() != "NotRequired" {
            at.with(how.value).invalid_text(e, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

fn init_restart_policy(container: &At, e: &mut ErrorList) {
    let policy = container.get("restartPolicy");
    if !policy.is_set() {
        if container.get("restartPolicyRules").len() > 0 {
            policy.require(e, "must specify restartPolicy when restart rules are used");
        }
        return;
    }
    match policy.text() {
        "Always" if container.get("restartPolicyRules").len() > 0 => {
            let why = "restartPolicyRules are not allowed for init containers with restart policy Always";
            container.get("restartPolicyRules").forbid(e, why);
        }
        "Always" => {}
        _ => restart_policy(container, e),
    }
}

fn restart_policy(container: &At, e: &mut ErrorList) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if policy.is_set() {
        policy.one_of(e, &["Always", "Never", "OnFailure"]);
    } else if rules.len() > 0 {
        policy.require(e, "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        rules.too_long(e, 20);
    }
    for rule in rules.items() {
        rule.get("action").one_of(e, &["Restart"]);
        match rule.set("exitCodes") {
            None => rule.get("exitCodes").require(e, "must be specified"),
            Some(codes) => {
                codes.get("operator").one_of(e, &["In", "NotIn"]);
                if codes.get("values").len() > 255 {
                    codes.get("values").too_long(e, 255);
                }
            }
        }
    }
}
