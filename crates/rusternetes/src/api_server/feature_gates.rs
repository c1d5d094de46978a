//! Feature gates of Kubernetes v1.35, as data: what a gate is by default, and which values of it this server can honour.
//!
//! A gate may be set to its default. Another value is taken where this server has code for both, and refused by name elsewhere: a gate
//! that is accepted and does nothing would be a lie.

use std::collections::BTreeMap;

/// Name, stage and default of every gate that kube-apiserver knows.
#[rustfmt::skip]
const GATES: &[(&str, Stage, bool)] = &[
    ("APIResponseCompression", Beta, true),
    ("APIServerIdentity", Beta, true),
    ("APIServerTracing", Ga, true),
    ("APIServingWithRoutine", Alpha, false),
    ("AggregatedDiscoveryRemoveBetaType", Deprecated, true),
    ("AllAlpha", Alpha, false),
    ("AllBeta", Beta, false),
    ("AllowDNSOnlyNodeCSR", Deprecated, false),
    ("AllowInsecureKubeletCertificateSigningRequests", Deprecated, false),
    ("AllowOverwriteTerminationGracePeriodSeconds", Deprecated, false),
    ("AllowParsingUserUIDFromCertAuth", Beta, true),
    ("AllowUnsafeMalformedObjectDeletion", Alpha, false),
    ("AnonymousAuthConfigurableEndpoints", Ga, true),
    ("AnyVolumeDataSource", Ga, true),
    ("AuthorizeNodeWithSelectors", Ga, true),
    ("AuthorizePodWebsocketUpgradeCreatePermission", Beta, true),
    ("AuthorizeWithSelectors", Ga, true),
    ("BtreeWatchCache", Ga, true),
    ("CBORServingAndStorage", Alpha, false),
    ("CPUManagerPolicyAlphaOptions", Alpha, false),
    ("CPUManagerPolicyBetaOptions", Beta, true),
    ("CPUManagerPolicyOptions", Ga, true),
    ("CRDObservedGenerationTracking", Beta, false),
    ("CRDValidationRatcheting", Ga, true),
    ("CSIMigrationPortworx", Ga, true),
    ("CSIServiceAccountTokenSecrets", Beta, true),
    ("CSIVolumeHealth", Alpha, false),
    ("ClearingNominatedNodeNameAfterBinding", Beta, true),
    ("ClientsAllowCBOR", Alpha, false),
    ("ClientsPreferCBOR", Alpha, false),
    ("CloudControllerManagerWatchBasedRoutesReconciliation", Alpha, false),
    ("CloudControllerManagerWebhook", Alpha, false),
    ("ClusterTrustBundle", Beta, false),
    ("ClusterTrustBundleProjection", Beta, false),
    ("ComponentFlagz", Alpha, false),
    ("ComponentStatusz", Alpha, false),
    ("ConcurrentWatchObjectDecode", Beta, false),
    ("ConsistentListFromCache", Ga, true),
    ("ConstrainedImpersonation", Alpha, false),
    ("ContainerCheckpoint", Beta, true),
    ("ContainerRestartRules", Beta, true),
    ("ContainerStopSignals", Alpha, false),
    ("ContextualLogging", Beta, true),
    ("CoordinatedLeaderElection", Beta, false),
    ("CrossNamespaceVolumeDataSource", Alpha, false),
    ("CustomCPUCFSQuotaPeriod", Alpha, false),
    ("CustomResourceFieldSelectors", Ga, true),
    ("DRAAdminAccess", Beta, true),
    ("DRAConsumableCapacity", Alpha, false),
    ("DRADeviceBindingConditions", Alpha, false),
    ("DRADeviceTaintRules", Alpha, false),
    ("DRADeviceTaints", Alpha, false),
    ("DRAExtendedResource", Alpha, false),
    ("DRAPartitionableDevices", Alpha, false),
    ("DRAPrioritizedList", Beta, true),
    ("DRAResourceClaimDeviceStatus", Beta, true),
    ("DRASchedulerFilterTimeout", Beta, true),
    ("DeclarativeValidation", Beta, true),
    ("DeclarativeValidationTakeover", Beta, false),
    ("DeploymentReplicaSetTerminatingReplicas", Beta, true),
    ("DetectCacheInconsistency", Beta, true),
    ("DisableAllocatorDualWrite", Ga, true),
    ("DisableCPUQuotaWithExclusiveCPUs", Beta, true),
    ("DisableNodeKubeProxyVersion", Deprecated, true),
    ("EnvFiles", Beta, true),
    ("EventedPLEG", Alpha, false),
    ("ExecProbeTimeout", Ga, true),
    ("ExternalServiceAccountTokenSigner", Beta, true),
    ("GangScheduling", Alpha, false),
    ("GenericWorkload", Alpha, false),
    ("GitRepoVolumeDriver", Deprecated, false),
    ("GracefulNodeShutdown", Beta, true),
    ("GracefulNodeShutdownBasedOnPodPriority", Beta, true),
    ("HPAConfigurableTolerance", Beta, true),
    ("HPAScaleToZero", Alpha, false),
    ("HonorPVReclaimPolicy", Ga, true),
    ("HostnameOverride", Beta, true),
    ("ImageMaximumGCAge", Ga, true),
    ("ImageVolume", Beta, true),
    ("InOrderInformers", Beta, true),
    ("InOrderInformersBatchProcess", Beta, true),
    ("InPlacePodLevelResourcesVerticalScaling", Alpha, false),
    ("InPlacePodVerticalScaling", Ga, true),
    ("InPlacePodVerticalScalingAllocatedStatus", Deprecated, false),
    ("InPlacePodVerticalScalingExclusiveCPUs", Alpha, false),
    ("InPlacePodVerticalScalingExclusiveMemory", Alpha, false),
    ("InTreePluginPortworxUnregister", Alpha, false),
    ("InformerResourceVersion", Ga, true),
    ("JobBackoffLimitPerIndex", Ga, true),
    ("JobManagedBy", Ga, true),
    ("JobPodReplacementPolicy", Ga, true),
    ("JobSuccessPolicy", Ga, true),
    ("KMSv1", Deprecated, false),
    ("KubeletCgroupDriverFromCRI", Ga, true),
    ("KubeletCrashLoopBackOffMax", Beta, true),
    ("KubeletEnsureSecretPulledImages", Beta, true),
    ("KubeletFineGrainedAuthz", Beta, true),
    ("KubeletInUserNamespace", Alpha, false),
    ("KubeletPSI", Beta, true),
    ("KubeletPodResourcesDynamicResources", Beta, true),
    ("KubeletPodResourcesGet", Beta, true),
    ("KubeletPodResourcesListUseActivePods", Deprecated, true),
    ("KubeletRegistrationGetOnExistsOnly", Deprecated, false),
    ("KubeletSeparateDiskGC", Beta, true),
    ("KubeletServiceAccountTokenForCredentialProviders", Beta, true),
    ("KubeletTracing", Ga, true),
    ("ListFromCacheSnapshot", Beta, true),
    ("LocalStorageCapacityIsolationFSQuotaMonitoring", Beta, false),
    ("LogarithmicScaleDown", Ga, true),
    ("LoggingAlphaOptions", Alpha, false),
    ("LoggingBetaOptions", Beta, true),
    ("MatchLabelKeysInPodAffinity", Ga, true),
    ("MatchLabelKeysInPodTopologySpread", Beta, true),
    ("MatchLabelKeysInPodTopologySpreadSelectorMerge", Beta, true),
    ("MaxUnavailableStatefulSet", Beta, false),
    ("MemoryManager", Ga, true),
    ("MemoryQoS", Alpha, false),
    ("MultiCIDRServiceAllocator", Ga, true),
    ("MutableCSINodeAllocatableCount", Beta, true),
    ("MutablePVNodeAffinity", Alpha, false),
    ("MutablePodResourcesForSuspendedJobs", Alpha, false),
    ("MutableSchedulingDirectivesForSuspendedJobs", Alpha, false),
    ("MutatingAdmissionPolicy", Beta, false),
    ("NFTablesProxyMode", Ga, true),
    ("NodeDeclaredFeatures", Alpha, false),
    ("NodeInclusionPolicyInPodTopologySpread", Ga, true),
    ("NodeLogQuery", Beta, false),
    ("NodeSwap", Ga, true),
    ("NominatedNodeNameForExpectation", Beta, true),
    ("OpenAPIEnums", Beta, true),
    ("OpportunisticBatching", Beta, true),
    ("OrderedNamespaceDeletion", Ga, true),
    ("PodAndContainerStatsFromCRI", Alpha, false),
    ("PodCertificateRequest", Beta, false),
    ("PodDeletionCost", Beta, true),
    ("PodLevelResources", Beta, true),
    ("PodLifecycleSleepAction", Ga, true),
    ("PodLifecycleSleepActionAllowZero", Ga, true),
    ("PodLogsQuerySplitStreams", Alpha, false),
    ("PodObservedGenerationTracking", Ga, true),
    ("PodReadyToStartContainersCondition", Beta, true),
    ("PodSchedulingReadiness", Ga, true),
    ("PodTopologyLabelsAdmission", Beta, true),
    ("PortForwardWebsockets", Beta, true),
    ("PreferSameTrafficDistribution", Ga, true),
    ("PreventStaticPodAPIReferences", Beta, true),
    ("ProcMountType", Beta, true),
    ("QOSReserved", Alpha, false),
    ("RecoverVolumeExpansionFailure", Ga, true),
    ("RecursiveReadOnlyMounts", Ga, true),
    ("ReduceDefaultCrashLoopBackOffDecay", Alpha, false),
    ("RelaxedDNSSearchValidation", Ga, true),
    ("RelaxedEnvironmentVariableValidation", Ga, true),
    ("RelaxedServiceNameValidation", Alpha, false),
    ("ReloadKubeletServerCertificateFile", Beta, true),
    ("RemoteRequestHeaderUID", Beta, true),
    ("ResilientWatchCacheInitialization", Ga, true),
    ("ResourceHealthStatus", Alpha, false),
    ("RestartAllContainersOnContainerExits", Alpha, false),
    ("RetryGenerateName", Ga, true),
    ("RotateKubeletServerCertificate", Beta, true),
    ("RuntimeClassInImageCriApi", Alpha, false),
    ("SELinuxChangePolicy", Beta, true),
    ("SELinuxMount", Beta, false),
    ("SELinuxMountReadWriteOncePod", Beta, true),
    ("SchedulerAsyncAPICalls", Beta, false),
    ("SchedulerAsyncPreemption", Beta, true),
    ("SchedulerPopFromBackoffQ", Beta, true),
    ("SchedulerQueueingHints", Ga, true),
    ("SeparateCacheWatchRPC", Deprecated, false),
    ("SeparateTaintEvictionController", Ga, true),
    ("ServiceAccountNodeAudienceRestriction", Beta, true),
    ("ServiceAccountTokenJTI", Ga, true),
    ("ServiceAccountTokenNodeBinding", Ga, true),
    ("ServiceAccountTokenNodeBindingValidation", Ga, true),
    ("ServiceAccountTokenPodNodeInfo", Ga, true),
    ("ServiceTrafficDistribution", Ga, true),
    ("SidecarContainers", Ga, true),
    ("SizeBasedListCostEstimate", Beta, true),
    ("StatefulSetSemanticRevisionComparison", Beta, true),
    ("StorageCapacityScoring", Alpha, false),
    ("StorageNamespaceIndex", Deprecated, true),
    ("StorageVersionAPI", Alpha, false),
    ("StorageVersionHash", Beta, true),
    ("StorageVersionMigrator", Beta, false),
    ("StreamingCollectionEncodingToJSON", Ga, true),
    ("StreamingCollectionEncodingToProtobuf", Ga, true),
    ("StrictIPCIDRValidation", Alpha, false),
    ("StructuredAuthenticationConfiguration", Ga, true),
    ("StructuredAuthenticationConfigurationEgressSelector", Beta, true),
    ("StructuredAuthenticationConfigurationJWKSMetrics", Beta, true),
    ("StructuredAuthorizationConfiguration", Ga, true),
    ("SupplementalGroupsPolicy", Ga, true),
    ("TaintTolerationComparisonOperators", Alpha, false),
    ("TokenRequestServiceAccountUIDValidation", Beta, true),
    ("TopologyAwareHints", Ga, true),
    ("TopologyManagerPolicyAlphaOptions", Alpha, false),
    ("TopologyManagerPolicyBetaOptions", Beta, true),
    ("TopologyManagerPolicyOptions", Ga, true),
    ("TranslateStreamCloseWebsocketRequests", Beta, true),
    ("UnauthenticatedHTTP2DOSMitigation", Beta, true),
    ("UnknownVersionInteroperabilityProxy", Alpha, false),
    ("UserNamespacesHostNetworkSupport", Alpha, false),
    ("UserNamespacesSupport", Beta, true),
    ("VolumeAttributesClass", Ga, true),
    ("VolumeLimitScaling", Alpha, false),
    ("WatchCacheInitializationPostStartHook", Beta, false),
    ("WatchFromStorageWithoutResourceVersion", Deprecated, false),
    ("WatchList", Beta, true),
    ("WatchListClient", Beta, true),
    ("WinDSR", Ga, true),
    ("WinOverlay", Ga, true),
    ("WindowsCPUAndMemoryAffinity", Alpha, false),
    ("WindowsGracefulNodeShutdown", Beta, true),
    ("WindowsHostNetwork", Deprecated, false),
];

use Stage::{Alpha, Beta, Deprecated, Ga};

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
    Ga,
    Deprecated,
}

/// Gates that may have either value at the API server: those that this server has code for, and those that upstream's kube-apiserver has no code for
/// either, because they are another component's.
#[rustfmt::skip]
const HONOURED: &[&str] = &[
    CBOR, CLEARING_NOMINATED, MAX_UNAVAILABLE, TERMINATING_REPLICAS, WATCH_LIST,
    // The scheduler's.
    "DRASchedulerFilterTimeout", "GangScheduling", "NominatedNodeNameForExpectation", "OpportunisticBatching",
    "SchedulerAsyncAPICalls", "SchedulerAsyncPreemption", "SchedulerPopFromBackoffQ", "StorageCapacityScoring", "VolumeLimitScaling",
    // The controllers'.
    "CloudControllerManagerWatchBasedRoutesReconciliation", "CloudControllerManagerWebhook", "InOrderInformers",
    "InOrderInformersBatchProcess", "StatefulSetSemanticRevisionComparison",
    // The kubelet's.
    "ContainerCheckpoint", "EventedPLEG", "GracefulNodeShutdown", "GracefulNodeShutdownBasedOnPodPriority",
    "KubeletCrashLoopBackOffMax", "KubeletEnsureSecretPulledImages", "KubeletInUserNamespace", "KubeletPSI", "KubeletSeparateDiskGC",
    "MemoryQoS", "NodeLogQuery", "PodAndContainerStatsFromCRI", "PodReadyToStartContainersCondition", "PreventStaticPodAPIReferences",
    "QOSReserved", "ReduceDefaultCrashLoopBackOffDecay", "RotateKubeletServerCertificate",
    // Clients'.
    "ClientsAllowCBOR", "ClientsPreferCBOR", "WatchListClient",
];
const CBOR: &str = "CBORServingAndStorage";
const MAX_UNAVAILABLE: &str = "MaxUnavailableStatefulSet";
const WATCH_LIST: &str = "WatchList";
const CLEARING_NOMINATED: &str = "ClearingNominatedNodeNameAfterBinding";
const TERMINATING_REPLICAS: &str = "DeploymentReplicaSetTerminatingReplicas";

/// The gates that are not as they are by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FeatureGates(BTreeMap<&'static str, bool>);

impl FeatureGates {
    /// Those that the API server asks for.
    fn of_server(&self) -> api_server::FeatureGates {
        api_server::FeatureGates {
            cbor: self.is_enabled(CBOR),
            watch_list: self.is_enabled(WATCH_LIST),
            max_unavailable_stateful_set: self.is_enabled(MAX_UNAVAILABLE),
            clearing_nominated_node_name: self.is_enabled(CLEARING_NOMINATED),
            terminating_replicas: self.is_enabled(TERMINATING_REPLICAS),
        }
    }

    fn is_enabled(&self, name: &str) -> bool {
        let default = || GATES.iter().any(|(have, _, default)| *have == name && *default);
        self.0.get(name).copied().unwrap_or_else(default)
    }
}

/// The API server's `--feature-gates`. The error names the gate.
pub(super) fn of_server(items: &[String]) -> Result<api_server::FeatureGates, String> {
    Ok(parse(items, HONOURED)?.of_server())
}

/// The controllers', which have code both ways for fewer of them.
pub(crate) fn of_controllers(items: &[String]) -> Result<controller_manager::FeatureGates, String> {
    let honoured = [&[MAX_UNAVAILABLE], ZPAGES, API_SERVERS, SCHEDULERS, KUBELETS].concat();
    let gates = parse(items, &honoured)?;
    Ok(controller_manager::FeatureGates { max_unavailable_stateful_set: gates.is_enabled(MAX_UNAVAILABLE) })
}

/// The scheduler's, which has code one way for each of its own.
pub(crate) fn check_scheduler(items: &[String]) -> Result<(), String> {
    parse(items, &[ZPAGES, API_SERVERS, CONTROLLERS, KUBELETS].concat()).map(drop)
}

/// Whether a component alone has `/flagz` and `/statusz`.
pub(crate) fn zpages(items: &[String]) -> Result<(bool, bool), String> {
    let all: Vec<&str> = GATES.iter().map(|(name, ..)| *name).collect();
    let gates = parse(items, &all)?;
    Ok((gates.is_enabled(ZPAGES[0]), gates.is_enabled(ZPAGES[1])))
}

/// The pages of components alone.
const ZPAGES: &[&str] = &["ComponentFlagz", "ComponentStatusz"];

// Gates of one component that the others may be given too, because one list is usually given to all of them.

const API_SERVERS: &[&str] = &[
    CBOR,
    WATCH_LIST,
    CLEARING_NOMINATED,
    "APIResponseCompression",
    "APIServerIdentity",
    "APIServingWithRoutine",
    "AllowUnsafeMalformedObjectDeletion",
    "ClientsAllowCBOR",
    "ClientsPreferCBOR",
    "ConcurrentWatchObjectDecode",
    "ListFromCacheSnapshot",
    "MutatingAdmissionPolicy",
    "OpenAPIEnums",
    "RelaxedServiceNameValidation",
    "StrictIPCIDRValidation",
    "WatchListClient",
];
const SCHEDULERS: &[&str] = &[
    "DRASchedulerFilterTimeout",
    "NominatedNodeNameForExpectation",
    "OpportunisticBatching",
    "SchedulerAsyncAPICalls",
    "SchedulerAsyncPreemption",
    "SchedulerPopFromBackoffQ",
    "StorageCapacityScoring",
    "VolumeLimitScaling",
];
const CONTROLLERS: &[&str] = &[MAX_UNAVAILABLE, TERMINATING_REPLICAS, "StatefulSetSemanticRevisionComparison"];
const KUBELETS: &[&str] = &[
    "ContainerCheckpoint",
    "EventedPLEG",
    "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority",
    "ImageVolume",
    "KubeletCrashLoopBackOffMax",
    "KubeletEnsureSecretPulledImages",
    "KubeletInUserNamespace",
    "KubeletPSI",
    "KubeletSeparateDiskGC",
    "MemoryQoS",
    "NodeLogQuery",
    "PodAndContainerStatsFromCRI",
    "PodReadyToStartContainersCondition",
    "QOSReserved",
    "ReduceDefaultCrashLoopBackOffDecay",
    "RotateKubeletServerCertificate",
];

/// Reads `NAME=true|false` and `COMPONENT:NAME=true|false` items.
fn parse(items: &[String], honoured: &[&str]) -> Result<FeatureGates, String> {
    let mut gates = FeatureGates::default();
    for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {item}"))?;
        let name = name.strip_prefix("kube:").unwrap_or(name).trim();
        let wanted: bool = value.trim().to_ascii_lowercase().parse().map_err(|_| format!("invalid value of {name}={value}"))?;
        let Some((known, stage, default)) = GATES.iter().find(|(have, ..)| *have == name) else {
            return Err(format!("unrecognized feature gate: {name}"));
        };
        if honoured.contains(&name) {
            gates.0.insert(known, wanted);
        } else if wanted != *default {
            return Err(match stage {
                Ga => format!("cannot set feature gate {name} to {wanted}, feature is locked to {default}"),
                Alpha | Beta | Deprecated => format!("feature gate {name}={wanted}: not implemented"),
            });
        }
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_may_be_what_they_are() {
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let check = |items: &[&str]| parse(&owned(items), HONOURED);
        let gates = check(&["WatchList=true", "kube:AllAlpha=false", ""]).unwrap();
        assert!(gates.is_enabled("WatchList") && !gates.is_enabled(CBOR));
        assert!(check(&["CBORServingAndStorage=true"]).unwrap().is_enabled(CBOR));
        let gates = check(&["MaxUnavailableStatefulSet=true"]).unwrap();
        assert!(gates.of_server().max_unavailable_stateful_set);
        assert!(of_controllers(&owned(&["MaxUnavailableStatefulSet=true"])).unwrap().max_unavailable_stateful_set);
        assert!(!of_controllers(&owned(&["WatchList=true"])).unwrap().max_unavailable_stateful_set);
        // What only others have code for is theirs.
        assert!(check_scheduler(&owned(&["KubeletPSI=false", "MaxUnavailableStatefulSet=true"])).is_ok());
        assert!(check_scheduler(&owned(&["SchedulerAsyncPreemption=false"])).unwrap_err().contains("not implemented"));
        assert_eq!(zpages(&owned(&["ComponentStatusz=true"])), Ok((false, true)));
        let lists = [API_SERVERS, SCHEDULERS, CONTROLLERS, KUBELETS, ZPAGES].concat();
        assert!(lists.iter().all(|name| GATES.iter().any(|(have, ..)| have == name)));
        // The controllers have no code for it, the API server need not have any.
        let semantic = owned(&["StatefulSetSemanticRevisionComparison=false"]);
        assert!(of_server(&semantic).is_ok());
        assert!(of_controllers(&semantic).unwrap_err().contains("StatefulSetSemanticRevisionComparison=false: not implemented"));
        assert!(check(&["AllAlpha=true"]).unwrap_err().contains("AllAlpha=true: not implemented"));
        assert!(check(&["NoSuchGate=true"]).unwrap_err().contains("unrecognized feature gate: NoSuchGate"));
        assert!(check(&["WatchList"]).unwrap_err().contains("missing bool value"));
        assert!(check(&["MaxUnavailableStatefulSet=often"]).unwrap_err().contains("invalid value"));
    }
}
