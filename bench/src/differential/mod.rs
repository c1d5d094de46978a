//! `differential`: the same random requests to kube-apiserver and to ours; what is answered differently, by kind and field.
//!
//! Owns the run; what is asked is in [`scenario`], what counts as a difference in [`compare`]. A scenario ends at its first difference: what
//! follows would only repeat it. Each takes its random numbers from the seed and its own number, so that it is the same whatever others came to.

mod compare;
mod data;
mod edit;
mod odd;
mod patch;
mod random;
mod request;
mod scenario;
mod subresource;
mod summary;
mod values;

use std::path::{Path, PathBuf};

use anyhow::Context;
use apimachinery::{Value, value};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;

use crate::api_server::{ApiServer, Kind};
use crate::connection::{Call, Connection};
use crate::target::Target;
use compare::{Answer, Days, Outcome};
use data::{Base, NAMESPACE};
use request::{JSON, Request, State};
use scenario::Scenario;
use summary::Summary;

/// What to run.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// The same seed gives the same requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many requests.
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Only kinds whose resource contains this (`apps/v1/`, `v1/pods`).
    #[arg(long)]
    only: Option<String>,
    /// Send what no client library sends (`bench/differential/odd.yaml`) instead of random requests; headers are compared, too.
    #[arg(long)]
    odd: bool,
    /// Upstream against upstream: whether the comparison itself holds.
    #[arg(long = "self")]
    itself: bool,
    /// Where every difference goes, with an example.
    #[arg(long, default_value = "target/differential.txt")]
    details: PathBuf,
    /// Differences that are printed.
    #[arg(long, default_value_t = 60)]
    show: usize,
    /// Write the figures into docs/differential.md.
    #[arg(long, conflicts_with_all = ["odd", "itself", "only"])]
    write: bool,
}

/// One of the two servers.
struct Side {
    target: Target,
    connection: Connection,
    _server: ApiServer,
}

/// Runs and prints; differences are no error.
pub(crate) async fn run(options: &Options, executable: &Path, scratch: &Path) -> anyhow::Result<()> {
    let bases = data::load(options.only.as_deref())?;
    let ours = if options.itself { Kind::Upstream } else { Kind::Ours(std::fs::canonicalize(executable)?) };
    let mut theirs = Side::start(&Kind::Upstream, scratch).await?;
    let mut ours = Side::start(&ours, scratch).await?;
    let mut summary = Summary::default();
    let days = days();
    if options.odd {
        odd::run(&mut theirs, &mut ours, &days, &mut summary).await?;
    }
    let mut sent = 0;
    for number in 0.. {
        if options.odd || sent >= options.requests {
            break;
        }
        let scenario = Scenario::new(&bases, options.seed, number);
        sent += play(scenario, &mut theirs, &mut ours, &days, &mut summary).await?.max(1);
    }
    if let Some(parent) = options.details.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&options.details, summary.details()).with_context(|| format!("cannot write {}", options.details.display()))?;
    print!("{}", summary.text(options.show));
    println!("details: {}", options.details.display());
    if options.write {
        write_figures(options, &summary)?;
    }
    Ok(())
}

/// One scenario; returns how many requests it came to.
async fn play(
    scenario: Scenario<'_>,
    theirs: &mut Side,
    ours: &mut Side,
    days: &Days,
    summary: &mut Summary,
) -> anyhow::Result<usize> {
    let (base, path) = (scenario.base, scenario.path());
    let (mut their_state, mut our_state) = (State::default(), State::default());
    let mut sent = 0;
    for request in scenario.requests() {
        let (Some(their_call), Some(our_call)) = (request.call(&their_state), request.call(&our_state)) else { break };
        sent += 1;
        let text = shown(&their_call);
        let (their, our) = (theirs.send(&their_call).await?, ours.send(&our_call).await?);
        let (Outcome::Answer(their), Outcome::Answer(our)) = (&their, &our) else {
            note_dropped(base, &request, &their, &our, &text, summary);
            break;
        };
        remember(base, their, &text, &mut their_state);
        remember(base, our, &text, &mut our_state);
        let left = compare::normalized(their, &their_state, &text, days);
        let right = compare::normalized(our, &our_state, &shown(&our_call), days);
        let differences = compare::differences(&left, &right);
        let example = if differences.is_empty() { String::new() } else { example(&text, their, our) };
        summary.add(&base.title(), request.verb, their.code < 300, &differences, &example);
        if !differences.is_empty() {
            break;
        }
    }
    for side in [theirs, ours] {
        side.clean_up(&path).await?;
    }
    Ok(sent)
}

/// A panic upstream is counted apart: ours has to answer an error. That ours drops a connection is always a difference.
fn note_dropped(base: &Base, request: &Request, theirs: &Outcome, ours: &Outcome, text: &str, summary: &mut Summary) {
    match (theirs, ours) {
        (Outcome::Dropped, Outcome::Answer(ours)) => {
            summary.dropped += 1;
            summary.dropped_answered += usize::from(ours.code >= 400);
            if ours.code < 400 {
                let difference = format!("dropped is {}", ours.code);
                summary.add(&base.title(), request.verb, false, &[difference], text);
            }
        }
        (_, Outcome::Dropped) => {
            summary.add(&base.title(), request.verb, false, &["ours dropped the connection".to_owned()], text);
        }
        _ => {}
    }
}

/// Keeps the object if the answer is it, whole.
fn remember(base: &Base, answer: &Answer, request: &str, state: &mut State) {
    let body = &answer.body;
    let known = state.object.as_ref().is_none_or(|object| object.meta().uid() == body.meta().uid());
    if answer.code < 300 && body["kind"] == base.resource.kind && !body.meta().resource_version().is_empty() && known {
        if state.object.is_none() {
            state.chosen = request::chosen(body, request);
            state.first = body.meta().resource_version().to_owned();
        }
        state.object = Some(body.clone());
    }
}

fn shown(call: &Call) -> String {
    match &call.body {
        Some((content_type, body)) => {
            format!("{} {}\n{content_type}\n{}", call.method, call.path, String::from_utf8_lossy(body))
        }
        None => format!("{} {}\n{}", call.method, call.path, call.accept),
    }
}

fn example(request: &str, theirs: &Answer, ours: &Answer) -> String {
    let of = |answer: &Answer| format!("{} {}{} {:?}", answer.code, answer.body.to_json(), answer.text, answer.warnings);
    format!("{request}\nupstream: {}\nours:     {}", of(theirs), of(ours))
}

/// The day, and those around it: the run may pass midnight.
fn days() -> Days {
    let now = jiff::Timestamp::now();
    let day = |hours: i64| (now + jiff::Span::new().hours(hours)).strftime("%Y-%m-%d").to_string();
    Days(vec![day(-24), day(0), day(24)])
}

impl Side {
    async fn start(kind: &Kind, scratch: &Path) -> anyhow::Result<Self> {
        let server = ApiServer::start(kind, scratch).await?;
        let target = server.target.clone();
        let mut side = Self { connection: Connection::open(&target).await?, target, _server: server };
        let namespace = value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        side.create("/api/v1/namespaces", &namespace).await?;
        // Nobody else makes it here, and no pod is admitted without it.
        let account = value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        side.create(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await?;
        Ok(side)
    }

    async fn create(&mut self, path: &str, object: &Value) -> anyhow::Result<()> {
        let body = Some((JSON, Bytes::from(object.to_vec())));
        self.connection.fetch(&Call { method: Method::POST, path: path.to_owned(), body, accept: JSON, gzip: false }).await?;
        Ok(())
    }

    async fn send(&mut self, call: &Call) -> anyhow::Result<Outcome> {
        match self.answer(call).await {
            Ok(answer) => Ok(Outcome::Answer(Box::new(answer))),
            Err(_) => {
                self.connection = Connection::open(&self.target).await.context("the server is gone")?;
                Ok(Outcome::Dropped)
            }
        }
    }

    async fn answer(&mut self, call: &Call) -> anyhow::Result<Answer> {
        let response = self.connection.start(call).await?;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
        let bytes = response.into_body().collect().await?.to_bytes();
        let (body, text) = compare::decoded(&bytes);
        Ok(Answer { code, body, text, warnings })
    }

    /// Removes what a scenario left behind.
    async fn clean_up(&mut self, path: &str) -> anyhow::Result<()> {
        let call = |method: Method, query: &str, body: Option<(&'static str, Bytes)>| Call {
            method,
            path: format!("{path}{query}"),
            body,
            accept: JSON,
            gzip: false,
        };
        let delete = call(Method::DELETE, "?gracePeriodSeconds=0", None);
        self.send(&delete).await?;
        let Outcome::Answer(left) = self.send(&call(Method::GET, "", None)).await? else { return Ok(()) };
        if left.code == 200 && !left.body["metadata"]["finalizers"].is_empty() {
            let patch = Bytes::from_static(br#"{"metadata":{"finalizers":null}}"#);
            self.send(&call(Method::PATCH, "", Some((patch::MERGE, patch)))).await?;
            self.send(&delete).await?;
        }
        Ok(())
    }
}

/// Puts the figures between the markers of docs/differential.md.
fn write_figures(options: &Options, summary: &Summary) -> anyhow::Result<()> {
    const MARKER: &str = "<!-- Written by `cargo xtask differential --write`; do not edit below. -->";
    let path = crate::root().join("docs/differential.md");
    let old = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let head = old.split(MARKER).next().unwrap_or_default();
    let total = summary.total();
    let text = format!(
        "{head}{MARKER}\n\nCommit {}, seed {}, {} requests: {} identical ({}). Upstream dropped the connection on {} more, of which ours answered {} with an error.\n\n{}",
        crate::commit(),
        options.seed,
        total.requests,
        total.identical,
        summary::percent(total.identical, total.requests),
        summary.dropped,
        summary.dropped_answered,
        summary.table()
    );
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
