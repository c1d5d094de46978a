//! Addresses of a pool for Services of type LoadBalancer: which of them this node announces to its network (`network::Announcer`). The
//! controllers choose a Service's address; any node may carry it.
//!
//! Who announces an address: all nodes compute the same order of the nodes that may, by a hash of node and address, and the first does.
//! There is no election: while nodes do not see the same world, two may announce an address, or none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::load_balancing::{endpoint_nodes, may_carry};
use client::{Change, Informer, Informers, NamespacedName, ResyncError, Store};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use network::{Announced, Announcer};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::load_balancer_ips;
use crate::proxier::{BY_SERVICE, Error, service_of};

const WITH_ADDRESS: &str = "loadBalancersWithAddress";
/// How often to look whether the addresses are there, and whether a link came that one was missing.
const CHECK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(5);
/// A neighbour may miss one telling: when it is told again.
const TOLD_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// The pool of addresses, and where it is remembered which of them were added to links.
#[derive(Debug, Clone)]
pub struct Announce {
    /// Only addresses within are announced. Empty: what was announced before is taken away.
    pub pool: Vec<RangeInclusive<IpAddr>>,
    /// A file in a directory that exists.
    pub state: PathBuf,
}

struct Announcing {
    node_name: String,
    pool: Vec<RangeInclusive<IpAddr>>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
    announcer: Arc<Mutex<Announcer>>,
    /// What users were told of: addresses in no network of this machine.
    homeless: BTreeSet<IpAddr>,
    /// Neighbours that are to be told again.
    again: Vec<(Instant, Vec<IpAddr>)>,
}

/// Announces until the token ends. The addresses stay.
pub(crate) async fn run(
    config: Announce,
    node_name: String,
    informers: &Informers,
    token: CancellationToken,
) -> Result<(), Error> {
    let mut announcer = Announcer::open(config.state)?;
    if config.pool.is_empty() {
        if !announcer.is_empty() {
            blocking(move || announcer.set(&BTreeSet::new())).await??;
        }
        return Ok(());
    }
    let (services, slices, nodes) = (informers.get::<Service>(), informers.get::<EndpointSlice>(), informers.get::<Node>());
    services.store().add_index(WITH_ADDRESS, |service| match addresses(service).is_empty() {
        true => Vec::new(),
        false => vec![String::new()],
    });
    let wake = Arc::new(Notify::new());
    watch(&services, &slices, &nodes, &wake);
    let synced = async {
        services.wait_synced().await?;
        slices.wait_synced().await?;
        nodes.wait_synced().await?;
        Ok::<_, ResyncError>(())
    };
    tokio::select! {
        () = token.cancelled() => return Ok(()),
        synced = synced => synced?,
    }
    let announcing = Announcing {
        node_name,
        pool: config.pool,
        services: services.store().clone(),
        slices: slices.store().clone(),
        nodes: nodes.store().clone(),
        announcer: Arc::new(Mutex::new(announcer)),
        homeless: BTreeSet::new(),
        again: Vec::new(),
    };
    announcing.run(&wake, &token).await
}

fn watch(services: &Informer<Service>, slices: &Informer<EndpointSlice>, nodes: &Informer<Node>, wake: &Arc<Notify>) {
    let sink = Arc::clone(wake);
    services.add_handler(move |change| {
        let before = matches!(change, Change::Updated { old, .. } if !addresses(old).is_empty());
        if before || !addresses(change.object()).is_empty() {
            sink.notify_one();
        }
    });
    let (sink, known) = (Arc::clone(wake), services.store().clone());
    slices.add_handler(move |change| {
        let service = service_of(change.object()).and_then(|name| known.get_key(&name));
        if service.is_some_and(|service| !addresses(&service).is_empty() && is_local(&service)) {
            sink.notify_one();
        }
    });
    let sink = Arc::clone(wake);
    nodes.add_handler(move |change| match change {
        Change::Updated { old, new } if may_carry(old) == may_carry(new) => {}
        _ => sink.notify_one(),
    });
}

impl Announcing {
    async fn run(mut self, wake: &Notify, token: &CancellationToken) -> Result<(), Error> {
        loop {
            let wanted = self.chosen();
            let next = match self.apply(wanted.clone()).await? {
                Ok(()) if wanted.is_empty() => None,
                Ok(()) => Some(Instant::now() + CHECK),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot announce load balancers' addresses, retrying"
                    );
                    Some(Instant::now() + RETRY)
                }
            };
            let next = next.into_iter().chain(self.again.first().map(|(at, _)| *at)).min();
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = wake.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Brings the links in line, and tells the neighbours what is new or due.
    async fn apply(&mut self, wanted: BTreeSet<IpAddr>) -> Result<Result<(), network::Error>, Error> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Instant, Vec<IpAddr>)> = due;
        let announcer = Arc::clone(&self.announcer);
        let done = blocking(move || {
            let mut announcer = announcer.lock();
            let announced = announcer.set(&wanted)?;
            let due = due.iter().flat_map(|(_, addresses)| addresses).filter(|address| wanted.contains(address));
            let news: Vec<IpAddr> = announced.added.iter().chain(due).copied().collect();
            announcer.tell(&news)?;
            Ok(announced)
        });
        Ok(done.await?.map(|announced| self.note(announced, now)))
    }

    fn note(&mut self, announced: Announced, now: Instant) {
        for address in announced.homeless.iter().filter(|address| !self.homeless.contains(address)) {
            tracing::warn!(%address, "no link of this machine is in the network of a load balancer's address, which is not announced");
        }
        self.homeless = announced.homeless.into_iter().collect();
        if !announced.added.is_empty() {
            tracing::info!(addresses = ?announced.added, "load balancers' addresses are announced from here");
            self.again.extend(TOLD_AGAIN.iter().map(|after| (now + *after, announced.added.clone())));
            self.again.sort_by_key(|(at, _)| *at);
        }
    }

    /// The addresses that this node announces.
    fn chosen(&self) -> BTreeSet<IpAddr> {
        let mut carriers = Vec::new();
        self.nodes.for_each(|node| carriers.extend(may_carry(node).then(|| node.name_any())));
        let mut chosen = BTreeSet::new();
        for service in self.services.by_index(WITH_ADDRESS, "") {
            let slices = || self.slices.by_index(BY_SERVICE, &NamespacedName::of(&*service).to_string());
            let endpoints = is_local(&service).then(|| endpoint_nodes(&slices()));
            let candidates =
                || carriers.iter().filter(|node| endpoints.as_ref().is_none_or(|endpoints| endpoints.contains(*node)));
            let mine = addresses(&service).into_iter().filter(|address| self.pool.iter().any(|range| range.contains(address)));
            chosen.extend(mine.filter(|address| first(candidates(), *address) == Some(&self.node_name)));
        }
        chosen
    }
}

/// The node that announces an address: another one for each address, and still the same when others come or go.
fn first<'a>(nodes: impl Iterator<Item = &'a String>, address: IpAddr) -> Option<&'a String> {
    nodes.min_by_key(|node| Sha256::digest(format!("{node}#{address}")))
}

/// The addresses that a load balancer has and that lead here.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let balanced = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    if balanced { load_balancer_ips(service) } else { Vec::new() }
}

fn is_local(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::WorkerDied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const POOL: &str = "192.0.2.10";

    fn node(name: &str, ready: &str, labels: Value) -> Node {
        let value =
            json!({"metadata": {"name": name, "labels": labels}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value(value).expect("is a node")
    }

    fn service(name: &str, spec: Value, ingress: Value) -> Service {
        let value =
            json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        serde_json::from_value(value).expect("is a service")
    }

    fn slice(service: &str, node: &str, ready: bool) -> EndpointSlice {
        let value = json!({"metadata": {"name": service, "namespace": "a", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": node, "conditions": {"ready": ready}}], "ports": []});
        serde_json::from_value(value).expect("is a slice")
    }

    /// What each node announces.
    fn chosen(nodes: &[Node], services: &[Service], slices: &[EndpointSlice]) -> Vec<(String, Vec<String>)> {
        let of_node = |node: &Node| {
            let services = Store::from_objects(services.iter().cloned());
            services
                .add_index(WITH_ADDRESS, |service: &Service| addresses(service).iter().map(|_| String::new()).take(1).collect());
            let slices = Store::from_objects(slices.iter().cloned());
            slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|name| name.to_string()).into_iter().collect());
            let directory = std::env::temp_dir().join("no-such-directory");
            let announcing = Announcing {
                node_name: node.name_any(),
                pool: vec![POOL.parse().expect("is one")..="192.0.2.99".parse().expect("is one")],
                services,
                slices,
                nodes: Store::from_objects(nodes.iter().cloned()),
                announcer: Arc::new(Mutex::new(Announcer::open(directory.join("file")).expect("is not there"))),
                homeless: BTreeSet::new(),
                again: Vec::new(),
            };
            (node.name_any(), announcing.chosen().iter().map(ToString::to_string).collect())
        };
        nodes.iter().map(of_node).collect()
    }

    #[test]
    fn one_node_announces_an_address() {
        let lb = || json!({"type": "LoadBalancer"});
        let at = |ip: &str| json!([{"ip": ip}]);
        let nodes = || vec![node("a", "True", json!({})), node("b", "True", json!({})), node("c", "True", json!({}))];
        let many: Vec<Service> = (10..90).map(|i| service(&format!("s{i}"), lb(), at(&format!("192.0.2.{i}")))).collect();
        let all = chosen(&nodes(), &many, &[]);
        assert_eq!(all.iter().map(|(_, addresses)| addresses.len()).sum::<usize>(), many.len(), "each once: {all:?}");
        assert!(all.iter().all(|(_, addresses)| addresses.len() > 10), "every node has its share: {all:?}");
        // One that goes leaves the others' as they are.
        let fewer =
            chosen(&[node("a", "True", json!({})), node("b", "False", json!({})), node("c", "True", json!({}))], &many, &[]);
        assert!(fewer[1].1.is_empty());
        for i in [0, 2] {
            assert!(all[i].1.iter().all(|address| fewer[i].1.contains(address)), "{}", all[i].0);
        }
    }

    #[test]
    fn what_is_announced() {
        let ready = || json!({});
        let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
        let lb = json!({"type": "LoadBalancer"});
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        for (what, nodes, spec, ingress, slices, expected) in [
            ("in the pool", vec![node("a", "True", ready())], lb.clone(), json!([{"ip": POOL}]), vec![], vec![vec![POOL]]),
            ("not in the pool", vec![node("a", "True", ready())], lb.clone(), json!([{"ip": "192.0.2.1"}]), vec![], vec![vec![]]),
            (
                "a proxy's",
                vec![node("a", "True", ready())],
                lb.clone(),
                json!([{"ip": POOL, "ipMode": "Proxy"}]),
                vec![],
                vec![vec![]],
            ),
            (
                "of another type",
                vec![node("a", "True", ready())],
                json!({"type": "NodePort"}),
                json!([{"ip": POOL}]),
                vec![],
                vec![vec![]],
            ),
            ("no node is ready", vec![node("a", "Unknown", ready())], lb.clone(), json!([{"ip": POOL}]), vec![], vec![vec![]]),
            ("left out", vec![node("a", "True", excluded)], lb, json!([{"ip": POOL}]), vec![], vec![vec![]]),
            (
                "where its endpoints are",
                vec![node("a", "True", ready()), node("b", "True", ready())],
                local.clone(),
                json!([{"ip": POOL}]),
                vec![slice("s", "b", true)],
                vec![vec![], vec![POOL]],
            ),
            (
                "not ready there",
                vec![node("a", "True", ready())],
                local,
                json!([{"ip": POOL}]),
                vec![slice("s", "a", false)],
                vec![vec![]],
            ),
        ] {
            let found: Vec<_> =
                chosen(&nodes, &[service("s", spec, ingress)], &slices).into_iter().map(|(_, found)| found).collect();
            assert_eq!(found, expected, "{what}");
        }
    }
}
