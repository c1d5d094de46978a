//! Since which release of Kubernetes an API is there (upstream's `APILifecycleIntroduced`).

use crate::gates::EmulatedVersion;

/// Group, version, resources (all of the version where there are none), minor release. What is not here is older than every version that
/// may be emulated.
const INTRODUCED: &[(&str, &str, &[&str], u8)] = &[
    ("admissionregistration.k8s.io", "v1beta1", &["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"], 34),
    ("certificates.k8s.io", "v1beta1", &["clustertrustbundles"], 33),
    ("certificates.k8s.io", "v1beta1", &["podcertificaterequests"], 35),
    ("coordination.k8s.io", "v1beta1", &["leasecandidates"], 33),
    ("networking.k8s.io", "v1", &["ipaddresses", "servicecidrs"], 33),
    ("resource.k8s.io", "v1", &[], 34),
    ("resource.k8s.io", "v1alpha3", &["devicetaintrules"], 33),
    ("resource.k8s.io", "v1beta2", &[], 33),
    ("scheduling.k8s.io", "v1alpha1", &["workloads"], 35),
    ("storage.k8s.io", "v1", &["volumeattributesclasses"], 34),
    ("storagemigration.k8s.io", "v1beta1", &[], 35),
];

/// The minor release.
pub(super) fn minor(group: &str, version: &str, resource: &str) -> u8 {
    let is_of = |(of_group, of_version, resources, _): &&(&str, &str, &[&str], u8)| {
        *of_group == group && *of_version == version && (resources.is_empty() || resources.contains(&resource))
    };
    INTRODUCED.iter().find(is_of).map_or(EmulatedVersion::OLDEST_MINOR, |(.., minor)| *minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::resource;

    #[test]
    fn every_row_is_an_api() {
        let rows = resource::builtin();
        for (group, version, resources, _) in INTRODUCED {
            let there = |name: Option<&str>| {
                rows.iter().any(|row| {
                    row.gvr.group == *group && row.gvr.version == *version && name.is_none_or(|name| row.gvr.resource == name)
                })
            };
            assert!(there(None), "{group}/{version}");
            assert!(resources.iter().all(|name| there(Some(name))), "{group}/{version} {resources:?}");
        }
        assert_eq!(minor("apps", "v1", "deployments"), 32);
        assert_eq!(minor("networking.k8s.io", "v1", "ingresses"), 32);
        assert_eq!(minor("resource.k8s.io", "v1", "resourceclaims"), 34);
    }
}
