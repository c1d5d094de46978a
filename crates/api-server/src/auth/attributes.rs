//! What is asked of an authorizer, and what it answers.

use apimachinery::selector::{FieldOperator, FieldRequirement, FieldSelector};
use apimachinery::{GroupResource, Status};

use super::user::UserInfo;
use crate::http::RequestInfo;

/// One question: may this user do this? As upstream's `authorizer.Attributes`.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The API verb (`get`, `list`, `create`, ...), or the lower-case HTTP method for paths.
    pub verb: &'a str,
    /// Whether the request is for an API resource; otherwise `path` decides.
    pub resource_request: bool,
    /// The API group; empty for core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural resource name.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name, or empty.
    pub name: &'a str,
    /// The request path, without query.
    pub path: &'a str,
    /// The request's field selector, or empty.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A question about a resource.
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            resource_request: true,
            group,
            version: "",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            field_selector: "",
        }
    }

    /// The question that a request itself is.
    pub(crate) fn of_request(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb.as_str(),
            resource_request: info.is_resource,
            group: &info.api_group,
            version: &info.api_version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            field_selector: &info.field_selector,
        }
    }

    /// A question about a path that is no resource.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self { resource_request: false, path, ..Self::resource(user, verb, "", "") }
    }

    /// The same question in a namespace, about an object.
    pub fn named(self, namespace: &'a str, name: &'a str) -> Self {
        Self { namespace, name, ..self }
    }

    /// The same question about a subresource.
    pub fn subresource(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }

    /// Whether the field selector holds exactly `field=value` as one of its requirements.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        let holds = |r: &FieldRequirement| r.field == field && r.operator == FieldOperator::Equals && r.value == value;
        FieldSelector::parse(self.field_selector).is_ok_and(|selector| selector.requirements().iter().any(holds))
    }

    /// Upstream's answer to a request that is not allowed.
    pub(crate) fn forbidden(&self, reason: &str) -> Status {
        let resource = GroupResource { group: self.group.to_owned(), resource: self.resource.to_owned() };
        let sentence = self.forbidden_message();
        let message = if reason.is_empty() { sentence } else { format!("{sentence}: {reason}") };
        Status::forbidden(&resource, self.name, message)
    }

    /// Upstream's sentence for a denied request, without the object part and the reason.
    pub fn forbidden_message(&self) -> String {
        let user = sanitize(&quote(&self.user.name));
        if !self.resource_request {
            return format!("User {user} cannot {} path {}", sanitize(self.verb), sanitize(&quote(self.path)));
        }
        let mut resource = self.resource.to_owned();
        if !self.subresource.is_empty() {
            resource = format!("{resource}/{}", self.subresource);
        }
        let (resource, group) = (sanitize(&quote(&resource)), sanitize(&quote(self.group)));
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", sanitize(&quote(namespace))),
        };
        format!("User {user} cannot {} resource {resource} in API group {group} {place}", sanitize(self.verb))
    }
}

/// As Go's `%q` for the names that occur here.
fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// Error texts must not look like HTML to a browser.
fn sanitize(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Not as far as this authorizer knows; the text says what was missing, and may be empty.
    NoOpinion(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_messages_are_upstreams() {
        let user = UserInfo::component("bob");
        let list = Attributes::resource(&user, "list", "", "pods");
        for (attributes, wanted) in [
            (list.named("default", ""), r#"User "bob" cannot list resource "pods" in API group "" in the namespace "default""#),
            (list, r#"User "bob" cannot list resource "pods" in API group "" at the cluster scope"#),
            (
                Attributes::resource(&user, "get", "apps", "deployments").subresource("scale").named("a", "b"),
                r#"User "bob" cannot get resource "deployments/scale" in API group "apps" in the namespace "a""#,
            ),
            (Attributes::path(&user, "get", "/metrics"), r#"User "bob" cannot get path "/metrics""#),
        ] {
            assert_eq!(attributes.forbidden_message(), wanted);
        }
    }

    #[test]
    fn field_selector_requirements() {
        let user = UserInfo::anonymous();
        let with = |field_selector| Attributes { field_selector, ..Attributes::resource(&user, "list", "", "pods") };
        assert!(with("spec.nodeName=n1").selects("spec.nodeName", "n1"));
        assert!(with("a=b,spec.nodeName==n1").selects("spec.nodeName", "n1"));
        assert!(!with("spec.nodeName!=n1").selects("spec.nodeName", "n1"));
        assert!(
            !with("metadata.name=a\\,spec.nodeName=n1").selects("spec.nodeName", "n1"),
            "what cannot be read selects nothing"
        );
        assert!(!with("metadata.name=a\\,spec.nodeName\\=n1").selects("spec.nodeName", "n1"), "a part of another value");
        assert!(!with("").selects("spec.nodeName", "n1"));
    }
}
