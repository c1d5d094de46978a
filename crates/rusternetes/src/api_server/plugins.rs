//! Which admission plugins run: upstream's default, changed by `--enable-admission-plugins` and `--disable-admission-plugins`.

/// Every plugin of upstream v1.35, and whether it is on by default.
#[rustfmt::skip]
const PLUGINS: &[(&str, bool)] = &[
    ("AlwaysAdmit", false), ("NamespaceAutoProvision", false), ("NamespaceLifecycle", true), ("NamespaceExists", false),
    ("LimitPodHardAntiAffinityTopology", false), ("LimitRanger", true), ("ServiceAccount", true), ("NodeRestriction", false),
    ("TaintNodesByCondition", true), ("AlwaysPullImages", false), ("ImagePolicyWebhook", false), ("PodSecurity", true),
    ("PodNodeSelector", false), ("Priority", true), ("DefaultTolerationSeconds", true), ("PodTolerationRestriction", false),
    ("EventRateLimit", false), ("ExtendedResourceToleration", false), ("DefaultStorageClass", true),
    ("StorageObjectInUseProtection", true), ("OwnerReferencesPermissionEnforcement", false),
    ("PersistentVolumeClaimResize", true), ("RuntimeClass", true), ("CertificateApproval", true),
    ("CertificateSigning", true), ("ClusterTrustBundleAttest", true), ("CertificateSubjectRestriction", true),
    ("DefaultIngressClass", true), ("DenyServiceExternalIPs", false), ("PodTopologyLabels", true),
    ("NodeDeclaredFeatureValidator", true), ("MutatingAdmissionPolicy", true), ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true), ("ValidatingAdmissionWebhook", true), ("ResourceQuota", true), ("AlwaysDeny", false),
];

/// The plugins of `implemented` that shall not run. A plugin that is asked for and not implemented is refused by name.
pub(super) fn disabled(enable: &[String], disable: &[String], implemented: &[&str]) -> Result<Vec<String>, String> {
    for (flag, names) in [("enable", enable), ("disable", disable)] {
        for name in names {
            if !PLUGINS.iter().any(|(have, _)| have == name) {
                return Err(format!("--{flag}-admission-plugins plugin {name:?} is unknown"));
            }
        }
    }
    for name in enable {
        if disable.contains(name) {
            return Err(format!("{name} in --enable-admission-plugins and --disable-admission-plugins overlapped"));
        }
        // This one says yes to everything: there is nothing to implement.
        if name != "AlwaysAdmit" && !implemented.contains(&name.as_str()) {
            return Err(format!("--enable-admission-plugins={name}: not implemented"));
        }
    }
    let runs = |name: &str| {
        let by_default = PLUGINS.iter().any(|(have, on)| *have == name && *on);
        (by_default || enable.iter().any(|have| have == name)) && !disable.iter().any(|have| have == name)
    };
    Ok(implemented.iter().filter(|name| !runs(name)).map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_is_one_of_upstream() {
        for name in api_server::admission_plugin_names() {
            assert!(PLUGINS.iter().any(|(have, _)| *have == name), "{name}");
        }
    }

    #[test]
    fn choice() {
        let implemented = ["NamespaceLifecycle", "NodeRestriction", "Priority"];
        let check = |enable: &[&str], disable: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            disabled(&owned(enable), &owned(disable), &implemented)
        };
        assert_eq!(check(&[], &[]).unwrap(), ["NodeRestriction"]);
        assert_eq!(check(&["NodeRestriction"], &["Priority"]).unwrap(), ["Priority"]);
        assert!(check(&["AlwaysAdmit"], &["ResourceQuota"]).is_ok());
        assert!(check(&["ImagePolicyWebhook"], &[]).unwrap_err().contains("not implemented"));
        assert!(check(&["Imaginary"], &[]).unwrap_err().contains("unknown"));
        assert!(check(&["Priority"], &["Priority"]).unwrap_err().contains("overlapped"));
    }
}
