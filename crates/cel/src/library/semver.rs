//! Semantic versions (upstream's `library/semverlib.go`, which parses by `blang/semver`).

use std::cmp::Ordering;

use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
semver string_to_semver (string) -> Semver
semver string_bool_to_semver (string, bool) -> Semver
isSemver is_semver_string (string) -> bool
isSemver is_semver_string_bool (string, bool) -> bool
isGreaterThan semver_is_greater_than Semver.(Semver) -> bool
isLessThan semver_is_less_than Semver.(Semver) -> bool
compareTo semver_compare_to Semver.(Semver) -> int
major semver_major Semver.() -> int
minor semver_minor Semver.() -> int
patch semver_patch Semver.() -> int
";

/// A semantic version. The build metadata plays no part in comparisons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    // Numbers come before words.
    Number(u64),
    Word(String),
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        // A release comes after its pre-releases.
        let pre = |a: &Version, b: &Version| match (a.pre.is_empty(), b.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => a.pre.cmp(&b.pre),
        };
        self.numbers.cmp(&other.numbers).then_with(|| pre(self, other))
    }
}

impl Version {
    /// Parses a version of the form that semver.org demands.
    pub fn parse(text: &str) -> Result<Version, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts.as_slice() else { return Err("No Major.Minor.Patch elements found".to_owned()) };
        let (rest, build) = rest.split_once('+').map_or((*rest, None), |(rest, build)| (rest, Some(build)));
        let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        let numbers = [number("major", major)?, number("minor", minor)?, number("patch", patch)?];
        let pre = pre.into_iter().flat_map(|pre| pre.split('.')).map(identifier).collect::<Result<_, _>>()?;
        for word in build.into_iter().flat_map(|build| build.split('.')) {
            if word.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !is_word(word) {
                return Err(format!("Invalid character(s) found in build meta data {}", apimachinery::go_quote(word)));
            }
        }
        Ok(Version { numbers, pre })
    }

    /// As [`Version::parse`], for versions with a leading `v`, leading zeros, or fewer than three numbers.
    fn parse_tolerant(text: &str) -> Result<Version, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        if parts.len() < 3 && parts.last().is_some_and(|part| part.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
        Version::parse(&parts.join("."))
    }
}

fn without_zeros(part: &str) -> String {
    if part.len() <= 1 {
        return part.to_owned();
    }
    let trimmed = part.trim_start_matches('0');
    if trimmed.starts_with(|c: char| c.is_ascii_digit()) { trimmed.to_owned() } else { format!("0{trimmed}") }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(what: &str, text: &str) -> Result<u64, String> {
    let quoted = apimachinery::go_quote(text);
    let title = format!("{}{}", what[..1].to_uppercase(), &what[1..]);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {what} number {quoted}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{title} number must not contain leading zeroes {quoted}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {quoted}: value out of range"))
}

fn identifier(text: &str) -> Result<Identifier, String> {
    let quoted = apimachinery::go_quote(text);
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {quoted}"));
        }
        return text.parse().map(Identifier::Number).map_err(|_| "value out of range".to_owned());
    }
    match is_word(text) {
        true => Ok(Identifier::Word(text.to_owned())),
        false => Err(format!("Invalid character(s) found in prerelease {quoted}")),
    }
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    let int = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (function, args) {
        ("semver" | "isSemver", [Val::String(text), tolerant @ ..]) => {
            let parsed = match tolerant {
                [] | [Val::Bool(false)] => Version::parse(text),
                [Val::Bool(true)] => Version::parse_tolerant(text),
                _ => return Err(EvalError::no_overload()),
            };
            match (function, parsed) {
                ("isSemver", parsed) => Ok(Val::Bool(parsed.is_ok())),
                (_, Ok(version)) => Ok(Extension::Semver(version.into()).into()),
                (_, Err(error)) => Err(EvalError::failed(error)),
            }
        }
        ("major", [Val::Extension(Extension::Semver(v))]) => int(v.numbers[0]),
        ("minor", [Val::Extension(Extension::Semver(v))]) => int(v.numbers[1]),
        ("patch", [Val::Extension(Extension::Semver(v))]) => int(v.numbers[2]),
        (_, [Val::Extension(Extension::Semver(a)), Val::Extension(Extension::Semver(b))]) => match function {
            "isGreaterThan" => Ok(Val::Bool(a > b)),
            "isLessThan" => Ok(Val::Bool(a < b)),
            "compareTo" => Ok(Val::Int(a.cmp(b) as i64)),
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}
