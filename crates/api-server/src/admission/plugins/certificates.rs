//! Who may approve and sign certificates for a signer, and which certificates nobody may ask for
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization>).

use apimachinery::{Status, Value, go_quote};
use async_trait::async_trait;

use super::forbidden;
use super::rbac_escalation::only_collection_fields;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::auth::{Attributes as Question, names};
use crate::loopback::Loopback;
use crate::pki;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is_request(attributes: &Attributes, subresource: &str) -> bool {
    let resource = &attributes.resource;
    resource.group == GROUP && resource.resource == "certificatesigningrequests" && attributes.subresource == subresource
}

fn signer(object: &Value) -> &str {
    object.str_at(&["spec", "signerName"]).unwrap_or_default()
}

/// Whether the user has a verb on this signer, or on all of its domain.
async fn permits(loopback: &Loopback, attributes: &Attributes, verb: &str, signer: &str) -> Result<bool, Status> {
    let server = loopback.server().map_err(Status::internal_error)?;
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let question = Question { version: "*", ..Question::resource(&attributes.user, verb, GROUP, "signers") };
        // An authorizer that fails permits nothing.
        if matches!(server.access().authorizers.allowed(&question.named("", name)).await, Ok(true)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `ClusterTrustBundleAttest`: whoever vouches for a signer needs a verb on it.
pub(super) struct Attest {
    loopback: Loopback,
    /// There are such bundles.
    enabled: bool,
}

impl Attest {
    pub(super) fn new(loopback: Loopback, enabled: bool) -> Self {
        Self { loopback, enabled }
    }
}

#[async_trait]
impl AdmissionPlugin for Attest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation) -> bool {
        self.enabled && matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let resource = &attributes.resource;
        if resource.group != GROUP || resource.resource != "clustertrustbundles" {
            return Ok(());
        }
        let Some(object) = attributes.object.as_ref().filter(|object| !signer(object).is_empty()) else { return Ok(()) };
        if attributes.old_object.as_ref().is_some_and(|old| only_collection_fields(object, old)) {
            return Ok(());
        }
        let signer = signer(object);
        match permits(&self.loopback, attributes, "attest", signer).await? {
            true => Ok(()),
            false => Err(forbidden(attributes, format!("user not permitted to attest for signerName {}", go_quote(signer)))),
        }
    }
}

/// `CertificateApproval` or `CertificateSigning`: an update of a subresource needs a verb on the signer.
pub(super) struct SignerPermission {
    loopback: Loopback,
    name: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

impl SignerPermission {
    pub(super) fn approval(loopback: Loopback) -> Self {
        Self { loopback, name: "CertificateApproval", subresource: "approval", verb: "approve" }
    }

    pub(super) fn signing(loopback: Loopback) -> Self {
        Self { loopback, name: "CertificateSigning", subresource: "status", verb: "sign" }
    }
}

#[async_trait]
impl AdmissionPlugin for SignerPermission {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let (Some(object), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        if !is_request(attributes, self.subresource) {
            return Ok(());
        }
        let decided = |member: &str| object["status"][member] != old["status"][member];
        let signs = self.subresource != "status" || decided("certificate") || decided("conditions");
        // The signer that the request was made for, whatever the update says.
        let signer = signer(old);
        if !signs || permits(&self.loopback, attributes, self.verb, signer).await? {
            return Ok(());
        }
        let why = format!("user not permitted to {} requests with signerName {}", self.verb, go_quote(signer));
        Err(forbidden(attributes, why))
    }
}

/// `CertificateSubjectRestriction`: nobody becomes an administrator by a client certificate.
pub(super) struct SubjectRestriction;

#[async_trait]
impl AdmissionPlugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(object) = attributes.object.as_ref().filter(|object| signer(object) == CLIENT_SIGNER) else { return Ok(()) };
        if !is_request(attributes, "") {
            return Ok(());
        }
        let request = object.str_at(&["spec", "request"]).unwrap_or_default();
        match pki::requested_organizations(request) {
            Err(why) => Err(forbidden(attributes, format!("failed to parse CSR: {why}"))),
            Ok(groups) if groups.iter().any(|group| group == names::MASTERS) => {
                let why = format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed");
                Err(forbidden(attributes, why))
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::super::testing::create;
    use super::*;

    fn request(group: Option<&str>) -> String {
        let mut params = CertificateParams::default();
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate().expect("makes a key");
        BASE64.encode(params.serialize_request(&key).expect("signs").pem().expect("is PEM"))
    }

    #[tokio::test]
    async fn nobody_becomes_an_administrator_by_a_certificate() {
        for (signer, request, why) in [
            (
                CLIENT_SIGNER,
                request(Some("system:masters")),
                "use of kubernetes.io/kube-apiserver-client signer with system:masters",
            ),
            (CLIENT_SIGNER, request(Some("admins")), ""),
            (CLIENT_SIGNER, request(None), ""),
            ("example.com/other", request(Some("system:masters")), ""),
            (CLIENT_SIGNER, "AAAA".to_owned(), "failed to parse CSR"),
            (CLIENT_SIGNER, "!".to_owned(), "failed to parse CSR"),
        ] {
            let object = json!({"metadata": {"name": "csr"}, "spec": {"signerName": signer, "request": request}});
            let attributes = create(GROUP, "certificatesigningrequests", "CertificateSigningRequest", &object);
            let message = SubjectRestriction.validate(&attributes).await.err().map(|status| status.message).unwrap_or_default();
            assert!(message.contains(why) && message.is_empty() == why.is_empty(), "{signer}: {message}");
        }
    }
}
