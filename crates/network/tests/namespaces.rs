//! The pod network on a real kernel: a "host" and its pods are network namespaces of the test's own (needs root).

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use network::{Announced, Announcer, Config, Error, PodNetwork, PortMapping, Protocol};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this value.
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

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
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

    /// A server that answers every connection with the peer's address and its own text.
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
        self.run(|| {
            let address: SocketAddr = address.parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    fn ip(&self, args: &str) {
        self.run(|| {
            let status = Command::new("ip").args(args.split(' ')).status().expect("ip is installed");
            assert!(status.success(), "ip {args}");
        });
    }
}

/// A host with an outside network: 192.0.2.1 here, a client at 192.0.2.99 there.
struct Host {
    namespace: Namespace,
    outside: Namespace,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (namespace, outside) = (Namespace::new(), Namespace::new());
        namespace.ip("link set lo up");
        namespace.ip("link add ext0 type veth peer name ext1");
        namespace.run(|| {
            let target = format!("/proc/{}/fd/{}", std::process::id(), outside.0.as_raw_fd());
            let status = Command::new("ip").args(["link", "set", "ext1", "netns", &target]).status().unwrap();
            assert!(status.success());
        });
        namespace.ip("address add 192.0.2.1/24 dev ext0");
        namespace.ip("link set ext0 up");
        outside.ip("address add 192.0.2.99/24 dev ext1");
        outside.ip("link set ext1 up");
        Self { namespace, outside, state: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> Config {
        Config {
            bridge: "pods0".into(),
            pod_cidrs: vec!["10.88.0.0/24".parse().unwrap()],
            non_masquerade_cidrs: vec!["10.88.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.89.0.0/16".parse().unwrap()],
            state_dir: self.state.path().join("network"),
            nft_table: "pods-test".into(),
            mtu: Some(1400),
        }
    }

    fn open(&self) -> PodNetwork {
        self.namespace.run(|| PodNetwork::open(self.config()).unwrap())
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn add_pod(network: &PodNetwork, id: &str, ports: &[PortMapping]) -> (Namespace, IpAddr) {
    let namespace = Namespace::new();
    let ips = block_on(network.setup(&namespace.path(), id, ports)).unwrap();
    (namespace, ips.primary().unwrap())
}

fn tcp(host_ip: Option<&str>, host_port: u16, container_port: u16) -> PortMapping {
    let host_ip = host_ip.map(|ip| ip.parse().unwrap());
    PortMapping { host_ip, host_port, container_port, protocol: Protocol::Tcp }
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    let host = Host::new();
    let network = host.open();
    let (one, one_ip) = add_pod(&network, "one", &[]);
    let (two, two_ip) = add_pod(&network, "two", &[]);
    assert_eq!((one_ip.to_string(), two_ip.to_string()), ("10.88.0.2".into(), "10.88.0.3".into()));
    two.serve(80, "two");
    host.namespace.serve(81, "host");
    host.outside.serve(82, "outside");

    assert_eq!(one.get(&format!("{two_ip}:80")).unwrap(), "two 10.88.0.2");
    assert_eq!(two.get(&format!("{two_ip}:80")).unwrap(), "two 10.88.0.3");
    assert_eq!(host.namespace.get(&format!("{two_ip}:80")).unwrap(), "two 10.88.0.1");
    assert_eq!(one.get("10.88.0.1:81").unwrap(), "host 10.88.0.2");
    // The outside has no route to pods: it answers because it sees the host's address.
    assert_eq!(one.get("192.0.2.99:82").unwrap(), "outside 192.0.2.1");
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    let host = Host::new();
    let network = host.open();
    let ports = [tcp(None, 8080, 80), tcp(Some("192.0.2.1"), 8081, 80)];
    let (one, _) = add_pod(&network, "one", &ports);
    let (two, _) = add_pod(&network, "two", &[]);
    one.serve(80, "one");

    assert_eq!(host.outside.get("192.0.2.1:8080").unwrap(), "one 192.0.2.99");
    assert_eq!(host.outside.get("192.0.2.1:8081").unwrap(), "one 192.0.2.99");
    assert_eq!(two.get("192.0.2.1:8080").unwrap(), "one 10.88.0.3");
    assert!(host.namespace.get("192.0.2.1:8080").unwrap().starts_with("one "));
    assert!(host.namespace.get("127.0.0.1:8080").unwrap().starts_with("one "));
    assert!(host.namespace.get("127.0.0.1:8081").is_err(), "8081 is mapped on one address only");
    assert_eq!(one.get("192.0.2.1:8080").unwrap(), "one 10.88.0.1", "a pod reaches itself");

    let clash = block_on(network.setup(&Namespace::new().path(), "three", &[tcp(None, 8081, 1)]));
    assert!(matches!(clash, Err(Error::PortTaken { sandbox, .. }) if sandbox == "one"));
    assert!(network.addresses("three").is_none());

    block_on(network.teardown("one")).unwrap();
    assert!(host.outside.get("192.0.2.1:8080").is_err());
    let (again, _) = add_pod(&network, "again", &ports);
    again.serve(80, "again");
    assert_eq!(host.outside.get("192.0.2.1:8081").unwrap(), "again 192.0.2.99");
}

#[test]
fn udp_host_ports_work() {
    let host = Host::new();
    let network = host.open();
    let port = PortMapping { host_ip: None, host_port: 5353, container_port: 53, protocol: Protocol::Udp };
    let (pod, _) = add_pod(&network, "one", &[port]);
    let server = pod.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let client = host.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    }
    client.send_to(b"ping", "192.0.2.1:5353").unwrap();
    let mut buf = [0; 16];
    let (len, peer) = server.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], peer.ip().to_string()), (&b"ping"[..], "192.0.2.99".to_owned()));
    server.send_to(b"pong", peer).unwrap();
    let (_, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!(from.to_string(), "192.0.2.1:5353");
}

#[test]
fn udp_flows_follow_a_host_port_to_the_next_pod() {
    let host = Host::new();
    let network = host.open();
    let port = PortMapping { host_ip: None, host_port: 5353, container_port: 53, protocol: Protocol::Udp };
    let client = host.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    // Before there is a pod: the host's connection table learns of an untranslated flow.
    let listener = host.namespace.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap());
    client.send_to(b"early", "192.0.2.1:5353").unwrap();
    let mut buf = [0; 16];
    listener.recv(&mut buf).unwrap();
    for id in ["one", "two"] {
        let (pod, _) = add_pod(&network, id, std::slice::from_ref(&port));
        let server = pod.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client.send_to(b"ping", "192.0.2.1:5353").unwrap();
        assert_eq!(server.recv(&mut buf).expect(id), 4);
        block_on(network.teardown(id)).unwrap();
    }
}

#[test]
fn rules_that_somebody_flushed_come_back_with_the_next_pod() {
    let host = Host::new();
    let network = host.open();
    let (one, _) = add_pod(&network, "one", &[tcp(None, 8080, 80)]);
    one.serve(80, "one");
    network.remove_rules().unwrap();
    assert!(host.outside.get("192.0.2.1:8080").is_err());
    add_pod(&network, "two", &[]);
    assert_eq!(host.outside.get("192.0.2.1:8080").unwrap(), "one 192.0.2.99");
}

#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    let host = Host::new();
    let network = host.open();
    let (pod, _) = add_pod(&network, "one", &[]);
    host.namespace.serve(7000, "host");
    pod.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    pod.ip("route add 127.0.0.2/32 via 10.88.0.1 dev eth0 table 99");
    pod.ip("rule add pref 100 lookup local");
    pod.ip("rule delete pref 0");
    pod.ip("rule add pref 10 to 127.0.0.0/8 lookup 99");
    assert!(pod.get("127.0.0.2:7000").is_err());
    // The proof that the rules did it.
    network.remove_rules().unwrap();
    assert_eq!(pod.get("127.0.0.2:7000").unwrap(), "host 10.88.0.2");
}

#[test]
fn a_restart_keeps_live_pods_and_frees_dead_ones() {
    let host = Host::new();
    let network = host.open();
    let (one, one_ip) = add_pod(&network, "one", &[tcp(None, 8080, 80)]);
    let (dead, dead_ip) = add_pod(&network, "dead", &[tcp(None, 9090, 80)]);
    one.serve(80, "one");
    drop(dead);
    drop(network); // kill -9 leaves just as much behind

    let network = host.open();
    assert_eq!(network.addresses("one").unwrap().primary(), Some(one_ip));
    assert_eq!(host.outside.get("192.0.2.1:8080").unwrap(), "one 192.0.2.99");
    let live = HashSet::from(["one".to_owned()]);
    assert_eq!(block_on(network.reconcile(&live)).unwrap(), ["dead"]);
    assert!(block_on(network.reconcile(&live)).unwrap().is_empty());
    assert!(network.addresses("dead").is_none());
    let (_, next) = add_pod(&network, "next", &[tcp(None, 9090, 80)]);
    assert_ne!(next, one_ip);
    assert_ne!(next, dead_ip, "a freed address is not reused at once");
    assert_eq!(host.namespace.get(&format!("{one_ip}:80")).unwrap(), "one 10.88.0.1");
}

#[test]
fn setup_may_be_repeated_and_a_failed_one_leaves_nothing() {
    let host = Host::new();
    let network = host.open();
    let (one, ip) = add_pod(&network, "one", &[tcp(None, 8080, 80)]);
    one.serve(80, "one");
    let again = block_on(network.setup(&one.path(), "one", &[tcp(None, 8088, 80)])).unwrap();
    assert_eq!(again.primary(), Some(ip));
    assert_eq!(host.outside.get("192.0.2.1:8088").unwrap(), "one 192.0.2.99");
    assert!(host.outside.get("192.0.2.1:8080").is_err());

    let nowhere = PathBuf::from("/proc/self/fd/9999");
    let error = block_on(network.setup(&nowhere, "broken", &[tcp(None, 8080, 80)])).unwrap_err();
    assert!(matches!(error, Error::Namespace { .. }), "{error:?}");
    assert!(network.addresses("broken").is_none());
    block_on(network.teardown("broken")).unwrap();
}

#[test]
fn both_families_work_at_once() {
    let host = Host::new();
    let config = Config { pod_cidrs: vec!["10.88.0.0/24".parse().unwrap(), "fd88::/64".parse().unwrap()], ..host.config() };
    let network = host.namespace.run(|| PodNetwork::open(config).unwrap());
    let one = Namespace::new();
    let two = Namespace::new();
    block_on(network.setup(&one.path(), "one", &[])).unwrap();
    let ips = block_on(network.setup(&two.path(), "two", &[])).unwrap();
    assert_eq!(ips.addresses[1].to_string(), "fd88::3");
    let listener = two.run(|| TcpListener::bind("[::]:80").unwrap());
    let server = thread::spawn(move || listener.accept().unwrap().1.ip());
    one.run(|| TcpStream::connect_timeout(&"[fd88::3]:80".parse().unwrap(), Duration::from_secs(3)).unwrap());
    assert_eq!(server.join().unwrap().to_string(), "fd88::2");
}

#[test]
fn a_pod_is_connected_in_milliseconds() {
    // Not a timed assertion: prints what to look at when it gets slow.
    let host = Host::new();
    let network = host.open();
    let namespaces: Vec<Namespace> = (0..20).map(|_| Namespace::new()).collect();
    let start = std::time::Instant::now();
    for (index, namespace) in namespaces.iter().enumerate() {
        block_on(network.setup(&namespace.path(), &format!("pod{index}"), &[tcp(None, 9000 + index as u16, 80)])).unwrap();
    }
    eprintln!("{:?} a pod", start.elapsed() / 20);
    let given: HashSet<_> = (0..20).map(|n| network.addresses(&format!("pod{n}")).unwrap().addresses).collect();
    assert_eq!(given.len(), 20);
}

/// Looks until something holds that the kernel tells nobody of.
#[allow(clippy::disallowed_methods)]
fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the client outside knows of an address: a MAC, or nothing.
fn neighbour(host: &Host, address: &str) -> Option<String> {
    let shown = host.outside.run(|| Command::new("ip").args(["neigh", "show", address]).output().unwrap());
    let text = String::from_utf8(shown.stdout).unwrap();
    text.split(' ').skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
}

#[test]
fn addresses_of_services_are_found_by_the_network() {
    let host = Host::new();
    host.namespace.ip("address add fd00:2::1/64 dev ext0 nodad");
    host.outside.ip("address add fd00:2::99/64 dev ext1 nodad");
    host.namespace.serve(80, "host");
    let shown = host.namespace.run(|| Command::new("ip").args(["-o", "link", "show", "ext0"]).output().unwrap().stdout);
    let shown = String::from_utf8(shown).unwrap();
    let mac = shown.split(' ').skip_while(|word| *word != "link/ether").nth(1);
    let set = |announcer: &mut Announcer, addresses: &[&str]| {
        let wanted: BTreeSet<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        host.namespace.run(|| announcer.set(&wanted).unwrap())
    };
    let parsed = |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>();
    let file = host.state.path().join("announced");
    let mut announcer = Announcer::open(file.clone()).unwrap();
    assert!(host.outside.get("192.0.2.10:80").is_err(), "nobody has it");

    // The network believes that another machine has them, and is told.
    for (address, family) in [("192.0.2.10", "-4"), ("fd00:2::10", "-6")] {
        host.outside.ip(&format!("{family} neigh replace {address} lladdr 02:00:00:00:00:77 dev ext1 nud stale"));
    }
    let announced = set(&mut announcer, &["192.0.2.10", "fd00:2::10", "198.51.100.7", "192.0.2.1"]);
    assert_eq!(announced.added, parsed(&["192.0.2.10", "fd00:2::10"]), "the machine's own is there");
    assert_eq!(announced.homeless, parsed(&["198.51.100.7"]));
    host.namespace.run(|| announcer.tell(&announced.added).unwrap());
    for address in ["192.0.2.10", "fd00:2::10"] {
        wait_for(address, || neighbour(&host, address).as_deref() == mac);
    }
    assert_eq!(host.outside.get("192.0.2.10:80").unwrap(), "host 192.0.2.99");
    assert_eq!(set(&mut announcer, &["192.0.2.10", "fd00:2::10"]), Announced::default(), "all is as it should be");

    // Who asks is answered by the kernel, IPv6 too.
    host.outside.ip("-6 neigh flush dev ext1");
    host.outside.run(|| UdpSocket::bind("[::]:0").unwrap().send_to(b"?", "[fd00:2::10]:9").unwrap());
    wait_for("it is found", || neighbour(&host, "fd00:2::10").as_deref() == mac);

    // The next process knows what it may take away; what the machine has by itself stays.
    let mut announcer = Announcer::open(file).unwrap();
    assert!(!announcer.is_empty());
    assert_eq!(set(&mut announcer, &[]), Announced::default());
    assert!(announcer.is_empty());
    host.outside.ip("neigh flush dev ext1");
    assert!(host.outside.get("192.0.2.10:80").is_err(), "it is gone");
    assert_eq!(host.outside.get("192.0.2.1:80").unwrap(), "host 192.0.2.99");
}
