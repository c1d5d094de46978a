//! Health checks by name, and what is answered about them (upstream's `apiserver/pkg/server/healthz`).

use std::sync::Arc;

use parking_lot::RwLock;

use crate::metrics;

type Test = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// One check.
#[derive(Clone)]
pub struct Check {
    name: String,
    test: Test,
}

impl Check {
    /// A check with a name; the error says what is wrong.
    pub fn new(name: impl Into<String>, test: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), test: Arc::new(test) }
    }

    /// Nothing is wrong as long as there is an answer.
    pub fn ping(name: impl Into<String>) -> Self {
        Self::new(name, || Ok(()))
    }
}

/// The checks of one path; more may come while the server runs. Cloning shares them.
#[derive(Clone, Default)]
pub struct Checks(Arc<RwLock<Vec<Check>>>);

/// An answer about health.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) healthy: bool,
    pub(crate) text: String,
}

impl Checks {
    /// Starts with these.
    pub fn new(checks: impl IntoIterator<Item = Check>) -> Self {
        Self(Arc::new(RwLock::new(checks.into_iter().collect())))
    }

    /// Adds checks.
    pub fn add(&self, checks: impl IntoIterator<Item = Check>) {
        self.0.write().extend(checks);
    }

    fn all(&self) -> Vec<Check> {
        let checks = self.0.read().clone();
        if checks.is_empty() { vec![Check::ping("ping")] } else { checks }
    }

    /// All checks but the excluded ones, under the name of the path (`healthz`, `readyz`).
    pub(crate) fn report(&self, kind: &str, excluded: &[String], verbose: bool) -> Report {
        let (mut text, mut healthy, mut unknown) = (String::new(), true, excluded.to_vec());
        unknown.sort();
        unknown.dedup();
        for check in self.all() {
            let name = &check.name;
            if excluded.contains(name) {
                unknown.retain(|other| other != name);
                text.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            let result = (check.test)();
            metrics::observe_health(name, kind, result.is_ok());
            match result {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => {
                    healthy = false;
                    tracing::info!(check = name, reason, "a health check failed");
                    text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                }
            }
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
            text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(",")));
        }
        if !healthy {
            text.push_str(&format!("{kind} check failed\n"));
        } else if verbose {
            text.push_str(&format!("{kind} check passed\n"));
        } else {
            "ok".clone_into(&mut text);
        }
        Report { healthy, text }
    }

    /// One check; `None` if there is none of this name.
    pub(crate) fn single(&self, name: &str) -> Option<Report> {
        let check = self.all().into_iter().find(|check| check.name == name)?;
        Some(match (check.test)() {
            Ok(()) => Report { healthy: true, text: "ok".to_owned() },
            Err(reason) => Report { healthy: false, text: format!("internal server error: {reason}\n") },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_about_health() {
        let bad = Check::new("bad", || Err("boo".to_owned()));
        let (good, mixed) = (Checks::new([Check::ping("good")]), Checks::new([Check::ping("good"), bad]));
        let check = |checks: &Checks, excluded: &[&str], verbose: bool, healthy: bool, text: &str| {
            let excluded: Vec<String> = excluded.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(checks.report("healthz", &excluded, verbose), Report { healthy, text: text.to_owned() });
        };
        check(&good, &[], false, true, "ok");
        check(&good, &[], true, true, "[+]good ok\nhealthz check passed\n");
        check(&Checks::default(), &[], true, true, "[+]ping ok\nhealthz check passed\n");
        check(&mixed, &[], false, false, "[+]good ok\n[-]bad failed: reason withheld\nhealthz check failed\n");
        check(&mixed, &["bad"], true, true, "[+]good ok\n[+]bad excluded: ok\nhealthz check passed\n");
        let warning = "warn: some health checks cannot be excluded: no matches for \"other\"\n";
        check(&good, &["other"], true, true, &format!("[+]good ok\n{warning}healthz check passed\n"));
        good.add([Check::new("later", || Err("boo".to_owned()))]);
        assert!(!good.report("healthz", &[], false).healthy);
        assert_eq!(mixed.single("bad").expect("is there").text, "internal server error: boo\n");
        assert_eq!(mixed.single("none"), None);
    }
}
