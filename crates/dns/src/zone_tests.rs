//! The specification as a table of questions and answers, and what changes leave behind.

use super::*;
use serde_json::{Value, json};

fn service(namespace: &str, name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
}

fn slice(namespace: &str, service: &str, name: &str, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", vec!["10.43.0.10".parse().unwrap()]).unwrap();
    zone.set_service(&service(
        "default",
        "web",
        json!({"clusterIPs": ["10.43.0.80", "fd43::80"], "clusterIP": "10.43.0.80",
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    ));
    zone.set_service(&service(
        "data",
        "db",
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "web", "port": 80}]}),
    ));
    zone.set_slice(&slice(
        "data",
        "db",
        "db-1",
        json!([{"addresses": ["10.42.0.5"], "hostname": "db-0"}, {"addresses": ["10.42.0.6"]},
            {"addresses": ["10.42.0.7"], "hostname": "db-2", "conditions": {"ready": false}}]),
    ));
    zone.set_service(&service("data", "empty", json!({"clusterIP": "None"})));
    zone.set_service(&service("data", "out", json!({"type": "ExternalName", "externalName": "www.example.org"})));
    zone
}

/// The answer as text, sorted: `TYPE VALUE`, or the kind of negative answer.
fn ask(zone: &Zone, name: &str, query_type: RecordType) -> Vec<String> {
    let text = |records: &[Record]| -> Vec<String> {
        let mut lines: Vec<String> = records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
        lines.sort();
        lines
    };
    match zone.lookup(&Name::from_str(name).unwrap(), query_type) {
        Answer::Records { answers, .. } => text(&answers),
        Answer::Alias { record, .. } => text(&[*record]),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn the_specification_in_examples() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let zone = zone();
    let check = |name: &str, query_type, expected: &[&str]| {
        assert_eq!(ask(&zone, name, query_type), expected, "{name} {query_type}");
    };
    // 2.2
    check("dns-version.cluster.local.", TXT, &["TXT 1.1.0"]);
    // 2.3.1 and 2.3.2
    check("web.default.svc.cluster.local.", A, &["A 10.43.0.80"]);
    check("web.default.svc.cluster.local.", AAAA, &["AAAA fd43::80"]);
    check("WEB.Default.svc.CLUSTER.local.", A, &["A 10.43.0.80"]);
    check("web.default.svc.cluster.local.", MX, &["NoData"]);
    check("_http._tcp.web.default.svc.cluster.local.", SRV, &["SRV 0 100 80 web.default.svc.cluster.local."]);
    check("_dns._udp.web.default.svc.cluster.local.", SRV, &["SRV 0 100 53 web.default.svc.cluster.local."]);
    check("_dns._tcp.web.default.svc.cluster.local.", SRV, &["NxDomain"]);
    check("_http._tcp.web.default.svc.cluster.local.", A, &["NoData"]);
    check("_tcp.web.default.svc.cluster.local.", SRV, &["NoData"]);
    check("_sctp.web.default.svc.cluster.local.", SRV, &["NxDomain"]);
    // 2.3.3
    check("80.0.43.10.in-addr.arpa.", PTR, &["PTR web.default.svc.cluster.local."]);
    check("80.0.43.10.in-addr.arpa.", A, &["NoData"]);
    let v6 = format!("0.8.{}3.4.d.f.ip6.arpa.", "0.".repeat(26));
    check(&v6, PTR, &["PTR web.default.svc.cluster.local."]);
    check("81.0.43.10.in-addr.arpa.", PTR, &["NotOurs"]);
    // 2.4
    check("db.data.svc.cluster.local.", A, &["A 10.42.0.5", "A 10.42.0.6"]);
    check("db.data.svc.cluster.local.", AAAA, &["NoData"]);
    check("db-0.db.data.svc.cluster.local.", A, &["A 10.42.0.5"]);
    check("10-42-0-6.db.data.svc.cluster.local.", A, &["A 10.42.0.6"]);
    check("db-2.db.data.svc.cluster.local.", A, &["NxDomain"]);
    check(
        "_web._tcp.db.data.svc.cluster.local.",
        SRV,
        &["SRV 0 50 8080 10-42-0-6.db.data.svc.cluster.local.", "SRV 0 50 8080 db-0.db.data.svc.cluster.local."],
    );
    check("5.0.42.10.in-addr.arpa.", PTR, &["PTR db-0.db.data.svc.cluster.local."]);
    check("empty.data.svc.cluster.local.", A, &["NxDomain"]);
    // 2.5
    check("out.data.svc.cluster.local.", A, &["CNAME www.example.org."]);
    check("out.data.svc.cluster.local.", CNAME, &["CNAME www.example.org."]);
    // Not in the specification: the zone itself, and names on the way.
    check("cluster.local.", NS, &["NS ns.dns.cluster.local."]);
    check("ns.dns.cluster.local.", A, &["A 10.43.0.10"]);
    assert!(ask(&zone, "cluster.local.", SOA)[0].starts_with("SOA ns.dns.cluster.local. hostmaster.cluster.local."));
    check("cluster.local.", A, &["NoData"]);
    check("svc.cluster.local.", A, &["NoData"]);
    check("default.svc.cluster.local.", A, &["NoData"]);
    check("nowhere.svc.cluster.local.", A, &["NxDomain"]);
    check("nothing.default.svc.cluster.local.", A, &["NxDomain"]);
    check("a.b.c.web.default.svc.cluster.local.", A, &["NxDomain"]);
    check("10-42-0-9.default.pod.cluster.local.", A, &["A 10.42.0.9"]);
    check("fd42--9.default.pod.cluster.local.", AAAA, &["AAAA fd42::9"]);
    check("nonsense.default.pod.cluster.local.", A, &["NxDomain"]);
    // What search lists make of names that are not ours.
    check("www.example.org.default.svc.cluster.local.", A, &["NxDomain"]);
    check("www.example.org.", A, &["NotOurs"]);
    check("local.", A, &["NotOurs"]);
    check("xcluster.local.", A, &["NotOurs"]);
}

#[test]
fn srv_answers_bring_their_addresses() {
    let name = Name::from_str("_web._tcp.db.data.svc.cluster.local.").unwrap();
    let Answer::Records { additionals, .. } = zone().lookup(&name, RecordType::SRV) else { panic!("no records") };
    let mut lines: Vec<String> = additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    lines.sort();
    assert_eq!(lines, ["10-42-0-6.db.data.svc.cluster.local. 10.42.0.6", "db-0.db.data.svc.cluster.local. 10.42.0.5"]);
}

#[test]
fn changes_leave_nothing_behind() {
    let mut zone = zone();
    let ready = slice("data", "db", "db-1", json!([{"addresses": ["10.42.0.9"]}]));
    zone.set_slice(&ready);
    assert_eq!(ask(&zone, "db.data.svc.cluster.local.", RecordType::A), ["A 10.42.0.9"]);
    assert_eq!(ask(&zone, "5.0.42.10.in-addr.arpa.", RecordType::PTR), ["NotOurs"]);
    zone.set_slice(&slice("data", "db", "db-2", json!([{"addresses": ["10.42.0.9"]}, {"addresses": ["10.42.0.1"]}])));
    assert_eq!(ask(&zone, "db.data.svc.cluster.local.", RecordType::A), ["A 10.42.0.1", "A 10.42.0.9"]);
    zone.remove_slice(&ready);
    assert_eq!(ask(&zone, "9.0.42.10.in-addr.arpa.", RecordType::PTR).len(), 1);
    zone.remove_slice(&slice("data", "db", "db-2", json!([])));
    assert_eq!(ask(&zone, "db.data.svc.cluster.local.", RecordType::A), ["NxDomain"]);
    for (namespace, name) in [("default", "web"), ("data", "db"), ("data", "empty"), ("data", "out")] {
        zone.remove_service(&NamespacedName::new(namespace, name));
    }
    assert_eq!(ask(&zone, "default.svc.cluster.local.", RecordType::A), ["NxDomain"]);
    assert_eq!(ask(&zone, "80.0.43.10.in-addr.arpa.", RecordType::PTR), ["NotOurs"]);
    assert!(zone.services.is_empty() && zone.namespaces.is_empty() && zone.slices.is_empty());
    assert!(zone.by_cluster_ip.is_empty() && zone.by_endpoint.is_empty() && zone.prepared.is_empty());
}

#[test]
fn addresses_take_turns() {
    let zone = zone();
    let name = Name::from_str("db.data.svc.cluster.local.").unwrap();
    let first = |answer| match answer {
        Answer::Records { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    let seen: HashSet<String> = (0..4).map(|_| first(zone.lookup(&name, RecordType::A))).collect();
    assert_eq!(seen.len(), 2);
}
