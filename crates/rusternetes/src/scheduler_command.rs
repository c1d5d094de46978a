//! `rusternetes scheduler`, or the executable under the name `kube-scheduler`: the scheduler alone, against any API server.
//!
//! Deliberately absent for now: the secure port with `/healthz` and `/metrics`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgAction, Args};

use crate::exit::{self, Exit};
use crate::{component, simulate_command};

/// What upstream calls this executable.
pub(crate) const UPSTREAM_NAME: &str = "kube-scheduler";

/// Upstream's flags. Leader election is set by the file if one is given.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// The path to the configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Path to the kubeconfig file; a configuration file may name one too.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Gain leadership before scheduling; for replicated schedulers.
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: bool,
    /// The name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "kube-scheduler")]
    leader_elect_resource_name: String,
    /// The namespace of the Lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_elect_resource_namespace: String,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say where pods would go and why not elsewhere, without touching the cluster.
    Simulate(simulate_command::Options),
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(Command::Simulate(options)) = &options.command {
        return simulate_command::run(options);
    }
    crate::server::init_logging();
    let config = configuration(options)?;
    let kubeconfig = options.kubeconfig.clone().or_else(|| config.kubeconfig.as_ref().map(PathBuf::from));
    let kubeconfig = kubeconfig
        .ok_or_else(|| Exit::new(exit::USAGE, "no kubeconfig: give --kubeconfig, or clientConnection.kubeconfig in the file"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config, &kubeconfig))
}

fn configuration(options: &Options) -> anyhow::Result<scheduler::Config> {
    let Some(path) = &options.config else {
        let mut config = scheduler::Config::default();
        if let Some(election) = config.leader_election.as_mut().filter(|_| options.leader_elect) {
            election.name.clone_from(&options.leader_elect_resource_name);
            election.namespace.clone_from(&options.leader_elect_resource_namespace);
        } else {
            config.leader_election = None;
        }
        return Ok(config);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    scheduler::Config::parse(&text).with_context(|| format!("cannot use {}", path.display()))
}

async fn serve(config: scheduler::Config, kubeconfig: &Path) -> anyhow::Result<()> {
    let client = client::from_kubeconfig(kubeconfig).await?;
    component::until_signal(|stop| async move {
        let Some(mut election) = config.leader_election.clone() else {
            return scheduler::run(config, client, stop).await.context("the scheduler failed");
        };
        election.identity = component::identity();
        let mut result = Ok(());
        let (for_scheduler, outcome) = (client.clone(), &mut result);
        let led = client::run_as_leader(client, election, stop, |leading| async move {
            *outcome = scheduler::run(config, for_scheduler, leading).await;
        });
        led.await?;
        result.context("the scheduler failed")
    })
    .await
}
