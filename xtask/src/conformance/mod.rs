//! `cargo xtask conformance`: upstream's conformance suite (441 specs) against a cluster of our own, and the table of its results.
//!
//! Everything that is built or run lives in a cache directory (`$XDG_CACHE_HOME/rusternetes/conformance`); the repository gets
//! `docs/conformance.md` and `conformance/passing.txt`, which only this command writes.

mod cluster;
mod evidence;
mod images;
mod output;
mod programs;
mod ratchet;
mod specs;
mod suite;
mod table;
mod upstream;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{process, tools, workspace_root};
use cluster::Cluster;
use images::Images;
use ratchet::Ratchet;
use specs::Spec;
use suite::Suite;
use table::{Outcome, Table, Verdict};
use upstream::Swapped;

/// What a run needs on the disk of the cache directory: images unpacked, volumes, logs.
const DISK_MIN_MIB: u64 = 6 * 1024;

/// What to run. Without anything: all 441 specs, the parallel ones first.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    selection: specs::Selection,
    /// Only the specs whose last result is a failure.
    #[arg(long)]
    failed: bool,
    /// Go on with the run that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Show the specs with their last results, and run nothing.
    #[arg(long)]
    list: bool,
    /// Choose from all specs of the suite (some 7,300) instead of the conformance specs; such a run is not recorded.
    #[arg(long, conflicts_with_all = ["failed", "resume", "slice"])]
    every: bool,
    /// Upstream's components in place of ours, which are built the first time; such a run is not recorded.
    #[arg(long, value_name = "COMPONENT", value_enum, value_delimiter = ',', conflicts_with = "keep")]
    with_upstream: Vec<upstream::Component>,
    /// Where the run keeps its cluster and logs; another directory lets two runs go at the same time.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// How many processes run the parallel specs.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    processes: u16,
    /// Only specs that are known to pass, chosen anew for each commit, as many as take about this many minutes.
    #[arg(long, value_name = "MINUTES")]
    slice: Option<u16>,
    /// The server to judge; our own debug build unless given, built now.
    #[arg(long, value_name = "FILE", requires = "commit")]
    binary: Option<PathBuf>,
    /// The commit that --binary was built from.
    #[arg(long)]
    commit: Option<String>,
    /// The media type that the suite's clients ask for, to find out where a failure comes from; such a run is not recorded.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Leave the cluster running at the end.
    #[arg(long)]
    keep: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Build the suite and its container images, as far as the chosen specs need them, and stop there.
    Images,
}

/// Where things are.
struct Places {
    module: PathBuf,
    page: PathBuf,
    cache: PathBuf,
    run: PathBuf,
}

impl Options {
    /// Whether the table and the ratchet learn of the run: it is one of conformance specs against our components alone, as they are.
    fn is_recorded(&self) -> bool {
        self.content_type.is_none() && self.slice.is_none() && !self.every && self.with_upstream.is_empty()
    }
}

impl Places {
    fn new(run: Option<&Path>) -> anyhow::Result<Self> {
        let (root, cache) = (workspace_root(), tools::cache_directory("conformance")?);
        let run = run.map_or_else(|| Ok(cache.join("run")), std::path::absolute).context("cannot tell where --directory is")?;
        Ok(Self { module: root.join("conformance"), page: root.join("docs/conformance.md"), run, cache })
    }

    /// The verdicts of a run that has not ended yet, a JSON object a line.
    fn journal(&self) -> PathBuf {
        self.run.join("results.jsonl")
    }
}

/// Runs the suite, or what the flags ask for.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let places = Places::new(options.directory.as_deref())?;
    let specs = specs::load(&places.module.join("specs.txt"))?;
    let mut table = Table::read(&places.page)?;
    let mut ratchet = Ratchet::read(&places.module.join("passing.txt"))?;
    let choice =
        if options.every { specs::list(&programs::prepare(&places.cache, &[])?.join("e2e.test"))? } else { specs.clone() };
    let mut chosen = choose(options, &choice, &table, &ratchet)?;
    if options.list {
        return list(&chosen, &table);
    }
    if let Some(Action::Images) = options.action {
        println!("{}", prepare(options, &places, &chosen)?.1.display());
        return Ok(());
    }
    check_disk(&places.cache)?;
    let _alone = begin(&places, options.resume, &mut table, &mut chosen)?;
    let commit = commit(options)?;
    let binary = binary(options)?;
    let (programs, archive) = prepare(options, &places, &chosen)?;
    let kubectl = kubectl(options, &programs)?;
    let swapped = Swapped::prepare(&options.with_upstream, &programs)?;
    let mut cluster = Cluster::start(&binary, &places.run, &swapped)?;
    cluster.import(&archive)?;
    let (processes, content_type) = (usize::from(options.processes), options.content_type.as_deref());
    let suite =
        Suite { cluster: &cluster, programs: &programs, kubectl: &kubectl, directory: &places.run, processes, content_type };
    let outcome = judge(&suite, &chosen, &places, &commit, &mut table, &ratchet).and_then(|()| cluster.check());
    if options.is_recorded() {
        std::fs::write(&places.page, table.render(&specs)).with_context(|| format!("cannot write {}", places.page.display()))?;
        ratchet.tighten(&specs, &table)?;
    }
    if options.keep {
        cluster.keep()
    } else {
        cluster.remove()?
    }
    outcome
}

/// The directory of the suite's programs and the archive of its images, as far as these specs need them.
fn prepare(options: &Options, places: &Places, specs: &[Spec]) -> anyhow::Result<(PathBuf, PathBuf)> {
    // What specs outside of the conformance list need is not known.
    let mut without = if options.every { Vec::new() } else { programs::unneeded(specs) };
    let images = Images::begin(&places.module, &places.cache, &without)?;
    // No image holds one, so that it is missing in the programs alone.
    if options.slice.is_some() {
        without.push(programs::KUBECTL);
    }
    let programs = programs::prepare(&places.cache, &without)?;
    let archive = images.finish(&places.module, &programs)?;
    Ok((programs, archive))
}

/// The kubectl that specs call: the suite's own release, except in a slice, which is not recorded and takes that of the end-to-end
/// tests, of an older patch release, to save the minute that building one takes.
fn kubectl(options: &Options, programs: &Path) -> anyhow::Result<PathBuf> {
    if options.slice.is_none() {
        return Ok(programs.join(programs::KUBECTL));
    }
    tools::prepare()?.kubectl.remove("1_35").context("the tests' tools hold no kubectl of v1.35")
}

/// The specs that are asked for.
fn choose(options: &Options, specs: &[Spec], table: &Table, ratchet: &Ratchet) -> anyhow::Result<Vec<Spec>> {
    let mut chosen = options.selection.apply(specs)?;
    if options.failed {
        chosen.retain(|spec| table.get(&spec.name).is_some_and(|verdict| verdict.outcome == Outcome::Failed));
        ensure!(!chosen.is_empty(), "no spec of this choice failed when it was last run");
    }
    if let Some(minutes) = options.slice {
        let each = f64::from(minutes) * 60.0;
        let all = each * f64::from(options.processes);
        chosen = ratchet.slice(&chosen, table, &commit(options)?, all, each / 4.0);
        ensure!(!chosen.is_empty(), "no spec of this choice is known to pass (conformance/passing.txt)");
    }
    Ok(chosen)
}

fn list(chosen: &[Spec], table: &Table) -> anyhow::Result<()> {
    for spec in chosen {
        let last = table.get(&spec.name).map_or("not run", |verdict| verdict.outcome.word());
        // A reader that has seen enough closes the pipe.
        if writeln!(std::io::stdout(), "{last:8} {}", spec.name).is_err() {
            break;
        }
    }
    Ok(())
}

/// Claims the run's directory and starts a new journal, or takes over the one of the interrupted run: its verdicts count, and its specs
/// are not run again. The claim ends with the file that is returned.
fn begin(places: &Places, resume: bool, table: &mut Table, chosen: &mut Vec<Spec>) -> anyhow::Result<std::fs::File> {
    std::fs::create_dir_all(&places.run).with_context(|| format!("cannot create {}", places.run.display()))?;
    let claim = std::fs::File::create(places.run.join("lock")).context("cannot write the lock")?;
    ensure!(claim.try_lock().is_ok(), "another run uses {}: give one of your own with --directory", places.run.display());
    let journal = places.journal();
    if !resume {
        let _ = std::fs::remove_file(&journal);
        return Ok(claim);
    }
    let text = std::fs::read_to_string(&journal).context("there is no interrupted run to go on with")?;
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("{}: {line}", journal.display()))?;
        let word = |key: &str| entry[key].as_str().with_context(|| format!("{}: no {key}", journal.display()));
        let verdict =
            Verdict { outcome: Outcome::parse(word("result")?)?, seconds: entry["seconds"].as_f64().unwrap_or_default() };
        table.set(word("spec")?, verdict, word("commit")?);
        let name = word("spec")?;
        chosen.retain(|spec| spec.name != name);
    }
    ensure!(!chosen.is_empty(), "the interrupted run had finished all of these specs");
    Ok(claim)
}

/// Runs the parallel specs, then those that run alone, then once more those that are known to pass and failed.
fn judge(
    suite: &Suite,
    chosen: &[Spec],
    places: &Places,
    commit: &str,
    table: &mut Table,
    ratchet: &Ratchet,
) -> anyhow::Result<()> {
    let (serial, parallel): (Vec<Spec>, Vec<Spec>) = chosen.iter().cloned().partition(|spec| spec.serial);
    call(suite, "parallel", &parallel, places, commit, table)?;
    call(suite, "serial", &serial, places, commit, table)?;
    let regressed = |table: &Table| -> Vec<Spec> {
        let failed = |spec: &&Spec| table.get(&spec.name).is_some_and(|verdict| verdict.outcome == Outcome::Failed);
        chosen.iter().filter(failed).filter(|spec| ratchet.holds(&spec.name)).cloned().collect()
    };
    call(suite, "again", &regressed(table), places, commit, table)?;
    let lost: Vec<String> = regressed(table).into_iter().map(|spec| spec.name).collect();
    ensure!(lost.is_empty(), "specs that are known to pass failed twice:\n{}", lost.join("\n"));
    Ok(())
}

fn call(suite: &Suite, name: &str, specs: &[Spec], places: &Places, commit: &str, table: &mut Table) -> anyhow::Result<()> {
    if specs.is_empty() {
        return Ok(());
    }
    let mut journal =
        std::fs::File::options().create(true).append(true).open(places.journal()).context("cannot write the journal")?;
    let past = std::mem::take(table);
    let mut now = Vec::new();
    let outcome = suite.run(name, specs, &past, |spec, verdict| {
        let entry = json!({"spec": spec, "result": verdict.outcome.word(), "seconds": verdict.seconds, "commit": commit});
        now.push((spec.to_owned(), verdict));
        writeln!(journal, "{entry}").context("cannot write the journal")
    });
    *table = past;
    for (spec, verdict) in &now {
        table.set(spec, *verdict, commit);
    }
    outcome?;
    ensure!(!now.is_empty(), "the suite ran no spec: see {}", places.run.join(format!("{name}.log")).display());
    Ok(())
}

/// The commit that is judged, with a `+` if the work tree differs from it.
fn commit(options: &Options) -> anyhow::Result<String> {
    if let Some(commit) = &options.commit {
        return Ok(commit.clone());
    }
    let git = |arguments: &[&str]| process::output(Command::new("git").current_dir(workspace_root()).args(arguments));
    let changed = !git(&["status", "--porcelain", "crates", "Cargo.lock"])?.is_empty();
    Ok(git(&["rev-parse", "--short", "HEAD"])?.trim().to_owned() + if changed { "+" } else { "" })
}

/// The server: what --binary names, or a debug build of this work tree.
fn binary(options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(binary) = &options.binary {
        ensure!(binary.is_file(), "there is no program {}", binary.display());
        return std::path::absolute(binary).context("cannot tell where --binary is");
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).args(["build", "-p", "rusternetes", "--message-format=json-render-diagnostics"]);
    let messages = process::output(&mut command).context("cannot build the server")?;
    let executable = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let ours = message["target"]["name"] == "rusternetes" && message["target"]["kind"][0] == "bin";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    executable.context("cargo did not say where it put the server")
}

fn check_disk(directory: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("df");
    command.args(["--output=avail", "--block-size=1M"]).arg(directory);
    let free: u64 = process::output(&mut command)?.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    if free < DISK_MIN_MIB {
        bail!("{} has {free} MiB free; a run needs {DISK_MIN_MIB} MiB", directory.display());
    }
    Ok(())
}
