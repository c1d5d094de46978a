//! `rusternetes reset`: what a reboot would do to a server's containers and networks and, unless told otherwise, the end of its data.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use network::Announcer;

use crate::server::{DEFAULT_DATA_DIR, Instance};

/// Flags of `rusternetes reset`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The data directory of the server, which must not be running.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Stop containers and remove networks, but keep the data directory: the next start brings everything back.
    #[arg(long)]
    keep_data: bool,
}

/// Kills all shims and containers, unmounts, removes bridge, rules, addresses of load balancers and cgroups, then the data.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.data_dir.exists(), "there is no data directory {}", options.data_dir.display());
    let instance = Instance::open(&options.data_dir)?;
    container_runtime::kill_all(instance.data_dir(), &instance.run_dir(), &instance.cgroup())
        .context("cannot stop the containers")?;
    network::remove(&instance.bridge(), &[&format!("{}-pods", instance.table()), &format!("{}-proxy", instance.table())])
        .context("cannot remove the pod network")?;
    let withdrawn = Announcer::open(instance.announced_addresses()).and_then(|mut announcer| announcer.set(&BTreeSet::new()));
    withdrawn.context("cannot remove the addresses of load balancers")?;
    if !options.keep_data {
        instance.release().context("cannot remove the data directory")?;
    }
    Ok(())
}
