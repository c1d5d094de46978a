//! The explicit, ordered list of controllers. Adding one is one line here.

use std::pin::Pin;

use crate::context::Context;

type Start = fn(Context) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Entry {
    /// Upstream's name (`kube-controller-manager --help`).
    pub(crate) name: &'static str,
    pub(crate) start: Start,
}

/// In the order of their start: what pods need before they can run comes first.
pub(crate) const REGISTRY: &[Entry] = &[
    Entry { name: "serviceaccount-token-controller", start: |c| Box::pin(crate::serviceaccount_tokens::run(c)) },
    Entry { name: "serviceaccount-controller", start: |c| Box::pin(crate::serviceaccount::run(c)) },
    Entry { name: "root-ca-certificate-publisher-controller", start: |c| Box::pin(crate::root_ca_publisher::run(c)) },
    Entry { name: "deployment-controller", start: |c| Box::pin(crate::deployment::run(c)) },
    Entry { name: "replicaset-controller", start: |c| Box::pin(crate::replicaset::run(c)) },
    Entry { name: "replicationcontroller-controller", start: |c| Box::pin(crate::replicaset::run_replication_controllers(c)) },
    Entry { name: "job-controller", start: |c| Box::pin(crate::job::run(c)) },
    Entry { name: "cronjob-controller", start: |c| Box::pin(crate::cronjob::run(c)) },
    Entry { name: "statefulset-controller", start: |c| Box::pin(crate::statefulset::run(c)) },
    Entry { name: "daemonset-controller", start: |c| Box::pin(crate::daemonset::run(c)) },
    Entry { name: "endpointslice-controller", start: |c| Box::pin(crate::endpointslice::run(c)) },
    Entry { name: "endpointslice-mirroring-controller", start: |c| Box::pin(crate::endpointslice_mirroring::run(c)) },
    Entry { name: "endpoints-controller", start: |c| Box::pin(crate::endpoints::run(c)) },
    Entry { name: "service-cidr-controller", start: |c| Box::pin(crate::service_cidr::run(c)) },
    Entry { name: "persistentvolume-binder-controller", start: |c| Box::pin(crate::persistent_volume::run(c)) },
    Entry { name: "local-path-provisioner-controller", start: |c| Box::pin(crate::local_provisioner::run(c)) },
    Entry { name: "persistentvolume-attach-detach-controller", start: |c| Box::pin(crate::attach_detach::run(c)) },
    Entry { name: "persistentvolume-expander-controller", start: |c| Box::pin(crate::expand::run(c)) },
    Entry { name: "ephemeral-volume-controller", start: |c| Box::pin(crate::ephemeral_volume::run(c)) },
    Entry { name: "persistentvolumeclaim-protection-controller", start: |c| Box::pin(crate::storage_protection::run_claims(c)) },
    Entry { name: "persistentvolume-protection-controller", start: |c| Box::pin(crate::storage_protection::run_volumes(c)) },
    Entry {
        name: "volumeattributesclass-protection-controller",
        start: |c| Box::pin(crate::storage_protection::run_attributes_classes(c)),
    },
    Entry { name: crate::config_roll::NAME, start: |c| Box::pin(crate::config_roll::run(c)) },
    Entry { name: "service-lb-controller", start: |c| Box::pin(crate::service_lb::run(c)) },
    Entry { name: "horizontal-pod-autoscaler-controller", start: |c| Box::pin(crate::pod_autoscaler::run(c)) },
    Entry { name: "disruption-controller", start: |c| Box::pin(crate::disruption::run(c)) },
    Entry { name: "resourceclaim-controller", start: |c| Box::pin(crate::resource_claims::run(c)) },
    Entry { name: "resourcequota-controller", start: |c| Box::pin(crate::resource_quota::run(c)) },
    Entry { name: "namespace-controller", start: |c| Box::pin(crate::namespace::run(c)) },
    Entry { name: "garbage-collector-controller", start: |c| Box::pin(crate::garbage_collector::run(c)) },
    Entry { name: "node-ipam-controller", start: |c| Box::pin(crate::node_ipam::run(c)) },
    Entry { name: "node-lifecycle-controller", start: |c| Box::pin(crate::node_lifecycle::run(c)) },
    Entry { name: "taint-eviction-controller", start: |c| Box::pin(crate::taint_eviction::run(c)) },
    Entry { name: "ttl-controller", start: |c| Box::pin(crate::ttl::run(c)) },
    Entry { name: "certificatesigningrequest-approving-controller", start: |c| Box::pin(crate::certificates::run_approving(c)) },
    Entry { name: "certificatesigningrequest-signing-controller", start: |c| Box::pin(crate::certificates::run_signing(c)) },
    Entry { name: "certificatesigningrequest-cleaner-controller", start: |c| Box::pin(crate::certificates::run_cleaner(c)) },
    Entry { name: "clusterrole-aggregation-controller", start: |c| Box::pin(crate::cluster_role_aggregation::run(c)) },
    Entry { name: "ttl-after-finished-controller", start: |c| Box::pin(crate::ttl_after_finished::run(c)) },
    Entry { name: "legacy-serviceaccount-token-cleaner-controller", start: |c| Box::pin(crate::legacy_token_cleaner::run(c)) },
    Entry { name: "bootstrap-signer-controller", start: |c| Box::pin(crate::bootstrap_tokens::run_signer(c)) },
    Entry { name: "token-cleaner-controller", start: |c| Box::pin(crate::bootstrap_tokens::run_cleaner(c)) },
    Entry { name: "validatingadmissionpolicy-status-controller", start: |c| Box::pin(crate::policy_status::run(c)) },
    Entry { name: "pod-garbage-collector-controller", start: |c| Box::pin(crate::pod_gc::run(c)) },
];

/// Off unless `--controllers` names them: as upstream, and what needs rights that upstream's cluster roles do not have.
const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller", crate::config_roll::NAME];

/// Upstream's older names of controllers, which it still takes.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("daemonset", "daemonset-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("job", "job-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("service", "service-lb-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Controllers of upstream's that may be named and are not there: they can be switched off, not on.
const ABSENT: &[&str] = &[
    "cloud-node-lifecycle-controller",
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "node-route-controller",
    "podcertificaterequest-cleaner-controller",
    "selinux-warning-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
];

/// An item of `--controllers` by the controller's present name; `None` if there is no such controller.
pub(crate) fn resolve(item: &str) -> Option<String> {
    let (sign, name) = item.strip_prefix('-').map_or(("", item), |name| ("-", name));
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    let known = name == "*" && sign.is_empty() || controller_names().any(|known| known == name);
    (known || sign == "-" && ABSENT.contains(&name)).then(|| format!("{sign}{name}"))
}

/// Names of all controllers, in the order of their start.
pub fn controller_names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|entry| entry.name)
}

/// `--controllers`: the first mention of a name decides, else `*` enables those that are on by default.
pub(crate) fn is_enabled(name: &str, wanted: &[String]) -> bool {
    let mut star = false;
    for item in wanted {
        if item == name {
            return true;
        }
        if item.strip_prefix('-') == Some(name) {
            return false;
        }
        star |= item == "*";
    }
    star && !OFF_BY_DEFAULT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_list_of_enabled_controllers() {
        // (the flag, enabled where it is on by default, enabled where it is not)
        for (wanted, on, off) in [
            (&["*"][..], true, false),
            (&["foo"], true, false),
            (&["*", "token-cleaner-controller"], true, true),
            (&["*", "-foo"], false, false),
            (&["-foo", "*"], false, false),
            (&["foo", "-foo"], true, false),
            (&["bar"], false, false),
            (&[], false, false),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|&s| s.to_owned()).collect();
            let enabled = (is_enabled("foo", &wanted), is_enabled("token-cleaner-controller", &wanted));
            assert_eq!(enabled, (on, off), "{wanted:?}");
        }
    }

    #[test]
    fn older_names_and_what_is_not_there() {
        for (item, expected) in [
            ("*", Some("*")),
            ("bootstrapsigner", Some("bootstrap-signer-controller")),
            ("-job", Some("-job-controller")),
            ("job-controller", Some("job-controller")),
            ("-selinux-warning-controller", Some("-selinux-warning-controller")),
            ("selinux-warning-controller", None),
            ("nonsense", None),
            ("-nonsense", None),
            ("-*", None),
        ] {
            assert_eq!(resolve(item).as_deref(), expected, "{item}");
        }
        let known = |name: &&str| controller_names().any(|known| known == *name) || ABSENT.contains(name);
        assert!(ALIASES.iter().all(|(_, name)| known(name)));
        assert!(ABSENT.iter().all(|name| !controller_names().any(|known| known == *name)), "it is there by now");
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = controller_names().collect();
        assert_eq!(names.len(), REGISTRY.len());
        assert!(OFF_BY_DEFAULT.iter().all(|name| names.contains(name)), "a controller that does not exist is off");
    }
}
