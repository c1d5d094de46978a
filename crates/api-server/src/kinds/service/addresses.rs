//! IPAddress objects: one for each cluster IP, made and deleted in the transactions of its Service (KEP-1880).

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{GroupResource, Value, value};
use async_trait::async_trait;

use super::allocator::{ServiceAllocator, cluster_ips};
use crate::registry::{BeginHook, Companion, Companions, Finish, store_status};

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Upstream's name of the allocator.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";

fn resource() -> GroupResource {
    GroupResource::new("networking.k8s.io", "ipaddresses")
}

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The object that says which Service has an address.
pub(super) fn address(ip: IpAddr, namespace: &str, name: &str) -> Value {
    let mut object = value!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip.to_string()},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    });
    object.set_path(&["metadata", "labels", FAMILY], family(ip));
    object.set_path(&["metadata", "labels", MANAGED_BY], MANAGER);
    object
}

/// Whether the labels say what they should: of which family, and that the allocator has made it.
pub(super) fn has_labels(object: &Value) -> bool {
    let ip = object.meta().name().parse().map(family);
    is_managed(object) && ip.is_ok_and(|family| object.str_at(&["metadata", "labels", FAMILY]) == Some(family))
}

pub(super) fn is_managed(object: &Value) -> bool {
    object.str_at(&["metadata", "labels", MANAGED_BY]) == Some(MANAGER)
}

/// What a change of a Service makes and removes.
pub(super) fn companions(new: Option<&Value>, old: Option<&Value>) -> Companions {
    let (after, before) = (new.map(cluster_ips).unwrap_or_default(), old.map(cluster_ips).unwrap_or_default());
    let added = new.into_iter().flat_map(|service| {
        let meta = service.meta();
        let fresh = after.iter().filter(|ip| !before.contains(ip));
        fresh.map(move |ip| Companion { resource: resource(), object: address(*ip, meta.namespace(), meta.name()) })
    });
    let removed = before.iter().filter(|ip| !after.contains(ip)).map(|ip| (resource(), ip.to_string()));
    Companions { added: added.collect(), removed: removed.collect() }
}

/// Tells the allocator of IPAddresses that others make and delete.
pub(crate) struct AddressHook(Arc<ServiceAllocator>);

impl AddressHook {
    pub(crate) fn new(allocator: Arc<ServiceAllocator>) -> Self {
        Self(allocator)
    }

    pub(crate) async fn begin_create(&self, object: &Value) -> BeginHook {
        let Ok(ip) = object.meta().name().parse() else { return Ok(None) };
        self.0.set_object(ip, true).await.map_err(store_status)?;
        Ok(Some(Box::new(Made { allocator: self.0.clone(), ip })))
    }

    pub(crate) async fn after_delete(&self, object: &Value) {
        if let Ok(ip) = object.meta().name().parse()
            && let Err(error) = self.0.set_object(ip, false).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "an address was not released");
        }
    }
}

struct Made {
    allocator: Arc<ServiceAllocator>,
    ip: IpAddr,
}

#[async_trait]
impl Finish for Made {
    async fn finish(self: Box<Self>, success: bool) {
        if success {
            return;
        }
        // It may have failed because there is one already: the store knows.
        if let Err(error) = self.allocator.look_at_object(self.ip).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an address was not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ips: &[&str]) -> Value {
        let service = serde_json::json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIPs": ips}});
        Value::from_slice(service.to_string().as_bytes()).expect("JSON")
    }

    #[test]
    fn addresses_come_and_go_with_their_service() {
        for (new, old, added, removed) in [
            (Some(&["10.0.0.1"][..]), None, "10.0.0.1", ""),
            (Some(&["None"]), None, "", ""),
            (Some(&["10.0.0.1", "fd00::1"]), Some(&["10.0.0.1"][..]), "fd00::1", ""),
            (Some(&["10.0.0.1"]), Some(&["10.0.0.1", "fd00::1"]), "", "fd00::1"),
            (Some(&["10.0.0.1"]), Some(&["10.0.0.1"]), "", ""),
            (Some(&[]), Some(&["10.0.0.1"]), "", "10.0.0.1"),
            (None, Some(&["10.0.0.1", "fd00::1"]), "", "10.0.0.1,fd00::1"),
        ] {
            let (new, old) = (new.map(service), old.map(service));
            let changes = companions(new.as_ref(), old.as_ref());
            let names: Vec<&str> = changes.added.iter().map(|companion| companion.object.meta().name()).collect();
            assert_eq!(names.join(","), added);
            let gone: Vec<String> = changes.removed.into_iter().map(|(_, name)| name).collect();
            assert_eq!(gone.join(","), removed);
            for companion in changes.added {
                assert!(has_labels(&companion.object), "{:?}", companion.object);
                assert_eq!(companion.object.str_at(&["spec", "parentRef", "name"]), Some("s"));
            }
        }
    }
}
