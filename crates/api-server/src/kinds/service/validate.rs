//! Which Services are valid (upstream's `validateService` and `ValidateServiceUpdate`).
//!
//! What the allocator fills in after validation (a health check's node port) is not required here.

use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, go_quote, validation};

use super::super::at::{self, At};
use super::super::go_text::Shown;
use super::super::networking::endpoint_ip;
use super::{is_headless, needs_health_check_port, type_of};
use crate::gates::{Feature, FeatureGates};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
/// Upstream's `MaxServiceAffinity...`: a day.
const AFFINITY_SECONDS_MAX: i64 = 86400;
const BALANCERS_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// What is wrong with the addresses and families of a Service.
pub(super) fn addresses(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    cluster_ips(object, old, &mut errors);
    errors
}

/// Everything that is wrong with a Service. Its addresses come first and alone, as upstream looks at them before anything else.
pub(super) fn service(object: &Value, old: Option<&Value>, gates: FeatureGates) -> ErrorList {
    let mut errors = addresses(object, old);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        update(object, old, &mut errors);
    }
    whole(object, old, &mut errors);
    distribution(object, gates, &mut errors);
    errors
}

fn distribution(object: &Value, gates: FeatureGates, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let known = if gates.has(Feature::PreferSameTrafficDistribution) { &DISTRIBUTIONS[..] } else { &DISTRIBUTIONS[..1] };
    if let Some(distribution) = spec.set("trafficDistribution")
        && !known.contains(&distribution.text())
    {
        e.push(Error::not_supported(&distribution.path(), distribution.text(), known));
    }
}

fn whole(object: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let root = At::root(object);
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    let annotations = meta.get("annotations");
    let (hints, mode) = (annotations.key(HINTS), annotations.key(TOPOLOGY));
    if !hints.value.is_null() && !mode.value.is_null() && hints.value != mode.value {
        mode.invalid(e, format!("must match annotations[{HINTS}] when both are specified"));
    }
    let (kind, headless, ports) = (type_of(object), is_headless(object), spec.get("ports"));
    if ports.len() == 0 && !headless && kind != "ExternalName" {
        ports.require(e, "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let ips = spec.get("clusterIPs");
        ips.items().take(1).for_each(|ip| ip.invalid(e, format!("may not be set to 'None' for {kind} services")));
    }
    if kind == "ExternalName" {
        external_name(&spec, e);
    }
    let mut names = HashSet::new();
    ports.items().for_each(|port| one_port(&port, ports.len() > 1, &mut names, e));
    spec.get("selector").labels(e);
    affinity(&spec, e);
    let before = old.map(|old| old.array_at(&["spec", "externalIPs"])).unwrap_or_default();
    for ip in spec.get("externalIPs").items() {
        match at::legacy_ip(ip.text()) {
            None if before.contains(ip.value) => endpoint_ip(&ip, e),
            None => ip.ip(e),
            Some(_) => endpoint_ip(&ip, e),
        }
    }
    spec.get("type").required_one_of(e, &TYPES);
    unique_ports(&ports, kind, e);
    source_ranges(&meta, &spec, kind, old, e);
    if spec.get("allocateLoadBalancerNodePorts").is_set() && kind != "LoadBalancer" {
        spec.get("allocateLoadBalancerNodePorts").forbid(e, BALANCERS_ONLY);
    }
    balancer_class(&spec, kind, e);
    traffic(object, &spec, kind, e);
}

fn external_name(spec: &At, e: &mut ErrorList) {
    for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.get(member).value.is_empty() {
            spec.get(member).forbid(e, "may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    let bare = name.text().strip_suffix('.').unwrap_or(name.text());
    if bare.is_empty() {
        name.require(e, "");
    }
    let why = validation::is_dns1123_subdomain(bare).into_iter().filter(|_| !bare.is_empty());
    e.extend(why.map(|why| Error::invalid(&name.path(), bare, why)));
}

fn one_port<'v>(port: &At<'_, 'v>, named: bool, names: &mut HashSet<&'v str>, e: &mut ErrorList) {
    let name = port.get("name");
    if name.text().is_empty() {
        if named {
            name.require(e, "");
        }
    } else {
        name.check(e, validation::is_dns1123_label);
        if !names.insert(name.text()) {
            name.duplicate(e);
        }
    }
    port.get("port").check_int(e, validation::is_port_number);
    port.get("protocol").required_one_of(e, &PROTOCOLS);
    port.get("targetPort").port(e);
    if let Some(protocol) = port.set("appProtocol") {
        protocol.check(e, validation::is_qualified_name);
    }
}

fn unique_ports(ports: &At, kind: &str, e: &mut ErrorList) {
    let (mut node_ports, mut keys) = (HashSet::new(), HashSet::new());
    if kind == "ClusterIP" {
        let used = ports.items().filter(|port| port.get("nodePort").int() != 0);
        used.for_each(|port| port.get("nodePort").forbid(e, "may not be used when `type` is 'ClusterIP'"));
    }
    for port in ports.items() {
        let number = port.get("nodePort");
        if number.int() != 0 && !node_ports.insert((port.get("protocol").text(), number.int())) {
            number.duplicate(e);
        }
    }
    for port in ports.items() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int());
        if !keys.insert((protocol, number)) {
            let protocol = go_quote(protocol);
            let key =
                format!(r#"{{"Name":"","Protocol":{protocol},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#);
            e.push(Error::duplicate(&port.path(), Value::Null).shown_as(key));
        }
    }
}

fn affinity(spec: &At, e: &mut ErrorList) {
    let (kind, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    kind.required_one_of(e, &["ClientIP", "None"]);
    if kind.text() == "None" && config.is_set() {
        config.forbid(e, "must not be set when session affinity is None");
    }
    if kind.text() != "ClientIP" {
        return;
    }
    let client = config.get("clientIP");
    let seconds = client.get("timeoutSeconds");
    for part in [&config, &client, &seconds] {
        if !part.is_set() {
            part.require(e, "when session affinity type is ClientIP");
            return;
        }
    }
    if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds.int()) {
        seconds.invalid(e, format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"));
    }
}

/// Upstream's `ValidateServiceClusterIPsRelatedFields`.
fn cluster_ips(object: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if type_of(object) == "ExternalName" {
        return;
    }
    let root = At::root(object);
    let spec = root.get("spec");
    let (one, ips, families, policy) =
        (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"), spec.get("ipFamilyPolicy"));
    let list = ips.value.as_array().unwrap_or_default();
    match (one.text(), list.first()) {
        ("", Some(_)) => ips.invalid(e, "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => ips.require(e, ""),
        (one, Some(first)) if *first != *one => ips.invalid(e, "first value must match `clusterIP`"),
        _ => {}
    }
    let mut seen = HashSet::new();
    for family in families.items() {
        if !FAMILIES.contains(&family.text()) {
            e.push(Error::not_supported(&family.path(), family.text(), &FAMILIES));
        }
        if !seen.insert(family.text()) {
            family.duplicate(e);
        }
    }
    if policy.is_set() && !FAMILY_POLICIES.contains(&policy.text()) {
        e.push(Error::not_supported(&policy.path(), policy.text(), &FAMILY_POLICIES));
    }
    let before = old.map(|old| old.array_at(&["spec", "clusterIPs"])).unwrap_or_default();
    let mut broken = false;
    for (index, ip) in ips.items().enumerate() {
        if index == 0 && ip.text() == "None" {
            if list.len() > 1 {
                broken = true;
                ips.invalid(e, "'None' must be the first and only value");
            }
        } else if !before.contains(ip.value) && at::legacy_ip(ip.text()).is_none() {
            broken = true;
            ip.ip(e);
        }
    }
    if list.len() > 2 {
        ips.invalid(e, "may only hold up to 2 values");
    }
    if broken {
        return;
    }
    let ipv6: Vec<bool> = ips.items().map(|ip| ip.text().contains(':')).collect();
    if list.len() > 1 && (ipv6.iter().all(|six| *six) || ipv6.iter().all(|six| !*six)) {
        ips.invalid(e, "may specify no more than one IP for each IP family");
    }
    if is_headless(object) {
        return;
    }
    for (index, (ip, family)) in ips.items().zip(families.items()).enumerate() {
        let six = ip.text().contains(':');
        if (family.text() == "IPv4" && six) || (family.text() == "IPv6" && !six) {
            ip.invalid(e, format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.text()));
        }
    }
}

fn source_ranges(meta: &At, spec: &At, kind: &str, old: Option<&Value>, e: &mut ErrorList) {
    let (ranges, annotations) = (spec.get("loadBalancerSourceRanges"), meta.get("annotations"));
    let annotation = annotations.key(SOURCE_RANGES);
    let check = |path: &Path, text: &str, e: &mut ErrorList| {
        if !at::is_cidr(text) {
            e.push(Error::invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
        }
    };
    if ranges.len() > 0 {
        // The path's capital letter is upstream's.
        let path = spec.path().child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            e.push(Error::forbidden(&path, BALANCERS_ONLY));
        }
        let before = old.map(|old| old.array_at(&["spec", "loadBalancerSourceRanges"])).unwrap_or_default();
        for (index, range) in ranges.items().enumerate().filter(|(_, range)| !before.contains(range.value)) {
            check(&path.index(index), range.text().trim(), e);
        }
    } else if !annotation.value.is_null() {
        if kind != "LoadBalancer" {
            annotation.forbid(e, BALANCERS_ONLY);
        }
        let same = old.is_some_and(|old| old["metadata"]["annotations"][SOURCE_RANGES] == *annotation.value);
        let text = annotation.text().trim();
        if !same && !text.is_empty() {
            text.split(',').for_each(|range| check(&annotation.path(), range.trim(), e));
        }
    }
}

fn balancer_class(spec: &At, kind: &str, e: &mut ErrorList) {
    let Some(class) = spec.set("loadBalancerClass") else { return };
    match kind {
        "LoadBalancer" => class.check(e, validation::is_qualified_name),
        _ => class.forbid(e, BALANCERS_ONLY),
    }
}

fn traffic(object: &Value, spec: &At, kind: &str, e: &mut ErrorList) {
    let (external, health) = (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"));
    let outside = matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && spec.get("externalIPs").len() > 0);
    if outside {
        external.required_one_of(e, &["Cluster", "Local"]);
    } else if !external.text().is_empty() {
        external.invalid(e, "may only be set for externally-accessible services");
    }
    if health.int() != 0 {
        match needs_health_check_port(object) {
            true => health.check_int(e, validation::is_port_number),
            false => health.invalid(e, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
        }
    }
    let internal = spec.get("internalTrafficPolicy");
    if internal.is_set() {
        if !["Cluster", "Local"].contains(&internal.text()) {
            e.push(Error::not_supported(&internal.path(), internal.text(), &["Cluster", "Local"]));
        }
    } else if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        internal.require(e, "");
    }
}

/// What is fixed: addresses and families (but for Services that come from or go to ExternalName), a balancer's class, a health check's port.
fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let external = type_of(object) == "ExternalName" || type_of(old) == "ExternalName";
    let headless = (is_headless(object), is_headless(old));
    if !external && headless != (true, true) {
        primary(&spec, "clusterIPs", "clusterIP", old, e);
    }
    if !external && headless == (false, false) {
        primary(&spec, "ipFamilies", "ipFamily", old, e);
    }
    let (class, balancers) = (spec.get("loadBalancerClass"), type_of(object) == "LoadBalancer" && type_of(old) == "LoadBalancer");
    if balancers && *class.value != old["spec"]["loadBalancerClass"] {
        class.invalid(e, "may not change once set");
    }
    // Upstream looks at the class once more with everything else.
    balancer_class(&spec, type_of(object), e);
    let health = spec.get("healthCheckNodePort");
    if needs_health_check_port(old)
        && needs_health_check_port(object)
        && health.int() != At::root(old).get("spec").get("healthCheckNodePort").int()
    {
        health.forbid(e, "field is immutable");
    }
}

/// The first entry of a list stays; the second may come, and go when the policy says so.
fn primary(spec: &At, list: &str, one: &str, old: &Value, e: &mut ErrorList) {
    let before = old.array_at(&["spec", list]);
    let now = spec.value.array_at(&[list]);
    let path = spec.path().child(list);
    let fixed = |index: usize| Error::invalid(&path.index(index), now.to_vec(), "may not change once set");
    if before.len() == now.len() {
        let changed = (0..now.len()).filter(|index| before[*index] != now[*index]);
        e.extend(changed.map(|index| fixed(if list == "clusterIPs" { index } else { 0 })));
        return;
    }
    if now.is_empty() {
        e.push(Error::invalid(&path.index(0), now.to_vec(), format!("primary {one} can not be unset")));
    } else if before.first().is_some_and(|first| *first != now[0]) {
        e.push(fixed(0));
    }
    let policy = &spec.value["ipFamilyPolicy"];
    if before.len() > now.len() && now.len() == 1 && *policy != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        e.push(Error::invalid(&spec.path().child("ipFamilyPolicy"), policy.clone(), why));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn valid() -> Value {
        value!({"metadata": {"name": "a"}, "spec": {
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "a", "port": 80, "protocol": "TCP", "targetPort": 80}],
        }})
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_services() {
        assert_eq!(texts(&service(&valid(), None, FeatureGates::DEFAULT)), Vec::<String>::new());
        let cases: &[(&str, Value, &str)] = &[
            ("ports", value!([]), "spec.ports: Required value"),
            (
                "type",
                value!("X"),
                r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ),
            (
                "externalTrafficPolicy",
                value!("Local"),
                r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#,
            ),
            (
                "loadBalancerClass",
                value!("a/b"),
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "allocateLoadBalancerNodePorts",
                value!(true),
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "healthCheckNodePort",
                value!(1),
                "spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
            (
                "trafficDistribution",
                value!("X"),
                r#"spec.trafficDistribution: Unsupported value: "X": supported values: "PreferClose", "PreferSameZone", "PreferSameNode""#,
            ),
            (
                "sessionAffinity",
                value!("ClientIP"),
                "spec.sessionAffinityConfig: Required value: when session affinity type is ClientIP",
            ),
            (
                "loadBalancerSourceRanges",
                value!(["10.0.0.0/8"]),
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            ("clusterIP", value!("10.0.0.1"), "spec.clusterIPs: Required value"),
            (
                "ipFamilyPolicy",
                value!("X"),
                r#"spec.ipFamilyPolicy: Unsupported value: "X": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#,
            ),
        ];
        for (member, value, expected) in cases {
            let mut object = valid();
            object.set_path(&["spec", member], value.clone());
            assert_eq!(texts(&service(&object, None, FeatureGates::DEFAULT)), [*expected], "{member}");
        }
    }

    #[test]
    fn ports_are_unique() {
        let mut object = valid();
        let port = |name: &str| value!({"name": name, "port": 80, "protocol": "TCP", "targetPort": 80});
        object.set_path(&["spec", "ports"], vec![port("a"), port("a")]);
        let key = r#"{"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#;
        let expected =
            [r#"spec.ports[1].name: Duplicate value: "a""#.to_owned(), format!("spec.ports[1]: Duplicate value: {key}")];
        assert_eq!(texts(&service(&object, None, FeatureGates::DEFAULT)), expected);
    }

    #[test]
    fn addresses_stay() {
        let with = |ip: &str| {
            let mut object = valid();
            object.set_path(&["spec", "clusterIP"], ip);
            object.set_path(&["spec", "clusterIPs"], vec![ip]);
            object
        };
        assert_eq!(texts(&service(&with("10.0.0.1"), Some(&with("10.0.0.1")), FeatureGates::DEFAULT)), Vec::<String>::new());
        let changed = r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#;
        assert_eq!(texts(&service(&with("10.0.0.2"), Some(&with("10.0.0.1")), FeatureGates::DEFAULT)), [changed]);
        let broken = r#"spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#;
        assert_eq!(texts(&service(&with("x"), Some(&with("10.0.0.1")), FeatureGates::DEFAULT)), [broken]);
    }
}
