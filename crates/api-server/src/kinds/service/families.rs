//! Which policy and which families of addresses a Service has, and whether the cluster has them (upstream's `initIPFamilyFields`). This comes
//! before everything else is looked at, because it depends on the cluster.

use apimachinery::Value;
use apimachinery::field::{Error, ErrorList, Path};

use super::{needs_cluster_ip, type_of, validate};

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
const SINGLE: &str = "SingleStack";
const PREFER_DUAL: &str = "PreferDualStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// A Service while it is filled in.
struct Fields {
    policy: Option<String>,
    ips: Vec<Value>,
    families: Vec<Value>,
}

impl Fields {
    fn of(service: &Value) -> Fields {
        let list = |member: &str| service.array_at(&["spec", member]).to_vec();
        Fields {
            policy: service.str_at(&["spec", "ipFamilyPolicy"]).map(str::to_owned),
            ips: list("clusterIPs"),
            families: list("ipFamilies"),
        }
    }

    fn put(self, service: &mut Value) {
        for (member, list) in [("clusterIPs", self.ips), ("ipFamilies", self.families)] {
            if !list.is_empty() {
                service.set_path(&["spec", member], list);
            }
        }
        if let Some(policy) = self.policy {
            service.set_path(&["spec", "ipFamilyPolicy"], policy);
        }
    }

    fn is(&self, policy: &str) -> bool {
        self.policy.as_deref() == Some(policy)
    }

    fn refuse_policy(&self, why: &str, e: &mut ErrorList) {
        let policy = self.policy.as_deref().map_or(Value::Null, Value::from);
        e.push(Error::invalid(&Path::new("spec").child("ipFamilyPolicy"), policy, why));
    }

    /// Adds the other family, where there is one.
    fn add_other(&mut self) {
        if let [family] = self.families.as_slice() {
            let other = if *family == *IPV4 { IPV6 } else { IPV4 };
            self.families.push(other.into());
        }
    }
}

/// Fills in policy and families. `cluster` has the families of the cluster, the default one first.
pub(super) fn init(service: &mut Value, old: Option<&Value>, cluster: &[&str]) -> Result<(), ErrorList> {
    if !needs_cluster_ip(service) || old.is_some_and(|old| stays_preferring_dual(service, old)) {
        return Ok(());
    }
    let mut fields = Fields::of(service);
    let headless = service.str_at(&["spec", "clusterIP"]) == Some("None");
    let for_anything = headless && service.get_path(&["spec", "selector"]).is_none_or(Value::is_empty);
    if fields.policy.is_none() {
        let before = old.and_then(|old| old.str_at(&["spec", "ipFamilyPolicy"]));
        let otherwise = if for_anything { REQUIRE_DUAL } else { SINGLE };
        let policy = before.unwrap_or(otherwise).to_owned();
        service.set_path(&["spec", "ipFamilyPolicy"], policy.as_str());
        fields.policy = Some(policy);
    }
    refused(validate::addresses(service, old))?;
    let mut e = ErrorList::new();
    if let Some(old) = old {
        reduce(&mut fields, &Fields::of(old), &mut e);
    }
    if fields.is(SINGLE) {
        for (count, what) in [(fields.ips.len(), "cluster IPs"), (fields.families.len(), "IP families")] {
            if count == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                fields.refuse_policy(&why, &mut e);
            }
        }
    }
    infer(&mut fields, cluster, &mut e);
    refused(e)?;
    let default = cluster.first().copied().map(Value::from);
    if for_anything {
        // Its endpoints are made by somebody who may know better than the cluster.
        if fields.families.is_empty() {
            fields.families.extend(default);
        }
        if !fields.is(SINGLE) {
            fields.add_other();
        }
        fields.put(service);
        return Ok(());
    }
    refused(not_configured(&fields, cluster))?;
    if fields.families.is_empty() {
        fields.families.extend(default);
    }
    if !fields.is(SINGLE) && cluster.len() == 2 {
        fields.add_other();
    }
    fields.put(service);
    Ok(())
}

fn refused(errors: ErrorList) -> Result<(), ErrorList> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What prefers both families is not changed because the cluster did, but only when its own fields do.
fn stays_preferring_dual(service: &Value, old: &Value) -> bool {
    let policy = |service: &Value| service.str_at(&["spec", "ipFamilyPolicy"]).map(str::to_owned);
    let (now, before) = (Fields::of(service), Fields::of(old));
    type_of(service) == type_of(old)
        && matches!(type_of(service), "ClusterIP" | "NodePort" | "LoadBalancer")
        && now.is(PREFER_DUAL)
        && policy(old).is_none_or(|policy| policy == PREFER_DUAL)
        && now.ips == before.ips
        && now.families == before.families
}

/// The second address and family go when the policy says so, and only then.
fn reduce(fields: &mut Fields, old: &Fields, e: &mut ErrorList) {
    if fields.is(SINGLE) {
        if fields.ips == old.ips {
            fields.ips.truncate(1);
        }
        if fields.families == old.families {
            fields.families.truncate(1);
        }
        return;
    }
    let reduced = |now: &[Value], before: &[Value]| !now.is_empty() && now.len() < before.len();
    if reduced(&fields.ips, &old.ips) {
        fields.refuse_policy("must be 'SingleStack' to release the secondary cluster IP", e);
    }
    if reduced(&fields.families, &old.families) {
        fields.refuse_policy("must be 'SingleStack' to release the secondary IP family", e);
    }
}

/// Families follow from addresses that are given.
fn infer(fields: &mut Fields, cluster: &[&str], e: &mut ErrorList) {
    for (index, ip) in fields.ips.iter().enumerate().take_while(|(_, ip)| **ip != *"None") {
        if index < fields.families.len() {
            continue;
        }
        let family = if ip.as_str().is_some_and(|ip| ip.contains(':')) { IPV6 } else { IPV4 };
        match cluster.contains(&family) {
            true => fields.families.push(family.into()),
            false => {
                let path = Path::new("spec").child("clusterIPs").index(index);
                e.push(Error::invalid(&path, fields.ips.clone(), format!("{family} is not configured on this cluster")));
            }
        }
    }
}

fn not_configured(fields: &Fields, cluster: &[&str]) -> ErrorList {
    let mut e = ErrorList::new();
    if fields.is(REQUIRE_DUAL) && cluster.len() < 2 {
        fields.refuse_policy("this cluster is not configured for dual-stack services", &mut e);
    }
    for (index, family) in fields.families.iter().enumerate() {
        if !cluster.iter().any(|known| *family == **known) {
            let path = Path::new("spec").child("ipFamilies").index(index);
            e.push(Error::invalid(&path, family.clone(), "not configured on this cluster"));
        }
    }
    e
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    const BOTH: &[&str] = &[IPV4, IPV6];
    const FOUR: &[&str] = &[IPV4];

    /// The fields after, or what is wrong.
    fn after(spec: Value, old: Option<Value>, cluster: &[&str]) -> Result<Value, Vec<String>> {
        let mut service = value!({"spec": spec});
        let old = old.map(|spec| value!({"spec": spec}));
        match init(&mut service, old.as_ref(), cluster) {
            Ok(()) => {
                let fields = ["ipFamilyPolicy", "ipFamilies", "clusterIPs"].map(|member| service["spec"][member].clone());
                Ok(fields.into_iter().collect())
            }
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn new_ones() {
        let cases = [
            (value!({}), FOUR, value!(["SingleStack", ["IPv4"], null])),
            (value!({"type": "ExternalName"}), FOUR, value!([null, null, null])),
            (value!({"ipFamilyPolicy": "PreferDualStack"}), FOUR, value!(["PreferDualStack", ["IPv4"], null])),
            (value!({"ipFamilyPolicy": "PreferDualStack"}), BOTH, value!(["PreferDualStack", ["IPv4", "IPv6"], null])),
            (
                value!({"clusterIP": "None", "clusterIPs": ["None"]}),
                FOUR,
                value!(["RequireDualStack", ["IPv4", "IPv6"], ["None"]]),
            ),
            (
                value!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                FOUR,
                value!(["SingleStack", ["IPv4"], ["None"]]),
            ),
            (value!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), BOTH, value!(["SingleStack", ["IPv6"], ["fd00::1"]])),
        ];
        for (spec, cluster, expected) in cases {
            assert_eq!(after(spec.clone(), None, cluster), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn what_does_not_fit() {
        const TWO: &str = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
        let cases: [(Value, Vec<String>); 5] = [
            (
                value!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                vec![
                    r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#
                        .to_owned(),
                    r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#.to_owned(),
                ],
            ),
            (
                value!({"ipFamilies": ["IPv4", "IPv6"]}),
                vec![format!(r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": {TWO} IP families are specified"#)],
            ),
            (
                value!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                vec![
                    r#"spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster"#.to_owned(),
                ],
            ),
            (
                value!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                vec![
                    format!(r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": {TWO} cluster IPs are specified"#),
                    r#"spec.clusterIPs[1]: Invalid value: ["10.0.0.1","fd00::1"]: IPv6 is not configured on this cluster"#.to_owned(),
                ],
            ),
            (
                value!({"ipFamilyPolicy": "X"}),
                vec![
                    r#"spec.ipFamilyPolicy: Unsupported value: "X": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#
                        .to_owned(),
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(after(spec.clone(), None, FOUR), Err(expected), "{spec}");
        }
    }

    #[test]
    fn changes() {
        let dual = value!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        let with = |policy: Option<&str>, ips: &[&str], families: &[&str]| {
            let list = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect::<Value>();
            let mut spec = value!({"type": "ClusterIP", "clusterIP": "10.0.0.1"});
            spec.insert("clusterIPs", list(ips));
            spec.insert("ipFamilies", list(families));
            if let Some(policy) = policy {
                spec.insert("ipFamilyPolicy", policy);
            }
            spec
        };
        let (ips, families) = (["10.0.0.1", "fd00::1"], ["IPv4", "IPv6"]);
        // What is as it was stays so, even where the cluster has only one family now.
        let same = after(with(Some(PREFER_DUAL), &ips, &families), Some(dual.clone()), FOUR);
        assert_eq!(same, Ok(value!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1", "fd00::1"]])));
        let reduced = after(with(Some(SINGLE), &ips, &families), Some(dual.clone()), BOTH);
        assert_eq!(reduced, Ok(value!(["SingleStack", ["IPv4"], ["10.0.0.1"]])));
        let why = after(with(None, &ips[..1], &families[..1]), Some(dual), BOTH);
        let policy = r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary"#;
        assert_eq!(why, Err(vec![format!("{policy} cluster IP"), format!("{policy} IP family")]));
        let single = with(Some(SINGLE), &ips[..1], &families[..1]);
        let more = after(with(Some(REQUIRE_DUAL), &ips[..1], &families[..1]), Some(single), BOTH);
        assert_eq!(more, Ok(value!(["RequireDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]])));
    }
}
