//! What `/metrics/slis` tells: how each health check ended (KEP-3466).

use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{process, register};

/// The results of health checks.
pub(super) struct HealthChecks {
    registry: Registry,
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl HealthChecks {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let last = Opts::new("kubernetes_healthcheck", "[STABLE] This metric records the result of a single healthcheck.");
        let total = Opts::new("kubernetes_healthchecks_total", "[STABLE] This metric records the results of all healthcheck.");
        Self {
            last: register(&registry, IntGaugeVec::new(last, &["name", "type"])),
            total: register(&registry, IntCounterVec::new(total, &["name", "status", "type"])),
            registry,
        }
    }

    /// Notes a result of the check `name` of an endpoint (`livez`).
    pub(super) fn note(&self, name: &str, endpoint: &str, good: bool) {
        self.last.with_label_values(&[name, endpoint]).set(i64::from(good));
        self.total.with_label_values(&[name, if good { "success" } else { "error" }, endpoint]).inc();
    }

    /// Counts from nothing again.
    pub(super) fn reset(&self) {
        self.last.reset();
        self.total.reset();
    }

    /// Everything in the text format.
    pub(super) fn render(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.extend(process::gather().into_iter().filter(|family| family.name() == "process_start_time_seconds"));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::warn!(error = %error, "a metric cannot be encoded");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let checks = HealthChecks::new();
        checks.note("ping", "livez", false);
        checks.note("ping", "livez", true);
        let text = String::from_utf8(checks.render()).expect("text");
        for line in [
            r#"kubernetes_healthcheck{name="ping",type="livez"} 1"#,
            r#"kubernetes_healthchecks_total{name="ping",status="error",type="livez"} 1"#,
            r#"kubernetes_healthchecks_total{name="ping",status="success",type="livez"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains("process_start_time_seconds"), "{text}");
        checks.reset();
        let text = String::from_utf8(checks.render()).expect("text");
        assert!(!text.contains("kubernetes_healthcheck") && text.contains("process_start_time_seconds"), "{text}");
    }
}
