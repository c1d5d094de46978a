//! Brings IPAddresses and Services together again where somebody changed one without the other, or where Services are older than the
//! IPAddress API (upstream's ipallocator-repair-controller).
//!
//! Looks at everything every three minutes, upstream's interval. It never changes a Service.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ::http::Method;
use apimachinery::Value;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::addresses::{address, family, has_labels, is_managed};
use super::allocator::{DEFAULT_SERVICE_CIDR, Range, cluster_ips};
use crate::loopback::{Loopback, LoopbackError, collection};

const NETWORKING: &str = "networking.k8s.io";
const INTERVAL: Duration = Duration::from_secs(3 * 60);
/// How often it is looked whether the cluster has its ServiceCIDR, at the start.
const START_POLL: Duration = Duration::from_secs(1);
/// How old an IPAddress without its Service is before it counts as leaked.
const LEAK_AGE_SECONDS: i64 = 60;
/// How old an IPAddress is before its Service is expected to have the address.
const SETTLE_SECONDS: i64 = 5;

/// What to do, and what to tell about it.
#[derive(Clone, Debug, PartialEq)]
struct Repair {
    action: Action,
    /// Reason and note of the event about the Service, or else about the IPAddress.
    reason: &'static str,
    note: String,
    /// Namespace and name.
    service: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// Only tell.
    Report,
    /// Make the IPAddress of a Service, after deleting what has its name with this UID.
    Make { ip: IpAddr, replaces: Option<String> },
    /// Delete an IPAddress.
    Delete { name: String, uid: String },
}

fn key(object: &Value) -> (String, String) {
    (object.meta().namespace().to_owned(), object.meta().name().to_owned())
}

fn parent(address: &Value) -> (String, String) {
    let text = |field: &str| address.str_at(&["spec", "parentRef", field]).unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn refers_to_service(address: &Value) -> bool {
    let text = |field: &str| address.str_at(&["spec", "parentRef", field]).unwrap_or_default();
    text("group").is_empty() && text("resource") == "services"
}

fn age_seconds(object: &Value, now: Timestamp) -> i64 {
    let made = object.meta().creation_timestamp().and_then(|time| time.parse::<Timestamp>().ok());
    made.map_or(i64::MAX, |made| now.duration_since(made).as_secs())
}

struct State<'a> {
    services: HashMap<(String, String), &'a Value>,
    addresses: HashMap<IpAddr, &'a Value>,
    ranges: Vec<Range>,
}

fn plan(services: &[Value], addresses: &[Value], cidrs: &[Value], now: Timestamp) -> Vec<Repair> {
    let cidrs = cidrs.iter().flat_map(|cidr| cidr.array_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str));
    let state = State {
        services: services.iter().map(|service| (key(service), service)).collect(),
        addresses: addresses.iter().filter_map(|address| Some((address.meta().name().parse().ok()?, address))).collect(),
        ranges: cidrs.filter_map(Range::parse).collect(),
    };
    let of_services = services.iter().flat_map(|service| cluster_ips(service).into_iter().map(move |ip| (service, ip)));
    let mut repairs: Vec<Repair> = of_services.filter_map(|(service, ip)| state.of_service(service, ip)).collect();
    repairs.extend(addresses.iter().filter(|address| is_managed(address)).filter_map(|address| state.of_address(address, now)));
    repairs
}

impl State<'_> {
    fn of_service(&self, service: &Value, ip: IpAddr) -> Option<Repair> {
        let (namespace, name) = key(service);
        let family = family(ip);
        let repair =
            |action, reason, note| Some(Repair { action, reason, note, service: Some((namespace.clone(), name.clone())) });
        if !self.ranges.iter().any(|range| range.contains(ip)) {
            let note = format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
            return repair(Action::Report, "ClusterIPOutOfRange", note);
        }
        let Some(address) = self.addresses.get(&ip) else {
            let note = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
            return repair(Action::Make { ip, replaces: None }, "ClusterIPNotAllocated", note);
        };
        let again = Action::Make { ip, replaces: Some(address.meta().uid().to_owned()) };
        let wrong = format!("the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing");
        if !refers_to_service(address) {
            return repair(again, "ClusterIPNotAllocated", wrong);
        }
        let owner = parent(address);
        if owner != key(service) {
            return match self.services.get(&owner) {
                None => repair(again, "ClusterIPNotAllocated", wrong),
                Some(other) if cluster_ips(other).contains(&ip) => {
                    let note = format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
                    repair(Action::Report, "ClusterIPAlreadyAllocated", note)
                }
                Some(_) => None,
            };
        }
        match has_labels(address) {
            true => None,
            false => repair(again, "ClusterIPNotAllocated", wrong),
        }
    }

    fn of_address(&self, address: &Value, now: Timestamp) -> Option<Repair> {
        let name = address.meta().name().to_owned();
        let delete = |reason, note| {
            let action = Action::Delete { name: name.clone(), uid: address.meta().uid().to_owned() };
            Some(Repair { action, reason, note, service: None })
        };
        let (namespace, service) = parent(address);
        if !refers_to_service(address) {
            let note = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
            return delete("IPAddressNotAllocated", note);
        }
        match self.services.get(&(namespace.clone(), service.clone())) {
            None if age_seconds(address, now) > LEAK_AGE_SECONDS => {
                let note = format!("IPAddress: {name} for Service {namespace}/{service} appears to have leaked: cleaning up");
                delete("IPAddressNotAllocated", note)
            }
            Some(found) if !cluster_ips(found).iter().any(|ip| ip.to_string() == name) => {
                let note = format!("IPAddress: {name} for Service {namespace}/{service} has a wrong reference; cleaning up");
                let settled = age_seconds(address, now) >= SETTLE_SECONDS;
                if settled { delete("IPAddressWrongReference", note) } else { None }
            }
            _ => None,
        }
    }
}

/// Repairs until stopped.
pub(crate) async fn run(loopback: &Loopback, stop: &CancellationToken) {
    loop {
        let wait = match pass(loopback).await {
            Ok(true) => INTERVAL,
            Ok(false) => START_POLL,
            Err(LoopbackError::Stopped) => return,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "service addresses could not be checked");
                INTERVAL
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn items(loopback: &Loopback, group: &str, resource: &str) -> Result<Vec<Value>, LoopbackError> {
    let path = collection(group, "v1", resource, "");
    let bytes = loopback.bytes(Method::GET, &path, None).await?;
    let list = Value::from_slice(&bytes).map_err(|source| LoopbackError::Answer { path, source: source.into() })?;
    Ok(list.array_at(&["items"]).to_vec())
}

/// One look at everything; `false` while the cluster has no ServiceCIDR yet.
async fn pass(loopback: &Loopback) -> Result<bool, LoopbackError> {
    let cidrs = items(loopback, NETWORKING, "servicecidrs").await?;
    if !cidrs.iter().any(|cidr| cidr.meta().name() == DEFAULT_SERVICE_CIDR) {
        return Ok(false);
    }
    let services = items(loopback, "", "services").await?;
    // After the Services, so that none of them lacks an address that is made with it.
    let addresses = items(loopback, NETWORKING, "ipaddresses").await?;
    for repair in plan(&services, &addresses, &cidrs, Timestamp::now()) {
        tracing::warn!(reason = repair.reason, note = repair.note, "repairing service addresses");
        let result = perform(loopback, &repair).await;
        let told = tell(loopback, &repair, &addresses).await;
        for error in [result.err(), told.err()].into_iter().flatten() {
            tracing::warn!(error = &error as &dyn std::error::Error, "service addresses could not be repaired");
        }
    }
    Ok(true)
}

async fn perform(loopback: &Loopback, repair: &Repair) -> Result<(), LoopbackError> {
    match &repair.action {
        Action::Report => Ok(()),
        Action::Delete { name, uid } => delete(loopback, name, uid).await,
        Action::Make { ip, replaces } => {
            let Some((namespace, name)) = &repair.service else { return Ok(()) };
            // It may have been deleted since the lists were read, and its address with it.
            let path = format!("{}/{name}", collection("", "v1", "services", namespace));
            let service = match loopback.get(&path).await {
                Err(error) if error.code() == Some(404) => return Ok(()),
                found => found?,
            };
            let text = ip.to_string();
            if !service["spec"]["clusterIPs"].as_array().is_some_and(|ips| ips.iter().any(|have| *have == text.as_str())) {
                return Ok(());
            }
            if let Some(uid) = replaces {
                delete(loopback, &text, uid).await?;
            }
            let body = bytes::Bytes::from(address(*ip, namespace, name).to_vec());
            let path = collection(NETWORKING, "v1", "ipaddresses", "");
            match loopback.bytes(Method::POST, &path, Some(("application/json", body))).await {
                Err(error) if error.code() == Some(409) => Ok(()),
                result => result.map(drop),
            }
        }
    }
}

async fn delete(loopback: &Loopback, name: &str, uid: &str) -> Result<(), LoopbackError> {
    let path = format!("{}/{name}", collection(NETWORKING, "v1", "ipaddresses", ""));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}).to_string();
    match loopback.bytes(Method::DELETE, &path, Some(("application/json", options.into()))).await {
        // Gone, or another one by now.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        result => result.map(drop),
    }
}

async fn tell(loopback: &Loopback, repair: &Repair, addresses: &[Value]) -> Result<(), LoopbackError> {
    let now = Timestamp::now();
    let (namespace, regarding, action) = match (&repair.service, &repair.action) {
        (Some((namespace, name)), _) => {
            let regarding = json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name});
            (namespace.as_str(), regarding, "ClusterIPAllocation")
        }
        (None, Action::Delete { name, uid }) => {
            let version =
                addresses.iter().find(|address| address.meta().uid() == uid).map(|address| address.meta().resource_version());
            let regarding = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "name": name, "uid": uid, "resourceVersion": version,
            });
            ("default", regarding, "IPAddressAllocation")
        }
        (None, _) => return Ok(()),
    };
    let name = regarding["name"].as_str().unwrap_or_default();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "eventTime": apimachinery::time::format_micro_time(now),
        "reportingController": "ipallocator-repair-controller",
        "reportingInstance": "ipallocator-repair-controller",
        "action": action,
        "reason": repair.reason,
        "note": repair.note,
        "type": "Warning",
        "regarding": regarding,
    });
    loopback.create(&collection("events.k8s.io", "v1", "events", namespace), &event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: serde_json::Value) -> Value {
        Value::from_slice(json.to_string().as_bytes()).expect("JSON")
    }

    fn service(name: &str, ip: &str) -> Value {
        value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterIPs": [ip]}}))
    }

    fn of(ip: &str, service: &str, made: &str) -> Value {
        let mut object = address(ip.parse().expect("an address"), "ns", service);
        object.set_path(&["metadata", "creationTimestamp"], format!("2024-01-01T{made}Z"));
        object.set_path(&["metadata", "uid"], "u");
        object
    }

    fn with(mut object: Value, path: &[&str], text: &str) -> Value {
        object.set_path(path, text);
        object
    }

    #[test]
    fn what_is_repaired() {
        let cidrs = [value(json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.0.0.0/24", "fd00::/112"]}}))];
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().expect("a time");
        let (old, fresh, new) = ("00:00:00", "00:59:30", "00:59:58");
        let group = ["spec", "parentRef", "group"];
        let managed = ["metadata", "labels", "ipaddress.kubernetes.io/managed-by"];
        for (services, addresses, expected) in [
            (vec![service("a", "10.0.0.1")], vec![of("10.0.0.1", "a", old)], ""),
            (vec![service("a", "None")], vec![], ""),
            (vec![service("a", "10.0.0.1")], vec![], "make 10.0.0.1 ClusterIPNotAllocated"),
            (vec![service("a", "fd00::7")], vec![], "make fd00::7 ClusterIPNotAllocated"),
            (vec![service("a", "10.9.0.1")], vec![], "report ClusterIPOutOfRange"),
            // A reference to something else, or to a Service that is not there.
            (
                vec![service("a", "10.0.0.1")],
                vec![with(with(of("10.0.0.1", "a", old), &group, "example.com"), &managed, "me")],
                "make 10.0.0.1 over u ClusterIPNotAllocated",
            ),
            (vec![service("a", "10.0.0.1")], vec![of("10.0.0.1", "b", fresh)], "make 10.0.0.1 over u ClusterIPNotAllocated"),
            (
                vec![service("a", "10.0.0.1")],
                vec![with(of("10.0.0.1", "a", old), &managed, "me")],
                "make 10.0.0.1 over u ClusterIPNotAllocated",
            ),
            (
                vec![service("a", "10.0.0.1"), service("b", "10.0.0.1")],
                vec![of("10.0.0.1", "b", old)],
                "report ClusterIPAlreadyAllocated",
            ),
            (vec![], vec![of("10.0.0.1", "a", old)], "delete 10.0.0.1 IPAddressNotAllocated"),
            (vec![], vec![of("10.0.0.1", "a", fresh)], ""),
            (vec![], vec![with(of("10.0.0.1", "a", old), &managed, "me")], ""),
            (vec![], vec![with(of("10.0.0.1", "a", old), &group, "example.com")], "delete 10.0.0.1 IPAddressNotAllocated"),
            (
                vec![service("a", "10.0.0.2")],
                vec![of("10.0.0.1", "a", fresh), of("10.0.0.2", "a", old)],
                "delete 10.0.0.1 IPAddressWrongReference",
            ),
            (vec![service("a", "10.0.0.2")], vec![of("10.0.0.1", "a", new), of("10.0.0.2", "a", old)], ""),
        ] {
            let text = |repair: Repair| {
                let action = match repair.action {
                    Action::Report => "report".to_owned(),
                    Action::Make { ip, replaces: None } => format!("make {ip}"),
                    Action::Make { ip, replaces: Some(uid) } => format!("make {ip} over {uid}"),
                    Action::Delete { name, .. } => format!("delete {name}"),
                };
                format!("{action} {}", repair.reason)
            };
            let repairs: Vec<String> = plan(&services, &addresses, &cidrs, now).into_iter().map(text).collect();
            assert_eq!(repairs.join("; "), expected, "{services:?} {addresses:?}");
        }
    }
}
