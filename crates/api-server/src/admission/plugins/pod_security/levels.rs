//! Levels and versions of the Pod Security Standards, and which of them a namespace's labels ask for.

use std::fmt;

use apimachinery::field::{Error, Path};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const AUDIT: &str = "pod-security.kubernetes.io/audit";
const WARN: &str = "pod-security.kubernetes.io/warn";

/// From the most permissive to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A release of Kubernetes whose rules count. The latest is newer than every other, also than those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// `v1.` and this.
    Minor(u64),
    Latest,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let digits = text.strip_prefix("v1.")?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        // Upstream reads a signed number of 64 bits.
        let minor = digits.parse().ok().filter(|minor| plain && i64::try_from(*minor).is_ok())?;
        Some(Version::Minor(minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// Which rules count, and as of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What holds in a namespace. What is to be audited is not kept, for there is no audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Policy {
    /// Anything goes: upstream's default where nothing is configured.
    pub(super) const PRIVILEGED: Policy = Policy {
        enforce: LevelVersion { level: Level::Privileged, version: Version::Latest },
        warn: LevelVersion { level: Level::Privileged, version: Version::Latest },
    };

    /// Whether nothing can be refused nor warned of.
    pub(super) fn is_privileged(&self) -> bool {
        self.enforce.level == Level::Privileged && self.warn.level == Level::Privileged
    }

    /// What the labels of a namespace ask for, and what is wrong with them. A label that cannot be read counts as the strictest where pods
    /// are refused, and as nothing where they are warned of.
    pub(super) fn of_labels<'a>(label: impl Fn(&str) -> Option<&'a str>, defaults: Policy) -> (Policy, Vec<Error>) {
        let mut policy = defaults;
        let mut labels = Labels { label: &label, errors: Vec::new() };
        let enforce = labels.level(ENFORCE);
        if let Some(level) = enforce {
            policy.enforce.level = level.unwrap_or(Level::Restricted);
        }
        if let Some(version) = labels.version("pod-security.kubernetes.io/enforce-version") {
            policy.enforce.version = version;
        }
        // Read for their mistakes alone.
        labels.level(AUDIT);
        labels.version("pod-security.kubernetes.io/audit-version");
        let warn = labels.level(WARN);
        if let Some(level) = warn {
            policy.warn.level = level.unwrap_or(Level::Privileged);
        }
        let warn_version = labels.version("pod-security.kubernetes.io/warn-version");
        if let Some(version) = warn_version {
            policy.warn.version = version;
        }
        // Who enforces something is warned of it too, unless told otherwise: of workloads nothing else would be seen.
        if warn.is_none() && enforce.flatten().is_some_and(|level| level > policy.warn.level) {
            policy.warn.level = policy.enforce.level;
            if warn_version.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, labels.errors)
    }
}

impl Policy {
    /// What the labels of a namespace ask for beyond the most permissive level, each as `mode=level:version`.
    pub(super) fn labelled<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
        let audit = LevelVersion {
            level: label(AUDIT).and_then(Level::parse).unwrap_or(Level::Privileged),
            version: label("pod-security.kubernetes.io/audit-version").and_then(Version::parse).unwrap_or(Version::Latest),
        };
        let modes = [("enforce", self.enforce), ("audit", audit), ("warn", self.warn)];
        let asked = modes.into_iter().filter(|(mode, what)| {
            let (level, version) =
                (format!("pod-security.kubernetes.io/{mode}"), format!("pod-security.kubernetes.io/{mode}-version"));
            what.level != Level::Privileged && (label(&level).is_some() || label(&version).is_some())
        });
        asked.map(|(mode, what)| format!("{mode}={what}")).collect()
    }
}

struct Labels<'a, 'b> {
    label: &'b dyn Fn(&str) -> Option<&'a str>,
    errors: Vec<Error>,
}

impl Labels<'_, '_> {
    /// `Some(None)`: the label is there and wrong.
    fn level(&mut self, label: &str) -> Option<Option<Level>> {
        let text = (self.label)(label)?;
        let level = Level::parse(text);
        if level.is_none() {
            self.wrong(label, text, "must be one of privileged, baseline, restricted");
        }
        Some(level)
    }

    /// A wrong one counts as the latest.
    fn version(&mut self, label: &str) -> Option<Version> {
        let text = (self.label)(label)?;
        let version = Version::parse(text);
        if version.is_none() {
            self.wrong(label, text, r#"must be "latest" or "v1.x""#);
        }
        Some(version.unwrap_or(Version::Latest))
    }

    fn wrong(&mut self, label: &str, text: &str, why: &str) {
        self.errors.push(Error::invalid(&Path::new("metadata").child("labels").key(label), text, why));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("latest", Some(Version::Latest)),
            ("v1.0", Some(Version::Minor(0))),
            ("v1.35", Some(Version::Minor(35))),
            ("v1.05", None),
            ("v1.", None),
            ("v1.+5", None),
            ("1.5", None),
            ("v2.0", None),
            ("v1.9223372036854775808", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text}");
        }
        assert!(Version::Minor(99) < Version::Latest);
    }

    #[test]
    fn labels() {
        // Labels as pairs of what follows the prefix and the value, then what is enforced and warned of, and the number of mistakes.
        type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str, usize);
        let cases: &[Case] = &[
            (&[], "privileged:latest", "privileged:latest", 0),
            (&[("enforce", "baseline")], "baseline:latest", "baseline:latest", 0),
            (&[("enforce", "baseline"), ("enforce-version", "v1.20")], "baseline:v1.20", "baseline:v1.20", 0),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.20"), ("warn-version", "v1.22")],
                "baseline:v1.20",
                "baseline:v1.22",
                0,
            ),
            (&[("enforce", "restricted"), ("warn", "privileged")], "restricted:latest", "privileged:latest", 0),
            (&[("enforce", "baseline"), ("warn", "restricted")], "baseline:latest", "restricted:latest", 0),
            (&[("enforce", "strict")], "restricted:latest", "privileged:latest", 1),
            (&[("warn", "strict"), ("audit", "x"), ("audit-version", "1")], "privileged:latest", "privileged:latest", 3),
            (&[("enforce", "baseline"), ("enforce-version", "1.20")], "baseline:latest", "baseline:latest", 1),
        ];
        for (labels, enforce, warn, mistakes) in cases {
            let mut namespace = value!({"metadata": {"name": "ns"}});
            for (key, text) in *labels {
                namespace.meta_mut().set_label(&format!("pod-security.kubernetes.io/{key}"), text);
            }
            let (policy, errors) = Policy::of_labels(|key| namespace.meta().label(key), Policy::PRIVILEGED);
            assert_eq!((policy.enforce.to_string().as_str(), policy.warn.to_string().as_str()), (*enforce, *warn), "{labels:?}");
            assert_eq!(errors.len(), *mistakes, "{labels:?}");
        }
    }
}
