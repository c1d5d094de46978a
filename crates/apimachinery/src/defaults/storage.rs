//! Defaults of the storage.k8s.io group.

use super::{Rule, absent, zero};
use crate::{Value, value};

pub(super) const RULES: &[(&str, Rule)] = &[("storage.v1.StorageClass", storage_class), ("storage.v1.CSIDriver", csi_driver)];

fn storage_class(class: &mut Value) {
    absent(class, "reclaimPolicy", "Delete");
    absent(class, "volumeBindingMode", "Immediate");
}

fn csi_driver(driver: &mut Value) {
    let spec = driver.path_mut(&["spec"]);
    absent(spec, "attachRequired", true);
    absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    zero(spec, "volumeLifecycleModes", value!(["Persistent"]));
    for flag in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        absent(spec, flag, false);
    }
}
