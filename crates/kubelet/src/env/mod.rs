//! A container's environment: services, `envFrom`, `env` with its sources, and `$(NAME)` expansion.

mod expand;
pub(crate) mod field;
mod file;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, FileKeySelector, Pod};

use crate::context::Core;
use crate::objects::{Kind, Object};
use crate::pod::access::PodAccess;
use crate::volume::Volumes;

/// Replaces `$(NAME)` by the variable's value; unknown names stay as they are, `$$` is one dollar sign.
pub(crate) fn expand(text: &str, variables: &[(String, String)]) -> String {
    expand::expand(text, |name| lookup(variables, name))
}

/// As [`expand`], but an unknown name is an error.
pub(crate) fn expand_strictly(text: &str, variables: &[(String, String)]) -> Option<String> {
    let mut missing = false;
    let expanded = expand::expand(text, |name| {
        let value = lookup(variables, name);
        missing |= value.is_none();
        value
    });
    (!missing).then_some(expanded)
}

fn lookup(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

/// The container's environment, in the order: `env` as listed, what `envFrom` adds, then the services'. The error text is upstream's.
pub(crate) async fn build(
    core: &Core,
    pod: &Pod,
    container: &Container,
    ips: &[String],
    volumes: &Volumes,
) -> Result<Vec<(String, String)>, String> {
    let mut from: BTreeMap<String, String> = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            add_all(
                &mut from,
                core.objects.get(core, pod, Kind::ConfigMap, &reference.name).await?,
                optional,
                &reference.name,
                "configmap",
                prefix,
            )?;
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            add_all(
                &mut from,
                core.objects.get(core, pod, Kind::Secret, &reference.name).await?,
                optional,
                &reference.name,
                "secret",
                prefix,
            )?;
        }
    }
    // Services are there whether the pod wants links or not: the API server's own variables always are.
    core.services
        .wait_synced()
        .await
        .map_err(|_| "services have not yet been read at least once, cannot construct envvars".to_owned())?;
    let mut services =
        services::variables(&core.services.store().list(), pod.namespace(), pod.pod_spec().enable_service_links.unwrap_or(true));
    let mut result: Vec<(String, String)> = Vec::new();
    let mut known: BTreeMap<String, String> = from.clone();
    for variable in container.env.iter().flatten() {
        let from_file = variable.value_from.as_ref().and_then(|source| source.file_key_ref.as_ref());
        let value = match from_file.filter(|_| variable.value.as_deref().unwrap_or_default().is_empty()) {
            Some(reference) => file_value(reference, volumes)?,
            None => value_of(core, pod, container, variable, ips, &known, &services).await?,
        };
        let Some(value) = value else { continue };
        services.remove(&variable.name);
        from.remove(&variable.name);
        known.insert(variable.name.clone(), value.clone());
        result.retain(|(name, _)| name != &variable.name);
        result.push((variable.name.clone(), value));
    }
    for (name, value) in from {
        services.remove(&name);
        result.push((name, value));
    }
    result.extend(services);
    Ok(result)
}

fn add_all(
    into: &mut BTreeMap<String, String>,
    object: Option<Object>,
    optional: bool,
    name: &str,
    kind: &str,
    prefix: &str,
) -> Result<(), String> {
    let Some(object) = object else {
        return if optional { Ok(()) } else { Err(format!("{kind} \"{name}\" not found")) };
    };
    for (key, value) in object.texts() {
        into.insert(format!("{prefix}{key}"), value);
    }
    Ok(())
}

async fn value_of(
    core: &Core,
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    ips: &[String],
    known: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    if let Some(value) = variable.value.as_deref().filter(|v| !v.is_empty()) {
        return Ok(Some(expand::expand(value, |name| known.get(name).or_else(|| services.get(name)).cloned())));
    }
    let Some(source) = &variable.value_from else { return Ok(Some(String::new())) };
    if let Some(reference) = &source.field_ref {
        return field::pod_field(core, pod, &reference.field_path, ips).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        let name = reference.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(&container.name);
        let target = pod.find_container(name).ok_or_else(|| format!("container {name} not found"))?.1;
        return field::resource_field(core, &target, &reference.resource, reference.divisor.as_ref()).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let object = core.objects.get(core, pod, Kind::ConfigMap, &reference.name).await?;
        return key(object, &reference.key, reference.optional, "ConfigMap", pod.namespace(), &reference.name);
    }
    if let Some(reference) = &source.secret_key_ref {
        let object = core.objects.get(core, pod, Kind::Secret, &reference.name).await?;
        return key(object, &reference.key, reference.optional, "Secret", pod.namespace(), &reference.name);
    }
    Ok(Some(String::new()))
}

/// What a file of a volume says; `None` where it need not say anything.
fn file_value(reference: &FileKeySelector, volumes: &Volumes) -> Result<Option<String>, String> {
    let (name, key) = (&reference.volume_name, &reference.key);
    let volume = volumes.by_name.get(name).ok_or_else(|| format!("cannot find the volume {name:?} referenced by FileKeyRef"))?;
    let value = file::read(&volume.path, &reference.path, key).map_err(|error| {
        tracing::info!(error, "a file of environment variables cannot be used");
        "couldn't parse env file".to_owned()
    })?;
    match (value.is_empty(), reference.optional) {
        (false, _) => Ok(Some(value)),
        (true, Some(true)) => Ok(None),
        (true, _) => {
            let path = volume.path.join(&reference.path);
            Err(format!("environment variable key {key:?} not found in file {path:?}"))
        }
    }
}

fn key(
    object: Option<Object>,
    key: &str,
    optional: Option<bool>,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, String> {
    let optional = optional.unwrap_or(false);
    let Some(object) = object else {
        return if optional { Ok(None) } else { Err(format!("{} \"{name}\" not found", kind.to_lowercase())) };
    };
    match object.text(key) {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
    }
}
