//! ClusterTrustBundles (KEP-3257): certificates that signers vouch for. Served with the feature `ClusterTrustBundle` alone.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::at::At;
use super::certificates::signer_name;
use super::table::{Checks, any};
use crate::pki;

/// Upstream's `MaxTrustBundleSize`.
const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

pub(super) const CHECKS: &[Checks] =
    &[Checks { group: "certificates.k8s.io", resource: "clustertrustbundles", create, update, status: any }];

fn create(object: &Value, e: &mut ErrorList) {
    check(object, true, e);
}

fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    check(object, spec.value["trustBundle"] != old["spec"]["trustBundle"], e);
    let (signer, before) = (spec.get("signerName"), &old["spec"]["signerName"]);
    if signer.text() != before.as_str().unwrap_or_default() {
        signer.invalid_text(e, super::at::IMMUTABLE);
    }
}

fn check(object: &Value, with_bundle: bool, e: &mut ErrorList) {
    let root = At::root(object);
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    let (name, signer) = (meta.get("name"), spec.get("signerName"));
    if !name.text().is_empty() {
        name_rule(name.text(), signer.text()).into_iter().for_each(|why| name.invalid_text(e, why));
    }
    if !signer.text().is_empty() {
        signer_name(&signer, e);
    }
    let bundle = spec.get("trustBundle");
    if !with_bundle {
        return;
    }
    if bundle.text().len() > BUNDLE_BYTES_MAX {
        return bundle.too_long(e, BUNDLE_BYTES_MAX);
    }
    let omitted = |why: String| Error::invalid(&bundle.path(), "<value omitted>", why);
    e.extend(pki::trust_anchor_problems(bundle.text()).into_iter().map(omitted));
}

/// A signer's bundles are named after it.
fn name_rule(name: &str, signer: &str) -> Vec<String> {
    if signer.is_empty() {
        return match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => validation::name_is_dns_subdomain(name, false),
        };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => validation::name_is_dns_subdomain(rest, false),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_update};

    #[test]
    fn bundles() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        let leaf = params.self_signed(&key).expect("a certificate").pem();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let anchor = params.self_signed(&key).expect("a certificate").pem();
        let bundle = value!({
            "metadata": {"name": "foo.com:bar:abc"}, "spec": {"signerName": "foo.com/bar", "trustBundle": anchor.as_str()},
        });
        let path = ["spec", "trustBundle"];
        assert_create(
            "certificates.k8s.io",
            "clustertrustbundles",
            &bundle,
            &[
                (
                    &["metadata", "name"],
                    value!("abc"),
                    &[
                        "metadata.name: Invalid value: \"abc\": ClusterTrustBundle for signerName foo.com/bar must be named with prefix foo.com:bar:",
                    ],
                ),
                (
                    &["spec", "signerName"],
                    value!(null),
                    &[
                        "metadata.name: Invalid value: \"foo.com:bar:abc\": ClusterTrustBundle without signer name must not have \":\" in its name",
                    ],
                ),
                (
                    &path,
                    value!("x"),
                    &["spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided"],
                ),
                (
                    &path,
                    value!(leaf.as_str()),
                    &["spec.trustBundle: Invalid value: \"<value omitted>\": entry 0 does not have the CA bit set"],
                ),
                (
                    &path,
                    value!(format!("{anchor}{anchor}")),
                    &["spec.trustBundle: Invalid value: \"<value omitted>\": duplicate trust anchor (indices [0 1])"],
                ),
            ],
        );
        let other = ["spec.signerName: Invalid value: \"foo.com/bar\": field is immutable"];
        let mut without = bundle.clone();
        without.set_path(&["spec", "signerName"], "");
        without.set_path(&["metadata", "name"], "abc");
        assert_update(
            "certificates.k8s.io",
            "clustertrustbundles",
            &without,
            &[(
                &["spec", "signerName"],
                value!("foo.com/bar"),
                &[
                    "metadata.name: Invalid value: \"abc\": ClusterTrustBundle for signerName foo.com/bar must be named with prefix foo.com:bar:",
                    other[0],
                ],
            )],
        );
    }
}
