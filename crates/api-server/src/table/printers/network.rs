//! Services and what goes with them.

use apimachinery::Value;

use super::format::{age, joined, labels, name, number, selector, text, with_more};
use super::{Registration, printer};

pub(super) const PRINTERS: &[Registration] = &[
    printer("services", "", &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"], service),
    printer("endpoints", "", &["Name", "Endpoints", "Age"], endpoints),
    printer("endpointslices", "discovery.k8s.io", &["Name", "AddressType", "Ports", "Endpoints", "Age"], endpoint_slice),
    printer("ingresses", "networking.k8s.io", &["Name", "Class", "Hosts", "Address", "Ports", "Age"], ingress),
    printer("ingressclasses", "networking.k8s.io", &["Name", "Controller", "Parameters", "Age"], ingress_class),
    printer("networkpolicies", "networking.k8s.io", &["Name", "Pod-Selector", "Age"], network_policy),
    printer("servicecidrs", "networking.k8s.io", &["Name", "CIDRs", "Age"], service_cidr),
    printer("ipaddresses", "networking.k8s.io", &["Name", "ParentRef"], ip_address),
];

/// How many entries of a list are shown.
const SHOWN: usize = 3;

/// Addresses or names of a load balancer, sorted, each once.
fn load_balancer(object: &Value) -> Vec<String> {
    let ingress = object.array_at(&["status", "loadBalancer", "ingress"]).iter();
    let mut found: Vec<String> = ingress
        .filter_map(|point| point.str_at(&["ip"]).filter(|ip| !ip.is_empty()).or_else(|| point.str_at(&["hostname"])))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

fn service(object: &Value) -> Vec<Value> {
    let address = object.array_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("<none>");
    let external = joined(object, &["spec", "externalIPs"]);
    let external = match object.str_at(&["spec", "type"]).unwrap_or_default() {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external,
        "LoadBalancer" => {
            let mut all = load_balancer(object);
            all.extend(Some(external).filter(|external| !external.is_empty()));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => object.str_at(&["spec", "externalName"]).unwrap_or_default().to_owned(),
        _ => "<unknown>".to_owned(),
    };
    let ports: Vec<String> = object
        .array_at(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number_, protocol) = (number(port, &["port"]), port.str_at(&["protocol"]).unwrap_or_default());
            match number(port, &["nodePort"]) {
                0 => format!("{number_}/{protocol}"),
                node_port => format!("{number_}:{node_port}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        name(object),
        text(object, &["spec", "type"], ""),
        address.into(),
        external.into(),
        ports.into(),
        age(object),
        labels(object.get_path(&["spec", "selector"])).into(),
    ]
}

/// `address:port`, with brackets around an IPv6 address.
fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn endpoints(object: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.array_at(&["subsets"]) {
        let addresses = || subset.array_at(&["addresses"]).iter().filter_map(|address| address.str_at(&["ip"]));
        let ports = subset.array_at(&["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|address| host_port(address, number(port, &["port"]))));
        }
    }
    let text = if object.array_at(&["subsets"]).is_empty() { "<none>".to_owned() } else { with_more(&all, SHOWN) };
    vec![name(object), text.into(), age(object)]
}

fn or_unset(list: &[String]) -> Value {
    if list.is_empty() { "<unset>".into() } else { with_more(list, SHOWN).into() }
}

fn endpoint_slice(object: &Value) -> Vec<Value> {
    let port = |port: &Value| match (port.i64_at(&["port"]), port.str_at(&["name"])) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    };
    let ports: Vec<String> = object.array_at(&["ports"]).iter().map(port).collect();
    let addresses = object.array_at(&["endpoints"]).iter().flat_map(|endpoint| endpoint.array_at(&["addresses"]));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![name(object), text(object, &["addressType"], ""), or_unset(&ports), or_unset(&addresses), age(object)]
}

fn ingress(object: &Value) -> Vec<Value> {
    let rules = object.array_at(&["spec", "rules"]);
    let named = rules.iter().enumerate().filter_map(|(at, rule)| Some((at, rule.str_at(&["host"])?)));
    let shown: Vec<(usize, &str)> = named.filter(|(_, host)| !host.is_empty()).take(SHOWN).collect();
    let mut hosts = shown.iter().map(|(_, host)| *host).collect::<Vec<_>>().join(",");
    if hosts.is_empty() {
        hosts.push('*');
    }
    // As upstream: any rule after the last host that is shown makes for more, and all rules but three are counted as that.
    if shown.len() == SHOWN && shown.last().is_some_and(|(at, _)| at + 1 < rules.len()) {
        hosts.push_str(&format!(" + {} more...", rules.len() - SHOWN));
    }
    let ports = if object.array_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    let class = text(object, &["spec", "ingressClassName"], "<none>");
    vec![name(object), class, hosts.into(), load_balancer(object).join(",").into(), ports.into(), age(object)]
}

fn ingress_class(object: &Value) -> Vec<Value> {
    let parameters = object.get_path(&["spec", "parameters"]).map(|parameters| {
        let kind = parameters.str_at(&["kind"]).unwrap_or_default();
        let group = parameters.str_at(&["apiGroup"]).map(|group| format!(".{group}")).unwrap_or_default();
        format!("{kind}{group}/{}", parameters.str_at(&["name"]).unwrap_or_default())
    });
    vec![
        name(object),
        text(object, &["spec", "controller"], ""),
        parameters.unwrap_or_else(|| "<none>".to_owned()).into(),
        age(object),
    ]
}

fn network_policy(object: &Value) -> Vec<Value> {
    vec![name(object), selector(object.get_path(&["spec", "podSelector"])).into(), age(object)]
}

fn service_cidr(object: &Value) -> Vec<Value> {
    vec![name(object), joined(object, &["spec", "cidrs"]).into(), age(object)]
}

fn ip_address(object: &Value) -> Vec<Value> {
    let parent = object.get_path(&["spec", "parentRef"]).map(|parent| {
        let part = |field| parent.str_at(&[field]).filter(|part| !part.is_empty());
        let group = part("group").map(|group| format!(".{group}")).unwrap_or_default();
        let resource = format!("{}{group}", part("resource").unwrap_or_default()).to_ascii_lowercase();
        let namespace = part("namespace").map(|namespace| format!("/{namespace}")).unwrap_or_default();
        format!("{resource}{namespace}/{}", part("name").unwrap_or_default())
    });
    // The third cell has no column, in upstream's table neither.
    vec![name(object), parent.unwrap_or_else(|| "<none>".to_owned()).into(), age(object)]
}
