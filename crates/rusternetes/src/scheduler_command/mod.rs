//! `rusternetes scheduler`, or the executable under the name `kube-scheduler`: the scheduler alone, against any API server, with
//! upstream's flags and secure port.

mod table;

use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgMatches, Command, Subcommand};
use client::Connection;
use component_server::{Check, Checks, Pages};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::exit::{self, Exit};
use crate::flags::common::{Serving, check_versions, client_connection, connection, init_logging, leader_election};
use crate::flags::{self, Values};
use crate::{component, serving, simulate_command};

/// What upstream calls this executable.
pub(crate) const UPSTREAM_NAME: &str = "kube-scheduler";

/// Flags of `rusternetes scheduler`, or what else it is to do.
pub(crate) struct Options {
    command: Option<Other>,
    values: Values,
}

#[derive(Subcommand)]
enum Other {
    /// Say where pods would go and why not elsewhere, without touching the cluster.
    Simulate(simulate_command::Options),
}

impl clap::Args for Options {
    fn augment_args(command: Command) -> Command {
        Other::augment_subcommands(flags::augment(command, table::FLAGS)).args_conflicts_with_subcommands(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let command = matches.subcommand().map(|_| Other::from_arg_matches(matches)).transpose()?;
        Ok(Self { command, values: Values::from_matches(matches, table::FLAGS)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Everything that the command line says, checked.
struct Settings {
    config: scheduler::Config,
    connection: Connection,
    serving: Serving,
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(Other::Simulate(options)) = &options.command {
        return simulate_command::run(options);
    }
    let values = &options.values;
    init_logging(values);
    let settings = settings(values)?;
    let pages =
        serving::pages(UPSTREAM_NAME, values, ("componentconfig", configz(values, &settings.config, &settings.connection)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(settings, pages))
}

/// Upstream's order: with a file, the flags of leader election alone are heard beside it.
fn settings(values: &Values) -> anyhow::Result<Settings> {
    check_versions(values)?;
    let gates = crate::api_server::scheduler_feature_gates(&values.list("feature-gates"))
        .map_err(|error| anyhow::anyhow!("--feature-gates: {error}"))?;
    let mut config = match values.text("config") {
        None => scheduler::Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--config: cannot read {path}"))?;
            scheduler::Config::parse(&text).with_context(|| format!("cannot use {path}"))?
        }
    };
    let from_file = values.text("config").is_some();
    config.feature_gates = gates;
    config.leader_election = election(values, config.leader_election.take(), from_file)?;
    config.pod_max_in_unschedulable = values.duration("pod-max-in-unschedulable-pods-duration");
    let given = connection(values)?;
    let kubeconfig = config.kubeconfig.as_ref().map(PathBuf::from);
    let connection = match from_file {
        false => given,
        // Upstream ignores the flag beside a file; a file that names none would then find no server at all.
        true => Connection { kubeconfig: kubeconfig.or(given.kubeconfig), rate: None, ..given },
    };
    if connection.kubeconfig.is_none() && connection.master.is_none() {
        let message = "no kubeconfig: give --kubeconfig, or clientConnection.kubeconfig in the file";
        return Err(Exit::new(exit::USAGE, message).into());
    }
    Ok(Settings { config, connection, serving: Serving::new(values)? })
}

/// The file's settings, each but for a flag that is given.
fn election(
    values: &Values,
    file: Option<client::LeaderElection>,
    from_file: bool,
) -> anyhow::Result<Option<client::LeaderElection>> {
    let flags = leader_election(values, component::identity())?;
    if !from_file {
        return Ok(flags);
    }
    // It is on unless it is switched off by a flag, which then counts.
    let Some(flags) = flags else { return Ok(None) };
    let given = |name: &str| values.given(&format!("leader-elect{name}"));
    if file.is_none() && !given("") {
        return Ok(None);
    }
    let mut election = file.unwrap_or_else(|| flags.clone());
    election.identity = flags.identity;
    if given("-lease-duration") {
        election.lease_duration = flags.lease_duration;
    }
    if given("-renew-deadline") {
        election.renew_deadline = flags.renew_deadline;
    }
    if given("-retry-period") {
        election.retry_period = flags.retry_period;
    }
    if given("-resource-name") {
        election.name = flags.name;
    }
    if given("-resource-namespace") {
        election.namespace = flags.namespace;
    }
    Ok(Some(election))
}

/// `/configz`: what is known of KubeSchedulerConfiguration, with upstream's field names.
fn configz(values: &Values, config: &scheduler::Config, connection: &Connection) -> Value {
    let mut whole =
        values.configuration(&[("EnableProfiling", "profiling"), ("EnableContentionProfiling", "contention-profiling")]);
    whole["ClientConnection"] = client_connection(connection);
    whole["LeaderElection"] = match &config.leader_election {
        None => json!({"LeaderElect": false}),
        Some(election) => json!({
            "LeaderElect": true,
            "LeaseDuration": flags::go_duration(election.lease_duration),
            "RenewDeadline": flags::go_duration(election.renew_deadline),
            "RetryPeriod": flags::go_duration(election.retry_period),
            "ResourceLock": "leases",
            "ResourceName": election.name,
            "ResourceNamespace": election.namespace,
        }),
    };
    whole["PercentageOfNodesToScore"] = config.percentage_of_nodes_to_score.into();
    whole["Profiles"] = config.profile_names().map(|name| json!({"SchedulerName": name})).collect();
    whole
}

async fn serve(Settings { config, connection, serving }: Settings, mut pages: Pages) -> anyhow::Result<()> {
    let client = connection.client().await?;
    component::until_signal(|stop| async move {
        health(&config, &mut pages, &stop);
        let port = CancellationToken::new();
        let serving = serving::start(serving, pages, port.clone()).await?;
        let result = schedule(config, client, stop).await;
        // The port answers until the work is done: a load balancer or a probe learns from `/readyz` that it ends.
        port.cancel();
        if let Some(serving) = serving {
            serving.await.context("the secure port's server panicked")?;
        }
        result
    })
    .await
}

/// Upstream's checks. One who does not lead has no caches to wait for here.
fn health(config: &scheduler::Config, pages: &mut Pages, stop: &CancellationToken) {
    let election = config.leader_election.as_ref();
    let leader = election.map(|e| serving::leader_check(e.watch.clone(), &e.name, e.lease_duration));
    let (stop, ready, watch) = (stop.clone(), config.ready.clone(), election.map(|election| election.watch.clone()));
    let shutdown = Check::new("shutdown", move || match stop.is_cancelled() {
        true => Err("process is shutting down".to_owned()),
        false => Ok(()),
    });
    let synced = Check::new("sched-handler-sync", move || match watch.as_ref().is_none_or(client::LeaderWatch::is_leading) {
        true if !ready.is_set() => Err("handlers are not fully synchronized".to_owned()),
        _ => Ok(()),
    });
    pages.healthz = Checks::new(leader.clone());
    pages.readyz = Checks::new(leader.into_iter().chain([shutdown, synced]));
}

async fn schedule(config: scheduler::Config, client: kube::Client, stop: CancellationToken) -> anyhow::Result<()> {
    let Some(election) = config.leader_election.clone() else {
        return scheduler::run(config, client, stop).await.context("the scheduler failed");
    };
    let mut result = Ok(());
    let (for_scheduler, outcome) = (client.clone(), &mut result);
    let led = client::run_as_leader(client, election, stop, |leading| async move {
        *outcome = scheduler::run(config, for_scheduler, leading).await;
    });
    led.await?;
    result.context("the scheduler failed")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flags::testing;

    fn read(arguments: &[&str]) -> Result<Settings, String> {
        settings(&testing::read(table::FLAGS, arguments)?).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_table_is_upstreams() {
        // Upstream's v1.35.4 lists 61 with --help and --version.
        assert_eq!(testing::count(table::FLAGS), 59);
    }

    #[test]
    fn a_file_wins_but_for_leader_election() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let body = "clientConnection: {kubeconfig: /from-file}\nleaderElection: {leaseDuration: 30s, resourceName: mine}\n";
        std::fs::write(&path, format!("{head}{body}")).unwrap();
        let config = format!("--config={}", path.display());
        let some = read(&[&config, "--kubeconfig=/flag", "--leader-elect-lease-duration=40s"]).unwrap();
        let election = some.config.leader_election.unwrap();
        assert_eq!((election.name.as_str(), election.lease_duration), ("mine", Duration::from_secs(40)));
        assert!(!election.identity.is_empty());
        assert_eq!(some.connection.kubeconfig, Some(PathBuf::from("/from-file")));
        let values = testing::read(table::FLAGS, &[&config, "--kubeconfig=/flag", "--kube-api-qps=7"]).unwrap();
        let some = settings(&values).unwrap();
        let shown = &configz(&values, &some.config, &some.connection)["ClientConnection"];
        assert_eq!((&shown["Kubeconfig"], &shown["QPS"]), (&json!("/from-file"), &json!(-1.0)));
        assert!(read(&[&config, "--leader-elect=false"]).unwrap().config.leader_election.is_none());
        std::fs::write(&path, format!("{head}leaderElection: {{leaderElect: false}}\nclientConnection: {{kubeconfig: /x}}\n"))
            .unwrap();
        assert!(read(&[&config]).unwrap().config.leader_election.is_none());
    }

    #[test]
    fn flags_without_a_file() {
        let some = read(&["--kubeconfig=/x", "--pod-max-in-unschedulable-pods-duration=1m", "--kube-api-qps=10"]).unwrap();
        assert_eq!(some.config.pod_max_in_unschedulable, Duration::from_secs(60));
        assert_eq!(some.connection.rate, Some((10.0, 100)));
        assert_eq!(some.config.leader_election.unwrap().name, "kube-scheduler");
        assert!(read(&[]).err().unwrap_or_default().contains("no kubeconfig"));
        assert!(read(&["--kubeconfig=/x", "--write-config-to=/y"]).err().unwrap_or_default().contains("--write-config-to"));
    }
}
