//! Names of API groups, versions, kinds, resources and objects, printed as upstream prints them.

use std::fmt;
use std::str::FromStr;

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More than one slash in an apiVersion.
    #[error("unexpected GroupVersion string: {0}")]
    GroupVersion(String),
    /// Not `NAMESPACE/NAME` or `NAME`.
    #[error("unexpected key format: {0:?}")]
    NamespacedName(String),
}

/// A group and a version, written `apps/v1`, or `v1` for the core group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
}

impl GroupVersion {
    /// From its parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>) -> Self {
        GroupVersion { group: group.into(), version: version.into() }
    }

    /// With a kind.
    pub fn with_kind(&self, kind: impl Into<String>) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: kind.into() }
    }

    /// With a resource.
    pub fn with_resource(&self, resource: impl Into<String>) -> GroupVersionResource {
        GroupVersionResource { group: self.group.clone(), version: self.version.clone(), resource: resource.into() }
    }
}

impl FromStr for GroupVersion {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s.split('/').collect::<Vec<_>>()[..] {
            [version] => Ok(GroupVersion::new("", version)),
            [group, version] => Ok(GroupVersion::new(group, version)),
            _ => Err(ParseError::GroupVersion(s.into())),
        }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

/// A group, version and kind; printed `apps/v1, Kind=Deployment`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl GroupVersionKind {
    /// From its parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Self {
        GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// From an object's `apiVersion` and `kind`.
    pub fn from_api_version(api_version: &str, kind: &str) -> Result<Self, ParseError> {
        Ok(api_version.parse::<GroupVersion>()?.with_kind(kind))
    }

    /// The `apiVersion` in objects.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&self.group, &self.version)
    }

    /// Group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&self.group, &self.kind)
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A group, version and resource (plural, lower case); printed `apps/v1, Resource=deployments`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The resource, plural.
    pub resource: String,
}

impl GroupVersionResource {
    /// From its parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>, resource: impl Into<String>) -> Self {
        GroupVersionResource { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&self.group, &self.version)
    }

    /// Group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.resource)
    }
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Resource={}", self.group, self.version, self.resource)
    }
}

macro_rules! group_and {
    ($(#[$doc:meta])* $name:ident, $member:ident, $member_doc:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// The group; empty for the core group.
            pub group: String,
            #[doc = $member_doc]
            pub $member: String,
        }

        impl $name {
            /// From its parts.
            pub fn new(group: impl Into<String>, $member: impl Into<String>) -> Self {
                $name { group: group.into(), $member: $member.into() }
            }

            /// Whether both parts are empty.
            pub fn is_empty(&self) -> bool {
                self.group.is_empty() && self.$member.is_empty()
            }

            /// From its printed form; everything after the first dot is the group.
            pub fn parse(text: &str) -> Self {
                match text.split_once('.') {
                    Some((first, group)) => $name::new(group, first),
                    None => $name::new("", text),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.group.is_empty() { f.write_str(&self.$member) } else { write!(f, "{}.{}", self.$member, self.group) }
            }
        }
    };
}

group_and!(
    /// A group and a resource, written `deployments.apps`, or `pods` for the core group.
    GroupResource,
    resource,
    "The resource, plural."
);
group_and!(
    /// A group and a kind, written `Deployment.apps`, or `Pod` for the core group.
    GroupKind,
    kind,
    "The kind."
);

/// An object's namespace (empty for cluster-scoped objects) and name, written `NAMESPACE/NAME` or `NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl NamespacedName {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        NamespacedName { namespace: namespace.into(), name: name.into() }
    }
}

impl FromStr for NamespacedName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s.split('/').collect::<Vec<_>>()[..] {
            [name] => Ok(NamespacedName::new("", name)),
            [namespace, name] => Ok(NamespacedName::new(namespace, name)),
            _ => Err(ParseError::NamespacedName(s.into())),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_print() {
        for (text, group, version) in [("v1", "", "v1"), ("apps/v1", "apps", "v1"), ("", "", "")] {
            let gv: GroupVersion = text.parse().expect(text);
            assert_eq!((gv.group.as_str(), gv.version.as_str()), (group, version));
            assert_eq!(gv.to_string(), text);
        }
        assert_eq!(
            "a/b/c".parse::<GroupVersion>().expect_err("two slashes").to_string(),
            "unexpected GroupVersion string: a/b/c"
        );
        assert_eq!(GroupVersionKind::new("apps", "v1", "Deployment").to_string(), "apps/v1, Kind=Deployment");
        assert_eq!(GroupResource::parse("ingresses.networking.k8s.io"), GroupResource::new("networking.k8s.io", "ingresses"));
        assert_eq!(GroupKind::new("", "Pod").to_string(), "Pod");
        assert_eq!("ns/a".parse(), Ok(NamespacedName::new("ns", "a")));
    }
}
