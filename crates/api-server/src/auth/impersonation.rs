//! Impersonation: acting as another user (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).
//!
//! Reads the `Impersonate-*` headers; every part of the wanted identity must be allowed to the real user by itself.

use ::serving::percent_decoded;
use http::HeaderMap;

use super::attributes::{Attributes, Decision};
use super::authorize::Authorizers;
use super::user::{UserInfo, names, service_account_groups, split_service_account_user};
use crate::objects::ReadError;

const HEADER_USER: &str = "impersonate-user";
const HEADER_UID: &str = "impersonate-uid";
const HEADER_GROUP: &str = "impersonate-group";
const HEADER_EXTRA_PREFIX: &str = "impersonate-extra-";

/// Why a request may not act as somebody else.
#[derive(Debug, thiserror::Error)]
pub enum ImpersonationError {
    /// A group, uid or extra without a user.
    #[error("requested {0} without impersonating a user")]
    WithoutUser(String),
    /// Not allowed.
    #[error("{message}")]
    Forbidden {
        /// The group of the resource that stands for the identity.
        group: &'static str,
        /// That resource.
        resource: &'static str,
        /// The identity.
        name: String,
        /// Upstream's sentence, with the reason.
        message: String,
    },
    /// The authorizer could not decide.
    #[error("cannot decide on an impersonation")]
    Lookup(#[from] ReadError),
}

struct Part<'a> {
    group: &'static str,
    resource: &'static str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// The identity that the request wants and may have, or `None` when it does not ask. Takes the headers out.
pub async fn impersonate(
    headers: &mut HeaderMap,
    real: &UserInfo,
    authorizers: &Authorizers,
) -> Result<Option<UserInfo>, ImpersonationError> {
    let Some(wanted) = requested(headers)? else { return Ok(None) };
    for part in parts(&wanted) {
        let request = Attributes::resource(real, "impersonate", part.group, part.resource)
            .subresource(part.subresource)
            .named(part.namespace, part.name);
        let reason = match authorizers.authorize(&request).await? {
            Decision::Allow(_) => continue,
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        };
        let sentence = request.forbidden_message();
        let message = if reason.is_empty() { sentence } else { format!("{sentence}: {reason}") };
        return Err(ImpersonationError::Forbidden {
            group: part.group,
            resource: part.resource,
            name: part.name.to_owned(),
            message,
        });
    }
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    Ok(Some(complete(wanted)))
}

/// What the headers ask for, unchecked; groups only as given.
fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, ImpersonationError> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut wanted = UserInfo { name: text(HEADER_USER), uid: text(HEADER_UID), ..UserInfo::default() };
    wanted.groups = headers.get_all(HEADER_GROUP).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(HEADER_EXTRA_PREFIX) {
            let value = value.to_str().unwrap_or_default().to_owned();
            wanted.extra.entry(percent_decoded(key)).or_default().push(value);
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted.groups.is_empty() && wanted.uid.is_empty() && wanted.extra.is_empty() {
        return Ok(None);
    }
    // Upstream prints its references: kind, namespace, name, uid, version, resourceVersion, path.
    let groups = wanted.groups.iter().map(|group| format!("{{Group  {group}    }}"));
    let extra = wanted.extra.iter().flat_map(|(key, values)| {
        values.iter().map(move |value| format!("{{UserExtra  {value}  authentication.k8s.io/v1  {key}}}"))
    });
    let uid = (!wanted.uid.is_empty()).then(|| format!("{{UID  {}  authentication.k8s.io/v1  }}", wanted.uid));
    let all: Vec<String> = groups.chain(extra).chain(uid).collect();
    Err(ImpersonationError::WithoutUser(format!("[{}]", all.join(" "))))
}

fn parts(wanted: &UserInfo) -> Vec<Part<'_>> {
    let part = |group, resource, name| Part { group, resource, subresource: "", namespace: "", name };
    let mut parts = vec![match split_service_account_user(&wanted.name) {
        Some((namespace, name)) => Part { namespace, ..part("", "serviceaccounts", name) },
        None => part("", "users", wanted.name.as_str()),
    }];
    parts.extend(wanted.groups.iter().map(|g| part("", "groups", g.as_str())));
    for (key, values) in &wanted.extra {
        let one = |value| Part { subresource: key, ..part("authentication.k8s.io", "userextras", value) };
        parts.extend(values.iter().map(|value| one(value.as_str())));
    }
    if !wanted.uid.is_empty() {
        parts.push(part("authentication.k8s.io", "uids", wanted.uid.as_str()));
    }
    parts
}

/// Adds the groups that follow from the identity.
fn complete(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = split_service_account_user(&user.name)
    {
        user.groups = service_account_groups(namespace).to_vec();
    }
    if user.name == names::ANONYMOUS {
        if !user.in_group(names::UNAUTHENTICATED) {
            user.groups.push(names::UNAUTHENTICATED.to_owned());
        }
    } else if !user.in_group(names::AUTHENTICATED) && !user.in_group(names::UNAUTHENTICATED) {
        user.groups.push(names::AUTHENTICATED.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn identities() {
        assert!(requested(&HeaderMap::new()).expect("nothing asked").is_none());
        assert!(requested(&headers(&[("impersonate-group", "dev")])).is_err());
        let read = |pairs: &[(&'static str, &'static str)]| complete(requested(&headers(pairs)).expect("valid").expect("asked"));
        let bob = read(&[("impersonate-user", "bob"), ("impersonate-extra-acme.com%2fproject", "x")]);
        assert_eq!(bob.groups, ["system:authenticated"]);
        assert_eq!(bob.extra["acme.com/project"], ["x"]);
        let account = read(&[("impersonate-user", "system:serviceaccount:a:sa")]);
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
        assert_eq!(parts(&account)[0].resource, "serviceaccounts");
        assert_eq!(read(&[("impersonate-user", "system:anonymous")]).groups, ["system:unauthenticated"]);
        let grouped = read(&[("impersonate-user", "bob"), ("impersonate-group", "dev"), ("impersonate-group", "ops")]);
        assert_eq!(grouped.groups, ["dev", "ops", "system:authenticated"]);
        let asked =
            requested(&headers(&[("impersonate-user", "bob"), ("impersonate-group", "dev")])).expect("valid").expect("asked");
        assert_eq!(parts(&asked).len(), 2, "one question for the user, one for the group");
    }
}
