//! CertificateSigningRequests: who asked is what the server saw, approval and the certificate are endpoints of their own.

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, go_quote, validation};
use async_trait::async_trait;

use super::at::At;
use super::{Rules, collect, go_diff, go_text};
use crate::auth::UserInfo;
use crate::metrics::Metrics;
use crate::pki;
use crate::registry::{BeginHook, Finish, OperationContext, Strategy};

/// Upstream's limits of a signer's name: a domain, a slash, and a namespace with a name.
const DOMAIN_BYTES_MAX: usize = 253;
const SIGNER_BYTES_MAX: usize = 253 + 1 + 63 + 1 + 253;
/// Ten minutes.
const EXPIRATION_SECONDS_MIN: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// Which endpoint writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Main,
    Status,
    Approval,
}

pub(super) fn rules() -> Rules {
    Rules {
        strategy: Arc::new(RequestStrategy(Endpoint::Main)),
        subresources: vec![
            ("status", Arc::new(RequestStrategy(Endpoint::Status))),
            ("approval", Arc::new(RequestStrategy(Endpoint::Approval))),
        ],
    }
}

struct RequestStrategy(Endpoint);

/// A certificate that is about to be stored, for a request that said how long it should be valid.
struct Issued {
    metrics: Arc<Metrics>,
    signer: String,
    wanted_seconds: i64,
    certificate: String,
}

#[async_trait]
impl Finish for Issued {
    async fn finish(self: Box<Self>, success: bool) {
        if success {
            // Clocks that differ by five minutes, and a twentieth of what was asked for, do not matter.
            let wanted = self.wanted_seconds;
            let actual = pki::lifetime_seconds(&self.certificate);
            let honored = actual.is_some_and(|actual| 20 * (actual - wanted).abs() < 20 * 300 + wanted);
            self.metrics.certificate_issued(&self.signer, honored);
        }
    }
}

/// The requester, as authenticated.
fn stamp(object: &mut Value, user: &UserInfo) {
    for member in ["username", "uid", "groups", "extra"] {
        object.remove_path(&["spec", member]);
    }
    object.set_path(&["spec", "username"], user.name.as_str());
    if !user.uid.is_empty() {
        object.set_path(&["spec", "uid"], user.uid.as_str());
    }
    if !user.groups.is_empty() {
        object.set_path(&["spec", "groups"], user.groups.clone());
    }
    if !user.extra.is_empty() {
        let mut extra = Value::object();
        for (key, values) in &user.extra {
            extra.insert(key.as_str(), values.clone());
        }
        object.set_path(&["spec", "extra"], extra);
    }
}

fn conditions<'v>(object: &'v Value, of: &str) -> Vec<&'v Value> {
    object.array_at(&["status", "conditions"]).iter().filter(|condition| condition["type"] == *of).collect()
}

/// The decision belongs to the endpoint of approvals: what is sent of it counts for nothing, unless there is more or less of it, which is an
/// error (upstream's `preserveConditionInstances`).
fn keep_decisions(object: &mut Value, old: &Value) {
    let Some(sent) = object.get_path_mut(&["status", "conditions"]).and_then(Value::as_array_mut) else { return };
    for decision in DECISIONS {
        let mut sent: Vec<&mut Value> = sent.iter_mut().filter(|condition| condition["type"] == *decision).collect();
        let before = conditions(old, decision);
        if sent.len() == before.len() {
            sent.iter_mut().zip(before).for_each(|(condition, before)| **condition = before.clone());
        }
    }
}

/// Times that the client left out.
fn stamp_conditions(object: &mut Value, old: &Value) {
    let now = apimachinery::time::format_time(jiff::Timestamp::now());
    let before = old.array_at(&["status", "conditions"]).to_vec();
    let list = object.get_path_mut(&["status", "conditions"]).and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten() {
        if condition["lastUpdateTime"].is_empty() {
            condition.insert("lastUpdateTime", now.as_str());
        }
        if condition["lastTransitionTime"].is_empty() {
            let same = before.iter().find(|old| old["type"] == condition["type"] && old["status"] == condition["status"]);
            let kept = same.map(|old| old["lastTransitionTime"].clone()).filter(|time| !time.is_empty());
            condition.insert("lastTransitionTime", kept.unwrap_or_else(|| now.as_str().into()));
        }
    }
}

#[async_trait]
impl Strategy for RequestStrategy {
    fn prepare_for_create(&self, context: &OperationContext, object: &mut Value) {
        stamp(object, &context.user);
        object.insert("status", Value::object());
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        match self.0 {
            Endpoint::Main => {
                object.insert("spec", old["spec"].clone());
                object.insert("status", old["status"].clone());
            }
            Endpoint::Status => {
                object.insert("spec", old["spec"].clone());
                keep_decisions(object, old);
                stamp_conditions(object, old);
            }
            Endpoint::Approval => {
                object.insert("spec", old["spec"].clone());
                let sent = object.array_at(&["status", "conditions"]).to_vec();
                object.insert("status", old["status"].clone());
                if !sent.is_empty() || !old.array_at(&["status", "conditions"]).is_empty() {
                    object.set_path(&["status", "conditions"], sent);
                }
                stamp_conditions(object, old);
            }
        }
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| request(object, None, e))
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            request(object, Some(old), e);
            update(object, old, self.0, e);
        })
    }

    async fn begin_update(&self, context: &OperationContext, object: &mut Value, old: &Value) -> BeginHook {
        let certificate = |request: &Value| request.str_at(&["status", "certificate"]).unwrap_or_default().to_owned();
        let (issued, wanted) = (certificate(object), old["spec"]["expirationSeconds"].as_i64());
        Ok(wanted.filter(|_| self.0 == Endpoint::Status && certificate(old).is_empty() && !issued.is_empty()).map(
            |wanted_seconds| {
                let signer = old.str_at(&["spec", "signerName"]).unwrap_or_default().to_owned();
                Box::new(Issued { metrics: context.metrics.clone(), signer, wanted_seconds, certificate: issued })
                    as Box<dyn Finish>
            },
        ))
    }

    fn name_rule(&self) -> validation::NameFn {
        |_, _| Vec::new()
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        match self.0 {
            Endpoint::Main => &[&["spec"], &["status"]],
            Endpoint::Status => &[&["spec"], &["status", "conditions"]],
            Endpoint::Approval => &[&["spec"], &["status", "certificate"]],
        }
    }

    fn selectable_fields(&self, object: &Value) -> crate::registry::FieldAttrs {
        vec![("spec.signerName", object.str_at(&["spec", "signerName"]).unwrap_or_default().to_owned())]
    }
}

fn request(object: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let root = At::root(object);
    let (spec, status) = (root.get("spec"), root.get("status"));
    if old.is_none()
        && let Err(why) = crate::pki::check_request(spec.get("request").text())
    {
        // Upstream shows bytes, which are null where there are none.
        let request = spec.get("request");
        request.invalid(e, why);
    }
    let usages = spec.get("usages");
    if usages.len() == 0 {
        usages.require(e, "");
    }
    let list = usages.value.as_array().unwrap_or_default();
    if old.is_none() {
        usages.items().for_each(|usage| usage.one_of(e, &USAGES));
        usages
            .items()
            .enumerate()
            .filter(|(i, usage)| list[..*i].contains(usage.value))
            .for_each(|(_, usage)| usage.duplicate(e));
    }
    let signer = spec.get("signerName");
    if signer.text() == "kubernetes.io/legacy-unknown" && old.is_none() {
        signer.invalid(e, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(&signer, e);
    }
    let expiration = spec.get("expirationSeconds");
    if expiration.is_set() && expiration.int() < EXPIRATION_SECONDS_MIN {
        expiration.invalid(e, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    check_conditions(&status.get("conditions"), e);
    let certificate = status.get("certificate");
    if old.is_none_or(|old| old["status"]["certificate"] != *certificate.value)
        && let Err(why) = crate::pki::check_certificate(certificate.text())
    {
        e.push(Error::invalid(&certificate.path(), "<certificate data>", why));
    }
}

fn check_conditions(at: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        kind.required(e);
        if status.text().is_empty() {
            status.require(e, "");
        } else if matches!(kind.text(), "Approved" | "Denied" | "Failed") {
            status.one_of(e, &["True"]);
        } else {
            status.one_of(e, &["False", "True", "Unknown"]);
        }
        if DECISIONS.contains(&kind.text()) && DECISIONS.iter().any(|other| *other != kind.text() && seen.contains(other)) {
            at.with(kind.value).invalid(e, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind.text()) {
            kind.duplicate(e);
        }
        seen.push(kind.text());
    }
}

fn update(object: &Value, old: &Value, endpoint: Endpoint, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let list = status.get("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, before) = (conditions(object, kind), conditions(old, kind));
        let named = go_quote(kind);
        if now.len() < before.len() {
            list.forbid(e, format!("updates may not remove a condition of type {named}"));
        } else if endpoint != Endpoint::Approval && kind != "Failed" {
            if now.len() > before.len() {
                list.forbid(e, format!("updates may not add a condition of type {named}"));
            } else if now != before {
                let shown = |conditions: &[&Value]| {
                    let texts =
                        conditions.iter().map(|c| go_text::internal(c, "certificates.v1.CertificateSigningRequestCondition"));
                    format!("[{}]", texts.collect::<Vec<_>>().join(","))
                };
                let difference = go_diff::diff(&shown(&before), &shown(&now));
                list.forbid(e, format!("updates may not modify a condition of type {named}\n{difference}"));
            }
        }
    }
    let (certificate, before) = (status.get("certificate"), &old["status"]["certificate"]);
    if certificate.value != before && !(certificate.value.is_empty() && before.is_empty()) {
        if endpoint != Endpoint::Status {
            certificate.forbid(e, "updates may not set certificate content");
        } else if !before.is_empty() {
            certificate.forbid(e, "updates may not modify existing certificate content");
        }
    }
}

/// `example.com/signer-name`.
pub(super) fn signer_name(at: &At, e: &mut ErrorList) {
    if !at.required(e) {
        return;
    }
    let name = at.text();
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return at.invalid(e, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if domain.len() > DOMAIN_BYTES_MAX {
        at.too_long(e, DOMAIN_BYTES_MAX);
    }
    labels(at, domain, validation::is_dns1123_label, e);
    if !domain.contains('.') {
        e.push(Error::invalid(&at.path(), domain, "should be a domain with at least two segments separated by dots"));
    }
    labels(at, path, validation::is_dns1123_subdomain, e);
    if name.len() > SIGNER_BYTES_MAX {
        at.too_long(e, SIGNER_BYTES_MAX);
    }
}

/// The first part that is wrong.
fn labels(at: &At, text: &str, rule: fn(&str) -> Vec<String>, e: &mut ErrorList) {
    if let Some(label) = text.split('.').find(|label| !rule(label).is_empty()) {
        let why = rule(label).into_iter().map(|why| format!("validating label {}: {why}", go_quote(label)));
        e.extend(why.map(|why| Error::invalid(&at.path(), text, why)));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_status_neither_makes_nor_unmakes_a_decision() {
        let approved = value!({"type": "Approved", "status": "True", "reason": "old"});
        let old = value!({"status": {"conditions": [approved.clone()]}});
        let after = |sent: Value| {
            let mut object = value!({"status": {"conditions": sent}});
            keep_decisions(&mut object, &old);
            let mut e = ErrorList::new();
            update(&object, &old, Endpoint::Status, &mut e);
            (object["status"]["conditions"].clone(), e.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let failed = value!({"type": "Failed", "status": "True"});
        let changed = value!({"type": "Approved", "status": "True", "reason": "new"});
        assert_eq!(after(value!([failed.clone(), changed])), (value!([failed.clone(), approved]), vec![]));
        let removed = r#"status.conditions: Forbidden: updates may not remove a condition of type "Approved""#;
        assert_eq!(after(value!([failed.clone()])), (value!([failed]), vec![removed.to_owned()]));
        assert_eq!(after(value!([])).1, [removed]);
        let added = r#"status.conditions: Forbidden: updates may not add a condition of type "Denied""#;
        let (_, errors) = after(value!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]));
        assert_eq!(errors, [added]);
    }
}
