//! Leader election on a Lease (`coordination.k8s.io/v1`), after client-go's `tools/leaderelection`.
//!
//! Clocks of candidates are never compared: a candidate takes over when the record did not change for the lease's
//! duration as measured by its own clock. The leader's work is cancelled before another can take over, because
//! the renew deadline is shorter than the lease duration.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, register_int_gauge_vec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which Lease, who we are, and how long things may take.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This candidate; must be unique, upstream uses HOSTNAME_UUID.
    pub identity: String,
    /// How long others wait after the last observed renewal before they take over.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Time between attempts.
    pub retry_period: Duration,
    /// Tells others how it stands.
    pub watch: LeaderWatch,
}

/// How an election stands for a candidate; clones show the same. Upstream's `HealthzAdaptor`.
#[derive(Clone, Debug, Default)]
pub struct LeaderWatch(Arc<Mutex<Option<Instant>>>);

impl LeaderWatch {
    /// Whether this candidate leads.
    pub fn is_leading(&self) -> bool {
        self.0.lock().is_some()
    }

    /// For how long a leader has not renewed; nothing for others.
    pub fn not_renewed_for(&self) -> Option<Duration> {
        self.0.lock().map(|renewed| renewed.elapsed())
    }

    fn set(&self, renewed: Option<Instant>) {
        *self.0.lock() = renewed;
    }
}

impl LeaderElection {
    /// Upstream's durations (15 s, 10 s, 2 s) in `kube-system`.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            watch: LeaderWatch::default(),
        }
    }
}

/// `leader_election_master_status` of upstream: whether this process leads, by lease.
static MASTER_STATUS: LazyLock<Option<IntGaugeVec>> = LazyLock::new(|| {
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is \
                the string used to identify the lease. Please make sure to group by name.";
    register_int_gauge_vec!("leader_election_master_status", help, &["name"]).ok()
});

fn set_master_status(lease: &str, leads: bool) {
    if let Some(gauge) = MASTER_STATUS.as_ref() {
        gauge.with_label_values(&[lease]).set(leads.into());
    }
}

/// Why leading ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum LeaderElectionError {
    /// The Lease could not be renewed in time; the work was cancelled. Upstream's components exit on this.
    #[error("leader election lost for lease {namespace}/{name}")]
    Lost {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
    },
}

/// Waits to become the leader, then runs `work` with a token that is cancelled when leadership is lost or `token`
/// is cancelled. Returns when `work` returned; the Lease is released so that another can take over at once.
/// Returns `Ok` without running `work` if `token` is cancelled first.
pub async fn run_as_leader<F, Fut>(
    client: kube::Client,
    config: LeaderElection,
    token: CancellationToken,
    work: F,
) -> Result<(), LeaderElectionError>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut elector =
        Elector { api: Api::namespaced(client, &config.namespace), config, observed: None, observed_at: Instant::now() };
    set_master_status(&elector.config.name, false);
    if !elector.acquire(&token).await {
        return Ok(());
    }
    elector.config.watch.set(Some(Instant::now()));
    set_master_status(&elector.config.name, true);
    tracing::info!(lease = elector.config.name, identity = elector.config.identity, "became leader");
    let leading = token.child_token();
    let mut lost = false;
    {
        let mut work = std::pin::pin!(work(leading.clone()));
        tokio::select! {
            () = &mut work => {}
            held = elector.hold(&leading) => {
                lost = !held;
                leading.cancel();
                work.await;
            }
        }
    }
    elector.config.watch.set(None);
    set_master_status(&elector.config.name, false);
    if lost {
        return Err(LeaderElectionError::Lost { namespace: elector.config.namespace, name: elector.config.name });
    }
    elector.release().await;
    Ok(())
}

struct Elector {
    api: Api<Lease>,
    config: LeaderElection,
    /// The Lease as last seen, and when it was first seen in this version.
    observed: Option<Lease>,
    observed_at: Instant,
}

impl Elector {
    /// False when cancelled.
    async fn acquire(&mut self, token: &CancellationToken) -> bool {
        loop {
            let attempt = async {
                if self.try_acquire_or_renew().await {
                    return true;
                }
                // Jitter up to 1.2 times keeps candidates apart (client-go's JitterFactor).
                let factor = 1.0 + rand::random::<f64>() * 1.2;
                tokio::time::sleep(self.config.retry_period.mul_f64(factor)).await;
                false
            };
            tokio::select! {
                () = token.cancelled() => return false,
                acquired = attempt => if acquired { return true },
            }
        }
    }

    /// Renews until cancelled (true) or the renew deadline passes (false).
    async fn hold(&mut self, token: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            let deadline = renewed + self.config.renew_deadline;
            let attempt = async {
                tokio::time::sleep(self.config.retry_period).await;
                self.try_acquire_or_renew().await
            };
            tokio::select! {
                () = token.cancelled() => return true,
                result = tokio::time::timeout_at(deadline, attempt) => match result {
                    Ok(true) => {
                        renewed = Instant::now();
                        self.config.watch.set(Some(renewed));
                    }
                    Ok(false) => {}
                    Err(_) => return false,
                },
            }
        }
    }

    async fn try_acquire_or_renew(&mut self) -> bool {
        if let Some(observed) = self.observed.clone().filter(|lease| self.is_ours(lease)) {
            if self.write(&observed).await.is_ok() {
                return true;
            }
            tracing::debug!(lease = self.config.name, "optimistic renewal failed, reading the lease");
        }
        match self.api.get_opt(&self.config.name).await {
            Ok(Some(lease)) => {
                self.observe(lease);
                let Some(lease) = self.observed.clone() else {
                    return false;
                };
                let decision = decide(lease.spec.as_ref(), &self.config.identity, self.observed_at.elapsed());
                decision && self.write(&lease).await.is_ok()
            }
            Ok(None) => self.create().await,
            Err(error) => {
                tracing::warn!(lease = self.config.name, error = &error as &dyn std::error::Error, "cannot read the lease");
                false
            }
        }
    }

    fn observe(&mut self, lease: Lease) {
        let changed = self.observed.as_ref().and_then(|o| o.spec.as_ref()) != lease.spec.as_ref();
        if changed || self.observed.is_none() {
            self.observed_at = Instant::now();
        }
        self.observed = Some(lease);
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.config.identity)
    }

    async fn create(&mut self) -> bool {
        let lease = Lease {
            metadata: ObjectMeta {
                namespace: Some(self.config.namespace.clone()),
                name: Some(self.config.name.clone()),
                ..Default::default()
            },
            spec: Some(renewed_spec(None, &self.config, Timestamp::now())),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(created) => {
                self.observe(created);
                true
            }
            Err(error) => {
                tracing::debug!(lease = self.config.name, error = &error as &dyn std::error::Error, "cannot create the lease");
                false
            }
        }
    }

    async fn write(&mut self, current: &Lease) -> Result<(), kube::Error> {
        let mut lease = current.clone();
        lease.spec = Some(renewed_spec(current.spec.as_ref(), &self.config, Timestamp::now()));
        let written = self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.observe(written);
        Ok(())
    }

    async fn release(&self) {
        let Some(mut lease) = self.observed.clone() else {
            return;
        };
        let now = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(now.clone()),
            acquire_time: Some(now),
            lease_transitions: lease.spec.as_ref().and_then(|spec| spec.lease_transitions),
            ..Default::default()
        });
        let params = PostParams::default();
        let request = self.api.replace(&self.config.name, &params, &lease);
        // A short deadline: at shutdown the server may already be gone, and the Lease expires by itself.
        match tokio::time::timeout(Duration::from_secs(2), request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(lease = self.config.name, error = &error as &dyn std::error::Error, "cannot release the lease");
            }
            Err(_) => tracing::debug!(lease = self.config.name, "no time left to release the lease"),
        }
    }
}

/// Whether a candidate may write the record that it has seen unchanged for `unchanged_for`.
fn decide(spec: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration) -> bool {
    let Some(spec) = spec else { return true };
    let holder = spec.holder_identity.as_deref().unwrap_or("");
    if holder.is_empty() || holder == identity {
        return true;
    }
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    unchanged_for >= Duration::from_secs(seconds)
}

fn renewed_spec(current: Option<&LeaseSpec>, config: &LeaderElection, now: Timestamp) -> LeaseSpec {
    let ours = current.and_then(|spec| spec.holder_identity.as_deref()) == Some(&config.identity);
    let transitions = current.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let acquired = current.filter(|_| ours).and_then(|spec| spec.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match (current, ours) {
            (None, _) => 0,
            (Some(_), true) => transitions,
            (Some(_), false) => transitions + 1,
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..Default::default()
        }
    }

    #[test]
    fn who_may_write_the_record() {
        for (holder, unchanged, expected) in
            [("me", 0, true), ("", 0, true), ("other", 0, false), ("other", 14, false), ("other", 15, true)]
        {
            let decision = decide(Some(&spec(holder, 0)), "me", Duration::from_secs(unchanged));
            assert_eq!(decision, expected, "{holder:?} unchanged for {unchanged} s");
        }
        assert!(decide(None, "me", Duration::ZERO));
    }

    #[test]
    fn transitions_and_acquire_time_change_only_with_the_holder() {
        let config = LeaderElection::new("x", "me");
        let now = Timestamp::from_second(1000).expect("in range");
        let first = renewed_spec(None, &config, now);
        assert_eq!((first.lease_transitions, first.acquire_time), (Some(0), Some(MicroTime(now))));
        let renewed = renewed_spec(Some(&spec("me", 3)), &config, now);
        assert_eq!(renewed.lease_transitions, Some(3));
        assert_eq!(renewed.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        let taken = renewed_spec(Some(&spec("other", 3)), &config, now);
        assert_eq!(taken.lease_transitions, Some(4));
        assert_eq!(taken.acquire_time, Some(MicroTime(now)));
        assert_eq!(taken.lease_duration_seconds, Some(15));
    }
}
