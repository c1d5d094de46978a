//! One rule of a role: what it matches (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/>).

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::auth::attributes::Attributes;

/// A `PolicyRule`, as evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// API groups; `*` is all, empty is core.
    pub api_groups: Vec<String>,
    /// Resources (`pods`, `pods/log`, `*/scale`, `*`).
    pub resources: Vec<String>,
    /// Object names; none means all.
    pub resource_names: Vec<String>,
    /// Paths, a trailing `*` matches any rest.
    pub non_resource_urls: Vec<String>,
}

impl From<PolicyRule> for Rule {
    fn from(rule: PolicyRule) -> Self {
        Self {
            verbs: rule.verbs,
            api_groups: rule.api_groups.unwrap_or_default(),
            resources: rule.resources.unwrap_or_default(),
            resource_names: rule.resource_names.unwrap_or_default(),
            non_resource_urls: rule.non_resource_urls.unwrap_or_default(),
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Whether the rule allows the request.
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, request.verb) {
            return false;
        }
        if !request.resource_request {
            return self.non_resource_urls.iter().any(|url| url_matches(url, request.path));
        }
        has_or_all(&self.api_groups, request.group)
            && self.resource_matches(request.resource, request.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, request.name))
    }

    fn resource_matches(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| match item.split_once('/') {
            _ if item == "*" => true,
            // Also where an access review asks for `pods/log` as a resource.
            _ if subresource.is_empty() => item == resource,
            Some(("*", sub)) => sub == subresource,
            Some((res, sub)) => res == resource && sub == subresource,
            None => false,
        })
    }

    /// The rule as rules that each hold one verb, group, resource, name or URL.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    match self.resource_names.as_slice() {
                        [] => atoms.push(atom),
                        names => atoms.extend(names.iter().map(|n| Self { resource_names: vec![n.clone()], ..atom.clone() })),
                    }
                }
            }
            atoms.extend(self.non_resource_urls.iter().map(|url| Self {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Self::default()
            }));
        }
        atoms
    }

    /// Whether this rule covers an atom (see [`uncovered`]).
    fn covers(&self, atom: &Self) -> bool {
        let all = |have: &[String], want: &[String]| want.iter().all(|w| has_or_all(have, w));
        let resources = atom.resources.iter().all(|wanted| {
            has_or_all(&self.resources, wanted)
                || wanted.split_once('/').is_some_and(|(_, sub)| self.resources.iter().any(|r| r.strip_prefix("*/") == Some(sub)))
        });
        let names = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty() && atom.resource_names.iter().all(|n| has(&self.resource_names, n)));
        let urls = atom.non_resource_urls.iter().all(|wanted| self.non_resource_urls.iter().any(|url| url_covers(url, wanted)));
        all(&self.verbs, &atom.verbs) && all(&self.api_groups, &atom.api_groups) && resources && names && urls
    }

    /// As upstream prints a rule that somebody may not grant.
    fn describe(&self) -> String {
        let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(" ");
        let mut parts = Vec::new();
        for (name, items) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !items.is_empty() {
                parts.push(format!("{name}:[{}]", list(items)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn url_covers(owner: &str, wanted: &str) -> bool {
    owner == "*"
        || owner == wanted
        || owner.strip_suffix('*').is_some_and(|prefix| wanted.strip_suffix('*').unwrap_or(wanted).starts_with(prefix))
}

/// What of `wanted` the rules `owned` do not cover, described; empty when the owner may grant it all. Escalation checks use it.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let mut missing: Vec<Rule> = Vec::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        if owned.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        // Verbs that are missing on the same thing are told together.
        let same = missing.iter_mut().find(|m| {
            m.api_groups == atom.api_groups
                && m.resources == atom.resources
                && m.resource_names == atom.resource_names
                && m.non_resource_urls == atom.non_resource_urls
        });
        match same {
            Some(entry) if has(&entry.verbs, &atom.verbs[0]) => {}
            Some(entry) => entry.verbs.extend(atom.verbs),
            None => missing.push(atom),
        }
    }
    missing.iter().map(Rule::describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::user::UserInfo;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str], urls: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: own(urls),
        }
    }

    #[test]
    fn resources() {
        let user = UserInfo::component("bob");
        // (rule's resources, names, requested resource, subresource, name) -> allowed
        for (resources, names, resource, sub, name, wanted) in [
            (&["pods"][..], &[][..], "pods", "", "x", true),
            (&["pods"], &[], "pods", "log", "x", false),
            (&["pods/log"], &[], "pods", "log", "x", true),
            (&["pods/log"], &[], "pods", "", "x", false),
            (&["pods/log"], &[], "pods/log", "", "x", true),
            (&["pods"], &[], "pods/log", "", "x", false),
            (&["*/log"], &[], "pods/log", "", "x", false),
            (&["*/scale"], &[], "deployments", "scale", "x", true),
            (&["*/scale"], &[], "deployments", "", "x", false),
            (&["*"], &[], "deployments", "scale", "x", true),
            (&["pods"], &["x"], "pods", "", "x", true),
            (&["pods"], &["x"], "pods", "", "y", false),
            (&["pods"], &["x"], "pods", "", "", false),
        ] {
            let rule = rule(&["get"], &[""], resources, names, &[]);
            let request = Attributes::resource(&user, "get", "", resource).subresource(sub).named("ns", name);
            assert_eq!(rule.allows(&request), wanted, "{resources:?} {names:?} {resource}/{sub} {name}");
        }
        let rule = rule(&["get"], &["apps"], &["*"], &[], &[]);
        assert!(!rule.allows(&Attributes::resource(&user, "get", "", "pods")), "another group");
        assert!(!rule.allows(&Attributes::resource(&user, "list", "apps", "deployments")), "another verb");
        assert!(!rule.allows(&Attributes::path(&user, "get", "/apis")), "resource rules say nothing of paths");
    }

    #[test]
    fn paths() {
        let user = UserInfo::component("bob");
        for (urls, path, wanted) in [
            (&["/healthz"][..], "/healthz", true),
            (&["/healthz"], "/healthz/ping", false),
            (&["/healthz/*"], "/healthz/ping", true),
            (&["*"], "/anything", true),
            (&[], "/healthz", false),
        ] {
            assert_eq!(
                rule(&["get"], &[], &[], &[], urls).allows(&Attributes::path(&user, "get", path)),
                wanted,
                "{urls:?} {path}"
            );
        }
    }

    #[test]
    fn escalation() {
        let owned = [rule(&["get", "list"], &[""], &["pods", "*/scale"], &[], &["/healthz/*"])];
        let missing = |wanted: Rule| uncovered(&owned, &[wanted]);
        assert!(missing(rule(&["get"], &[""], &["pods", "deployments/scale"], &[], &[])).is_empty());
        assert!(missing(rule(&["get"], &[""], &["pods"], &["a"], &[])).is_empty(), "a name is less than all");
        assert!(missing(rule(&["get"], &[], &[], &[], &["/healthz/ping"])).is_empty());
        assert_eq!(
            missing(rule(&["get", "create", "delete"], &[""], &["pods"], &[], &[])),
            [r#"{APIGroups:[""], Resources:["pods"], Verbs:["create" "delete"]}"#]
        );
        assert_eq!(missing(rule(&["get"], &["*"], &["pods"], &[], &[])).len(), 1);
        let named = [rule(&["get"], &[""], &["pods"], &["a"], &[])];
        assert_eq!(uncovered(&named, &[rule(&["get"], &[""], &["pods"], &[], &[])]).len(), 1, "all is more than a name");
        assert!(uncovered(&[rule(&["*"], &["*"], &["*"], &[], &["*"])], &owned).is_empty());
    }
}
