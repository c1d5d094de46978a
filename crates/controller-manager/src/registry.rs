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
    Entry { name: "ephemeral-volume-controller", start: |c| Box::pin(crate::ephemeral_volume::run(c)) },
    Entry { name: "persistentvolumeclaim-protection-controller", start: |c| Box::pin(crate::storage_protection::run_claims(c)) },
    Entry { name: "persistentvolume-protection-controller", start: |c| Box::pin(crate::storage_protection::run_volumes(c)) },
    Entry {
        name: "volumeattributesclass-protection-controller",
        start: |c| Box::pin(crate::storage_protection::run_attributes_classes(c)),
    },
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
    Entry { name: "pod-garbage-collector-controller", start: |c| Box::pin(crate::pod_gc::run(c)) },
];

/// Off unless `--controllers` names them, as upstream.
const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller"];

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
    fn names_are_unique() {
        let names: HashSet<_> = controller_names().collect();
        assert_eq!(names.len(), REGISTRY.len());
        assert!(OFF_BY_DEFAULT.iter().all(|name| names.contains(name)), "a controller that does not exist is off");
    }
}
