//! Volumes of kinds that Kubernetes had built in and hands on to CSI drivers (upstream's `csi-translation-lib`): whose they are.
//!
//! Only the driver is asked for. What upstream could not translate has none, and its words say why.

use std::collections::BTreeSet;

use apimachinery::url::Url;
use apimachinery::{MIGRATED_VOLUMES, Value};

const ZONES: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];

/// The driver of a pod's own volume; `None` if its kind is not one of these.
pub(super) fn driver_of_inline(volume: &Value) -> Result<Option<&'static str>, String> {
    let Some(kind) = MIGRATED_VOLUMES.iter().find(|kind| !volume[kind.member].is_null()) else { return Ok(None) };
    check_source(kind.member, &volume[kind.member])?;
    Ok(Some(kind.driver))
}

/// The driver of a PersistentVolume.
pub(super) fn driver_of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let spec = &volume["spec"];
    let driver = driver_of_inline(spec)?;
    let source = &spec["azureFile"];
    if !source.is_null() {
        let claims = || spec.str_at(&["claimRef", "namespace"]);
        if source["secretNamespace"].as_str().or_else(claims).unwrap_or_default().is_empty() {
            return Err("could not find a secret namespace in PersistentVolumeSource or ClaimRef".to_owned());
        }
    }
    if !spec["gcePersistentDisk"].is_null() {
        let labels = ZONES.into_iter().filter_map(|label| volume.meta().label(label));
        let zones: Vec<&str> = labels.filter(|zones| !zones.is_empty()).take(1).flat_map(|zones| zones.split("__")).collect();
        one_region(&zones).map_err(|why| format!("failed to get region from zones: {why}"))?;
    }
    Ok(driver)
}

fn check_source(kind: &str, source: &Value) -> Result<(), String> {
    match kind {
        "awsElasticBlockStore" => check_aws_id(source["volumeID"].as_str().unwrap_or_default())
            .map_err(|why| format!("failed to translate Kubernetes ID to EBS Volume ID {why}")),
        "azureDisk" => match source["kind"].as_str() {
            Some(kind) if !kind.eq_ignore_ascii_case("Managed") => Err(format!("kind({kind}) is not supported in csi migration")),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Either any text, or a URL of a zone and a volume.
fn check_aws_id(id: &str) -> Result<(), String> {
    if !id.starts_with("aws://") {
        return Ok(());
    }
    let url = Url::parse(id).map_err(|error| format!("Invalid disk name ({id}): {error}"))?;
    let name = url.path.trim_matches('/');
    match name.starts_with("vol-") && !name.contains('/') {
        true => Ok(()),
        false => Err(format!("Invalid format for AWS volume ({id})")),
    }
}

/// Several zones are of one region.
fn one_region(zones: &[&str]) -> Result<(), String> {
    if zones.len() < 2 {
        return Ok(());
    }
    let mut regions = BTreeSet::new();
    for zone in zones {
        match zone.split('-').collect::<Vec<_>>().as_slice() {
            [locale, region, _] => regions.insert(format!("{locale}-{region}")),
            _ => return Err(format!("zone in unexpected format, expected: {{locale}}-{{region}}-{{zone}}, got: {zone}")),
        };
    }
    if regions.len() == 1 {
        return Ok(());
    }
    let shown: Vec<String> = regions.iter().map(|region| format!("{region}:{{}}")).collect();
    Err(format!("multiple or no regions gotten from zones, got: map[{}]", shown.join(" ")))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn inline() {
        for kind in MIGRATED_VOLUMES {
            let mut volume = value!({"name": "v"});
            volume.insert(kind.member, value!({"readOnly": true}));
            assert_eq!(driver_of_inline(&volume), Ok(Some(kind.driver)));
        }
        for (volume, expected) in [
            (value!({"emptyDir": {}}), Ok(None)),
            (value!({"azureDisk": {"kind": "managed"}}), Ok(Some("disk.csi.azure.com"))),
            (value!({"azureDisk": {"kind": "Shared"}}), Err("kind(Shared) is not supported in csi migration")),
            (value!({"awsElasticBlockStore": {"volumeID": "vol-1"}}), Ok(Some("ebs.csi.aws.com"))),
            (value!({"awsElasticBlockStore": {"volumeID": "aws://zone/vol-1"}}), Ok(Some("ebs.csi.aws.com"))),
            (
                value!({"awsElasticBlockStore": {"volumeID": "aws://zone/a/vol-1"}}),
                Err("failed to translate Kubernetes ID to EBS Volume ID Invalid format for AWS volume (aws://zone/a/vol-1)"),
            ),
        ] {
            assert_eq!(driver_of_inline(&volume), expected.map_err(str::to_owned), "{volume}");
        }
    }

    #[test]
    fn persistent_volumes() {
        let zoned = |label: &str, zones: &str| {
            let mut volume = value!({"metadata": {"labels": {}}, "spec": {"gcePersistentDisk": {"pdName": "a"}}});
            volume.set_path(&["metadata", "labels", label], zones);
            volume
        };
        let (beta, stable) = (ZONES[0], ZONES[1]);
        let driver = Ok(Some("pd.csi.storage.gke.io"));
        for (volume, expected) in [
            (value!({"spec": {"csi": {"driver": "a"}}}), Ok(None)),
            (value!({"spec": {"azureFile": {}, "claimRef": {"namespace": "a"}}}), Ok(Some("file.csi.azure.com"))),
            (value!({"spec": {"azureFile": {"secretNamespace": "a"}}}), Ok(Some("file.csi.azure.com"))),
            (value!({"spec": {"azureFile": {}}}), Err("could not find a secret namespace in PersistentVolumeSource or ClaimRef")),
            (zoned(stable, "us-east1-a"), driver),
            (zoned(beta, "us-east1-a__us-east1-b"), driver),
            (zoned(stable, "odd"), driver),
            (
                zoned(stable, "us-east1-a__odd"),
                Err("failed to get region from zones: zone in unexpected format, expected: {locale}-{region}-{zone}, got: odd"),
            ),
            (
                zoned(beta, "us-west1-a__us-east1-a"),
                Err(
                    "failed to get region from zones: multiple or no regions gotten from zones, got: map[us-east1:{} us-west1:{}]",
                ),
            ),
        ] {
            assert_eq!(driver_of_volume(&volume), expected.map_err(str::to_owned), "{volume}");
        }
    }
}
