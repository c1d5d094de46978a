//! `/configz`: KubeControllerManagerConfiguration with upstream's field names, as upstream shows it.

use client::Connection;
use controller_manager::Config;
use serde_json::Value;

use super::settings::workers;
use crate::flags::Values;
use crate::flags::common::client_connection;

/// Fields of the configuration and the flags that set them.
#[rustfmt::skip]
const FIELDS: &[(&str, &str)] = &[
    ("Generic.Port", "secure-port"),
    ("Generic.Address", "bind-address"),
    ("Generic.MinResyncPeriod", "min-resync-period"),
    ("Generic.ControllerStartInterval", "controller-start-interval"),
    ("Generic.LeaderElection.LeaderElect", "leader-elect"),
    ("Generic.LeaderElection.LeaseDuration", "leader-elect-lease-duration"),
    ("Generic.LeaderElection.RenewDeadline", "leader-elect-renew-deadline"),
    ("Generic.LeaderElection.RetryPeriod", "leader-elect-retry-period"),
    ("Generic.LeaderElection.ResourceLock", "leader-elect-resource-lock"),
    ("Generic.LeaderElection.ResourceName", "leader-elect-resource-name"),
    ("Generic.LeaderElection.ResourceNamespace", "leader-elect-resource-namespace"),
    ("Generic.Controllers", "controllers"),
    ("Generic.Debugging.EnableProfiling", "profiling"),
    ("Generic.Debugging.EnableContentionProfiling", "contention-profiling"),
    ("Generic.LeaderMigrationEnabled", "enable-leader-migration"),
    ("KubeCloudShared.CloudProvider.Name", "cloud-provider"),
    ("KubeCloudShared.CloudProvider.CloudConfigFile", "cloud-config"),
    ("KubeCloudShared.ExternalCloudVolumePlugin", "external-cloud-volume-plugin"),
    ("KubeCloudShared.UseServiceAccountCredentials", "use-service-account-credentials"),
    ("KubeCloudShared.RouteReconciliationPeriod", "route-reconciliation-period"),
    ("KubeCloudShared.NodeMonitorPeriod", "node-monitor-period"),
    ("KubeCloudShared.ClusterName", "cluster-name"),
    ("KubeCloudShared.AllocateNodeCIDRs", "allocate-node-cidrs"),
    ("KubeCloudShared.CIDRAllocatorType", "cidr-allocator-type"),
    ("KubeCloudShared.ConfigureCloudRoutes", "configure-cloud-routes"),
    ("AttachDetachController.DisableAttachDetachReconcilerSync", "disable-attach-detach-reconcile-sync"),
    ("AttachDetachController.ReconcilerSyncLoopPeriod", "attach-detach-reconcile-sync-period"),
    ("AttachDetachController.DisableForceDetachOnTimeout", "disable-force-detach-on-timeout"),
    ("CronJobController.ConcurrentCronJobSyncs", "concurrent-cron-job-syncs"),
    ("CSRSigningController.ClusterSigningCertFile", "cluster-signing-cert-file"),
    ("CSRSigningController.ClusterSigningKeyFile", "cluster-signing-key-file"),
    ("CSRSigningController.ClusterSigningDuration", "cluster-signing-duration"),
    ("DaemonSetController.ConcurrentDaemonSetSyncs", "concurrent-daemonset-syncs"),
    ("DeploymentController.ConcurrentDeploymentSyncs", "concurrent-deployment-syncs"),
    ("EndpointController.ConcurrentEndpointSyncs", "concurrent-endpoint-syncs"),
    ("EndpointController.EndpointUpdatesBatchPeriod", "endpoint-updates-batch-period"),
    ("EndpointSliceController.ConcurrentServiceEndpointSyncs", "concurrent-service-endpoint-syncs"),
    ("EndpointSliceController.MaxEndpointsPerSlice", "max-endpoints-per-slice"),
    ("EndpointSliceController.EndpointUpdatesBatchPeriod", "endpointslice-updates-batch-period"),
    ("EndpointSliceMirroringController.MirroringConcurrentServiceEndpointSyncs", "mirroring-concurrent-service-endpoint-syncs"),
    ("EndpointSliceMirroringController.MirroringMaxEndpointsPerSubset", "mirroring-max-endpoints-per-subset"),
    ("EphemeralVolumeController.ConcurrentEphemeralVolumeSyncs", "concurrent-ephemeralvolume-syncs"),
    ("GarbageCollectorController.EnableGarbageCollector", "enable-garbage-collector"),
    ("GarbageCollectorController.ConcurrentGCSyncs", "concurrent-gc-syncs"),
    ("HPAController.ConcurrentHorizontalPodAutoscalerSyncs", "concurrent-horizontal-pod-autoscaler-syncs"),
    ("HPAController.HorizontalPodAutoscalerSyncPeriod", "horizontal-pod-autoscaler-sync-period"),
    ("HPAController.HorizontalPodAutoscalerDownscaleStabilizationWindow", "horizontal-pod-autoscaler-downscale-stabilization"),
    ("HPAController.HorizontalPodAutoscalerTolerance", "horizontal-pod-autoscaler-tolerance"),
    ("HPAController.HorizontalPodAutoscalerCPUInitializationPeriod", "horizontal-pod-autoscaler-cpu-initialization-period"),
    ("HPAController.HorizontalPodAutoscalerInitialReadinessDelay", "horizontal-pod-autoscaler-initial-readiness-delay"),
    ("JobController.ConcurrentJobSyncs", "concurrent-job-syncs"),
    ("LegacySATokenCleaner.CleanUpPeriod", "legacy-service-account-token-clean-up-period"),
    ("NamespaceController.NamespaceSyncPeriod", "namespace-sync-period"),
    ("NamespaceController.ConcurrentNamespaceSyncs", "concurrent-namespace-syncs"),
    ("NodeIPAMController.NodeCIDRMaskSize", "node-cidr-mask-size"),
    ("NodeIPAMController.NodeCIDRMaskSizeIPv4", "node-cidr-mask-size-ipv4"),
    ("NodeIPAMController.NodeCIDRMaskSizeIPv6", "node-cidr-mask-size-ipv6"),
    ("NodeLifecycleController.NodeEvictionRate", "node-eviction-rate"),
    ("NodeLifecycleController.SecondaryNodeEvictionRate", "secondary-node-eviction-rate"),
    ("NodeLifecycleController.NodeStartupGracePeriod", "node-startup-grace-period"),
    ("NodeLifecycleController.NodeMonitorGracePeriod", "node-monitor-grace-period"),
    ("NodeLifecycleController.LargeClusterSizeThreshold", "large-cluster-size-threshold"),
    ("NodeLifecycleController.UnhealthyZoneThreshold", "unhealthy-zone-threshold"),
    ("PersistentVolumeBinderController.PVClaimBinderSyncPeriod", "pvclaimbinder-sync-period"),
    ("PersistentVolumeBinderController.VolumeConfiguration.EnableHostPathProvisioning", "enable-hostpath-provisioner"),
    ("PersistentVolumeBinderController.VolumeConfiguration.EnableDynamicProvisioning", "enable-dynamic-provisioning"),
    ("PodGCController.TerminatedPodGCThreshold", "terminated-pod-gc-threshold"),
    ("ReplicaSetController.ConcurrentRSSyncs", "concurrent-replicaset-syncs"),
    ("ReplicationController.ConcurrentRCSyncs", "concurrent-rc-syncs"),
    ("ResourceQuotaController.ResourceQuotaSyncPeriod", "resource-quota-sync-period"),
    ("ResourceQuotaController.ConcurrentResourceQuotaSyncs", "concurrent-resource-quota-syncs"),
    ("SAController.ServiceAccountKeyFile", "service-account-private-key-file"),
    ("SAController.ConcurrentSATokenSyncs", "concurrent-serviceaccount-token-syncs"),
    ("SAController.RootCAFile", "root-ca-file"),
    ("ServiceController.ConcurrentServiceSyncs", "concurrent-service-syncs"),
    ("StatefulSetController.ConcurrentStatefulSetSyncs", "concurrent-statefulset-syncs"),
    ("TTLAfterFinishedController.ConcurrentTTLSyncs", "concurrent-ttl-after-finished-syncs"),
    ("ValidatingAdmissionPolicyStatusController.ConcurrentPolicySyncs", "concurrent-validating-admission-policy-status-syncs"),
];

/// What `/configz` shows: the flags, and where they are not given what is in force, which is less than upstream's defaults.
pub(super) fn configuration(values: &Values, config: &Config, connection: &Connection) -> Value {
    let mut whole = values.configuration(FIELDS);
    whole["Generic"]["ClientConnection"] = client_connection(connection);
    for (name, count) in workers(&mut config.clone()) {
        for (path, _) in FIELDS.iter().filter(|(_, flag)| *flag == name) {
            *path.split('.').fold(&mut whole, |place, part| &mut place[part]) = (*count).into();
        }
    }
    // One text upstream, a list here.
    whole["KubeCloudShared"]["ClusterCIDR"] = values.list("cluster-cidr").join(",").into();
    let services = values.list("service-cluster-ip-range");
    for (index, field) in ["ServiceCIDR", "SecondaryServiceCIDR"].into_iter().enumerate() {
        whole["NodeIPAMController"][field] = services.get(index).cloned().unwrap_or_default().into();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::table::FLAGS;
    use super::*;
    use crate::flags::testing;

    fn shown(arguments: &[&str]) -> Value {
        let values = testing::read(FLAGS, arguments).unwrap();
        let settings = Settings::new(&values).unwrap();
        configuration(&values, &settings.config, &settings.connection)
    }

    #[test]
    fn upstreams_names_and_what_is_in_force() {
        let whole = shown(&["--kubeconfig=/x", "--cluster-cidr=10.0.0.0/16"]);
        assert_eq!(whole["Generic"]["MinResyncPeriod"], "12h0m0s");
        assert_eq!(whole["Generic"]["ClientConnection"]["Kubeconfig"], "/x");
        assert_eq!(whole["Generic"]["ClientConnection"]["QPS"], -1.0, "there is no limit unless one is asked for");
        assert_eq!(whole["Generic"]["Controllers"], serde_json::json!(["*"]));
        assert_eq!(whole["KubeCloudShared"]["ClusterCIDR"], "10.0.0.0/16");
        assert_eq!(whole["NodeIPAMController"]["SecondaryServiceCIDR"], "");
        let ours = Config::default();
        assert_eq!(whole["GarbageCollectorController"]["ConcurrentGCSyncs"], ours.concurrent_gc_syncs);
        assert_eq!(whole["NamespaceController"]["ConcurrentNamespaceSyncs"], ours.concurrent_namespace_syncs);
        let whole = shown(&["--kubeconfig=/x", "--concurrent-gc-syncs=20", "--kube-api-qps=7"]);
        assert_eq!(whole["GarbageCollectorController"]["ConcurrentGCSyncs"], 20);
        assert_eq!(whole["Generic"]["ClientConnection"]["QPS"], 7.0);
        assert_eq!(whole["Generic"]["ClientConnection"]["Burst"], 30);
    }

    #[test]
    fn every_number_of_workers_is_shown() {
        for (name, _) in workers(&mut Config::default()) {
            assert!(FIELDS.iter().any(|(_, flag)| *flag == name), "{name}");
        }
    }
}
