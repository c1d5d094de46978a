//! Whether a ServiceCIDR may go, and what its condition says. Pure.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::cidr::Prefix;

pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// Upstream's `deletionGracePeriod`: so long allocators may not have heard of the deletion.
const DELETION_GRACE: Duration = Duration::from_secs(10);

pub(super) fn prefixes(cidr: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|cidr| Prefix::parse(cidr))
}

pub(super) fn contains(cidr: &ServiceCIDR, ip: IpAddr) -> bool {
    prefixes(cidr).any(|prefix| prefix.has_usable(ip))
}

/// The address of an IPAddress that a Service has.
pub(super) fn service_address(address: &IPAddress) -> Option<IpAddr> {
    let managed = address.labels().get(MANAGED_BY).is_some_and(|manager| manager == ALLOCATOR);
    address.metadata.name.as_deref().filter(|_| managed)?.parse().ok()
}

/// What to do about a ServiceCIDR.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    /// Ready, and protected: the finalizer is to be added, the condition to be set.
    Ready {
        protect: bool,
        condition: bool,
    },
    /// Addresses depend on it; whether its condition has to say so still.
    Blocked {
        condition: bool,
    },
    /// It may go after this time.
    Wait(Duration),
    /// It may go.
    LetGo,
}

pub(super) const READY: (&str, &str, &str) = ("True", "", "Kubernetes Service CIDR is ready");
pub(super) const TERMINATING: (&str, &str, &str) = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
);

pub(super) fn plan(cidr: &ServiceCIDR, others: &[&ServiceCIDR], addresses: &[IpAddr], now: Timestamp) -> Plan {
    let protected = cidr.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        let (protect, condition) = (!protected, !says(cidr, READY));
        return if protect || condition { Plan::Ready { protect, condition } } else { Plan::Nothing };
    };
    if !may_go(cidr, others, addresses) {
        return Plan::Blocked { condition: !says(cidr, TERMINATING) };
    }
    let grace_ms = i128::try_from(DELETION_GRACE.as_millis()).unwrap_or(0);
    let left = grace_ms - now.duration_since(deleted.0).as_millis();
    match u64::try_from(left) {
        Ok(left) if left > 0 => Plan::Wait(Duration::from_millis(left)),
        _ if protected => Plan::LetGo,
        _ => Plan::Nothing,
    }
}

/// Whether no address is without a ServiceCIDR when this one is gone. `others` does not hold it.
fn may_go(cidr: &ServiceCIDR, others: &[&ServiceCIDR], addresses: &[IpAddr]) -> bool {
    let covered = |prefix: Prefix| others.iter().any(|other| prefixes(other).any(|wider| wider.covers(prefix)));
    if prefixes(cidr).all(covered) {
        return true;
    }
    let orphaned = |ip: &IpAddr| contains(cidr, *ip) && !others.iter().any(|other| contains(other, *ip));
    !addresses.iter().any(orphaned)
}

fn ready_condition(cidr: &ServiceCIDR) -> Option<&Condition> {
    let conditions = cidr.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn says(cidr: &ServiceCIDR, (status, reason, message): (&str, &str, &str)) -> bool {
    ready_condition(cidr).is_some_and(|have| (&*have.status, &*have.reason, &*have.message) == (status, reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("is an address")
    }

    fn cidr(name: &str, cidrs: &[&str], deleting: bool, protected: bool, condition: (&str, &str, &str)) -> ServiceCIDR {
        let (status, reason, message) = condition;
        let conditions = json!([{"type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
        let finalizers = if protected { json!([FINALIZER]) } else { json!([]) };
        let mut object = json!({"metadata": {"name": name, "finalizers": finalizers}, "spec": {"cidrs": cidrs}});
        if !status.is_empty() {
            object["status"] = json!({"conditions": conditions});
        }
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        serde_json::from_value(object).expect("is a ServiceCIDR")
    }

    #[test]
    fn what_is_done_about_a_service_cidr() {
        const NONE: (&str, &str, &str) = ("", "", "");
        let default = "Kubernetes default Service CIDR is ready";
        let own = &["10.0.0.0/24"][..];
        let go_at = |cidr: ServiceCIDR, others: &[&[&str]], addresses: &[&str], now: &str| {
            let others: Vec<ServiceCIDR> = others.iter().map(|cidrs| self::cidr("o", cidrs, false, true, READY)).collect();
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
            let now = format!("2024-01-01T00:00:{now}Z").parse().expect("is a time");
            plan(&cidr, &others.iter().collect::<Vec<_>>(), &addresses, now)
        };
        let deleting = |condition| cidr("c", own, true, true, condition);
        let (alone, unused): (&[&[&str]], &[&str]) = (&[], &[]);
        for (cidr, others, addresses, now, expected) in [
            (cidr("c", own, false, false, NONE), alone, unused, "00", Plan::Ready { protect: true, condition: true }),
            (cidr("c", own, false, true, NONE), &[], &[], "00", Plan::Ready { protect: false, condition: true }),
            (cidr("c", own, false, true, ("True", "", default)), &[], &[], "00", Plan::Ready { protect: false, condition: true }),
            (cidr("c", own, false, true, READY), &[], &["10.0.0.1"], "00", Plan::Nothing),
            // Nobody uses it: it goes, after the time that allocators may need to hear of it.
            (deleting(READY), &[], &[], "04", Plan::Wait(Duration::from_secs(6))),
            (deleting(READY), &[], &[], "10", Plan::LetGo),
            (deleting(READY), &[], &["10.0.1.1"], "10", Plan::LetGo),
            (cidr("c", own, true, false, READY), &[], &[], "10", Plan::Nothing),
            // Somebody does.
            (deleting(READY), &[], &["10.0.0.1"], "10", Plan::Blocked { condition: true }),
            (deleting(TERMINATING), &[], &["10.0.0.1"], "10", Plan::Blocked { condition: false }),
            // Another has the address too, or all of the range.
            (deleting(READY), &[&["10.0.0.0/25"]], &["10.0.0.1"], "10", Plan::LetGo),
            (deleting(READY), &[&["10.0.0.0/25"]], &["10.0.0.200"], "10", Plan::Blocked { condition: true }),
            (deleting(READY), &[&["10.0.0.0/16"]], &["10.0.0.1"], "10", Plan::LetGo),
            (deleting(READY), &[own], &["10.0.0.1"], "10", Plan::LetGo),
        ] {
            let text = format!("{cidr:?} {others:?} {addresses:?}");
            assert_eq!(go_at(cidr, others, addresses, now), expected, "{text}");
        }
        // Dual stack: both ranges have to be covered.
        let dual = || cidr("c", &["10.0.0.0/24", "fd00::/112"], true, true, READY);
        let used = &["10.0.0.1", "fd00::1"];
        assert_eq!(go_at(dual(), &[&["10.0.0.0/24"]], used, "10"), Plan::Blocked { condition: true });
        assert_eq!(go_at(dual(), &[&["10.0.0.0/24"], &["fd00::/64"]], used, "10"), Plan::LetGo);
    }
}
