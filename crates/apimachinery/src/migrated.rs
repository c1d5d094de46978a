//! Volumes of kinds that Kubernetes had built in and handed on to CSI drivers (KEP-625): whose they are now.

/// A kind of volume that was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigratedVolume {
    /// The member of a volume's source that is its.
    pub member: &'static str,
    /// The name of the plugin that upstream had built in.
    pub plugin: &'static str,
    /// The CSI driver that has it now.
    pub driver: &'static str,
}

const fn kind(member: &'static str, plugin: &'static str, driver: &'static str) -> MigratedVolume {
    MigratedVolume { member, plugin, driver }
}

/// All of them.
pub const MIGRATED_VOLUMES: [MigratedVolume; 7] = [
    kind("awsElasticBlockStore", "kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    kind("azureDisk", "kubernetes.io/azure-disk", "disk.csi.azure.com"),
    kind("azureFile", "kubernetes.io/azure-file", "file.csi.azure.com"),
    kind("cinder", "kubernetes.io/cinder", "cinder.csi.openstack.org"),
    kind("gcePersistentDisk", "kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    kind("portworxVolume", "kubernetes.io/portworx-volume", "pxd.portworx.com"),
    kind("vsphereVolume", "kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];
