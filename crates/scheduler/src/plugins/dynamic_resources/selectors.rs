//! Selectors: compiled once, and what they see of a device.

use std::collections::HashMap;
use std::sync::Arc;

use cel::device::{self, Seen, Selector};
use cel::{Extension, Val, Version};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use parking_lot::Mutex;

/// How many expressions are kept.
const KEPT_MAX: usize = 128;

type Compiled = Arc<Result<Selector, String>>;

/// The compiled expressions that were used lately.
#[derive(Default)]
pub(super) struct Selectors(Mutex<HashMap<String, Compiled>>);

impl Selectors {
    pub(super) fn get(&self, expression: &str) -> Compiled {
        let mut kept = self.0.lock();
        if let Some(compiled) = kept.get(expression) {
            return Arc::clone(compiled);
        }
        let compiled = Arc::new(device::compile(expression));
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(expression.to_owned(), Arc::clone(&compiled));
        compiled
    }
}

fn attribute(name: &str, attribute: &DeviceAttribute) -> Result<Val, String> {
    if let Some(int) = attribute.int {
        return Ok(Val::Int(int));
    }
    if let Some(bool) = attribute.bool {
        return Ok(Val::Bool(bool));
    }
    if let Some(text) = &attribute.string {
        return Ok(Val::from(text.as_str()));
    }
    match &attribute.version {
        Some(version) => match Version::parse(version) {
            Ok(version) => Ok(Extension::Semver(Arc::new(version)).into()),
            Err(error) => Err(format!("attribute {name}: parse semantic version: {error}")),
        },
        None => Err(format!("attribute {name}: unsupported attribute value")),
    }
}

/// What an expression sees of a device.
pub(super) fn seen(driver: &str, device: &Device) -> Result<Seen, String> {
    let mut attributes = Vec::new();
    for (name, value) in device.attributes.iter().flatten() {
        attributes.push((name.clone(), attribute(name, value)?));
    }
    let mut capacity = Vec::new();
    for (name, value) in device.capacity.iter().flatten() {
        let quantity = apimachinery::Quantity::parse(&value.value.0).map_err(|error| format!("capacity {name}: {error}"))?;
        capacity.push((name.clone(), Extension::Quantity(quantity).into()));
    }
    Ok(device::Device { driver: driver.to_owned(), attributes, capacity }.seen())
}
