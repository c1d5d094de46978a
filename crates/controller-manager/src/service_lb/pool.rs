//! Bare metal with addresses to spare: each Service has addresses of its own out of a pool, which the nodes announce to their network
//! (crates/kube-proxy/src/announce.rs).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use client::NamespacedName;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::balancer::{Balancer, BalancerError, Wish, goes_before, vip};
use super::ingress;

/// Gives addresses. A Service keeps what it has while the pool has it.
#[derive(Debug)]
pub(super) struct AddressPool {
    ranges: Vec<RangeInclusive<IpAddr>>,
    /// What Services were given, by UID: the cache may not know it yet.
    given: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl AddressPool {
    pub(super) fn new(ranges: Vec<RangeInclusive<IpAddr>>) -> Self {
        Self { ranges, given: Mutex::default() }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// The first address of a family that nobody has. Looks at one more than there are taken ones.
    fn free(&self, family: &str, held: &BTreeMap<IpAddr, NamespacedName>) -> Option<IpAddr> {
        let ranges = self.ranges.iter().filter(|range| family_of(*range.start()) == family);
        let mut all = ranges.flat_map(|range| std::iter::successors(Some(*range.start()), |last| next(*last, *range.end())));
        all.find(|address| !held.contains_key(address))
    }
}

impl Balancer for AddressPool {
    fn ensure(&self, wish: &Wish<'_>) -> Result<Vec<LoadBalancerIngress>, BalancerError> {
        let uid = wish.service.uid().unwrap_or_default();
        let mut given = self.given.lock();
        given.retain(|of, _| wish.services.iter().any(|service| service.uid().as_ref() == Some(of)));
        let mut held = BTreeMap::new();
        for other in wish.services.iter().filter(|other| other.uid() != wish.service.uid()) {
            let name = NamespacedName::of(&**other);
            let shown = addresses(other).filter(|_| goes_before(other, wish.service));
            let promised = given.get(&other.uid().unwrap_or_default()).into_iter().flatten().copied();
            held.extend(shown.chain(promised).map(|address| (address, name.clone())));
        }
        let own = || addresses(wish.service).chain(given.get(&uid).into_iter().flatten().copied());
        let spec = wish.service.spec.as_ref();
        let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
        let asked = spec.and_then(|spec| spec.load_balancer_ip.clone()).filter(|ip| !ip.is_empty());
        let asked = asked.map(|ip| self.asked(&ip, &families)).transpose()?;
        let mut chosen = Vec::new();
        for family in &families {
            let asked = asked.filter(|address| family_of(*address) == family);
            let kept =
                own().find(|address| family_of(*address) == family && self.contains(*address) && !held.contains_key(address));
            let address = match asked {
                Some(address) => match held.get(&address) {
                    Some(by) => return Err(BalancerError::AddressTaken { address, by: by.clone() }),
                    None => Some(address),
                },
                None => kept.or_else(|| self.free(family, &held)),
            };
            match address {
                Some(address) => chosen.push(address),
                // A second family is a wish, unless it is required.
                None if !chosen.is_empty() && prefers_both(wish.service) => {}
                None => return Err(BalancerError::Exhausted(family.clone())),
            }
        }
        given.insert(uid, chosen.clone());
        Ok(chosen.into_iter().map(|address| vip(address.to_string())).collect())
    }
}

impl AddressPool {
    fn asked(&self, ip: &str, families: &[String]) -> Result<IpAddr, BalancerError> {
        let address = ip.parse().ok().filter(|address| self.contains(*address));
        let address = address.filter(|address| families.iter().any(|family| family == family_of(*address)));
        address.ok_or_else(|| BalancerError::NotInPool(ip.to_owned()))
    }
}

fn prefers_both(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref()) == Some("PreferDualStack")
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    ingress(service).iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// The address after one, up to the last.
fn next(address: IpAddr, last: IpAddr) -> Option<IpAddr> {
    let next = match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().checked_add(1)?)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().checked_add(1)?)),
    };
    (next <= last).then_some(next)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::balancer::Ports;
    use super::*;

    fn pool() -> AddressPool {
        let range = |first: &str, last: &str| first.parse().expect("is one")..=last.parse().expect("is one");
        AddressPool::new(vec![
            range("192.0.2.10", "192.0.2.11"),
            range("192.0.2.20", "192.0.2.20"),
            range("fd00::1", "fd00::ffff:1"),
        ])
    }

    fn service(name: &str, spec: Value, ips: &[&str]) -> Arc<Service> {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let value = json!({"metadata": {"name": name, "namespace": "a", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        Arc::new(serde_json::from_value(value).expect("is a service"))
    }

    fn ensured(pool: &AddressPool, service: &Service, services: &[Arc<Service>]) -> Result<Vec<String>, String> {
        let wish = Wish { service, services, nodes: &[], endpoint_nodes: &BTreeSet::new(), fixed: &Ports::new() };
        let addresses = pool.ensure(&wish).map_err(|error| error.to_string())?;
        Ok(addresses.into_iter().filter_map(|ingress| ingress.ip).collect())
    }

    fn list(addresses: &[&str]) -> Result<Vec<String>, String> {
        Ok(addresses.iter().map(|address| (*address).to_owned()).collect())
    }

    #[test]
    fn what_a_service_gets() {
        let both = |policy: &str| json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": policy});
        let full = ["192.0.2.10", "192.0.2.11", "192.0.2.20"];
        let no_ipv4 = || Err("the pool has no free IPv4 address".to_owned());
        for (what, spec, has, others, expected) in [
            ("the first", json!({}), &[][..], &[][..], list(&["192.0.2.10"])),
            ("the first that is free", json!({}), &[], &["192.0.2.10", "192.0.2.11"], list(&["192.0.2.20"])),
            ("what it has", json!({}), &["192.0.2.11"], &[], list(&["192.0.2.11"])),
            ("another when its own is not of the pool", json!({}), &["192.0.2.9"], &[], list(&["192.0.2.10"])),
            ("one of each family", both("RequireDualStack"), &[], &["fd00::1"], list(&["192.0.2.10", "fd00::2"])),
            ("its family alone", json!({"ipFamilies": ["IPv6"]}), &["192.0.2.10"], &[], list(&["fd00::1"])),
            ("nothing", json!({}), &[], &full, no_ipv4()),
            ("nothing of what is required", both("RequireDualStack"), &[], &full, no_ipv4()),
            ("the one it asks for", json!({"loadBalancerIP": "192.0.2.20"}), &["192.0.2.10"], &[], list(&["192.0.2.20"])),
            (
                "not another's",
                json!({"loadBalancerIP": "192.0.2.20"}),
                &[],
                &["192.0.2.20"],
                Err("address 192.0.2.20 is taken by service a/other0".to_owned()),
            ),
            (
                "not one of elsewhere",
                json!({"loadBalancerIP": "192.0.2.12"}),
                &[],
                &[],
                Err("loadBalancerIP 192.0.2.12 is no address of the pool in a family of the service".to_owned()),
            ),
        ] {
            let this = service("this", spec, has);
            let mut services: Vec<_> =
                others.iter().enumerate().map(|(i, ip)| service(&format!("other{i}"), json!({}), &[ip])).collect();
            services.push(Arc::clone(&this));
            assert_eq!(ensured(&pool(), &this, &services), expected, "{what}");
        }
        let four = AddressPool::new(vec!["192.0.2.10".parse().expect("is one")..="192.0.2.10".parse().expect("is one")]);
        assert_eq!(ensured(&four, &service("this", both("PreferDualStack"), &[]), &[]), list(&["192.0.2.10"]), "what there is");
    }

    #[test]
    fn what_the_cache_does_not_show_is_given_all_the_same() {
        let (pool, one, two) = (pool(), service("one", json!({}), &[]), service("two", json!({}), &[]));
        let services = [Arc::clone(&one), Arc::clone(&two)];
        assert_eq!(ensured(&pool, &one, &services), list(&["192.0.2.10"]));
        assert_eq!(ensured(&pool, &two, &services), list(&["192.0.2.11"]));
        assert_eq!(ensured(&pool, &one, &services), list(&["192.0.2.10"]), "the same again");
        // The first goes before its status was written.
        assert_eq!(ensured(&pool, &service("three", json!({}), &[]), &services[1..]), list(&["192.0.2.10"]));
    }

    #[test]
    fn of_two_with_one_address_the_older_keeps_it() {
        let (pool, one, two) = (pool(), service("one", json!({}), &["192.0.2.10"]), service("two", json!({}), &["192.0.2.10"]));
        let services = [Arc::clone(&one), Arc::clone(&two)];
        assert_eq!(ensured(&pool, &two, &services), list(&["192.0.2.11"]));
        assert_eq!(ensured(&pool, &one, &services), list(&["192.0.2.10"]));
    }

    #[test]
    fn ranges_end() {
        let last = IpAddr::from([255, 255, 255, 255]);
        assert_eq!(next(last, last), None);
        let address = IpAddr::from([192, 0, 2, 255]);
        assert_eq!(next(address, address), None);
        assert_eq!(next(address, last), Some(IpAddr::from([192, 0, 3, 0])));
    }
}
