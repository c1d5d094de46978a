//! Who the controllers are to the API server: a ServiceAccount of `kube-system` each, with upstream's bootstrap role for it, so that
//! authorization proves that none needs more.

/// Clients by identity. Cheap to make; the connections below are shared where the transport can.
pub struct Clients {
    shared: kube::Client,
    of_account: Box<dyn Fn(&str) -> kube::Client + Send + Sync>,
}

impl Clients {
    /// `shared` (system:kube-controller-manager) records events and holds the Lease; `of_account` makes the client of a controller from
    /// the name of its ServiceAccount, [`service_account`].
    pub fn per_controller(shared: kube::Client, of_account: impl Fn(&str) -> kube::Client + Send + Sync + 'static) -> Self {
        Self { shared, of_account: Box::new(of_account) }
    }

    /// One identity for all, which therefore needs the sum of their rights (upstream without `--use-service-account-credentials`).
    pub fn same(client: kube::Client) -> Self {
        Self::per_controller(client.clone(), move |_| client.clone())
    }

    pub(crate) fn shared(&self) -> &kube::Client {
        &self.shared
    }

    pub(crate) fn of_controller(&self, controller: &str) -> kube::Client {
        service_account(controller).map_or_else(|| self.shared.clone(), |account| (self.of_account)(account))
    }
}

/// The name of a controller's ServiceAccount in `kube-system`: the controller's, but for those that upstream renamed. `None` for the
/// controller of ServiceAccount tokens, which acts as the controller manager itself.
pub fn service_account(controller: &str) -> Option<&str> {
    let account = match controller {
        "serviceaccount-token-controller" => return None,
        "serviceaccount-controller" => "service-account-controller",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "daemonset-controller" => "daemon-set-controller",
        "replicationcontroller-controller" => "replication-controller",
        "endpoints-controller" => "endpoint-controller",
        "endpointslice-mirroring-controller" => "endpointslicemirroring-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        "node-lifecycle-controller" | "taint-eviction-controller" | "node-ipam-controller" => "node-controller",
        "horizontal-pod-autoscaler-controller" => "horizontal-pod-autoscaler",
        "persistentvolume-binder-controller" => "persistent-volume-binder",
        "persistentvolume-attach-detach-controller" => "attachdetach-controller",
        "persistentvolume-expander-controller" => "expand-controller",
        "persistentvolumeclaim-protection-controller" => "pvc-protection-controller",
        "persistentvolume-protection-controller" => "pv-protection-controller",
        "certificatesigningrequest-signing-controller"
        | "certificatesigningrequest-approving-controller"
        | "certificatesigningrequest-cleaner-controller" => "certificate-controller",
        "legacy-serviceaccount-token-cleaner-controller" => "legacy-service-account-token-cleaner",
        "bootstrap-signer-controller" => "bootstrap-signer",
        "token-cleaner-controller" => "token-cleaner",
        "resourceclaim-controller" => "resource-claim-controller",
        "service-lb-controller" => "service-controller",
        "service-cidr-controller" => "service-cidrs-controller",
        same => same,
    };
    Some(account)
}
