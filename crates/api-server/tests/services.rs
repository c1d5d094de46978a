//! Services through the API: addresses, node ports, and what happens to them.

mod harness;

use api_server::{ApiServer, ServerConfig};
use harness::Api;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    object
}

async fn cluster() -> Api {
    let api = Api::new().await;
    let cidr = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.43.0.0/16"]}});
    api.post("/apis/networking.k8s.io/v1/servicecidrs", &cidr).await.expect(201);
    api
}

#[tokio::test]
async fn addresses() {
    let api = cluster().await;
    let a = api.post(SERVICES, &service("a", json!({}))).await.expect(201);
    let ip = a["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with("10.43."), "{ip}");
    let spec = &a["spec"];
    assert_eq!((&spec["clusterIPs"], &spec["ipFamilies"]), (&json!([ip]), &json!(["IPv4"])));
    assert_eq!((&spec["ipFamilyPolicy"], &spec["type"]), (&json!("SingleStack"), &json!("ClusterIP")));

    let error = api.post(SERVICES, &service("b", json!({"clusterIP": ip}))).await.expect(422);
    let text = format!(
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"
    );
    assert_eq!(error["message"], text);
    let error = api.post(SERVICES, &service("b", json!({"clusterIP": "1.2.3.4"}))).await.expect(422);
    let why = "failed to allocate IP 1.2.3.4: the provided network does not match the current range";
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with(why)), "{error}");

    let headless = api.post(SERVICES, &service("h", json!({"clusterIP": "None"}))).await.expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let name = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = api.post(SERVICES, &service("e", name)).await.expect(201);
    assert_eq!(external["spec"].get("clusterIP"), None);

    // The address is fixed; an update may leave it out.
    let path = format!("{SERVICES}/a");
    let other = json!({"clusterIP": "10.43.0.77", "clusterIPs": ["10.43.0.77"]});
    let error = api.put(&path, &service("a", other)).await.expect(422);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("may not change once set")), "{error}");
    let kept = api.put(&path, &service("a", json!({"ports": [{"port": 81}]}))).await.expect(200);
    assert_eq!(kept["spec"]["clusterIP"], json!(ip));

    // Given back when the Service goes, also to ExternalName.
    api.delete(&path).await.expect(200);
    api.post(SERVICES, &service("b", json!({"clusterIP": ip}))).await.expect(201);
    let patch = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let changed = api.patch(&format!("{SERVICES}/b"), "application/merge-patch+json", &patch).await.expect(200);
    assert_eq!(changed["spec"].get("clusterIP"), None);
    api.post(SERVICES, &service("c", json!({"clusterIP": ip}))).await.expect(201);
}

#[tokio::test]
async fn node_ports() {
    let api = cluster().await;
    let ports = json!({"type": "NodePort", "ports": [{"name": "t", "port": 53, "nodePort": 30053, "protocol": "TCP"},
        {"name": "u", "port": 53, "nodePort": 30053, "protocol": "UDP"}, {"name": "x", "port": 80}]});
    let a = api.post(SERVICES, &service("a", ports)).await.expect(201);
    let chosen = a["spec"]["ports"][2]["nodePort"].as_i64().expect("a port");
    assert!((30000..=32767).contains(&chosen));
    assert_eq!(a["spec"]["externalTrafficPolicy"], "Cluster");
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30053}]});
    let error = api.post(SERVICES, &service("b", taken.clone())).await.expect(422);
    let text = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated";
    assert_eq!(error["message"], text);
    let error =
        api.post(SERVICES, &service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 99}]}))).await.expect(422);
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with("The range of valid ports is 30000-32767")), "{error}");
    // A refused Service holds nothing: its address was free again at once, and so are the ports after a change of the type.
    let patch = json!({"spec": {"type": "ClusterIP"}});
    let plain = api.patch(&format!("{SERVICES}/a"), "application/merge-patch+json", &patch).await.expect(200);
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    api.post(SERVICES, &service("b", taken)).await.expect(201);
    // A dry run takes nothing.
    let other = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30099}]});
    api.post(&format!("{SERVICES}?dryRun=All"), &service("c", other.clone())).await.expect(201);
    api.post(SERVICES, &service("c", other)).await.expect(201);
}

#[tokio::test]
async fn a_restarted_server_knows_what_is_taken() {
    let api = cluster().await;
    let a = api.post(SERVICES, &service("a", json!({"type": "NodePort"}))).await.expect(201);
    let again = Api { server: ApiServer::builder(ServerConfig::default(), api.store.clone()).build(), ..api.clone() };
    let same_ip = service("b", json!({"clusterIP": a["spec"]["clusterIP"].clone()}));
    again.post(SERVICES, &same_ip).await.expect(422);
    let port = a["spec"]["ports"][0]["nodePort"].clone();
    let same_port = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    again.post(SERVICES, &same_port).await.expect(422);
}

#[tokio::test]
async fn an_address_is_free_when_the_last_finalizer_goes() {
    let api = cluster().await;
    for endpoint in ["", "/status"] {
        let mut held = service("f", json!({"clusterIP": "10.43.0.20"}));
        held["metadata"]["finalizers"] = json!(["example.com/x"]);
        api.post(SERVICES, &held).await.expect(201);
        api.delete(&format!("{SERVICES}/f")).await.expect(200);
        let none = json!({"metadata": {"finalizers": null}});
        let path = format!("{SERVICES}/f{endpoint}");
        api.patch(&path, "application/merge-patch+json", &none).await.expect(200);
    }
    api.post(SERVICES, &service("g", json!({"clusterIP": "10.43.0.20"}))).await.expect(201);
}

#[tokio::test]
async fn what_is_refused() {
    let api = cluster().await;
    for (spec, text) in [
        (json!({"ports": []}), "spec.ports: Required value"),
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (json!({"ports": [{"port": 1}, {"port": 2}]}), "spec.ports[0].name: Required value"),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (json!({"clusterIP": "x"}), "must be a valid IP address"),
        (json!({"ipFamilyPolicy": "RequireDualStack"}), "this cluster is not configured for dual-stack services"),
        (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
    ] {
        let error = api.post(SERVICES, &service("s", spec)).await.expect(422);
        assert!(error["message"].as_str().is_some_and(|message| message.contains(text)), "{text}: {error}");
    }
}

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

#[tokio::test]
async fn every_address_has_its_object() {
    let api = cluster().await;
    let a = api.post(SERVICES, &service("a", json!({}))).await.expect(201);
    let ip = a["spec"]["clusterIP"].as_str().expect("an address");
    let path = format!("{ADDRESSES}/{ip}");
    let object = api.get(&path).await.expect(200);
    let parent = json!({"resource": "services", "namespace": "default", "name": "a"});
    assert_eq!(object["spec"]["parentRef"], parent);
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(object["metadata"]["labels"], labels);
    assert!(object["metadata"]["uid"].is_string() && object["metadata"]["creationTimestamp"].is_string(), "{object}");
    // In one transaction.
    assert_eq!(object["metadata"]["resourceVersion"], a["metadata"]["resourceVersion"]);

    // An address that somebody else has is nobody's to take, and is given back.
    let other = json!({"metadata": {"name": "10.43.0.7"}, "spec": {"parentRef": {"resource": "things", "name": "t"}}});
    api.post(ADDRESSES, &other).await.expect(201);
    let error = api.post(SERVICES, &service("b", json!({"clusterIP": "10.43.0.7"}))).await.expect(422);
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with("provided IP is already allocated")), "{error}");
    api.post(ADDRESSES, &other).await.expect(409);
    api.post(SERVICES, &service("b", json!({"clusterIP": "10.43.0.7"}))).await.expect(422);
    api.delete(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200);
    api.post(SERVICES, &service("b", json!({"clusterIP": "10.43.0.7"}))).await.expect(201);
    let name = api.get(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200)["spec"]["parentRef"]["name"].clone();
    assert_eq!(name, "b");

    // With the Service, or with its address, the object goes.
    api.delete(&format!("{SERVICES}/a")).await.expect(200);
    api.get(&path).await.expect(404);
    let mut external = service("b", json!({"type": "ExternalName", "externalName": "example.com"}));
    external["spec"]["ports"] = json!(null);
    api.put(&format!("{SERVICES}/b"), &external).await.expect(200);
    api.get(&format!("{ADDRESSES}/10.43.0.7")).await.expect(404);
}

#[tokio::test]
async fn a_range_that_is_not_ready_gives_no_addresses() {
    let api = cluster().await;
    let path = "/apis/networking.k8s.io/v1/servicecidrs";
    let cidr = json!({"metadata": {"name": "a-second"}, "spec": {"cidrs": ["203.0.113.0/24"]}});
    api.post(path, &cidr).await.expect(201);
    api.post(SERVICES, &service("a", json!({"clusterIP": "203.0.113.10"}))).await.expect(201);
    let b = api.post(SERVICES, &service("b", json!({}))).await.expect(201);
    assert!(b["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.43.")), "the cluster's own range is first: {b}");
    let mut cidr = api.get(&format!("{path}/a-second")).await.expect(200);
    cidr["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Terminating", "message": "",
        "lastTransitionTime": "2024-01-01T00:00:00Z"}]});
    api.put(&format!("{path}/a-second/status"), &cidr).await.expect(200);
    let error = api.post(SERVICES, &service("c", json!({"clusterIP": "203.0.113.11"}))).await.expect(422);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("does not match the current range")), "{error}");
}

#[tokio::test]
async fn a_port_of_two_protocols_has_one_node_port() {
    let api = cluster().await;
    let ports = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "h", "port": 80}]);
    let made = api.post(SERVICES, &service("dns", json!({"type": "NodePort", "ports": ports}))).await.expect(201);
    let node_port = |index: usize| made["spec"]["ports"][index]["nodePort"].as_i64().expect("a node port");
    assert_eq!(node_port(0), node_port(1));
    assert_ne!(node_port(0), node_port(2));
}

#[tokio::test]
async fn dry_runs_choose_and_keep_nothing() {
    let api = cluster().await;
    api.post(SERVICES, &service("a", json!({}))).await.expect(201);
    let exposed =
        service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}, {"name": "b", "port": 81}]}));
    let mut named = exposed.clone();
    named["spec"]["ports"][0]["name"] = json!("a");
    let shown = api.put(&format!("{SERVICES}/a?dryRun=All"), &named).await.expect(200);
    assert!(shown["spec"]["ports"][1]["nodePort"].as_i64().is_some_and(|port| port != 0), "{shown}");
    let other = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]});
    api.post(SERVICES, &service("b", other)).await.expect(201);
    // What is reserved comes before what is valid.
    let error = api.put(&format!("{SERVICES}/a"), &exposed).await.expect(422);
    let causes = error["details"]["causes"].as_array().expect("causes");
    assert_eq!(causes.len(), 1, "{error}");
    assert_eq!(causes[0]["message"], "Invalid value: 30123: provided port is already allocated");
}

#[tokio::test]
async fn two_families() {
    let api = Api::new().await;
    let cidrs = vec!["10.43.0.0/16".to_owned(), "2001:db8:1::/112".to_owned()];
    let config = ServerConfig { service_cidrs: cidrs.clone(), ..ServerConfig::default() };
    let api = Api { server: ApiServer::builder(config, api.store.clone()).build(), ..api.clone() };
    let cidr = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
    api.post("/apis/networking.k8s.io/v1/servicecidrs", &cidr).await.expect(201);
    let of = |ip: &Value| if ip.as_str().unwrap_or_default().contains(':') { "IPv6" } else { "IPv4" };
    for (name, spec, policy, families) in [
        ("a", json!({}), "SingleStack", &["IPv4"][..]),
        ("b", json!({"ipFamilies": ["IPv6"]}), "SingleStack", &["IPv6"]),
        ("c", json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &["IPv4", "IPv6"]),
        ("d", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}), "RequireDualStack", &["IPv6", "IPv4"]),
    ] {
        let made = api.post(SERVICES, &service(name, spec)).await.expect(201);
        let spec = &made["spec"];
        assert_eq!((&spec["ipFamilyPolicy"], &spec["ipFamilies"]), (&json!(policy), &json!(families)), "{name}");
        let ips = spec["clusterIPs"].as_array().expect("addresses");
        assert_eq!((ips.iter().map(of).collect::<Vec<_>>().as_slice(), &spec["clusterIP"]), (families, &ips[0]), "{name}");
    }
    // From one family to two and back; the first address stays.
    let path = format!("{SERVICES}/a");
    let patch = async |spec: Value| api.patch(&path, "application/merge-patch+json", &json!({ "spec": spec })).await.expect(200);
    let two = patch(json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    let ips = two["spec"]["clusterIPs"].as_array().expect("addresses").clone();
    assert_eq!((ips.len(), &two["spec"]["ipFamilies"]), (2, &json!(["IPv4", "IPv6"])));
    let one = patch(json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!((&one["spec"]["clusterIPs"], &one["spec"]["ipFamilies"]), (&json!([ips[0]]), &json!(["IPv4"])));
    // What it held is free again.
    let spec = json!({"ipFamilies": ["IPv6"], "clusterIP": ips[1]});
    api.post(SERVICES, &service("e", spec)).await.expect(201);
}

#[tokio::test]
async fn fields_that_a_type_has_no_use_for() {
    let api = cluster().await;
    let name = json!({"type": "ExternalName", "externalName": "example.com", "internalTrafficPolicy": "Cluster"});
    let made = api.post(SERVICES, &service("e", name)).await.expect(201);
    assert_eq!(made["spec"].get("internalTrafficPolicy"), None);
    let mut made = api.post(SERVICES, &service("x", json!({"externalIPs": ["1.1.1.1"]}))).await.expect(201);
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    made["spec"]["externalIPs"] = json!([]);
    let changed = api.put(&format!("{SERVICES}/x"), &made).await.expect(200);
    assert_eq!(changed["spec"].get("externalTrafficPolicy"), None);

    // Node ports that were there stay when allocation ends; ports of one number share one.
    let ports = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 80}]);
    let mut made = api.post(SERVICES, &service("l", json!({"type": "LoadBalancer", "ports": ports}))).await.expect(201);
    let port = |service: &Value, i: usize| service["spec"]["ports"][i]["nodePort"].clone();
    assert_eq!(port(&made, 0), port(&made, 1));
    assert_ne!(port(&made, 0), port(&made, 2));
    made["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    let kept = api.put(&format!("{SERVICES}/l"), &made).await.expect(200);
    assert_eq!(kept["spec"]["ports"], made["spec"]["ports"]);
    let asked = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"name": "a", "port": 1, "nodePort": 30777}, {"name": "b", "port": 2}]});
    let made = api.post(SERVICES, &service("m", asked)).await.expect(201);
    assert_eq!((port(&made, 0), port(&made, 1)), (json!(30777), Value::Null));
    let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30777}]});
    api.post(SERVICES, &service("n", taken)).await.expect(422);
}
