//! Defaults of the resource.k8s.io group. A taint's `timeAdded` needs a clock and is set by the strategy.

use super::{Rule, zero};
use crate::Value;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("resource.v1.ExactDeviceRequest", device_request),
    ("resource.v1.DeviceSubRequest", device_request),
    ("resource.v1beta2.ExactDeviceRequest", device_request),
    ("resource.v1beta2.DeviceSubRequest", device_request),
    ("resource.v1beta1.DeviceSubRequest", device_request),
    // Without a class the choice is between sub-requests, which have the mode instead.
    ("resource.v1beta1.DeviceRequest", |request| {
        if !request["deviceClassName"].is_empty() {
            device_request(request);
        }
    }),
];

fn device_request(request: &mut Value) {
    zero(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        zero(request, "count", 1);
    }
}
