//! What kubelets say at `/metrics/resource`: the few families that matter, out of the Prometheus text format. Pure.

use std::collections::BTreeMap;

/// Counters of one container or node at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    /// Processor time since the start.
    pub(super) cpu_seconds: Option<f64>,
    /// Memory in use.
    pub(super) memory_bytes: Option<u64>,
    /// When the container started, since the epoch.
    pub(super) start_seconds: Option<f64>,
}

/// Namespace and name of a pod.
pub(super) type PodKey = (String, String);

/// All of one answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scrape {
    pub(super) node: Counters,
    /// Containers of pods, by name.
    pub(super) pods: BTreeMap<PodKey, BTreeMap<String, Counters>>,
}

/// Reads an answer; lines of other families, and lines that are no samples, are passed over.
pub(super) fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        match name {
            "node_cpu_usage_seconds_total" => scrape.node.cpu_seconds = Some(value),
            "node_memory_working_set_bytes" => scrape.node.memory_bytes = Some(bytes(value)),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" | "container_start_time_seconds" => {
                let label = |name: &str| labels.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
                let (Some(namespace), Some(pod), Some(container)) = (label("namespace"), label("pod"), label("container")) else {
                    continue;
                };
                let counters = scrape.pods.entry((namespace, pod)).or_default().entry(container).or_default();
                match name {
                    "container_cpu_usage_seconds_total" => counters.cpu_seconds = Some(value),
                    "container_memory_working_set_bytes" => counters.memory_bytes = Some(bytes(value)),
                    _ => counters.start_seconds = Some(value),
                }
            }
            _ => {}
        }
    }
    scrape
}

/// No memory is negative, or so large that it does not fit.
fn bytes(value: f64) -> u64 {
    value as u64
}

type Labels<'a> = Vec<(&'a str, String)>;

/// `name{label="value",...} value [timestamp]`.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => labels(inner)?,
        None => (Labels::new(), rest),
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, labels, value))
}

/// The labels, and what follows their closing brace.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut found = Labels::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        found.push((name, value));
        rest = after;
    }
}

/// A value up to its closing quote, with `\\`, `\"` and `\n` taken back.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelets_answer() {
        let text = r#"
# HELP container_cpu_usage_seconds_total x
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 4.7 1395066363000
container_cpu_usage_seconds_total{container="odd\"name",namespace="ns",pod="p"} 1
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.024e+06
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.6e9
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 5.7
node_cpu_usage_seconds_total 12.5
node_memory_working_set_bytes 2048
container_cpu_usage_seconds_total{container="c",pod="without a namespace"} 1
container_cpu_usage_seconds_total{container="broken
node_cpu_usage_seconds_total NaN
resource_scrape_error 0
"#;
        let scrape = parse(text);
        assert_eq!(scrape.node, Counters { cpu_seconds: Some(12.5), memory_bytes: Some(2048), start_seconds: None });
        let pod = &scrape.pods[&("ns".to_owned(), "p".to_owned())];
        let counters = Counters { cpu_seconds: Some(4.7), memory_bytes: Some(1_024_000), start_seconds: Some(1.6e9) };
        assert_eq!(pod["c"], counters);
        assert_eq!(pod["odd\"name"].cpu_seconds, Some(1.0));
        assert_eq!(scrape.pods.len(), 1);
        assert_eq!(parse("no metrics at all\n<html>"), Scrape::default());
    }
}
