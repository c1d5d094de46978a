//! Upstream's feature gates that this server has code for both ways, and the version of Kubernetes that it is to be like.
//!
//! Gates with code for one way only are not here: whoever reads `--feature-gates` refuses the other value.

use std::fmt;

/// A feature that can be on or off. Named as upstream's gates, which see for what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Feature {
    AllowParsingUserUidFromCertAuth,
    ApiServerIdentity,
    AuthorizePodWebsocketUpgradeCreatePermission,
    CborServingAndStorage,
    ClearingNominatedNodeNameAfterBinding,
    ClusterTrustBundle,
    ClusterTrustBundleProjection,
    ContainerRestartRules,
    CsiServiceAccountTokenSecrets,
    DeploymentReplicaSetTerminatingReplicas,
    DraAdminAccess,
    DraPrioritizedList,
    DraResourceClaimDeviceStatus,
    DynamicResourceAllocation,
    EnvFiles,
    GenericWorkload,
    HostnameOverride,
    HpaConfigurableTolerance,
    ImageVolume,
    JobBackoffLimitPerIndex,
    JobManagedBy,
    JobPodReplacementPolicy,
    JobSuccessPolicy,
    KubeletServiceAccountTokenForCredentialProviders,
    MatchLabelKeysInPodTopologySpreadSelectorMerge,
    MaxUnavailableStatefulSet,
    MultiCidrServiceAllocator,
    MutableCsiNodeAllocatableCount,
    MutablePodResourcesForSuspendedJobs,
    MutableSchedulingDirectivesForSuspendedJobs,
    OpenApiEnums,
    PodDeletionCost,
    PodLevelResources,
    PodTopologyLabelsAdmission,
    PreferSameTrafficDistribution,
    ProcMountType,
    RelaxedDnsSearchValidation,
    RelaxedServiceNameValidation,
    RemoteRequestHeaderUid,
    SeLinuxChangePolicy,
    ServiceAccountNodeAudienceRestriction,
    ServiceAccountTokenNodeBinding,
    ServiceTrafficDistribution,
    TokenRequestServiceAccountUidValidation,
    UserNamespacesSupport,
    VolumeAttributesClass,
    WatchList,
}

use Feature as F;

/// Each with upstream's name and its default in v1.35, in the order of their declaration.
#[rustfmt::skip]
const FEATURES: &[(Feature, &str, bool)] = &[
    (F::AllowParsingUserUidFromCertAuth, "AllowParsingUserUIDFromCertAuth", true),
    (F::ApiServerIdentity, "APIServerIdentity", true),
    (F::AuthorizePodWebsocketUpgradeCreatePermission, "AuthorizePodWebsocketUpgradeCreatePermission", true),
    (F::CborServingAndStorage, "CBORServingAndStorage", false),
    (F::ClearingNominatedNodeNameAfterBinding, "ClearingNominatedNodeNameAfterBinding", true),
    (F::ClusterTrustBundle, "ClusterTrustBundle", false),
    (F::ClusterTrustBundleProjection, "ClusterTrustBundleProjection", false),
    (F::ContainerRestartRules, "ContainerRestartRules", true),
    (F::CsiServiceAccountTokenSecrets, "CSIServiceAccountTokenSecrets", true),
    (F::DeploymentReplicaSetTerminatingReplicas, "DeploymentReplicaSetTerminatingReplicas", true),
    (F::DraAdminAccess, "DRAAdminAccess", true),
    (F::DraPrioritizedList, "DRAPrioritizedList", true),
    (F::DraResourceClaimDeviceStatus, "DRAResourceClaimDeviceStatus", true),
    (F::DynamicResourceAllocation, "DynamicResourceAllocation", true),
    (F::EnvFiles, "EnvFiles", true),
    (F::GenericWorkload, "GenericWorkload", false),
    (F::HostnameOverride, "HostnameOverride", true),
    (F::HpaConfigurableTolerance, "HPAConfigurableTolerance", true),
    (F::ImageVolume, "ImageVolume", true),
    (F::JobBackoffLimitPerIndex, "JobBackoffLimitPerIndex", true),
    (F::JobManagedBy, "JobManagedBy", true),
    (F::JobPodReplacementPolicy, "JobPodReplacementPolicy", true),
    (F::JobSuccessPolicy, "JobSuccessPolicy", true),
    (F::KubeletServiceAccountTokenForCredentialProviders, "KubeletServiceAccountTokenForCredentialProviders", true),
    (F::MatchLabelKeysInPodTopologySpreadSelectorMerge, "MatchLabelKeysInPodTopologySpreadSelectorMerge", true),
    (F::MaxUnavailableStatefulSet, "MaxUnavailableStatefulSet", false),
    (F::MultiCidrServiceAllocator, "MultiCIDRServiceAllocator", true),
    (F::MutableCsiNodeAllocatableCount, "MutableCSINodeAllocatableCount", true),
    (F::MutablePodResourcesForSuspendedJobs, "MutablePodResourcesForSuspendedJobs", false),
    (F::MutableSchedulingDirectivesForSuspendedJobs, "MutableSchedulingDirectivesForSuspendedJobs", false),
    (F::OpenApiEnums, "OpenAPIEnums", true),
    (F::PodDeletionCost, "PodDeletionCost", true),
    (F::PodLevelResources, "PodLevelResources", true),
    (F::PodTopologyLabelsAdmission, "PodTopologyLabelsAdmission", true),
    (F::PreferSameTrafficDistribution, "PreferSameTrafficDistribution", true),
    (F::ProcMountType, "ProcMountType", true),
    (F::RelaxedDnsSearchValidation, "RelaxedDNSSearchValidation", true),
    (F::RelaxedServiceNameValidation, "RelaxedServiceNameValidation", false),
    (F::RemoteRequestHeaderUid, "RemoteRequestHeaderUID", true),
    (F::SeLinuxChangePolicy, "SELinuxChangePolicy", true),
    (F::ServiceAccountNodeAudienceRestriction, "ServiceAccountNodeAudienceRestriction", true),
    (F::ServiceAccountTokenNodeBinding, "ServiceAccountTokenNodeBinding", true),
    (F::ServiceTrafficDistribution, "ServiceTrafficDistribution", true),
    (F::TokenRequestServiceAccountUidValidation, "TokenRequestServiceAccountUIDValidation", true),
    (F::UserNamespacesSupport, "UserNamespacesSupport", true),
    (F::VolumeAttributesClass, "VolumeAttributesClass", true),
    (F::WatchList, "WatchList", true),
];

impl Feature {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Feature> {
        FEATURES.iter().map(|(feature, ..)| *feature)
    }

    /// The gate's name.
    pub fn name(self) -> &'static str {
        FEATURES[self as usize].1
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Which features are on. Upstream's flag is `--feature-gates`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FeatureGates(u64);

impl FeatureGates {
    /// As in upstream's v1.35.
    pub const DEFAULT: FeatureGates = {
        let (mut bits, mut at) = (0, 0);
        while at < FEATURES.len() {
            if FEATURES[at].2 {
                bits |= 1 << at;
            }
            at += 1;
        }
        FeatureGates(bits)
    };

    /// Whether a feature is on.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// The same with one feature switched.
    #[must_use]
    pub fn with(self, feature: Feature, on: bool) -> FeatureGates {
        FeatureGates(if on { self.0 | feature.bit() } else { self.0 & !feature.bit() })
    }
}

impl Default for FeatureGates {
    fn default() -> FeatureGates {
        FeatureGates::DEFAULT
    }
}

impl fmt::Debug for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Feature::all().filter(|feature| self.has(*feature))).finish()
    }
}

/// The version that the server is to be like. Upstream's flags are `--emulated-version` and `--min-compatibility-version`. The major version
/// is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmulatedVersion {
    /// The minor version whose features and APIs there are.
    pub minor: u8,
    /// The minor version of the oldest server beside this one.
    pub min_compatibility_minor: u8,
}

impl EmulatedVersion {
    /// The version that this server is.
    pub const NEWEST_MINOR: u8 = 35;
    /// The oldest that it may be like: three before its own, as upstream.
    pub const OLDEST_MINOR: u8 = 32;

    /// A version, beside servers that are one older where there may be such.
    pub fn of(minor: u8) -> EmulatedVersion {
        EmulatedVersion { minor, min_compatibility_minor: minor.saturating_sub(1).max(Self::OLDEST_MINOR) }
    }
}

impl Default for EmulatedVersion {
    fn default() -> EmulatedVersion {
        EmulatedVersion::of(Self::NEWEST_MINOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (at, (feature, ..)) in FEATURES.iter().enumerate() {
            assert_eq!(*feature as usize, at, "{feature:?}");
        }
        assert!(FEATURES.len() <= 64, "one bit each");
    }

    #[test]
    fn switches() {
        let gates = FeatureGates::default();
        assert!(gates.has(Feature::WatchList) && !gates.has(Feature::CborServingAndStorage));
        let gates = gates.with(Feature::WatchList, false).with(Feature::CborServingAndStorage, true);
        assert!(!gates.has(Feature::WatchList) && gates.has(Feature::CborServingAndStorage));
        assert_eq!(gates.with(Feature::WatchList, true).with(Feature::CborServingAndStorage, false), FeatureGates::default());
    }

    #[test]
    fn neighbours_of_an_emulated_version() {
        for (minor, expected) in [(35, 34), (33, 32), (32, 32)] {
            assert_eq!(EmulatedVersion::of(minor).min_compatibility_minor, expected);
        }
    }
}
