//! Objects in, real packets out: each test has a host, an outside client and pods in network namespaces of its own
//! (needs root).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use super::*;

#[derive(Clone)]
struct Namespace(Arc<File>);

impl Namespace {
    fn new() -> Self {
        let thread = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(Arc::new(thread.join().unwrap()))
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, args: &str) {
        self.run(|| {
            let status = Command::new("ip").args(args.split(' ')).status().expect("ip is installed");
            assert!(status.success(), "ip {args}");
        });
    }

    /// Connects this namespace to `other`: `link` here with `address`, eth0 there with `other_address`.
    fn connect(&self, link: &str, address: &str, other: &Self, other_address: &str) {
        self.ip(&format!(
            "link add {link} type veth peer name eth0 netns /proc/{}/fd/{}",
            std::process::id(),
            other.0.as_raw_fd()
        ));
        self.ip(&format!("address add {address} dev {link}"));
        self.ip(&format!("link set {link} up"));
        other.ip("link set lo up");
        other.ip(&format!("address add {other_address} dev eth0"));
        other.ip("link set eth0 up");
    }

    fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value).unwrap());
    }

    /// Answers connections with its name and the peer's address.
    fn serve(&self, port: u16, name: &'static str) {
        let listener = self.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
    }

    fn get(&self, address: &str) -> std::io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Who answered, over many connections.
    fn answers(&self, address: &str) -> BTreeSet<String> {
        (0..24).map(|_| self.get(address).unwrap().split(' ').next().unwrap().to_owned()).collect()
    }
}

/// A node 192.0.2.1 with two pods, a client outside, and the proxy's kernel half.
struct World {
    node: Namespace,
    outside: Namespace,
    one: Namespace,
    two: Namespace,
    kernel: Kernel,
}

const NODE: &str = "here";

impl World {
    fn new() -> Self {
        let (node, outside, one, two) = (Namespace::new(), Namespace::new(), Namespace::new(), Namespace::new());
        node.ip("link set lo up");
        node.connect("ext0", "192.0.2.1/24", &outside, "192.0.2.99/24");
        outside.ip("route add default via 192.0.2.1");
        for (link, pod, address) in [("pod1", &one, "10.42.0.2"), ("pod2", &two, "10.42.0.3")] {
            // Point to point, as pods are connected by the `network` crate.
            node.connect(link, "10.42.0.1/32", pod, &format!("{address}/32"));
            node.ip(&format!("route add {address} dev {link}"));
            pod.ip("route add 10.42.0.1 dev eth0");
            pod.ip("route add default via 10.42.0.1");
            node.sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1");
        }
        node.ip("route add 10.43.0.0/16 dev pod1");
        node.sysctl("net/ipv4/ip_forward", "1");
        one.serve(8080, "one");
        two.serve(8080, "two");
        let kernel = node.run(|| {
            let settings = Arc::new(Settings {
                cluster_cidrs: vec![("10.42.0.0".parse().unwrap(), 16)],
                masquerade_bit: 0x4000,
                ..Settings::default()
            });
            let table = ProxyTable::new(Family::Ipv4, "proxy-test", Arc::clone(&settings));
            Kernel { connection: Connection::open().unwrap(), settings, tables: vec![table], name: "proxy-test".into() }
        });
        Self { node, outside, one, two, kernel }
    }

    /// Applies one Service with these endpoints as it would come from the API.
    fn apply(&mut self, spec: Value, endpoints: &[&str]) {
        self.apply_named("web", spec, endpoints);
    }

    fn apply_named(&mut self, name: &str, spec: Value, endpoints: &[&str]) {
        let service: Service = serde_json::from_value(
            json!({"metadata": {"namespace": "default", "name": name}, "spec": spec,
                "status": {"loadBalancer": {"ingress": spec["loadBalancerIP"].as_str().map(|ip| json!({"ip": ip})).into_iter().collect::<Vec<_>>()}}}),
        )
        .unwrap();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|address| {
                let node = if address.starts_with("10.42.0.") { NODE } else { "elsewhere" };
                json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
            })
            .collect();
        let port = |port: &Value| {
            let target = port["targetPort"].as_i64().unwrap_or(8080);
            json!({"name": port["name"], "port": target, "protocol": port["protocol"].as_str().unwrap_or("TCP")})
        };
        let ports: Vec<Value> = spec["ports"].as_array().unwrap().iter().map(port).collect();
        let slice: EndpointSlice = serde_json::from_value(
            json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}),
        )
        .unwrap();
        let info = ServiceInfo::digest(&service, &[Arc::new(slice)], NODE);
        self.kernel.apply(&[(NamespacedName::of(&service), info)]).unwrap();
    }

    fn delete(&mut self) {
        self.kernel.apply(&[(NamespacedName::new("default", "web"), None)]).unwrap();
    }

    fn elements(&mut self, map: &str) -> usize {
        let table = nftables::Table::new(Family::Ipv4, "proxy-test");
        self.kernel.connection.elements(&table, map).unwrap().len()
    }

    fn chains(&mut self) -> Vec<String> {
        self.kernel.connection.chains(&nftables::Table::new(Family::Ipv4, "proxy-test")).unwrap()
    }
}

fn both() -> BTreeSet<String> {
    ["one", "two"].map(str::to_owned).into()
}

fn cluster_ip() -> Value {
    json!({"clusterIP": "10.43.0.10", "ports": [{"port": 80}]})
}

const PODS: [&str; 2] = ["10.42.0.2", "10.42.0.3"];

#[test]
fn a_cluster_ip_is_reached_from_pods_and_the_node() {
    let mut world = World::new();
    world.apply(cluster_ip(), &PODS);
    assert_eq!(world.one.answers("10.43.0.10:80"), both());
    assert_eq!(world.node.answers("10.43.0.10:80"), both());
    // Pods are seen under their own addresses.
    world.apply(cluster_ip(), &PODS[..1]);
    assert_eq!(world.two.get("10.43.0.10:80").unwrap(), "one 10.42.0.3");
    // Clients from outside of the pod network come back through this node.
    assert_eq!(world.outside.get("10.43.0.10:80").unwrap(), "one 10.42.0.1");
    // A pod that reaches itself.
    assert_eq!(world.one.get("10.43.0.10:80").unwrap(), "one 10.42.0.1");
    if let Ok(output) = world.node.run(|| Command::new("nft").args(["list", "ruleset"]).output()) {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "nft cannot print our rules: {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("vmap @service-ips"), "{text}");
    } else {
        eprintln!("SKIPPED: nft is not installed, its listing is not looked at");
    }
}

#[test]
fn no_endpoints_and_unknown_ports_are_refused_at_once() {
    let mut world = World::new();
    let refused = |result: std::io::Result<String>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    };
    world.apply(cluster_ip(), &[]);
    refused(world.one.get("10.43.0.10:80"));
    refused(world.node.get("10.43.0.10:80"));
    world.apply(cluster_ip(), &PODS);
    assert_eq!(world.node.answers("10.43.0.10:80"), both());
    refused(world.one.get("10.43.0.10:81"));
    refused(world.node.get("10.43.0.10:81"));
}

#[test]
fn a_node_port_is_reached_from_everywhere() {
    let mut world = World::new();
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.0.10", "ports": [{"port": 80, "nodePort": 30080}]});
    world.apply(spec.clone(), &PODS);
    assert_eq!(world.outside.answers("192.0.2.1:30080"), both());
    assert_eq!(world.node.answers("192.0.2.1:30080"), both());
    assert_eq!(world.node.answers("127.0.0.1:30080"), both());
    assert_eq!(world.one.answers("192.0.2.1:30080"), both());
    assert!(world.outside.get("192.0.2.1:30080").unwrap().ends_with(" 10.42.0.1"), "masqueraded");
    world.apply(spec, &[]);
    assert_eq!(world.outside.get("192.0.2.1:30080").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn external_traffic_policy_local_keeps_the_clients_address() {
    let mut world = World::new();
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.0.10", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}]});
    world.apply(spec.clone(), &["10.42.0.2", "10.42.9.9"]);
    for _ in 0..8 {
        assert_eq!(world.outside.get("192.0.2.1:30080").unwrap(), "one 192.0.2.99");
    }
    // No endpoint here: dropped for those outside.
    world.apply(spec, &["10.42.9.9"]);
    assert_eq!(world.outside.get("192.0.2.1:30080").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() {
    let mut world = World::new();
    let spec = json!({"clusterIP": "10.43.0.10", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    world.apply(spec, &["10.42.0.3", "10.42.9.9"]);
    for _ in 0..8 {
        assert_eq!(world.one.get("10.43.0.10:80").unwrap(), "two 10.42.0.2");
    }
}

#[test]
fn external_and_load_balancer_addresses_lead_to_the_service() {
    let mut world = World::new();
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.43.0.10", "externalIPs": ["198.51.100.7"],
        "loadBalancerIP": "198.51.100.8", "loadBalancerSourceRanges": ["192.0.2.0/24"], "ports": [{"port": 80}]});
    world.apply(spec.clone(), &PODS);
    assert_eq!(world.outside.answers("198.51.100.7:80"), both());
    assert_eq!(world.outside.answers("198.51.100.8:80"), both());
    let mut narrow = spec;
    narrow["loadBalancerSourceRanges"] = json!(["203.0.113.0/24"]);
    world.apply(narrow, &PODS);
    assert_eq!(world.outside.answers("198.51.100.7:80"), both(), "only load balancers are guarded");
    assert_eq!(world.outside.get("198.51.100.8:80").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn session_affinity_holds_until_the_endpoint_goes() {
    let mut world = World::new();
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.0.10", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "ports": [{"port": 80, "nodePort": 30080}]});
    world.apply(spec.clone(), &PODS);
    let first = world.outside.answers("192.0.2.1:30080");
    assert_eq!(first.len(), 1, "every connection of one client goes to one endpoint");
    let internal = world.node.answers("10.43.0.10:80");
    assert_eq!(internal.len(), 1);
    // Another endpoint changes nothing for those who are known.
    world.apply(spec.clone(), &["10.42.0.2", "10.42.0.3", "10.42.9.9"]);
    assert_eq!(world.outside.answers("192.0.2.1:30080"), first);
    let (left, name) = if first.contains("one") { ("10.42.0.3", "two") } else { ("10.42.0.2", "one") };
    world.apply(spec, &[left]);
    assert_eq!(world.outside.answers("192.0.2.1:30080"), [name.to_owned()].into());
    world.delete();
    assert!(!world.chains().iter().any(|chain| chain.contains("web")), "{:?}", world.chains());
}

#[test]
fn udp_flows_leave_an_endpoint_that_is_gone() {
    let mut world = World::new();
    let bind = |namespace: &Namespace, port| {
        let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    };
    let (one, two) = (bind(&world.one, 53), bind(&world.two, 53));
    let spec = json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP", "targetPort": 53}]});
    world.apply(spec.clone(), &["10.42.0.2"]);
    let client = bind(&world.node, 0);
    let mut buf = [0; 8];
    client.send_to(b"a", "10.43.0.10:53").unwrap();
    let (_, peer) = one.recv_from(&mut buf).unwrap();
    one.send_to(b"b", peer).unwrap();
    assert_eq!(client.recv_from(&mut buf).unwrap().1.to_string(), "10.43.0.10:53");
    world.apply(spec, &["10.42.0.3"]);
    client.send_to(b"c", "10.43.0.10:53").unwrap();
    two.recv_from(&mut buf).unwrap();
}

#[test]
fn a_change_touches_only_its_service_and_nothing_is_left_behind() {
    let mut world = World::new();
    world.apply_named("other", json!({"clusterIP": "10.43.0.11", "ports": [{"port": 80}]}), &PODS);
    let before = world.chains();
    world.apply(cluster_ip(), &["10.42.0.2"]);
    assert_eq!((world.elements("service-ips"), world.elements("endpoints"), world.elements("hairpin")), (2, 3, 2));
    world.apply(cluster_ip(), &["10.42.0.2", "10.42.0.3", "10.42.9.9"]);
    assert_eq!((world.elements("endpoints"), world.elements("cluster-ips")), (5, 2));
    assert!(world.chains().contains(&"pick-3-internal".to_owned()));
    world.delete();
    assert_eq!(world.chains(), before);
    assert_eq!((world.elements("service-ips"), world.elements("endpoints"), world.elements("hairpin")), (1, 2, 2));
    assert_eq!(world.one.answers("10.43.0.11:80"), both());
}

#[test]
fn two_services_with_one_address_do_not_break_each_other() {
    let mut world = World::new();
    let spec = |ip: &str| json!({"clusterIP": ip, "externalIPs": ["198.51.100.7"], "ports": [{"port": 80}]});
    world.apply_named("first", spec("10.43.0.11"), &["10.42.0.2"]);
    world.apply_named("web", spec("10.43.0.12"), &["10.42.0.3"]);
    assert_eq!(world.outside.get("198.51.100.7:80").unwrap(), "one 10.42.0.1");
    world.kernel.apply(&[(NamespacedName::new("default", "first"), None)]).unwrap();
    assert_eq!(world.outside.get("198.51.100.7:80").unwrap(), "two 10.42.0.1");
}

#[test]
fn rules_that_somebody_flushed_come_back() {
    let mut world = World::new();
    world.apply(cluster_ip(), &PODS);
    world.kernel.tables[0].remove(&mut world.kernel.connection).unwrap();
    assert!(world.one.get("10.43.0.10:80").is_err());
    world.kernel.check_presence().unwrap();
    world.kernel.apply(&[]).unwrap();
    assert_eq!(world.one.answers("10.43.0.10:80"), both());
}

/// Answers lists; streamed lists are refused, as an older server would, and watches stay silent.
fn api() -> kube::Client {
    use http::{Request, Response};
    use kube::client::Body;
    type Full = http_body_util::Full<bytes::Bytes>;
    let service = tower::service_fn(|request: Request<Body>| async move {
        let query = request.uri().query().unwrap_or_default();
        let (status, body) = if query.contains("sendInitialEvents=true") {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no"});
            (422, status)
        } else if query.contains("watch=true") {
            std::future::pending().await
        } else if request.uri().path() == "/api/v1/services" {
            let service = json!({"metadata": {"namespace": "default", "name": "web", "uid": "1", "resourceVersion": "1"},
                "spec": {"clusterIP": "10.43.0.10", "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                    "healthCheckNodePort": 32000, "ports": [{"port": 80}]}});
            (200, json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [service]}))
        } else {
            let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "uid": "2", "resourceVersion": "1",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"port": 8080}],
                "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": NODE}]});
            (
                200,
                json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": [slice]}),
            )
        };
        let response = Response::builder().status(status).header("Content-Type", "application/json");
        Ok::<_, std::convert::Infallible>(response.body(Full::from(body.to_string())).unwrap())
    });
    client::from_service(service, "default")
}

/// The answer to a GET, status line and all.
fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        // The kernel has no event for a dump of rules: this polls, with a deadline.
        #[allow(clippy::disallowed_methods)]
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn run_follows_the_api_and_leaves_the_rules_when_it_ends() {
    let world = World::new();
    let token = CancellationToken::new();
    let node = world.node.clone();
    thread::scope(|scope| {
        let stop = token.clone();
        let proxy = scope.spawn(move || {
            node.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let config = Config {
                        node_name: NODE.into(),
                        table: "proxy-test".into(),
                        cluster_cidrs: vec![("10.42.0.0".parse().unwrap(), 16)],
                        masquerade_all: false,
                        masquerade_bit: 14,
                        node_port_addresses: vec![],
                        healthz_bind_address: Some("127.0.0.1:10256".parse().unwrap()),
                        announce: None,
                    };
                    run(config, Informers::new(api(), stop.clone()), stop).await
                })
            })
        });
        wait_for("the Service answers", || world.two.get("10.43.0.10:80").is_ok());
        let health = world.node.run(|| http_get("127.0.0.1:10256", "/healthz"));
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
        let local = world.node.run(|| http_get("127.0.0.1:32000", "/"));
        assert!(local.contains("\"localEndpoints\":1") && local.starts_with("HTTP/1.1 200"), "{local}");
        token.cancel();
        proxy.join().unwrap().unwrap();
    });
    assert_eq!(world.two.get("10.43.0.10:80").unwrap(), "one 10.42.0.3");
}
