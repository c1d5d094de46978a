//! Which Services are valid (upstream's `ValidateService`), as far as the schema does not say.

use std::collections::HashSet;
use std::net::IpAddr;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::{is_headless, type_of};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Upstream's `MaxServiceAffinity...`: a day.
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub(super) fn service(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &object["spec"];
    let path = Path::new("spec");
    let kind = type_of(object);
    let headless = is_headless(object);
    let ports = spec.array_at(&["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    if kind == "LoadBalancer" && headless {
        let ips = spec["clusterIPs"].clone();
        errors.push(Error::invalid(
            &path.child("clusterIPs").index(0),
            ips,
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    if kind == "NodePort" && headless {
        let ips = spec["clusterIPs"].clone();
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), ips, "may not be set to 'None' for NodePort services"));
    }
    if kind == "ExternalName" {
        errors.extend(external_name(spec, &path));
    } else {
        errors.extend(cluster_ips(spec, &path));
    }
    if !TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    errors.extend(all_ports(ports, kind, &path.child("ports")));
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        let at = path.child("selector");
        errors.extend(validation::is_qualified_name(key).into_iter().map(|why| Error::invalid(&at, key.as_str(), why)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(validation::is_label_value(value).into_iter().map(|why| Error::invalid(&at, value, why)));
    }
    errors.extend(affinity(spec, &path));
    for (i, ip) in spec.array_at(&["externalIPs"]).iter().enumerate() {
        errors.extend(ip_error(ip, &path.child("externalIPs").index(i)));
    }
    errors
}

fn ip_error(ip: &Value, path: &Path) -> Option<Error> {
    let text = ip.as_str().unwrap_or_default();
    text.parse::<IpAddr>()
        .is_err()
        .then(|| Error::invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
}

fn external_name(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.get(member).is_some_and(|value| !value.is_empty()) {
            let at = if member == "clusterIPs" { path.child(member).index(0) } else { path.child(member) };
            errors.push(Error::forbidden(&at, "may not be set when `type` is 'ExternalName'"));
        }
    }
    let name = spec["externalName"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(Error::required(&path.child("externalName"), ""));
    } else {
        let bare = name.strip_suffix('.').unwrap_or(name);
        let why = validation::is_dns1123_subdomain(bare);
        errors.extend(why.into_iter().map(|why| Error::invalid(&path.child("externalName"), bare, why)));
    }
    errors
}

fn cluster_ips(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let ips = spec.array_at(&["clusterIPs"]);
    let at = path.child("clusterIPs");
    let one = spec["clusterIP"].as_str().unwrap_or_default();
    if let Some(first) = ips.first().and_then(Value::as_str)
        && first != one
    {
        errors.push(Error::invalid(&at, ips.to_vec(), "first value must match `clusterIP`"));
    }
    if ips.len() > 1 && ips.iter().any(|ip| *ip == "None") {
        errors.push(Error::invalid(&at.index(0), "None", "must be set only if there is one cluster IP"));
    }
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| **ip != "None") {
        errors.extend(ip_error(ip, &at.index(i)));
    }
    if ips.len() > 2 {
        errors.push(Error::invalid(&at, ips.to_vec(), "may only hold up to 2 values"));
    }
    for (i, family) in spec.array_at(&["ipFamilies"]).iter().enumerate() {
        if !(*family == "IPv4" || *family == "IPv6") {
            errors.push(Error::not_supported(&path.child("ipFamilies").index(i), family.clone(), &["IPv4", "IPv6"]));
        }
    }
    errors
}

fn all_ports(ports: &[Value], kind: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let (mut names, mut keys, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(Error::required(&at.child("name"), ""));
            }
        } else {
            errors.extend(validation::is_dns1123_label(name).into_iter().map(|why| Error::invalid(&at.child("name"), name, why)));
            if !names.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        let number = port["port"].as_i64().unwrap_or_default();
        errors.extend(validation::is_port_number(number).into_iter().map(|why| Error::invalid(&at.child("port"), number, why)));
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if !PROTOCOLS.contains(&protocol) {
            errors.push(Error::not_supported(&at.child("protocol"), protocol, &PROTOCOLS));
        }
        match &port["targetPort"] {
            Value::Int(target) => {
                let why = validation::is_port_number(*target);
                errors.extend(why.into_iter().map(|why| Error::invalid(&at.child("targetPort"), *target, why)));
            }
            Value::String(target) => {
                let why = validation::is_port_name(target);
                errors.extend(why.into_iter().map(|why| Error::invalid(&at.child("targetPort"), target.clone(), why)));
            }
            _ => {}
        }
        let node_port = port["nodePort"].as_i64().unwrap_or_default();
        if node_port != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            errors.push(Error::forbidden(&at.child("nodePort"), format!("may not be used when `type` is '{kind}'")));
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.push(Error::duplicate(&at.child("nodePort"), node_port));
        }
        if !keys.insert((protocol, number)) {
            let key = apimachinery::value!({"port": number, "protocol": protocol});
            errors.push(Error::duplicate(&at, key));
        }
    }
    errors
}

fn affinity(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    match spec["sessionAffinity"].as_str().unwrap_or_default() {
        "None" => {
            if spec.get("sessionAffinityConfig").is_some_and(|config| !config.is_null()) {
                let at = path.child("sessionAffinityConfig");
                errors.push(Error::forbidden(&at, "must not be set when session affinity is None"));
            }
        }
        "ClientIP" => {
            let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
            if let Some(seconds) = spec.i64_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"])
                && !(1..=AFFINITY_SECONDS_MAX).contains(&seconds)
            {
                let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                errors.push(Error::invalid(&at, seconds, why));
            }
        }
        "" => errors.push(Error::required(&path.child("sessionAffinity"), "")),
        other => errors.push(Error::not_supported(&path.child("sessionAffinity"), other, &["ClientIP", "None"])),
    }
    errors
}

/// A cluster IP stays, but for Services that come from or go to ExternalName.
pub(super) fn update(object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if type_of(object) == "ExternalName" || type_of(old) == "ExternalName" || (is_headless(object) && is_headless(old)) {
        return errors;
    }
    let path = Path::new("spec").child("clusterIPs");
    let (ips, before) = (object.array_at(&["spec", "clusterIPs"]), old.array_at(&["spec", "clusterIPs"]));
    if ips.is_empty() && !before.is_empty() {
        errors.push(Error::invalid(&path.index(0), ips.to_vec(), "primary clusterIP can not be unset"));
    }
    for (i, (ip, before)) in ips.iter().zip(before).enumerate() {
        if ip != before {
            errors.push(Error::invalid(&path.index(i), ips.to_vec(), "may not change once set"));
        }
    }
    if before.len() == 2 && ips.len() == 1 && object["spec"]["ipFamilyPolicy"] != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        let at = Path::new("spec").child("ipFamilyPolicy");
        errors.push(Error::invalid(&at, object["spec"]["ipFamilyPolicy"].clone(), why));
    }
    errors
}
