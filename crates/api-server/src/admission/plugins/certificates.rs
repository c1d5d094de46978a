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
    use std::sync::Arc;

    use rcgen::DnType;
    use serde_json::{Value as Json, json};

    use super::super::testing::{create, csr, server};
    use super::*;
    use crate::auth::UserInfo;

    const SIGNER: &str = "example.com/a";

    /// Users of which each may do one thing with signers.
    fn permitted() -> Vec<(&'static str, Json)> {
        let rule = |verb: &str, name: &str| json!({"verbs": [verb], "apiGroups": [GROUP], "resources": ["signers"], "resourceNames": [name]});
        let mut users = Vec::new();
        for (verb, names) in [
            ("approve", ["approver", "approver-of-all", "approver-of-others"]),
            ("sign", ["signer", "signer-of-all", "signer-of-others"]),
            ("attest", ["attester", "attester-of-all", "attester-of-others"]),
        ] {
            users.extend(names.into_iter().zip([SIGNER, "example.com/*", "example.com/b"].map(|name| rule(verb, name))));
        }
        users
    }

    /// Whether exactly these two users are let through, and everybody else refused with this text.
    async fn check(plugin: impl Fn(Loopback) -> Box<dyn AdmissionPlugin>, attributes: &Attributes, users: [&str; 2], why: &str) {
        let (rules, mut attributes) = (permitted(), attributes.clone());
        let server = server(&rules);
        let plugin = plugin(Loopback::new(Arc::downgrade(&server)));
        for (user, _) in rules.iter().chain(&[("nobody", json!(null))]) {
            attributes.user = Arc::new(UserInfo::component(user));
            let message = plugin.validate(&attributes).await.err().map(|status| status.message).unwrap_or_default();
            let allowed = users.contains(user);
            assert!(message.is_empty() == allowed && (allowed || message.ends_with(why)), "{user}: {message:?}");
        }
    }

    /// Whether somebody without any permission is let through.
    async fn is_free(plugin: &dyn AdmissionPlugin, attributes: &Attributes) -> bool {
        plugin.validate(attributes).await.is_ok()
    }

    fn update(resource: &str, subresource: &str, old: &Json, new: &Json) -> Attributes {
        let mut attributes = create(GROUP, resource, "Kind", new);
        attributes.old_object = Some(Value::from_slice(old.to_string().as_bytes()).expect("JSON"));
        (attributes.operation, attributes.subresource) = (Operation::Update, subresource.to_owned());
        attributes
    }

    fn request(signer: &str, status: Json) -> Json {
        json!({"metadata": {"name": "csr"}, "spec": {"signerName": signer}, "status": status})
    }

    const REQUESTS: &str = "certificatesigningrequests";

    #[tokio::test]
    async fn approving_needs_the_signers_permission() {
        let approval = |loopback| -> Box<dyn AdmissionPlugin> { Box::new(SignerPermission::approval(loopback)) };
        let why = format!("user not permitted to approve requests with signerName \"{SIGNER}\"");
        // Whatever the update says of the signer, and though nothing changes.
        for new in [request(SIGNER, json!({})), request("example.com/b", json!({"conditions": [{"type": "Approved"}]}))] {
            let attributes = update(REQUESTS, "approval", &request(SIGNER, json!({})), &new);
            check(approval, &attributes, ["approver", "approver-of-all"], &why).await;
        }
        let nobody = server(&[]);
        let plugin = approval(Loopback::new(Arc::downgrade(&nobody)));
        for (resource, subresource, free) in
            [(REQUESTS, "approval", false), (REQUESTS, "", true), (REQUESTS, "status", true), ("others", "approval", true)]
        {
            let attributes = update(resource, subresource, &request(SIGNER, json!({})), &request(SIGNER, json!({})));
            assert_eq!(is_free(plugin.as_ref(), &attributes).await, free, "{resource}/{subresource}");
        }
        assert!(plugin.handles(Operation::Update) && !plugin.handles(Operation::Create));
    }

    #[tokio::test]
    async fn signing_needs_the_signers_permission() {
        let signing = |loopback| -> Box<dyn AdmissionPlugin> { Box::new(SignerPermission::signing(loopback)) };
        let why = format!("user not permitted to sign requests with signerName \"{SIGNER}\"");
        let old = request(SIGNER, json!({"conditions": [{"type": "Approved"}]}));
        let issued = json!({"conditions": [{"type": "Approved"}], "certificate": "AAAA"});
        let failed = json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]});
        for status in [issued, failed, json!({})] {
            for signer in [SIGNER, "example.com/b"] {
                let attributes = update(REQUESTS, "status", &old, &request(signer, status.clone()));
                check(signing, &attributes, ["signer", "signer-of-all"], &why).await;
            }
        }
        let nobody = server(&[]);
        let plugin = signing(Loopback::new(Arc::downgrade(&nobody)));
        assert!(is_free(plugin.as_ref(), &update(REQUESTS, "status", &old, &old)).await, "nothing is decided");
        assert!(
            is_free(plugin.as_ref(), &update(REQUESTS, "approval", &old, &request(SIGNER, json!({})))).await,
            "not its endpoint"
        );
    }

    #[tokio::test]
    async fn vouching_needs_the_signers_permission() {
        let attest = |loopback| -> Box<dyn AdmissionPlugin> { Box::new(Attest::new(loopback, true)) };
        let why = format!("user not permitted to attest for signerName \"{SIGNER}\"");
        let users = ["attester", "attester-of-all"];
        let bundle = |meta: Json, signer: &str, anchors: &str| json!({"metadata": meta, "spec": {"signerName": signer, "trustBundle": anchors}});
        let plain = || json!({"name": "a"});
        let new = bundle(plain(), SIGNER, "b");
        let bundles = "clustertrustbundles";
        check(attest, &create(GROUP, bundles, "ClusterTrustBundle", &new), users, &why).await;
        check(attest, &update(bundles, "", &bundle(plain(), SIGNER, "a"), &new), users, &why).await;
        check(attest, &update(bundles, "", &bundle(plain(), "", "b"), &new), users, &why).await;
        let nobody = server(&[]);
        let loopback = Loopback::new(Arc::downgrade(&nobody));
        let (on, off) = (Attest::new(loopback.clone(), true), Attest::new(loopback, false));
        let collected = json!({"name": "a", "finalizers": ["b"], "ownerReferences": [{"name": "c"}]});
        for (attributes, free) in [
            (create(GROUP, bundles, "ClusterTrustBundle", &bundle(plain(), "", "a")), true),
            (update(bundles, "", &new, &bundle(collected, SIGNER, "b")), true),
            (update(bundles, "", &new, &bundle(json!({"name": "a", "labels": {"b": "c"}}), SIGNER, "b")), false),
            (create(GROUP, "others", "Other", &new), true),
        ] {
            assert_eq!(is_free(&on, &attributes).await, free, "{:?}", attributes.object);
        }
        assert!(on.handles(Operation::Create) && on.handles(Operation::Update) && !on.handles(Operation::Delete));
        assert!(!off.handles(Operation::Create) && !off.handles(Operation::Update));
    }

    #[tokio::test]
    async fn nobody_becomes_an_administrator_by_a_certificate() {
        let of_group = |group: &str| csr(&[(DnType::OrganizationName, group)]);
        for (signer, request, why) in [
            (CLIENT_SIGNER, of_group("system:masters"), "use of kubernetes.io/kube-apiserver-client signer with system:masters"),
            (CLIENT_SIGNER, of_group("admins"), ""),
            (CLIENT_SIGNER, csr(&[]), ""),
            ("example.com/other", of_group("system:masters"), ""),
            (CLIENT_SIGNER, "AAAA".to_owned(), "failed to parse CSR"),
            (CLIENT_SIGNER, "!".to_owned(), "failed to parse CSR"),
        ] {
            let object = json!({"metadata": {"name": "csr"}, "spec": {"signerName": signer, "request": request}});
            let attributes = create(GROUP, REQUESTS, "CertificateSigningRequest", &object);
            let message = SubjectRestriction.validate(&attributes).await.err().map(|status| status.message).unwrap_or_default();
            assert!(message.contains(why) && message.is_empty() == why.is_empty(), "{signer}: {message}");
        }
    }
}
