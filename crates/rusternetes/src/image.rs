//! `rusternetes image`: the images of the embedded runtime, with a server running or without.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use container_runtime::{ImageStore, ImageSummary};

use crate::server::{DEFAULT_DATA_DIR, runtime_root};

/// Flags of `rusternetes image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    /// The server's data directory.
    #[arg(long, global = true, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Import the images of an archive: `docker save` or OCI layout, also compressed with gzip or zstd.
    Import {
        /// The archive.
        file: PathBuf,
    },
    /// List all images.
    List,
    /// Remove an image with all its names.
    Remove {
        /// A name or an id.
        name: String,
    },
}

/// Runs one of the commands.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let store = open(&options.data_dir)?;
    match options.command {
        Command::Import { file } => {
            let images = store.import(&file).with_context(|| format!("cannot import {}", file.display()))?;
            for image in images {
                println!("{}", image.tags.first().unwrap_or(&image.id));
            }
        }
        Command::List => print(&store.list().context("cannot list the images")?),
        Command::Remove { name } => {
            let image = store.remove(&name).with_context(|| format!("cannot remove {name}"))?;
            println!("{}", image.tags.first().unwrap_or(&image.id));
        }
    }
    Ok(())
}

fn open(data_dir: &Path) -> anyhow::Result<ImageStore> {
    anyhow::ensure!(
        data_dir.exists(),
        "there is no data directory {}: start the server first, or name it with --data-dir",
        data_dir.display()
    );
    ImageStore::open(&runtime_root(data_dir)).with_context(|| format!("cannot open the images of {}", data_dir.display()))
}

fn print(images: &[ImageSummary]) {
    let rows: Vec<(String, String, String)> = images
        .iter()
        .flat_map(|image| {
            let names = if image.tags.is_empty() { vec!["<none>".to_owned()] } else { image.tags.clone() };
            names.into_iter().map(|name| (name, short(&image.id), megabytes(image.size)))
        })
        .collect();
    let width = |pick: fn(&(String, String, String)) -> usize, title: usize| rows.iter().map(pick).max().unwrap_or(0).max(title);
    let (names, ids) = (width(|row| row.0.len(), 5), width(|row| row.1.len(), 8));
    println!("{:names$}   {:ids$}   SIZE", "IMAGE", "IMAGE ID");
    for (name, id, size) in rows {
        println!("{name:names$}   {id:ids$}   {size}");
    }
}

/// Twelve digits, as other tools print ids.
fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
