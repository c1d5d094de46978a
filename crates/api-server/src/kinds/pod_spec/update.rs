//! What may change in a pod that exists (upstream's `ValidatePodUpdate` and those of its subresources).

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, go_quote};

use super::{MIRROR, containers, qos_class, scheduling};
use crate::kinds::at::{At, Policy, legacy_ip, subdomain};
use crate::kinds::{go_diff, go_text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
    (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that stay.
fn annotation_changes(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let meta = root.get("metadata");
    let (now, before) = (meta.get("annotations"), &old["metadata"]["annotations"]);
    let kind = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, value) in before.as_object().into_iter().flatten() {
        if let Some(kind) = kind(key).filter(|_| now.value.get(key) != Some(value)) {
            e.push(Error::forbidden(&now.path().key(key), format!("may not remove or update {kind}")));
        }
    }
    for (key, entry) in now.entries().filter(|(key, _)| before.get(key).is_none()) {
        if let Some(kind) = kind(key) {
            entry.forbid(e, format!("may not add {kind}"));
        }
    }
}

/// An update of the pod itself.
pub(in crate::kinds) fn update(object: &Value, old: &Value, policy: Policy, e: &mut ErrorList) {
    super::pod(object, policy.keeping_searches(&old["spec"]), e);
    annotation_changes(object, old, e);
    let root = At::root(object);
    let (spec, before) = (root.get("spec"), &old["spec"]);
    for list in ["containers", "initContainers"] {
        if spec.get(list).len() != before.array_at(&[list]).len() {
            return spec.get(list).forbid(e, "pod updates may not add or remove containers");
        }
        for container in spec.get(list).items() {
            container.get("image").required(e);
            containers::image_spaces(&container, e);
        }
    }
    if !deadline(&spec.get("activeDeadlineSeconds"), &before["activeDeadlineSeconds"], e) {
        return;
    }
    tolerations(&spec.get("tolerations"), before.array_at(&["tolerations"]), e);
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !before.array_at(&["schedulingGates"]).iter().any(|old| old["name"] == *name.value) {
            name.forbid(e, format!("only deletion is allowed, but found new scheduling gate '{}'", name.text()));
        }
    }
    if spec.value != before {
        let munged = munged(&spec, before, e);
        if munged != *before {
            let why = format!("pod updates may not change fields other than {UPDATABLE}");
            let mut error = forbidden_change(&spec.path(), &spec.path(), &why, (before, &munged), "core.v1.PodSpec");
            if let Some(change) = &mut error.change {
                change.unsent = &PUT_BACK;
            }
            e.push(error);
        }
    }
}

/// Whether to go on.
fn deadline(at: &At, before: &Value, e: &mut ErrorList) -> bool {
    match (at.value.as_i64(), before.as_i64()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            at.range(e, 0, i64::from(i32::MAX));
            false
        }
        (Some(now), Some(before)) if now > before => {
            at.invalid(e, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            at.invalid(e, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn tolerations(at: &At, before: &[Value], e: &mut ErrorList) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove("tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = at.items().map(|toleration| without_seconds(toleration.value)).collect();
    if before.iter().any(|toleration| !now.contains(&without_seconds(toleration))) {
        return at.forbid(e, "existing toleration can not be modified except its tolerationSeconds");
    }
    scheduling::tolerations(at, e);
}

fn keep(object: &mut Value, old: &Value, member: &str) {
    match old.get(member) {
        Some(value) => drop(object.insert(member, value.clone())),
        None => drop(object.remove(member)),
    }
}

/// The new spec with all that may change put back.
fn munged(spec: &At, before: &Value, e: &mut ErrorList) -> Value {
    let mut munged = spec.value.clone();
    for list in ["containers", "initContainers"] {
        let old = before.array_at(&[list]);
        for (container, old) in munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(old) {
            container.insert("image", old["image"].clone());
        }
    }
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut munged, before, member);
    }
    let grace = "terminationGracePeriodSeconds";
    if before[grace].as_i64().is_some_and(|seconds| seconds < 0) && munged[grace].as_i64() == Some(1) {
        keep(&mut munged, before, grace);
    }
    if before.array_at(&["schedulingGates"]).is_empty() {
        return munged;
    }
    // A pod that is held back may still be directed to fewer nodes.
    let selector = spec.get("nodeSelector");
    if *selector.value != before["nodeSelector"] {
        let old = before["nodeSelector"].as_object().into_iter().flatten();
        if old.into_iter().any(|(key, value)| selector.value.get(key) != Some(value)) {
            selector.invalid(e, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
        }
        keep(&mut munged, before, "nodeSelector");
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    if *node.value != before["affinity"]["nodeAffinity"] {
        node_affinity_change(&node, &before["affinity"]["nodeAffinity"], e);
        let path = ["affinity", "nodeAffinity"];
        match before.get_path(&path) {
            Some(old) => munged.set_path(&path, old.clone()),
            None => drop(munged.remove_path(&path)),
        }
        if before.get("affinity").is_none() && munged["affinity"].is_empty() {
            munged.remove("affinity");
        }
    }
    munged
}

fn node_affinity_change(at: &At, old: &Value, e: &mut ErrorList) {
    let required = at.get("requiredDuringSchedulingIgnoredDuringExecution");
    let terms = required.get("nodeSelectorTerms");
    let before = old.array_at(&["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]);
    if !before.is_empty() && before.len() != terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return terms.invalid_list(e, "core.v1.NodeSelectorTerm", why);
    }
    for (term, old) in terms.items().zip(before) {
        let kept = |member: &str| old.array_at(&[member]).iter().zip(term.value.array_at(&[member])).all(|(a, b)| a == b);
        let longer = |member: &str| term.value.array_at(&[member]).len() >= old.array_at(&[member]).len();
        let was_empty = ["matchExpressions", "matchFields"].iter().all(|member| old.array_at(&[member]).is_empty());
        let only_added = ["matchExpressions", "matchFields"].iter().all(|member| kept(member) && longer(member));
        if !only_added || (was_empty && *term.value != *old) {
            term.invalid_internal(e, "core.v1.NodeSelectorTerm", "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// What upstream makes anew of the old lists, so that it is no list where it is empty.
const PUT_BACK: [&str; 4] = [".containers", ".initContainers", ".tolerations", ".schedulingGates"];

fn forbidden_change(path: &Path, place: &Path, why: &str, (old, new): (&Value, &Value), type_name: &str) -> Error {
    go_diff::forbidden(path, place, why, go_text::internal(old, type_name), go_text::internal(new, type_name))
}

/// What a node reports.
/// `ends_nomination`: a pod that is bound cannot be nominated.
pub(in crate::kinds) fn status_update(object: &Value, old: &Value, ends_nomination: bool, e: &mut ErrorList) {
    annotation_changes(object, old, e);
    let root = At::root(object);
    let status = root.get("status");
    for condition in status.get("conditions").items() {
        if condition.get("observedGeneration").int() < 0 {
            condition.get("observedGeneration").invalid(e, "must be a non-negative integer");
        }
        if !matches!(condition.get("type").text(), "PodScheduled" | "Ready" | "Initialized") {
            let named = condition.get("Type");
            named.with(condition.get("type").value).check(e, apimachinery::validation::is_qualified_name);
        }
    }
    let nominated = status.get("nominatedNodeName");
    if !nominated.text().is_empty() && *nominated.value != old["status"]["nominatedNodeName"] {
        nominated.check(e, subdomain);
        if ends_nomination && !old["spec"]["nodeName"].is_empty() {
            nominated.forbid(e, "may not be set on pods that are already bound to a node");
        }
    }
    if status.get("observedGeneration").int() < 0 {
        status.get("observedGeneration").invalid(e, "must be a non-negative integer");
    }
    status.get("qosClass").immutable(e, &old["status"]["qosClass"]);
    for (member, list) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        ended_stay_ended(&status, member, old, Some(list), e);
    }
    ended_stay_ended(&status, "ephemeralContainerStatuses", old, None, e);
    claim_statuses(&status.get("resourceClaimStatuses"), object.array_at(&["spec", "resourceClaims"]), e);
    for (member, one) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        addresses(&status, member, one, e);
    }
}

fn claim_statuses(list: &At, claims: &[Value], e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for status in list.items() {
        let name = status.get("name");
        if !claims.iter().any(|claim| claim["name"].as_str().unwrap_or_default() == name.text()) {
            name.invalid_text(e, "must match the name of an entry in `spec.resourceClaims`");
        }
        if seen.contains(&name.text()) {
            name.duplicate(e);
        }
        seen.push(name.text());
        // Upstream's place is that of the name.
        if let Some(claim) = status.set("resourceClaimName") {
            name.with(claim.value).check(e, subdomain);
        }
    }
}

fn addresses(status: &At, member: &'static str, one: &'static str, e: &mut ErrorList) {
    let list = status.get(member);
    if member == "hostIPs"
        && let Some(first) = list.items().next()
        && first.get("ip").text() != status.get(one).text()
    {
        first.get("ip").invalid_text(e, "must be equal to `hostIP`");
    }
    list.items().for_each(|item| item.with(item.get("ip").value).ip(e));
    if list.len() < 2 {
        return;
    }
    let texts = list.items().map(|item| item.get("ip").text());
    let parsed: Vec<_> = texts.map(|text| (text, legacy_ip(text).map(|address| address.to_canonical().is_ipv4()))).collect();
    let unreadable = parsed.iter().position(|(_, family)| family.is_none());
    if let Some(at) = unreadable {
        let why = format!("failed to check for dual stack with error:invalid IP[{at}]: {}", parsed[at].0);
        e.push(Error::internal(&list.path(), why));
    }
    let both = [true, false].iter().all(|v4| parsed.iter().any(|(_, family)| *family == Some(*v4)));
    if unreadable.is_some() || !both || parsed.len() > 2 {
        let type_name = if member == "hostIPs" { "core.v1.HostIP" } else { "core.v1.PodIP" };
        list.invalid_list(e, type_name, "may specify no more than one IP for each IP family");
    }
}

/// A container that ended starts again only where its restart policy says so.
fn ended_stay_ended(status: &At, member: &'static str, old: &Value, list: Option<&str>, e: &mut ErrorList) {
    let at = status.get(member);
    let now = at.value.as_array().unwrap_or_default();
    for (i, before) in old.array_at(&["status", member]).iter().enumerate() {
        let Some(code) = before.get_path(&["state", "terminated"]).map(|ended| ended["exitCode"].as_i64().unwrap_or(0)) else {
            continue;
        };
        let started = now.iter().any(|s| s["name"] == before["name"] && s.get_path(&["state", "terminated"]).is_none());
        if started && !list.is_some_and(|list| may_restart(&old["spec"], list, &before["name"], code)) {
            e.push(Error::forbidden(&at.path().index(i).child("state"), "may not be transitioned to non-terminated state"));
        }
    }
}

fn may_restart(spec: &Value, list: &str, name: &Value, code: i64) -> bool {
    let Some(container) = spec.array_at(&[list]).iter().find(|container| container["name"] == *name) else { return false };
    for rule in container.array_at(&["restartPolicyRules"]) {
        let listed = rule.array_at(&["exitCodes", "values"]).iter().any(|value| value.as_i64() == Some(code));
        if listed == (rule.str_at(&["exitCodes", "operator"]) == Some("In")) {
            return rule["action"] == "Restart";
        }
    }
    match container["restartPolicy"].as_str().or(spec["restartPolicy"].as_str()) {
        Some("Always") => true,
        Some("OnFailure") => code != 0,
        _ => false,
    }
}

fn refuse(why: &str, e: &mut ErrorList) {
    e.clear();
    // Upstream's path has no name, which Go prints as an index.
    e.push(Error::forbidden(&Path::nameless(), why));
}

/// Ephemeral containers are only added.
pub(in crate::kinds) fn ephemeral_containers_update(object: &Value, old: &Value, policy: Policy, e: &mut ErrorList) {
    super::pod(object, policy, e);
    annotation_changes(object, old, e);
    if old.meta().annotation(MIRROR).is_some() {
        return refuse("static pods do not support ephemeral containers", e);
    }
    let root = At::root(object);
    let spec = root.get("spec");
    let list = spec.get("ephemeralContainers");
    for before in old.array_at(&["spec", "ephemeralContainers"]) {
        let name = go_quote(before["name"].as_str().unwrap_or_default());
        match list.items().find(|container| container.value["name"] == before["name"]) {
            None => list.forbid(e, format!("existing ephemeral containers {name} may not be removed\n")),
            Some(now) if *now.value != *before => {
                let why = format!("existing ephemeral containers {name} may not be changed");
                let change = (before, now.value);
                e.push(forbidden_change(&list.path(), &now.path(), &why, change, "core.v1.EphemeralContainer"));
            }
            Some(_) => {}
        }
    }
}

/// Requests and limits of cpu and memory may change while a pod runs (KEP-1287).
pub(in crate::kinds) fn resize(object: &Value, old: &Value, policy: Policy, e: &mut ErrorList) {
    super::pod(object, policy, e);
    if old.meta().annotation(MIRROR).is_some() {
        return refuse("static pods cannot be resized", e);
    }
    if old.str_at(&["spec", "os", "name"]) == Some("windows") {
        return refuse("windows pods cannot be resized", e);
    }
    let root = At::root(object);
    let (spec, before) = (root.get("spec"), &old["spec"]);
    let class = old.str_at(&["status", "qosClass"]).filter(|class| !class.is_empty());
    if qos_class(spec.value) != class.unwrap_or(qos_class(before)) {
        e.push(Error::invalid(
            &spec.path(),
            object["status"]["qosClass"].clone(),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    // A node that knows of resizing says what a running container has.
    let running = old.array_at(&["status", "containerStatuses"]).iter().find(|status| !status["state"]["running"].is_null());
    if running.is_some_and(|status| status["resources"].is_null()) {
        spec.forbid(e, "Pod running on node without support for resize");
    }
    let has_pod_level = |spec: &Value| !spec["resources"]["requests"].is_empty() || !spec["resources"]["limits"].is_empty();
    if has_pod_level(spec.value) || has_pod_level(before) {
        let why = "resize of pods with pod-level resources is forbidden when InPlacePodLevelResourcesVerticalScalingEnabled \
                   feature gate is disabled";
        return e.push(Error::forbidden(&Path::nameless(), why));
    }
    if !same_containers(&spec, before, e) {
        return;
    }
    let mut munged = spec.value.clone();
    for list in ["initContainers", "containers"] {
        let mut lists = Vec::new();
        for (container, old) in spec.get(list).items().zip(before.array_at(&[list])) {
            let sidecar = list == "initContainers" && old["restartPolicy"] == "Always";
            let resizable = list == "containers" || sidecar;
            let mut kept = container.value.clone();
            if resizable {
                removed(&container.get("resources"), &old["resources"], e);
                keep_cpu_and_memory(&mut kept, old);
            }
            if kept != *old {
                let why = match (list, sidecar) {
                    ("containers", _) => "only cpu and memory resources are mutable",
                    (_, true) => "only cpu and memory resources for sidecar containers are mutable",
                    _ => "resources for non-sidecar init containers are immutable",
                };
                spec.forbid(e, why);
            }
            lists.push(kept);
        }
        if spec.get(list).is_set() {
            munged.insert(list, lists);
        }
    }
    if e.is_empty() && munged != *before {
        spec.forbid(e, "only cpu and memory resources are mutable");
    }
}

fn same_containers(spec: &At, before: &Value, e: &mut ErrorList) -> bool {
    let errors = e.len();
    for list in ["containers", "initContainers"] {
        let (now, old) = (spec.get(list), before.array_at(&[list]));
        if now.len() != old.len() {
            now.forbid(e, format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (container, _) in now.items().zip(old).filter(|(container, old)| container.value["name"] != old["name"]) {
            container.get("name").forbid(e, format!("{list} may not be renamed or reordered on resize"));
        }
    }
    e.len() == errors
}

fn removed(at: &At, old: &Value, e: &mut ErrorList) {
    for list in ["requests", "limits"] {
        let gone = old[list].as_object().into_iter().flatten().any(|(name, _)| at.value[list].get(name).is_none());
        if gone {
            at.get(list).forbid(e, format!("resource {list} cannot be removed"));
        }
    }
}

fn keep_cpu_and_memory(container: &mut Value, old: &Value) {
    for list in ["requests", "limits"] {
        for resource in ["cpu", "memory"] {
            let path = ["resources", list, resource];
            match old.get_path(&path) {
                Some(value) => container.set_path(&path, value.clone()),
                None => drop(container.remove_path(&path)),
            }
        }
        if container["resources"][list].is_empty() && old["resources"].get(list).is_none() {
            container.remove_path(&["resources", list]);
        }
    }
    if container["resources"].is_empty() && old.get("resources").is_none() {
        container.remove("resources");
    }
}
