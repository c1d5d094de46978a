//! The scheduler's settings: upstream's configuration file, checked, and turned into profiles.

mod file;
mod profile;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::file::{File, LeaderElection as Election, ProfileFile};
use crate::extender::{Extender, ExtenderFile, HttpExtender};
use crate::framework::{Handle, Profile};
use crate::queue::{Backoff, UNSCHEDULABLE_MAX};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const DEFAULT_NAME: &str = "default-scheduler";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not YAML of a KubeSchedulerConfiguration.
    #[error("cannot decode the scheduler's configuration: {0}")]
    Decode(String),
    /// A field has a value that it cannot have; upstream's form of the message.
    #[error("{path}: Invalid value: {value}: {reason}")]
    Invalid {
        /// The field.
        path: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It asks for something that this scheduler does not have.
    #[error("{0} is not implemented")]
    NotImplemented(String),
}

/// The scheduler's settings.
#[derive(Clone, Debug)]
pub struct Config {
    profiles: Vec<ProfileFile>,
    /// `percentageOfNodesToScore`; 0 adapts to the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
    pub(crate) backoff: Backoff,
    extenders: Vec<ExtenderFile>,
    /// `clientConnection.kubeconfig`, if given.
    pub kubeconfig: Option<String>,
    /// `leaderElection`; `None` if it is switched off. The identity is for the caller to fill in.
    pub leader_election: Option<client::LeaderElection>,
    /// `--pod-max-in-unschedulable-pods-duration`: after this a pod is tried again, in case an event was misjudged.
    pub pod_max_in_unschedulable: Duration,
    /// The gates that there is code for both ways.
    pub feature_gates: FeatureGates,
    /// Is set when the scheduler has seen the cluster.
    pub ready: Ready,
}

/// `--feature-gates`, as far as there is code for both values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    /// Equal pods share the results of one cycle (KEP-5598).
    pub opportunistic_batching: bool,
    /// Pods of a Workload's gang are bound together or not at all (KEP-4671). Alpha, off by default; without it nothing is known of
    /// Workloads, and the plugin is not among the defaults.
    pub gang_scheduling: bool,
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self { opportunistic_batching: true, gang_scheduling: false }
    }
}

/// Whether a scheduler has seen the cluster; clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Default for Config {
    /// One profile, `default-scheduler`, with upstream's default plugins; leader election on, as upstream has it.
    fn default() -> Self {
        Self {
            profiles: vec![ProfileFile::default()],
            percentage_of_nodes_to_score: 0,
            backoff: Backoff::default(),
            extenders: Vec::new(),
            kubeconfig: None,
            leader_election: Some(client::LeaderElection::new("kube-scheduler", "")),
            pod_max_in_unschedulable: UNSCHEDULABLE_MAX,
            feature_gates: FeatureGates::default(),
            ready: Ready::default(),
        }
    }
}

impl ConfigError {
    /// A field has a value that it cannot have.
    pub(crate) fn invalid(path: impl Into<String>, value: impl ToString, reason: &str) -> Self {
        Self::Invalid { path: path.into(), value: value.to_string(), reason: reason.to_owned() }
    }
}

fn invalid(path: impl Into<String>, value: impl ToString, reason: &str) -> ConfigError {
    ConfigError::invalid(path, value, reason)
}

/// A duration as Go writes it, in the units that make sense here: `15s`, `1m30s`, `500ms`.
pub(crate) fn duration(path: &str, text: &str) -> Result<Duration, ConfigError> {
    let bad = || invalid(path, format!("{text:?}"), "must be a duration such as 15s");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = tail;
    }
    Ok(total)
}

fn election(given: Election) -> Result<Option<client::LeaderElection>, ConfigError> {
    if given.leader_elect == Some(false) {
        return Ok(None);
    }
    let mut election = client::LeaderElection::new("kube-scheduler", "");
    if given.resource_lock.is_some_and(|lock| lock != "leases") {
        return Err(invalid("leaderElection.resourceLock", "", "resourceLock value must be \"leases\""));
    }
    let set = |place: &mut Duration, field: &str, text: Option<String>| -> Result<(), ConfigError> {
        if let Some(text) = text {
            *place = duration(&format!("leaderElection.{field}"), &text)?;
        }
        Ok(())
    };
    set(&mut election.lease_duration, "leaseDuration", given.lease_duration)?;
    set(&mut election.renew_deadline, "renewDeadline", given.renew_deadline)?;
    set(&mut election.retry_period, "retryPeriod", given.retry_period)?;
    if election.lease_duration <= election.renew_deadline {
        let value = format!("{:?}", election.renew_deadline);
        return Err(invalid("leaderElection.leaseDuration", value, "LeaseDuration must be greater than RenewDeadline"));
    }
    election.name = given.resource_name.unwrap_or(election.name);
    election.namespace = given.resource_namespace.unwrap_or(election.namespace);
    Ok(Some(election))
}

fn percentage(path: &str, given: Option<i32>) -> Result<Option<usize>, ConfigError> {
    let Some(given) = given else { return Ok(None) };
    let checked = usize::try_from(given).ok().filter(|percent| *percent <= 100);
    checked.map(Some).ok_or_else(|| invalid(path, given, "not in valid range [0-100]"))
}

impl Config {
    /// Reads a configuration file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        // By way of JSON, which the executable has the code for anyway.
        let json = apimachinery::yaml::strict_json(text.as_bytes()).map_err(|error| ConfigError::Decode(error.to_string()))?;
        let file: File = serde_json::from_str(&json).map_err(|error| ConfigError::Decode(error.to_string()))?;
        if file.api_version != API_VERSION || file.kind != "KubeSchedulerConfiguration" {
            let found = format!("{}, Kind={}", file.api_version, file.kind);
            return Err(ConfigError::Decode(format!(
                "no kind is registered for {found}: want {API_VERSION} KubeSchedulerConfiguration"
            )));
        }
        crate::extender::check(&file.extenders)?;
        if file.delay_cache_until_active == Some(true) {
            return Err(ConfigError::NotImplemented("delayCacheUntilActive".to_owned()));
        }
        if let Some(parallelism) = file.parallelism.filter(|parallelism| *parallelism <= 0) {
            return Err(invalid("parallelism", parallelism, "should be an integer value greater than zero"));
        }
        let seconds = |path: &str, given: Option<i64>, default: Duration| match given {
            None => Ok(default),
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
                _ => Err(invalid(path, seconds, "must be greater than 0")),
            },
        };
        let defaults = Backoff::default();
        let backoff = Backoff {
            first: seconds("podInitialBackoffSeconds", file.pod_initial_backoff_seconds, defaults.first)?,
            max: seconds("podMaxBackoffSeconds", file.pod_max_backoff_seconds, defaults.max)?,
            ..defaults
        };
        if backoff.max < backoff.first {
            let reason = "must be greater than or equal to PodInitialBackoffSeconds";
            return Err(invalid("podMaxBackoffSeconds", backoff.max.as_secs(), reason));
        }
        let profiles = if file.profiles.is_empty() { vec![ProfileFile::default()] } else { file.profiles };
        let mut names = BTreeSet::new();
        for (index, profile) in profiles.iter().enumerate() {
            let path = format!("profiles[{index}]");
            let name = profile.scheduler_name.as_deref().unwrap_or(DEFAULT_NAME);
            if name.is_empty() || profile.scheduler_name.is_none() && profiles.len() > 1 {
                return Err(invalid(format!("{path}.schedulerName"), "\"\"", "Required value"));
            }
            if !names.insert(name.to_owned()) {
                return Err(invalid(format!("{path}.schedulerName"), format!("{name:?}"), "Duplicate value"));
            }
            percentage(&format!("{path}.percentageOfNodesToScore"), profile.percentage_of_nodes_to_score)?;
        }
        let config = Self {
            profiles,
            percentage_of_nodes_to_score: percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?.unwrap_or(0),
            backoff,
            extenders: file.extenders,
            kubeconfig: file.client_connection.and_then(|connection| connection.kubeconfig).filter(|path| !path.is_empty()),
            leader_election: election(file.leader_election.unwrap_or_default())?,
            ..Self::default()
        };
        // What is wrong with the plugins is better said now than when the cluster is there.
        config.make_profiles(&Arc::default())?;
        config.make_extenders()?;
        Ok(config)
    }

    /// The profiles' names: what pods ask for by `schedulerName`.
    pub fn profile_names(&self) -> impl Iterator<Item = &str> {
        self.profiles.iter().map(|profile| profile.scheduler_name.as_deref().unwrap_or(DEFAULT_NAME))
    }

    /// The extenders. The ignorable ones come last: those that decide without them need not wait for them.
    pub(crate) fn make_extenders(&self) -> Result<Vec<Arc<dyn Extender>>, ConfigError> {
        let (ignorable, needed): (Vec<_>, Vec<_>) = self.extenders.iter().partition(|extender| extender.ignorable);
        let made = needed.into_iter().chain(ignorable).map(|file| Ok(Arc::new(HttpExtender::new(file)?) as Arc<dyn Extender>));
        made.collect()
    }

    /// The profiles with their plugins.
    pub(crate) fn make_profiles(&self, handle: &Arc<Handle>) -> Result<BTreeMap<String, Arc<Profile>>, ConfigError> {
        let made = self.profiles.iter().map(|file| {
            let name = file.scheduler_name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
            let ignored = crate::extender::ignored_resources(&self.extenders);
            let mut profile = profile::make(file, &name, handle, &ignored, self.feature_gates)?;
            profile.percentage_of_nodes_to_score = percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
            Ok((name, Arc::new(profile)))
        });
        made.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Config, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: KubeSchedulerConfiguration\n{body}");
        Config::parse(&text).map_err(|error| error.to_string())
    }

    fn names(body: &str) -> Vec<String> {
        let profiles = parse(body).unwrap().make_profiles(&Arc::default()).unwrap();
        profiles.keys().cloned().collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        assert_eq!(names(""), ["default-scheduler"]);
        let config = parse("").unwrap();
        assert_eq!(config.leader_election.unwrap().name, "kube-scheduler");
        assert_eq!(names("profiles: [{schedulerName: a}, {schedulerName: b}]"), ["a", "b"]);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |body: &str, expected: &str| {
            let error = parse(body).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        };
        check("percentageOfNodesToScore: 101", "not in valid range [0-100]");
        check("podInitialBackoffSeconds: 0", "must be greater than 0");
        check("podInitialBackoffSeconds: 20", "must be greater than or equal to PodInitialBackoffSeconds");
        check("profiles: [{schedulerName: a}, {schedulerName: a}]", "Duplicate value");
        check("nonsense: 1", "nonsense");
        check("leaderElection: {leaseDuration: 5s}", "LeaseDuration must be greater than RenewDeadline");
        check("profiles: [{plugins: {filter: {enabled: [{name: Nope}]}}}]", "Nope");
        check("profiles: [{plugins: {score: {enabled: [{name: NodeName}]}}}]", "NodeName");
        check(
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "hardPodAffinityWeight",
        );
        check("extenders: [{urlPrefix: 'ftp://x'}]", "must be an http:// or https:// URL");
        check("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]", "must have a positive weight applied to it");
        let two = "extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]";
        check(two, "only one extender can implement bind");
        check("extenders: [{urlPrefix: 'http://x', managedResources: [{name: cpu}]}]", "is an invalid extended resource name");
    }

    #[test]
    fn durations() {
        for (text, expected) in [("15s", Some(15_000)), ("1m30s", Some(90_000)), ("500ms", Some(500)), ("5", None), ("x", None)] {
            assert_eq!(duration("d", text).ok().map(|duration| duration.as_millis()), expected, "{text}");
        }
    }
}
