//! `cargo xtask integration`: upstream's integration tests against our API server, started by them as `kube-apiserver` would be.
//!
//! Owns building the server, running `conformance/integration/run.sh` package by package, the table `docs/integration.md` and the
//! ratchet `conformance/integration-passing.txt`. What a package needs and how it is run is `run.sh`'s (its README has it).

mod report;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{go, process, workspace_root};
use report::{Record, Results};

/// Bytes that the build of one test program and the Go build cache may need at least.
const DISK_BYTES_MIN: u64 = 6 << 30;
const PREFIX: &str = "k8s.io/kubernetes/test/integration/";

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Packages, in full or from test/integration on (`apiserver/apply`); all of conformance/integration/packages.txt unless given.
    packages: Vec<String>,
    /// Only the tests that match this expression (go test -run); the table and the ratchet are left alone then.
    #[arg(long, value_name = "REGEXP")]
    run: Option<String>,
    /// Run this server instead of building ours: a template as in conformance/integration/README.md; the table is left alone then.
    #[arg(long, value_name = "COMMAND")]
    server: Option<String>,
    /// Where test programs and logs go, about 12 GB for all packages; the default is in the system's temporary directory.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Keep the test programs (200 MB each) for the next run.
    #[arg(long)]
    keep_programs: bool,
    /// Clients of the tests speak JSON instead of protobuf.
    #[arg(long)]
    json: bool,
    /// Fail when a test of conformance/integration-passing.txt does not pass; do not write anything.
    #[arg(long)]
    check: bool,
}

/// Runs the packages and writes what they showed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = workspace_root();
    let go = go::directory()?;
    let work = options.work.clone().unwrap_or_else(|| std::env::temp_dir().join("rusternetes-integration"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    need_disk(&work)?;
    let packages = packages(&root, &options.packages)?;
    let server = match &options.server {
        Some(template) => template.clone(),
        None => format!("{} kube-apiserver {{flags}} --data-dir={{data}}", build_server()?.display()),
    };
    let mut results = Results::default();
    for package in &packages {
        let log = run_package(&root, options, &go, &work, &server, package)?;
        let text = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        results.add(Record::read(package, &String::from_utf8_lossy(&text)));
    }
    finish(&root, options, &results)
}

/// Writes the table and the ratchet after a whole run of a package by our server, or checks against the ratchet.
fn finish(root: &Path, options: &Options, results: &Results) -> anyhow::Result<()> {
    let ratchet_path = root.join("conformance/integration-passing.txt");
    let known = report::read_ratchet(&std::fs::read_to_string(&ratchet_path).unwrap_or_default());
    let lost: BTreeSet<&String> = known.iter().filter(|test| results.has_failed(test)).collect();
    for test in &lost {
        eprintln!("passed before and does not now: {test}");
    }
    let whole = options.run.is_none() && options.server.is_none();
    if whole && !options.check {
        let docs = root.join("docs/integration.md");
        let old = std::fs::read_to_string(&docs).unwrap_or_default();
        let commit = process::output(Command::new("git").current_dir(root).args(["rev-parse", "--short", "HEAD"]))?;
        let content_type = if options.json { "JSON" } else { "protobuf" };
        write(&docs, &report::table(&old, results, commit.trim(), content_type))?;
        write(&ratchet_path, &report::ratchet(&known, results))?;
    }
    if !lost.is_empty() {
        bail!("{} tests that passed before fail now", lost.len());
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Full package names.
fn packages(root: &Path, asked: &[String]) -> anyhow::Result<Vec<String>> {
    if !asked.is_empty() {
        let full = |name: &String| if name.starts_with("k8s.io/") { name.clone() } else { format!("{PREFIX}{name}") };
        return Ok(asked.iter().map(full).collect());
    }
    let path = root.join("conformance/integration/packages.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn need_disk(work: &Path) -> anyhow::Result<()> {
    let output = process::output(Command::new("df").args(["--output=avail", "-B1"]).arg(work))?;
    let available: u64 = output.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or(u64::MAX);
    if available < DISK_BYTES_MIN {
        bail!(
            "{} has {} MB free, a package needs {} MB: choose another with --work",
            work.display(),
            available >> 20,
            DISK_BYTES_MIN >> 20
        );
    }
    Ok(())
}

/// Builds our executable and says where it is.
fn build_server() -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()).args(["build", "-p", "rusternetes", "--message-format=json-render-diagnostics"]);
    let messages = process::output(&mut cargo).context("cannot build the server")?;
    let executables = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = executables.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.context("cargo named no executable")
}

/// Runs one package to its end and returns its log. That tests fail is no error.
fn run_package(root: &Path, options: &Options, go: &Path, work: &Path, server: &str, package: &str) -> anyhow::Result<PathBuf> {
    let slug = package.trim_start_matches("k8s.io/").replace('/', "_");
    let log = work.join("log").join(format!("{slug}.log"));
    // A log of another run must not be taken for this one's.
    let _ = std::fs::remove_file(&log);
    let mut path = vec![go.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new(root.join("conformance/integration/run.sh"));
    command.arg(server).arg(package).env("PATH", std::env::join_paths(path)?).env("JUDGE_WORK", work);
    if options.server.is_none() {
        command.env("JUDGE_ETCD", "none").env("JUDGE_DROP_FLAGS", "etcd-servers");
    }
    if options.json {
        command.env("JUDGE_CONTENT_TYPE", "application/json");
    }
    if let Some(expression) = &options.run {
        command.env("JUDGE_RUN", expression);
    }
    // Exit status 1 says that tests failed, which the log says in more detail.
    command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    if !log.exists() {
        bail!("{package} was not run: see above");
    }
    let program = work.join("bin").join(&slug);
    if !options.keep_programs && program.exists() {
        std::fs::remove_dir_all(&program).with_context(|| format!("cannot remove {}", program.display()))?;
    }
    Ok(log)
}
