//! `rusternetes hollow`: Nodes without containers, thousands in one process, against any API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Taint;

use crate::component;
use crate::exit::{self, Exit};

/// Hollow nodes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// The kubeconfig of a user who may write Nodes, Leases and the status of pods.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Nodes are called PREFIX0, PREFIX1, ...
    #[arg(long, value_name = "PREFIX", default_value = "hollow-node-")]
    name_prefix: String,
    /// The number of the first node, to add to those of another process.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    first: usize,
    /// CPUs of each node.
    #[arg(long, value_name = "QUANTITY", default_value = "4")]
    cpu: String,
    /// Memory of each node.
    #[arg(long, value_name = "QUANTITY", default_value = "32Gi")]
    memory: String,
    /// Number of pods that can run on each node.
    #[arg(long, value_name = "N", default_value_t = 110)]
    max_pods: u32,
    /// Extended resources of each node, as NAME=QUANTITY, separated by commas.
    #[arg(long, value_name = "RESOURCES", value_delimiter = ',')]
    extended_resources: Vec<String>,
    /// Labels of each node, as KEY=VALUE, separated by commas; {i} is the node's number, {i%3} its remainder.
    #[arg(long, value_name = "LABELS", value_delimiter = ',', default_value = "topology.kubernetes.io/zone=zone-{i%3}")]
    node_labels: Vec<String>,
    /// Taints of each node, as KEY=VALUE:EFFECT, separated by commas.
    #[arg(long, value_name = "TAINTS", value_delimiter = ',')]
    register_with_taints: Vec<String>,
    /// How long a heartbeat is good for, in seconds; one is sent each quarter of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    node_lease_duration_seconds: u64,
    /// How often a status that does not change is reported, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    node_status_report_seconds: u64,
}

fn pairs(flag: &str, given: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    let wrong = |text: &String| Exit::new(exit::USAGE, format!("--{flag}: {text:?} is not KEY=VALUE"));
    given.iter().map(|text| pair(text).ok_or_else(|| wrong(text).into())).collect()
}

fn taint(text: &str) -> anyhow::Result<Taint> {
    let parts = text.rsplit_once(':').map(|(key, effect)| (key.split_once('=').unwrap_or((key, "")), effect));
    match parts {
        Some(((key, value), effect @ ("NoSchedule" | "PreferNoSchedule" | "NoExecute"))) if !key.is_empty() => {
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
        }
        _ => Err(Exit::new(exit::USAGE, format!("--register-with-taints: {text:?} is not KEY=VALUE:EFFECT")).into()),
    }
}

fn configuration(options: &Options) -> anyhow::Result<kubelet::HollowConfig> {
    let mut capacity = vec![
        ("cpu".to_owned(), options.cpu.clone()),
        ("memory".to_owned(), options.memory.clone()),
        ("pods".to_owned(), options.max_pods.to_string()),
    ];
    capacity.extend(pairs("extended-resources", &options.extended_resources)?);
    for (name, amount) in &capacity {
        apimachinery::Quantity::parse(amount)
            .map_err(|error| Exit::new(exit::USAGE, format!("{name}: {amount:?} is not a quantity: {error}")))?;
    }
    Ok(kubelet::HollowConfig {
        count: options.count,
        prefix: options.name_prefix.clone(),
        first: options.first,
        capacity,
        labels: pairs("node-labels", &options.node_labels)?,
        taints: options.register_with_taints.iter().map(|text| taint(text)).collect::<anyhow::Result<_>>()?,
        lease_duration: Duration::from_secs(options.node_lease_duration_seconds),
        report_period: Duration::from_secs(options.node_status_report_seconds),
        version: format!("v1.35.0+hollow-{}", crate::VERSION),
    })
}

/// Runs until SIGTERM or SIGINT; the Nodes stay.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    crate::server::init_logging();
    let config = configuration(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let client = client::from_kubeconfig(&options.kubeconfig).await?;
        component::until_signal(|stop| async move {
            let count = config.count;
            let ready = move || tracing::info!(count, "hollow nodes are ready");
            kubelet::run_hollow(config, client, stop, ready).await.context("the hollow nodes failed")
        })
        .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read() {
        let read = |text: &str| taint(text).ok().map(|taint| (taint.key, taint.value.unwrap_or_default(), taint.effect));
        let some = |key: &str, value: &str, effect: &str| Some((key.to_owned(), value.to_owned(), effect.to_owned()));
        assert_eq!(read("k=v:NoSchedule"), some("k", "v", "NoSchedule"));
        assert_eq!(read("k:NoExecute"), some("k", "", "NoExecute"));
        assert_eq!(read("k=v"), None);
        assert_eq!(read("k=v:Never"), None);
    }
}
