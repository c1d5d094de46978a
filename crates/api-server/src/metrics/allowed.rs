//! Which values the labels of metrics may have (upstream's `--allow-metric-labels`): whatever is counted under another value is shown
//! under `unexpected`, so that what reads the metrics is not flooded.
//!
//! Series are merged when they are shown; counting does not slow down for it.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType};

const UNEXPECTED: &str = "unexpected";
/// How often a value was not one of those allowed.
const COUNTER: &str = "cardinality_enforcement_unexpected_categorizations_total";

/// Allowed values, by metric and label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedLabels(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl AllowedLabels {
    /// Reads items of the form `METRIC,LABEL=VALUE,VALUE`.
    pub fn parse(items: &[String]) -> Result<AllowedLabels, String> {
        let mut allowed = AllowedLabels::default();
        for item in items {
            let wrong = || format!("{item:?} is not of the form METRIC,LABEL=VALUE,VALUE");
            let (place, values) = item.split_once('=').ok_or_else(wrong)?;
            let (metric, label) = place.split_once(',').filter(|(_, label)| !label.contains(',')).ok_or_else(wrong)?;
            if metric.is_empty() || label.is_empty() {
                return Err(wrong());
            }
            let values = values.split(',').map(str::to_owned).collect();
            allowed.0.entry(metric.to_owned()).or_default().insert(label.to_owned(), values);
        }
        Ok(allowed)
    }

    /// Puts values that are not allowed under one name, and adds the count of what was put there.
    pub(super) fn enforce(&self, families: &mut Vec<MetricFamily>) {
        if self.0.is_empty() {
            return;
        }
        let mut moved = 0;
        for family in families.iter_mut() {
            if let Some(labels) = self.0.get(family.name()) {
                moved += enforce(family, labels);
            }
        }
        let mut counter = Counter::default();
        counter.set_value(moved as f64);
        let mut metric = Metric::default();
        metric.set_counter(counter);
        let mut family = MetricFamily::default();
        family.set_name(COUNTER.to_owned());
        family.set_help("The count of unexpected categorizations during cardinality enforcement.".to_owned());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(vec![metric]);
        families.push(family);
    }
}

/// Returns how many observations were moved; a gauge is one.
fn enforce(family: &mut MetricFamily, labels: &BTreeMap<String, BTreeSet<String>>) -> u64 {
    let kind = family.get_field_type();
    let mut moved = 0;
    let mut merged: Vec<Metric> = Vec::new();
    for mut metric in family.take_metric() {
        let mut pairs = metric.take_label();
        let mut unexpected = false;
        for pair in &mut pairs {
            if labels.get(pair.name()).is_some_and(|values| !values.contains(pair.value())) {
                pair.set_value(UNEXPECTED.to_owned());
                unexpected = true;
            }
        }
        metric.set_label(pairs);
        if unexpected {
            moved += observations(&metric, kind);
        }
        match merged.iter_mut().find(|have| unexpected && have.get_label() == metric.get_label()) {
            Some(have) => add(have, &metric),
            None => merged.push(metric),
        }
    }
    family.set_metric(merged);
    moved
}

fn observations(metric: &Metric, kind: MetricType) -> u64 {
    match kind {
        MetricType::COUNTER => metric.get_counter().get_value() as u64,
        MetricType::HISTOGRAM => metric.get_histogram().get_sample_count(),
        _ => 1,
    }
}

/// Adds a series to another; what its kind does not have is zero.
fn add(sum: &mut Metric, other: &Metric) {
    let mut counter = Counter::default();
    counter.set_value(sum.get_counter().get_value() + other.get_counter().get_value());
    sum.set_counter(counter);
    let mut gauge = Gauge::default();
    gauge.set_value(sum.get_gauge().get_value() + other.get_gauge().get_value());
    sum.set_gauge(gauge);
    let (a, b) = (sum.get_histogram(), other.get_histogram());
    let mut histogram = Histogram::default();
    histogram.set_sample_count(a.get_sample_count() + b.get_sample_count());
    histogram.set_sample_sum(a.get_sample_sum() + b.get_sample_sum());
    let both = a.get_bucket().iter().zip(b.get_bucket());
    histogram.set_bucket(both.map(|(a, b)| bucket(a, b)).collect());
    sum.set_histogram(histogram);
}

/// Two histograms of a family have the same bounds.
fn bucket(a: &Bucket, b: &Bucket) -> Bucket {
    let mut bucket = a.clone();
    bucket.set_cumulative_count(a.cumulative_count() + b.cumulative_count());
    bucket
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

    use super::*;

    #[test]
    fn series_are_merged() {
        let requests = IntCounterVec::new(Opts::new("requests", "r"), &["code", "verb"]).unwrap();
        for (code, verb, count) in [("200", "GET", 3), ("404", "GET", 2), ("500", "GET", 4), ("500", "PUT", 1)] {
            requests.with_label_values(&[code, verb]).inc_by(count);
        }
        let took = HistogramVec::new(HistogramOpts::new("took", "t").buckets(vec![1.0]), &["verb"]).unwrap();
        for (verb, seconds) in [("GET", 0.5), ("PUT", 0.5), ("PATCH", 2.0)] {
            took.with_label_values(&[verb]).observe(seconds);
        }
        let mut families = requests.collect();
        families.extend(took.collect());
        let items = ["requests,code=200", "took,verb=GET"].map(str::to_owned);
        AllowedLabels::parse(&items).unwrap().enforce(&mut families);
        let text = prometheus::TextEncoder::new().encode_to_string(&families).unwrap();
        for wanted in [
            r#"requests{code="200",verb="GET"} 3"#,
            r#"requests{code="unexpected",verb="GET"} 6"#,
            r#"requests{code="unexpected",verb="PUT"} 1"#,
            r#"took_bucket{verb="unexpected",le="1"} 1"#,
            r#"took_count{verb="unexpected"} 2"#,
            r#"took_sum{verb="GET"} 0.5"#,
            "cardinality_enforcement_unexpected_categorizations_total 9",
        ] {
            assert!(text.contains(wanted), "{wanted}\nnot in\n{text}");
        }
        for wrong in ["requests=1", "requests,code", "a,b,c=d", ",b=c"] {
            assert!(AllowedLabels::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
