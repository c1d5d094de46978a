//! Ingresses, IngressClasses, NetworkPolicies, Endpoints, EndpointSlices, IPAddresses and ServiceCIDRs.

use std::net::IpAddr;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{GroupResource, Value, validation};

use super::at::{At, IMMUTABLE, is_cidr, legacy_ip, subdomain};
use super::go_text;
use super::table::{Checks, any};

const NETWORKING: &str = "networking.k8s.io";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) const CHECKS: &[Checks] = &[
    Checks {
        group: NETWORKING,
        resource: "ingresses",
        create: ingress_create,
        update: |o, _, e| ingress(o, e),
        status: ingress_status,
    },
    Checks { group: NETWORKING, resource: "ingressclasses", create: class, update: class_update, status: any },
    Checks { group: NETWORKING, resource: "networkpolicies", create: policy, update: policy_update, status: any },
    Checks { group: NETWORKING, resource: "ipaddresses", create: ip_address, update: ip_address_update, status: any },
    Checks { group: NETWORKING, resource: "servicecidrs", create: service_cidr, update: service_cidr_update, status: any },
    Checks {
        group: "",
        resource: "endpoints",
        create: endpoints,
        update: |object, old, e| {
            // What was stored by older releases may stay.
            if object["subsets"] != old["subsets"] {
                endpoints(object, e);
            }
        },
        status: any,
    },
    Checks { group: "discovery.k8s.io", resource: "endpointslices", create: slice, update: slice_update, status: any },
];

fn ip_address(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let Some(parent) = spec.set("parentRef") else { return spec.get("parentRef").require(e, "") };
    parent.get("group").check_set(e, validation::is_dns1123_subdomain);
    parent.get("resource").required_name(e, validation::is_path_segment_name);
    parent.get("name").required_name(e, validation::is_path_segment_name);
    parent.get("namespace").check_set(e, validation::is_path_segment_name);
}

fn ip_address_update(object: &Value, old: &Value, e: &mut ErrorList) {
    ip_address(object, e);
    let root = At::root(object);
    let spec = root.get("spec");
    let shown = |value: &Value| go_text::internal(value, "networking.v1.ParentReference");
    spec.get("parentRef").immutable_as(e, &old["spec"]["parentRef"], shown);
}

fn service_cidr(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let cidrs = spec.get("cidrs");
    match cidrs.len() {
        0 => return cidrs.require(e, "at least one CIDR required"),
        1 | 2 => {}
        _ => return e.push(Error::invalid(&cidrs.path(), spec.value.clone(), "may only hold up to 2 values")),
    }
    cidrs.items().for_each(|cidr| canonical_cidr(&cidr, e));
    let families: Vec<bool> = cidrs.items().filter(|cidr| is_cidr(cidr.text())).map(|cidr| cidr.text().contains(':')).collect();
    if let [first, second] = families[..]
        && first == second
    {
        cidrs.invalid(e, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64");
    }
}

/// Upstream's `IsValidCIDR`: without bits beyond the prefix, in the form that Go prints.
fn canonical_cidr(at: &At, e: &mut ErrorList) {
    let text = at.text();
    let parsed = text.split_once('/').filter(|_| is_cidr(text));
    let parsed = parsed.and_then(|(address, bits)| Some((address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?)));
    let Some((address, bits)) = parsed else {
        return at.invalid(e, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    let network = match address {
        IpAddr::V4(ip) => IpAddr::from((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes()),
    };
    if network != address {
        at.invalid(e, "must not have bits set beyond the prefix length");
    } else if text != format!("{network}/{bits}") {
        at.invalid(e, format!("must be in canonical form (\"{network}/{bits}\")"));
    }
}

fn service_cidr_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let cidrs = spec.get("cidrs");
    let before = old.array_at(&["spec", "cidrs"]);
    match (before.len(), cidrs.len()) {
        (old, new) if old == new => {
            let changed = cidrs.items().zip(before).filter(|(cidr, before)| cidr.value != *before);
            changed.for_each(|(cidr, _)| cidr.invalid(e, IMMUTABLE));
        }
        // A second family may be added.
        (1, 2) => {
            if let Some(first) = cidrs.items().next().filter(|first| first.value != &before[0]) {
                first.invalid(e, IMMUTABLE);
            }
            service_cidr(object, e);
        }
        _ => cidrs.invalid(e, IMMUTABLE),
    }
}

fn ingress_create(object: &Value, e: &mut ErrorList) {
    ingress(object, e);
    let class = object.str_at(&["spec", "ingressClassName"]);
    if let (Some(noted), Some(class)) = (object.meta().annotation(CLASS_ANNOTATION), class)
        && noted != class
    {
        let at = apimachinery::field::Path::new("annotations").child(CLASS_ANNOTATION);
        e.push(Error::invalid(&at, noted, "must match `ingressClassName` when both are specified"));
    }
}

fn host(at: &At, e: &mut ErrorList) {
    if at.text().contains('*') {
        at.check(e, validation::is_wildcard_dns1123_subdomain);
    } else {
        at.check(e, validation::is_dns1123_subdomain);
    }
}

fn ingress(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let rules = spec.get("rules");
    if rules.len() == 0 && !spec.get("defaultBackend").is_set() {
        let why = "either `defaultBackend` or `rules` must be specified";
        e.push(Error::invalid(&spec.path(), rules.value.clone(), why));
    }
    if let Some(at) = spec.set("defaultBackend") {
        backend(&at, e);
    }
    for rule in rules.items() {
        let name = rule.get("host");
        if !name.text().is_empty() {
            if legacy_ip(name.text()).is_some() {
                name.invalid(e, "must be a DNS name, not an IP address");
            }
            host(&name, e);
        }
        if let Some(http) = rule.set("http") {
            let paths = http.get("paths");
            if paths.len() == 0 {
                paths.require(e, "");
            }
            paths.items().for_each(|path| ingress_path(&path, e));
        }
    }
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|name| host(&name, e));
        tls.get("secretName").check_set(e, subdomain);
    }
    if let Some(class) = spec.set("ingressClassName") {
        class.check(e, subdomain);
    }
}

/// Sequences that a path may not contain, or end in.
const PATH_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const PATH_ENDS: [&str; 2] = ["/..", "/."];

fn ingress_path(at: &At, e: &mut ErrorList) {
    let (kind, path) = (at.get("pathType"), at.get("path"));
    if !kind.is_set() {
        return kind.require(e, "pathType must be specified");
    }
    let absolute = path.text().starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if !absolute {
                path.invalid_text(e, "must be an absolute path");
            }
            for part in PATH_PARTS.iter().filter(|part| path.text().contains(**part)) {
                path.invalid(e, format!("must not contain '{part}'"));
            }
            for end in PATH_ENDS.iter().filter(|end| path.text().ends_with(**end)) {
                path.invalid(e, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.text().is_empty() && !absolute {
                path.invalid(e, "must be an absolute path");
            }
        }
        _ => kind.one_of(e, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&at.get("backend"), e);
}

fn backend(at: &At, e: &mut ErrorList) {
    let wrong = |why: &str, e: &mut ErrorList| e.push(Error::invalid(&at.path(), "", why));
    match (at.set("resource"), at.set("service")) {
        (Some(_), Some(_)) => wrong("cannot set both resource and service backends", e),
        (Some(resource), None) => local_reference(&resource, e),
        (None, Some(service)) => {
            service.get("name").required_name(e, validation::is_dns1035_label);
            let port = service.get("port");
            let (name, number) = (port.get("name"), port.get("number"));
            match (name.text().is_empty(), number.int() == 0) {
                (false, false) => wrong("cannot set both port name & port number", e),
                (false, true) => name.check(e, validation::is_port_name),
                (true, false) => number.check_int(e, validation::is_port_number),
                (true, true) => at.require(e, "port name or number is required"),
            }
        }
        (None, None) => wrong("resource or service backend is required", e),
    }
}

/// Takes back what [`backend`] said of names that Services may have: by their feature (KEP-5311), or where the old Ingress has such a name.
pub(super) fn relax_service_names(resource: &GroupResource, on: bool, old: Option<&Value>, e: &mut ErrorList) {
    if e.is_empty() || resource.group != "networking.k8s.io" || resource.resource != "ingresses" {
        return;
    }
    let is_label = |name: &str| validation::is_dns1123_label(name).is_empty();
    let relaxed = |name: &str| is_label(name) && !validation::is_dns1035_label(name).is_empty();
    if !on && !old.is_some_and(|old| backend_services(old).into_iter().any(relaxed)) {
        return;
    }
    e.retain(|error| {
        let name = error.bad_value.as_ref().and_then(Value::as_str);
        !(error.field.ends_with("service.name") && name.is_some_and(is_label))
    });
}

/// The names of the Services that an Ingress leads to.
fn backend_services(ingress: &Value) -> Vec<&str> {
    let spec = &ingress["spec"];
    let paths = spec.array_at(&["rules"]).iter().flat_map(|rule| rule.array_at(&["http", "paths"]));
    let backends = std::iter::once(&spec["defaultBackend"]).chain(paths.map(|path| &path["backend"]));
    backends.filter_map(|backend| backend["service"]["name"].as_str()).collect()
}

fn local_reference(at: &At, e: &mut ErrorList) {
    if at.get("apiGroup").is_set() {
        at.get("apiGroup").check(e, validation::is_dns1123_subdomain);
    }
    at.get("kind").required_name(e, validation::is_path_segment_name);
    at.get("name").required_name(e, validation::is_path_segment_name);
}

fn ingress_status(object: &Value, _old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    for ingress in balancer.get("ingress").items() {
        let (ip, name) = (ingress.get("ip"), ingress.get("hostname"));
        if !ip.text().is_empty() {
            ip.ip(e);
        }
        name.check_set(e, validation::is_dns1123_subdomain);
        if legacy_ip(name.text()).is_some() {
            name.invalid(e, "must be a DNS name, not an IP address");
        }
    }
}

fn class(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let controller = spec.get("controller");
    if controller.text().len() > 250 {
        controller.too_long(e, 250);
    }
    e.extend(validation::is_domain_prefixed_path(&controller.path(), controller.text()));
    let Some(parameters) = spec.set("parameters") else { return };
    local_reference(&parameters, e);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        _ if !scope.is_set() => scope.require(e, ""),
        "Namespace" if !namespace.is_set() => namespace.require(e, "`parameters.scope` is set to 'Namespace'"),
        "Namespace" => namespace.check(e, validation::is_dns1123_label),
        "Cluster" if namespace.is_set() => namespace.forbid(e, "`parameters.scope` is set to 'Cluster'"),
        _ => scope.one_of(e, &["Cluster", "Namespace"]),
    }
}

fn class_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let controller = spec.get("controller");
    if controller.text() != old["spec"]["controller"].as_str().unwrap_or_default() {
        controller.invalid_text(e, IMMUTABLE);
    }
    class(object, e);
}

fn policy(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    spec.get("podSelector").label_selector(e);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port, e));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer, e));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid(e, "may not specify more than two policyTypes");
    }
    types.items().for_each(|kind| kind.one_of(e, &["Ingress", "Egress"]));
}

fn policy_port(at: &At, e: &mut ErrorList) {
    if let Some(protocol) = at.set("protocol") {
        protocol.one_of(e, &["TCP", "UDP", "SCTP"]);
    }
    let (port, end) = (at.get("port"), at.get("endPort"));
    match port.value {
        Value::Null if end.is_set() => end.invalid(e, "may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(_) => {
            if end.is_set() {
                end.invalid(e, "may not be specified when `port` is non-numeric");
            }
            port.check(e, validation::is_port_name);
        }
        _ => {
            port.check_int(e, validation::is_port_number);
            if end.is_set() {
                if end.int() < port.int() {
                    end.with(port.value).invalid(e, "must be greater than or equal to `port`");
                }
                end.check_int(e, validation::is_port_number);
            }
        }
    }
}

/// Upstream checks a new state twice.
fn policy_update(object: &Value, _old: &Value, e: &mut ErrorList) {
    policy(object, e);
    policy(object, e);
}

fn policy_peer(at: &At, e: &mut ErrorList) {
    let selectors = ["podSelector", "namespaceSelector"];
    let found = selectors.iter().filter(|selector| at.set(selector).is_some()).count();
    selectors.iter().for_each(|selector| at.get(selector).label_selector(e));
    let Some(block) = at.set("ipBlock") else {
        if found == 0 {
            at.require(e, "must specify a peer");
        }
        return;
    };
    let range = block.get("cidr");
    if range.required(e) {
        range.cidr(e);
        for except in block.get("except").items().filter(|_| is_cidr(range.text())) {
            except.cidr(e);
            if is_cidr(except.text()) && !is_strictly_within(except.text(), range.text()) {
                except.invalid(e, "must be a strict subset of `cidr`");
            }
        }
    }
    if found > 0 {
        at.forbid(e, "may not specify both ipBlock and another peer");
    }
}

fn is_strictly_within(inner: &str, outer: &str) -> bool {
    let parse = |text: &str| {
        let (ip, bits) = text.split_once('/')?;
        let (ip, bits) = (ip.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
        let (number, width) = match ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
            IpAddr::V6(ip) => (u128::from(ip), 128),
        };
        Some((number, bits, width))
    };
    let (Some((inner, inner_bits, width)), Some((outer, bits, outer_width))) = (parse(inner), parse(outer)) else {
        return false;
    };
    let shift = width - bits.min(width);
    let network = |number: u128| number.checked_shr(shift).unwrap_or(0);
    width == outer_width && bits < inner_bits && network(inner) == network(outer)
}

pub(super) fn endpoint_ip(at: &At, e: &mut ErrorList) {
    let Some(ip) = legacy_ip(at.text()) else { return };
    let link_local = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        at.invalid(e, format!("may not be unspecified ({})", at.text()));
    }
    if ip.is_loopback() {
        at.invalid(e, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local.0 {
        at.invalid(e, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local.1 {
        at.invalid(e, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn endpoints(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    for subset in root.get("subsets").items() {
        let (ready, other, ports) = (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.len() == 0 && other.len() == 0 {
            subset.require(e, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(other.items()) {
            let ip = address.get("ip");
            ip.ip(e);
            address.get("hostname").check_set(e, validation::is_dns1123_label);
            if let Some(node) = address.set("nodeName") {
                node.check(e, subdomain);
            }
            // Upstream checks the address once more, also one that is none.
            match legacy_ip(ip.text()) {
                None => ip.invalid_text(e, "must be a valid IP address"),
                Some(_) => endpoint_ip(&ip, e),
            }
        }
        for port in ports.items() {
            if ports.len() > 1 && port.get("name").text().is_empty() {
                port.get("name").require(e, "");
            } else {
                port.get("name").check_set(e, validation::is_dns1123_label);
            }
            port.get("port").check_int(e, validation::is_port_number);
            port.get("protocol").required_one_of(e, &PROTOCOLS);
            if let Some(protocol) = port.set("appProtocol") {
                protocol.check(e, validation::is_qualified_name);
            }
        }
    }
}

/// Upstream's limits of a slice.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20000;
const SLICE_HINTS_MAX: usize = 8;

fn slice(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let kind = root.get("addressType");
    kind.required_one_of(e, &["FQDN", "IPv4", "IPv6"]);
    slice_ports(&root.get("ports"), e);
    let list = root.get("endpoints");
    if list.len() > SLICE_ENDPOINTS_MAX {
        return e.push(Error::too_many(&list.path(), list.len(), SLICE_ENDPOINTS_MAX));
    }
    for endpoint in list.items() {
        let addresses = endpoint.get("addresses");
        match addresses.len() {
            0 => addresses.require(e, "must contain at least 1 address"),
            count if count > SLICE_ADDRESSES_MAX => {
                e.push(Error::too_many(&addresses.path(), count, SLICE_ADDRESSES_MAX));
            }
            _ => {}
        }
        addresses.items().for_each(|address| slice_address(&addresses, &address, kind.text(), e));
        if let Some(node) = endpoint.set("nodeName") {
            node.check(e, subdomain);
        }
        endpoint.get("deprecatedTopology").labels(e);
        if let Some(name) = endpoint.set("hostname") {
            name.check(e, validation::is_dns1123_label);
        }
        let hints = endpoint.get("hints");
        for (member, rule) in [("forZones", validation::is_label_value as fn(&str) -> Vec<String>), ("forNodes", subdomain)] {
            let hinted = hints.get(member);
            if hinted.len() > SLICE_HINTS_MAX {
                e.push(Error::too_many(&hinted.path(), hinted.len(), SLICE_HINTS_MAX));
                continue;
            }
            let mut seen: Vec<&str> = Vec::new();
            for hint in hinted.items() {
                let name = hint.get("name");
                if seen.contains(&name.text()) {
                    name.duplicate(e);
                }
                seen.push(name.text());
                name.check(e, rule);
            }
        }
    }
}

fn slice_address(list: &At, at: &At, kind: &str, e: &mut ErrorList) {
    match kind {
        "IPv4" | "IPv6" => {
            let before = e.len();
            at.ip(e);
            if e.len() > before {
                return;
            }
            if (kind == "IPv6") != at.text().contains(':') {
                list.with(at.value).invalid(e, format!("must be an {kind} address"));
            }
            endpoint_ip(at, e);
        }
        "FQDN" => e.extend(validation::is_fully_qualified_domain_name(&at.path(), at.text())),
        _ => {}
    }
}

fn slice_ports(at: &At, e: &mut ErrorList) {
    if at.len() > SLICE_PORTS_MAX {
        return e.push(Error::too_many(&at.path(), at.len(), SLICE_PORTS_MAX));
    }
    let mut names: Vec<&str> = Vec::new();
    for port in at.items() {
        let name = port.get("name");
        name.check_set(e, validation::is_dns1123_label);
        if names.contains(&name.text()) {
            name.duplicate(e);
        }
        names.push(name.text());
        port.get("protocol").required_one_of(e, &PROTOCOLS);
        if let Some(protocol) = port.set("appProtocol") {
            protocol.check(e, validation::is_qualified_name);
        }
    }
}

fn slice_update(object: &Value, old: &Value, e: &mut ErrorList) {
    slice(object, e);
    if object["addressType"] != old["addressType"] {
        let at = apimachinery::field::Path::new("addressType");
        e.push(Error::invalid(&at, object["addressType"].clone(), IMMUTABLE));
    }
}
