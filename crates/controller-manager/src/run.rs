//! Runs the enabled controllers, if wanted as the elected leader only.

use client::{EventRecorder, Informers, LeaderElectionError, run_as_leader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;
use crate::identity::Clients;
use crate::registry::{REGISTRY, controller_names, is_enabled, resolve};

/// Why the controller manager ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `--controllers` names one that does not exist.
    #[error("there is no controller {0:?}; known are {known}", known = controller_names().collect::<Vec<_>>().join(", "))]
    UnknownController(String),
    /// Another controller manager took over.
    #[error(transparent)]
    Leadership(#[from] LeaderElectionError),
}

/// Runs until the token is cancelled.
///
/// `informers` may be shared with other components of the process; they must not outlive their own token.
pub async fn run(config: Config, clients: Clients, informers: Informers, token: CancellationToken) -> Result<(), RunError> {
    let wanted = config.controllers.iter().map(|item| resolve(item).ok_or_else(|| RunError::UnknownController(item.clone())));
    let config = Config { controllers: wanted.collect::<Result<_, _>>()?, ..config.clone() };
    match config.leader_election.clone() {
        None => run_controllers(config, clients, informers, token).await,
        Some(election) => {
            let client = clients.shared().clone();
            run_as_leader(client, election, token, |leading| run_controllers(config, clients, informers, leading)).await?;
        }
    }
    Ok(())
}

async fn run_controllers(config: Config, clients: Clients, informers: Informers, token: CancellationToken) {
    let mut tasks = JoinSet::new();
    let (events, writer) = EventRecorder::new(clients.shared().clone(), "kube-controller-manager", None, token.clone());
    tasks.spawn(writer);
    let wanted = config.controllers.clone();
    let context = Context::new(clients.shared().clone(), informers, config, events, token);
    for entry in REGISTRY.iter().filter(|entry| is_enabled(entry.name, &wanted)) {
        tasks.spawn((entry.start)(context.with_client(clients.of_controller(entry.name))));
        tracing::debug!(controller = entry.name, "started controller");
        if let Some(started) = &context.config.started {
            started(entry.name);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(error = &error as &dyn std::error::Error, "a controller panicked");
        }
    }
}
