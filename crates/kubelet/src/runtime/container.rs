//! The CRI configuration of a container: command, environment, mounts, resources.

use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use crate::env;
use crate::hosts;
use crate::pod::access::PodAccess;
use crate::pod::resources;
use crate::runtime::labels;
use crate::runtime::security::{self, ImageUser};
use crate::runtime::start::Context;
use crate::volume::subpath;

/// Everything that the runtime needs to create the container. The error is what the user sees beside CreateContainerConfigError.
pub(crate) async fn config(
    context: &Context<'_>,
    spec: &Container,
    image: &str,
    restart_count: u32,
    target_id: Option<&str>,
    user: &ImageUser,
) -> Result<v1::ContainerConfig, String> {
    let (core, pod) = (context.core, context.pod);
    let variables = env::build(core, pod, spec, context.ips, context.volumes).await?;
    let expand = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|text| env::expand(text, &variables)).collect()
    };
    let log_path = format!("{}/{restart_count}.log", spec.name);
    let log_dir = core.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&spec.name);
    std::fs::create_dir_all(&log_dir)
        .map_err(|e| format!("create container log directory for container {} failed: {e}", spec.name))?;
    let mounts = mounts(context, spec, &variables)?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: spec.name.clone(), attempt: restart_count }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(spec.command.as_ref()),
        args: expand(spec.args.as_ref()),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        labels: labels::container_labels(pod, spec),
        annotations: labels::container_annotations(pod, spec, restart_count),
        envs: variables.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        mounts,
        log_path,
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container_resources(pod, spec, core.machine.memory_bytes, core.cgroups.is_v2())),
            security_context: Some(security::container(&core.config, pod, spec, target_id, user)),
        }),
        stop_signal: stop_signal(spec),
        ..Default::default()
    })
}

fn stop_signal(spec: &Container) -> i32 {
    let name = spec.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(v1::Signal::from_str_name).map_or(0, |s| s as i32)
}

fn mounts(context: &Context<'_>, spec: &Container, variables: &[(String, String)]) -> Result<Vec<v1::Mount>, String> {
    let mut mounts = Vec::new();
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(context, spec, index, mount, variables)?);
    }
    if let Some(device) = spec.volume_devices.iter().flatten().next() {
        return Err(format!("volume device \"{}\": block volumes are not implemented", device.name));
    }
    let taken = |path: &str, mounts: &[v1::Mount]| mounts.iter().any(|m| Path::new(&m.container_path) == Path::new(path));
    if !taken("/etc/hosts", &mounts)
        && let Some(file) = hosts::ensure(context.core, context.pod, context.ips)
            .map_err(|e| format!("cannot write the pod's hosts file: {e}"))?
    {
        mounts.push(plain("/etc/hosts", &file));
    }
    if let Some(path) = spec.termination_message_path.as_deref().filter(|p| !p.is_empty()) {
        let file = termination_file(context, spec).map_err(|e| format!("cannot create the termination message file: {e}"))?;
        mounts.push(plain(path, &file));
    }
    Ok(mounts)
}

fn plain(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

fn volume_mount(
    context: &Context<'_>,
    spec: &Container,
    index: usize,
    mount: &VolumeMount,
    variables: &[(String, String)],
) -> Result<v1::Mount, String> {
    let volume = context
        .volumes
        .by_name
        .get(&mount.name)
        .ok_or_else(|| format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, spec.name))?;
    let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => Some(
            env::expand_strictly(expression, variables)
                .ok_or_else(|| format!("missing value for subPathExpr \"{expression}\" of volume \"{}\"", mount.name))?,
        ),
        None => mount.sub_path.clone().filter(|p| !p.is_empty()),
    };
    let host_path = match sub_path {
        None => volume.path.clone(),
        Some(sub_path) => {
            let place = context
                .core
                .config
                .pod_dir(context.pod.uid())
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&spec.name)
                .join(index.to_string());
            subpath::bind(&volume.path, &sub_path, &place).map_err(|e| {
                format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}", mount.name, spec.name)
            })?
        }
    };
    let container_path =
        if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
    let readonly = mount.read_only.unwrap_or(false) || volume.read_only;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    Ok(v1::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        recursive_read_only: readonly && mount.recursive_read_only.as_deref() == Some("Enabled"),
        propagation: propagation as i32,
        ..Default::default()
    })
}

/// A new empty file for each start, so that no container reads the last words of the one before.
fn termination_file(context: &Context<'_>, spec: &Container) -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let directory = context.core.config.pod_dir(context.pod.uid()).join("containers").join(&spec.name);
    std::fs::create_dir_all(&directory)?;
    let file = directory.join(format!("{:08x}", rand::random::<u32>()));
    std::fs::File::create(&file)?;
    // Any user in the container may write it, whatever our umask.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
    Ok(file)
}
