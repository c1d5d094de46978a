//! Feature gates of Kubernetes, at the version that is emulated: what a gate is by default, and which values of it this server can honour.
//!
//! A gate may be set to what this server does. Another value is taken where this server has code for both, and refused by name elsewhere: a gate
//! that is accepted and does nothing would be a lie. What an older version had off and this server cannot leave out is told at the start.

mod table;

use std::collections::BTreeMap;

use api_server::{EmulatedVersion, Feature};
use table::{GATES, NEEDS, Setting, Stage};

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// Gates that upstream's kube-apiserver has no code for, because they are another component's or a client's; with [`SCHEDULERS`] and
/// [`KUBELETS`].
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    // The scheduler's.
    "SchedulerQueueingHints",
    // The controllers'.
    "CloudControllerManagerWatchBasedRoutesReconciliation", "CloudControllerManagerWebhook", "HonorPVReclaimPolicy", "InOrderInformers",
    "InOrderInformersBatchProcess", "InTreePluginPortworxUnregister", "InformerResourceVersion", "LogarithmicScaleDown",
    "OrderedNamespaceDeletion", "SeparateTaintEvictionController", "StatefulSetSemanticRevisionComparison",
    // The kubelet's and the proxy's.
    "CPUManagerPolicyAlphaOptions", "CPUManagerPolicyBetaOptions", "CPUManagerPolicyOptions", "ChangeContainerStatusOnKubeletRestart",
    "CustomCPUCFSQuotaPeriod", "DisableCPUQuotaWithExclusiveCPUs", "DisableNodeKubeProxyVersion",
    "ExecProbeTimeout", "ImageMaximumGCAge",
    "InPlacePodVerticalScalingAllocatedStatus", "InPlacePodVerticalScalingExclusiveCPUs", "InPlacePodVerticalScalingExclusiveMemory",
    "KubeletCgroupDriverFromCRI",
    "KubeletPodResourcesDynamicResources", "KubeletPodResourcesGet", "KubeletPodResourcesListUseActivePods",
    "KubeletTracing", "MemoryManager", "NFTablesProxyMode", "NodeSwap",
    "PreventStaticPodAPIReferences",
    "ReloadKubeletServerCertificateFile", "RuntimeClassInImageCriApi", "SystemdWatchdog",
    "TopologyManagerPolicyAlphaOptions", "TopologyManagerPolicyBetaOptions", "TopologyManagerPolicyOptions", "WinDSR", "WinOverlay",
    "WindowsCPUAndMemoryAffinity", "WindowsGracefulNodeShutdown", "WindowsHostNetwork",
    // Clients'.
    "ClientsAllowCBOR", "ClientsPreferCBOR", "WatchListClient",
];
/// Gates of ways in which upstream's kube-apiserver works inside, between which its answers do not differ.
#[rustfmt::skip]
const UNSEEN: &[&str] = &[
    "APIServingWithRoutine", "BtreeWatchCache", "ConcurrentWatchObjectDecode", "DeclarativeValidation", "DetectCacheInconsistency",
    "DisableAllocatorDualWrite", "ListFromCacheSnapshot", "ResilientWatchCacheInitialization", "SeparateCacheWatchRPC",
    "SizeBasedListCostEstimate", "StreamingCollectionEncodingToJSON", "StreamingCollectionEncodingToProtobuf",
];
const CBOR: &str = "CBORServingAndStorage";
const MAX_UNAVAILABLE: &str = "MaxUnavailableStatefulSet";
const WATCH_LIST: &str = "WatchList";
const GANGS: &str = "GangScheduling";
const BATCHING: &str = "OpportunisticBatching";
const CLEARING_NOMINATED: &str = "ClearingNominatedNodeNameAfterBinding";
const TERMINATING_REPLICAS: &str = "DeploymentReplicaSetTerminatingReplicas";

/// The gates that are not as they are by default in a version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FeatureGates {
    version: EmulatedVersion,
    set: BTreeMap<&'static str, bool>,
}

/// What a gate is in a minor release; `None` before it was there.
fn at(name: &str, minor: u8) -> Option<(Stage, Setting)> {
    let (_, history) = GATES.iter().find(|(have, _)| *have == name)?;
    history.iter().rev().find(|(since, ..)| *since <= minor).map(|(_, stage, setting)| (*stage, *setting))
}

fn is_on_by_default(name: &str, minor: u8) -> bool {
    at(name, minor).is_some_and(|(_, setting)| setting.on)
}

impl FeatureGates {
    fn is_enabled(&self, name: &str) -> bool {
        self.set.get(name).copied().unwrap_or_else(|| is_on_by_default(name, self.version.minor))
    }

    /// A feature that is on without one that it needs.
    fn check_needs(&self) -> Result<(), String> {
        for (name, needs) in NEEDS.iter().filter(|(name, _)| self.is_enabled(name)) {
            let missing: Vec<&str> = needs.iter().filter(|need| !self.is_enabled(need)).copied().collect();
            if !missing.is_empty() {
                return Err(format!("{name} is enabled, but depends on features that are disabled: [{}]", missing.join(" ")));
            }
        }
        Ok(())
    }
}

/// What the API server is like.
#[derive(Debug)]
pub(super) struct ServerGates {
    pub(super) gates: api_server::FeatureGates,
    /// What the version that is emulated had otherwise, and this server has not.
    pub(super) differences: Vec<&'static str>,
}

/// The API server's `--feature-gates`. The error names the gate.
pub(super) fn of_server(items: &[String], version: EmulatedVersion) -> Result<ServerGates, String> {
    let own: Vec<&str> = Feature::all().map(Feature::name).collect();
    let foreign = [OTHERS, SCHEDULERS, KUBELETS, UNSEEN].concat();
    let parsed = parse(items, version, &[&own[..], &foreign].concat())?;
    parsed.check_needs()?;
    // Its objects are read and written in a version of networking.k8s.io that is not older.
    if version.minor < 33 && parsed.is_enabled(Feature::MultiCidrServiceAllocator.name()) {
        return Err("feature gate MultiCIDRServiceAllocator=true: not implemented before 1.33".to_owned());
    }
    let gates = Feature::all()
        .fold(api_server::FeatureGates::default(), |gates, feature| gates.with(feature, parsed.is_enabled(feature.name())));
    let indifferent = |name: &str| own.contains(&name) || foreign.contains(&name);
    let differs = |name: &str| is_on_by_default(name, version.minor) != is_on_by_default(name, EmulatedVersion::NEWEST_MINOR);
    let differences = GATES.iter().map(|(name, _)| *name).filter(|name| differs(name) && !indifferent(name)).collect();
    Ok(ServerGates { gates, differences })
}

/// The controllers', which have code both ways for fewer of them.
pub(crate) fn of_controllers(items: &[String]) -> Result<controller_manager::FeatureGates, String> {
    let honoured = [&[MAX_UNAVAILABLE], ZPAGES, API_SERVERS, UNSEEN, SCHEDULERS, KUBELETS].concat();
    let gates = parse(items, EmulatedVersion::default(), &honoured)?;
    Ok(controller_manager::FeatureGates { max_unavailable_stateful_set: gates.is_enabled(MAX_UNAVAILABLE) })
}

/// The scheduler's, which has code one way for most of its own.
pub(crate) fn of_scheduler(items: &[String]) -> Result<scheduler::FeatureGates, String> {
    let honoured = [&[BATCHING, GANGS], ZPAGES, API_SERVERS, UNSEEN, CONTROLLERS, KUBELETS].concat();
    let gates = parse(items, EmulatedVersion::default(), &honoured)?;
    gates.check_needs()?;
    Ok(scheduler::FeatureGates { opportunistic_batching: gates.is_enabled(BATCHING), gang_scheduling: gates.is_enabled(GANGS) })
}

/// Whether a component alone has `/flagz` and `/statusz`.
pub(crate) fn zpages(items: &[String]) -> Result<(bool, bool), String> {
    let all: Vec<&str> = GATES.iter().map(|(name, _)| *name).collect();
    let gates = parse(items, EmulatedVersion::default(), &all)?;
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
    "AllowParsingUserUIDFromCertAuth",
    "AllowUnsafeMalformedObjectDeletion",
    "AuthorizePodWebsocketUpgradeCreatePermission",
    "ClientsAllowCBOR",
    "ClientsPreferCBOR",
    "GenericWorkload",
    "KubeletServiceAccountTokenForCredentialProviders",
    "MutatingAdmissionPolicy",
    "OpenAPIEnums",
    "PodTopologyLabelsAdmission",
    "RelaxedDNSSearchValidation",
    "RelaxedServiceNameValidation",
    "RemoteRequestHeaderUID",
    "ServiceAccountNodeAudienceRestriction",
    "ServiceAccountTokenNodeBinding",
    "StrictIPCIDRValidation",
    "TokenRequestServiceAccountUIDValidation",
    "WatchListClient",
];
const SCHEDULERS: &[&str] = &[
    "DRASchedulerFilterTimeout",
    GANGS,
    "NominatedNodeNameForExpectation",
    BATCHING,
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

/// Reads `NAME=true|false` and `COMPONENT:NAME=true|false` items. Gates that are not `honoured` may be what they are in the newest version alone.
fn parse(items: &[String], version: EmulatedVersion, honoured: &[&str]) -> Result<FeatureGates, String> {
    let (mut set, mut stages) = (BTreeMap::new(), Vec::new());
    for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {item}"))?;
        let name = name.strip_prefix("kube:").unwrap_or(name).trim();
        let wanted: bool = value.trim().to_ascii_lowercase().parse().map_err(|_| format!("invalid value of {name}={value}"))?;
        match name {
            ALL_ALPHA => stages.push((name, Stage::Alpha, wanted)),
            ALL_BETA => stages.push((name, Stage::Beta, wanted)),
            _ => {
                let (known, _) =
                    GATES.iter().find(|(have, _)| *have == name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
                check(known, wanted, version)?;
                honour(known, known, wanted, honoured)?;
                set.insert(*known, wanted);
            }
        }
    }
    for (name, stage, wanted) in stages {
        for (gate, _) in GATES.iter().filter(|(gate, _)| at(gate, version.minor).is_some_and(|(have, _)| have == stage)) {
            if !set.contains_key(gate) {
                honour(name, gate, wanted, honoured)?;
                set.insert(*gate, wanted);
            }
        }
    }
    Ok(FeatureGates { version, set })
}

/// Whether upstream lets a gate be set so.
fn check(name: &str, wanted: bool, version: EmulatedVersion) -> Result<(), String> {
    match at(name, version.minor) {
        Some((_, setting)) if setting.locked && setting.on != wanted => {
            Err(format!("cannot set feature gate {name} to {wanted}, feature is locked to {}", setting.on))
        }
        Some(_) => Ok(()),
        None => {
            let (minor, least) = (version.minor, version.min_compatibility_minor);
            let versions = format!("emulated version 1.{minor}, min compatibility version 1.{least}");
            Err(format!("cannot set feature gate {name} to {wanted}, feature is PreAlpha at {versions}"))
        }
    }
}

/// Whether this server can have a gate so; `by` is what the user wrote.
fn honour(by: &str, gate: &str, wanted: bool, honoured: &[&str]) -> Result<(), String> {
    match honoured.contains(&gate) || wanted == is_on_by_default(gate, EmulatedVersion::NEWEST_MINOR) {
        true => Ok(()),
        false => Err(format!("feature gate {by}={wanted}: not implemented")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn server(items: &[&str], minor: u8) -> Result<api_server::FeatureGates, String> {
        of_server(&owned(items), EmulatedVersion::of(minor)).map(|server| server.gates)
    }

    #[test]
    fn gates_may_be_what_they_are() {
        let check = |items: &[&str]| server(items, 35);
        let gates = check(&["WatchList=true", "kube:AllAlpha=false", ""]).unwrap();
        assert!(gates.has(Feature::WatchList) && !gates.has(Feature::CborServingAndStorage));
        assert!(check(&["CBORServingAndStorage=true"]).unwrap().has(Feature::CborServingAndStorage));
        assert!(check(&["MaxUnavailableStatefulSet=true"]).unwrap().has(Feature::MaxUnavailableStatefulSet));
        assert!(of_controllers(&owned(&["MaxUnavailableStatefulSet=true"])).unwrap().max_unavailable_stateful_set);
        assert!(!of_controllers(&owned(&["WatchList=true"])).unwrap().max_unavailable_stateful_set);
        // What only others have code for is theirs.
        let servers =
            owned(&["RemoteRequestHeaderUID=false", "SizeBasedListCostEstimate=false", "PodTopologyLabelsAdmission=false"]);
        assert!(of_controllers(&servers).is_ok() && of_scheduler(&servers).is_ok());
        assert!(
            of_controllers(&owned(&["ClusterTrustBundle=true"])).unwrap_err().contains("not implemented"),
            "it has a controller"
        );
        assert!(of_scheduler(&owned(&["KubeletPSI=false", "MaxUnavailableStatefulSet=true"])).unwrap().opportunistic_batching);
        assert!(!of_scheduler(&owned(&["OpportunisticBatching=false"])).unwrap().opportunistic_batching);
        let gangs = owned(&["GangScheduling=true", "GenericWorkload=true"]);
        assert!(of_scheduler(&gangs).unwrap().gang_scheduling && of_controllers(&gangs).is_ok());
        assert!(check(&["GangScheduling=true", "GenericWorkload=true"]).unwrap().has(Feature::GenericWorkload));
        let alone = of_scheduler(&owned(&["GangScheduling=true"])).unwrap_err();
        assert!(alone.contains("depends on features that are disabled: [GenericWorkload]"), "{alone}");
        assert!(of_scheduler(&owned(&["SchedulerAsyncPreemption=false"])).unwrap_err().contains("not implemented"));
        assert_eq!(zpages(&owned(&["ComponentStatusz=true"])), Ok((false, true)));
        // The controllers have no code for it, the API server need not have any.
        let semantic = ["StatefulSetSemanticRevisionComparison=false"];
        assert!(check(&semantic).is_ok());
        assert!(
            of_controllers(&owned(&semantic))
                .unwrap_err()
                .contains("StatefulSetSemanticRevisionComparison=false: not implemented")
        );
        for (item, why) in [
            ("AllAlpha=true", "AllAlpha=true: not implemented"),
            ("AllBeta=false", "AllBeta=false: not implemented"),
            ("NoSuchGate=true", "unrecognized feature gate: NoSuchGate"),
            ("WatchList", "missing bool value"),
            ("MaxUnavailableStatefulSet=often", "invalid value"),
            ("JobManagedBy=false", "cannot set feature gate JobManagedBy to false, feature is locked to true"),
            (
                "UserNamespacesSupport=false",
                "ProcMountType is enabled, but depends on features that are disabled: [UserNamespacesSupport]",
            ),
        ] {
            assert!(check(&[item]).unwrap_err().contains(why), "{item}");
        }
    }

    #[test]
    fn gates_of_older_versions() {
        let is_on = |items: &[&str], minor: u8, feature: Feature| server(items, minor).unwrap().has(feature);
        assert!(is_on(&[], 34, Feature::JobManagedBy) && !is_on(&["JobManagedBy=false"], 34, Feature::JobManagedBy));
        for (minor, on) in [(32, false), (33, true), (35, true)] {
            assert_eq!(is_on(&[], minor, Feature::MultiCidrServiceAllocator), on, "{minor}");
        }
        assert!(!is_on(
            &["MultiCIDRServiceAllocator=false", "DisableAllocatorDualWrite=false"],
            33,
            Feature::MultiCidrServiceAllocator
        ));
        assert!(server(&["MultiCIDRServiceAllocator=false"], 34).unwrap_err().contains("locked to true"));
        assert!(!is_on(&[], 34, Feature::PodTopologyLabelsAdmission) && !is_on(&[], 33, Feature::WatchList));
        let early = server(&["EnvFiles=true"], 33).unwrap_err();
        assert!(early.contains("feature is PreAlpha at emulated version 1.33, min compatibility version 1.32"), "{early}");
        let told = of_server(&[], EmulatedVersion::of(32)).unwrap().differences;
        assert!(told.contains(&"InPlacePodVerticalScaling") && !told.contains(&"EnvFiles"), "{told:?}");
        assert!(of_server(&[], EmulatedVersion::of(35)).unwrap().differences.is_empty());
    }

    #[test]
    fn the_tables_are_about_gates() {
        let is_gate = |name: &&str| GATES.iter().any(|(have, _)| have == name);
        let features: Vec<&str> = Feature::all().map(Feature::name).collect();
        let needs: Vec<&str> = NEEDS.iter().flat_map(|(name, needs)| needs.iter().chain([name]).copied()).collect();
        let lists = [OTHERS, UNSEEN, API_SERVERS, SCHEDULERS, CONTROLLERS, KUBELETS, ZPAGES, &features, &needs].concat();
        let unknown: Vec<&&str> = lists.iter().filter(|name| !is_gate(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        for minor in EmulatedVersion::OLDEST_MINOR..=EmulatedVersion::NEWEST_MINOR {
            assert_eq!(
                FeatureGates { version: EmulatedVersion::of(minor), set: BTreeMap::new() }.check_needs(),
                Ok(()),
                "{minor}"
            );
        }
        let own = api_server::FeatureGates::default();
        for feature in Feature::all() {
            assert_eq!(own.has(feature), is_on_by_default(feature.name(), EmulatedVersion::NEWEST_MINOR), "{feature:?}");
        }
        assert!(GATES.iter().all(|(_, history)| history.is_sorted_by_key(|(since, ..)| *since) && !history.is_empty()));
    }
}
