//! `rusternetes controller-manager`, or the executable under the name `kube-controller-manager`: the controllers alone, against any API
//! server, with upstream's flags and secure port.

mod configz;
mod settings;
mod table;

use anyhow::Context;
use clap::{ArgMatches, Command};
use client::Informers;
use component_server::{Check, Checks, Pages};
use controller_manager::{Clients, RunError};

use self::settings::Settings;
use crate::component;
use crate::exit::{self, Exit};
use crate::flags::common::init_logging;
use crate::flags::{self, Values};
use crate::serving;

/// What upstream calls this executable.
pub(crate) const UPSTREAM_NAME: &str = "kube-controller-manager";

/// Flags of `rusternetes controller-manager`.
pub(crate) struct Options(Values);

impl clap::Args for Options {
    fn augment_args(command: Command) -> Command {
        flags::augment(command, table::FLAGS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Values::from_matches(matches, table::FLAGS).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
pub(crate) fn run(Options(values): &Options) -> anyhow::Result<()> {
    init_logging(values);
    let settings = Settings::new(values)?;
    let configuration = configz::configuration(values, &settings.config, &settings.connection);
    let pages = serving::pages(UPSTREAM_NAME, values, ("kubecontrollermanager.config.k8s.io", configuration))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(settings, pages))
}

/// `/healthz` says of each controller that it was started, as upstream has it; `/readyz` says the same.
fn checks(settings: &Settings) -> Checks {
    let election = settings.config.leader_election.as_ref();
    let leader = election.map(|e| serving::leader_check(e.watch.clone(), &e.name, e.lease_duration));
    Checks::new(leader)
}

async fn serve(mut settings: Settings, mut pages: Pages) -> anyhow::Result<()> {
    let client = settings.connection.client().await?;
    let clients = if settings.with_accounts {
        Clients::per_controller(client.clone(), settings.connection.service_accounts("kube-system").await?)
    } else {
        Clients::same(client.clone())
    };
    let health = checks(&settings);
    (pages.healthz, pages.readyz) = (health.clone(), health.clone());
    settings.config.started = Some(std::sync::Arc::new(move |name| health.add([Check::ping(name)])));
    component::until_signal(|stop| async move {
        let serving = serving::start(settings.serving, pages, stop.clone()).await?;
        let informers = Informers::new(client, stop.clone());
        let result = match controller_manager::run(settings.config, clients, informers, stop.clone()).await {
            Err(error @ RunError::UnknownController(_)) => Err(Exit::new(exit::USAGE, error.to_string()).into()),
            result => result.context("the controller manager failed"),
        };
        stop.cancel();
        if let Some(serving) = serving {
            serving.await.context("the secure port's server panicked")?;
        }
        result
    })
    .await
}
