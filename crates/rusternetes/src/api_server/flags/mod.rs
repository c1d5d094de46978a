//! The command line of `rusternetes api-server`: upstream's flags, read as upstream's parser (pflag) reads them.
//!
//! Owns the types and what is accepted. Every flag of upstream is in the table; one whose meaning is not there yet is refused by name
//! unless it asks for the default, one that cannot matter here is accepted with a warning. Does not know what a flag does.

mod table;
mod value;

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--x`, `--x=false`; never `--x false`.
    Bool,
    Int,
    /// As Go writes it: `1m30s`.
    Duration,
    Text,
    /// Separated by commas, and repeatable.
    List,
    /// Repeatable, each value as it is.
    Array,
}

/// What this server makes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does what it does upstream.
    Works,
    /// Any value is accepted, with a warning that gives the reason why it does not matter.
    Ignored(&'static str),
    /// Not implemented: refused unless it is the default.
    DefaultOnly,
}

/// One flag.
pub(super) struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    state: State,
}

/// Adds the flags to a command.
pub(super) fn augment(command: Command) -> Command {
    let mut command = command.args_override_self(true);
    for (heading, flags) in table::FLAGS {
        command = command.args(flags.iter().map(|flag| flag.arg().help_heading(*heading)));
    }
    command
}

impl Flag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.name).allow_hyphen_values(true);
        let arg = if self.name == "v" { arg.short('v') } else { arg };
        let arg = match self.kind {
            Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("true|false"),
            Kind::Int => arg.value_name("INT"),
            Kind::Duration => arg.value_name("DURATION"),
            Kind::Text => arg.value_name("TEXT"),
            Kind::List => arg.value_name("TEXT,..."),
            Kind::Array => arg.value_name("TEXT"),
        };
        let default = if self.default.is_empty() { String::new() } else { format!("default {}", self.default) };
        let state = match self.state {
            State::Works => String::new(),
            State::Ignored(why) => format!("ignored: {why}"),
            State::DefaultOnly => "not implemented".to_owned(),
        };
        let help = [state, default].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        let repeatable = matches!(self.kind, Kind::List | Kind::Array);
        arg.action(if repeatable { ArgAction::Append } else { ArgAction::Set }).help(help)
    }

    /// The values given, each occurrence of a list split; the default where nothing was given.
    fn values(&self, matches: &ArgMatches) -> Result<Vec<String>, String> {
        let Some(given) = matches.get_many::<String>(self.name) else { return self.split(&[self.default]) };
        self.split(&given.map(String::as_str).collect::<Vec<_>>())
    }

    fn split(&self, given: &[&str]) -> Result<Vec<String>, String> {
        match self.kind {
            Kind::List => given.iter().map(|text| value::list(text)).collect::<Result<Vec<_>, _>>().map(|lists| lists.concat()),
            Kind::Array => Ok(given.iter().filter(|text| !text.is_empty()).map(|text| (*text).to_owned()).collect()),
            _ => Ok(given.iter().map(|text| (*text).to_owned()).collect()),
        }
    }

    /// Whether two values say the same.
    fn same(&self, left: &[String], right: &[String]) -> bool {
        let one = |values: &[String]| values.first().cloned().unwrap_or_default();
        match self.kind {
            Kind::Bool => value::boolean(&one(left)) == value::boolean(&one(right)),
            // Upstream's default of a number or duration that is not printed is zero.
            Kind::Int => value::integer(&one(left)) == value::integer(&one(right)),
            Kind::Duration => value::duration(&one(left)) == value::duration(&one(right)),
            _ => left == right,
        }
    }

    fn check(&self, matches: &ArgMatches) -> Result<Vec<String>, String> {
        let values = self.values(matches)?;
        let first = values.first().map(String::as_str).unwrap_or_default();
        match self.kind {
            Kind::Bool => value::boolean(first).map(drop)?,
            Kind::Int => value::integer(first).map(drop)?,
            Kind::Duration => value::duration(first).map(drop)?,
            Kind::Text | Kind::List | Kind::Array => {}
        }
        Ok(values)
    }
}

/// The values of all flags, checked.
#[derive(Debug)]
pub(super) struct Values {
    values: Vec<(&'static str, Vec<String>, bool)>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

impl Values {
    /// Reads what clap has matched; the error names the flag.
    pub(super) fn read(matches: &ArgMatches) -> Result<Self, String> {
        let (mut all, mut warnings) = (Vec::new(), Vec::new());
        for flag in table::FLAGS.iter().flat_map(|(_, flags)| flags.iter()) {
            let given = matches.value_source(flag.name).is_some();
            let values = flag.check(matches).map_err(|reason| format!("--{}: {reason}", flag.name))?;
            if given && flag.state != State::Works && !flag.same(&values, &flag.split(&[flag.default])?) {
                match flag.state {
                    State::DefaultOnly => return Err(format!("--{}={}: not implemented", flag.name, values.join(","))),
                    State::Ignored(why) => warnings.push(format!("--{} is ignored: {why}", flag.name)),
                    State::Works => {}
                }
            }
            all.push((flag.name, values, given));
        }
        Ok(Self { values: all, warnings })
    }

    fn find(&self, name: &str) -> &(&'static str, Vec<String>, bool) {
        self.values.iter().find(|(have, ..)| *have == name).expect("the name of a flag in the table")
    }

    /// Whether the user gave it.
    pub(super) fn given(&self, name: &str) -> bool {
        self.find(name).2
    }

    /// A text; empty means unset.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.find(name).1.first().map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All values of a list.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.find(name).1.clone()
    }

    /// A boolean.
    pub(super) fn is_set(&self, name: &str) -> bool {
        value::boolean(self.text(name).unwrap_or("false")).unwrap_or(false)
    }

    /// A whole number.
    pub(super) fn integer(&self, name: &str) -> i64 {
        value::integer(self.text(name).unwrap_or_default()).unwrap_or(0)
    }

    /// A duration.
    pub(super) fn duration(&self, name: &str) -> Duration {
        value::duration(self.text(name).unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Values, String> {
        let command = augment(Command::new("test").no_binary_name(true));
        Values::read(&command.try_get_matches_from(arguments).map_err(|error| error.to_string())?)
    }

    #[test]
    fn values_are_read_as_upstream_reads_them() {
        let values = read(&[
            "--secure-port=1234",
            "--anonymous-auth=false",
            "--authorization-mode",
            "Node,RBAC",
            "--authorization-mode=AlwaysAllow",
            "--event-ttl=1h30m",
            "--v=4",
            "--service-account-key-file=a,b",
            "--service-account-key-file=c",
            "--requestheader-client-ca-file=",
        ])
        .unwrap();
        assert_eq!(values.integer("secure-port"), 1234);
        assert!(!values.is_set("anonymous-auth"));
        assert_eq!(values.list("authorization-mode"), ["Node", "RBAC", "AlwaysAllow"]);
        assert_eq!(values.duration("event-ttl"), Duration::from_secs(5400));
        assert_eq!(values.integer("v"), 4);
        assert_eq!(values.list("service-account-key-file"), ["a,b", "c"]);
        assert_eq!(values.text("requestheader-client-ca-file"), None);
        assert_eq!(values.text("etcd-prefix"), Some("/registry"));
        assert!(values.warnings.is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused_by_name_unless_it_is_the_default() {
        let refused = read(&["--etcd-servers=http://127.0.0.1:2379"]).unwrap_err();
        assert!(refused.contains("--etcd-servers"), "{refused}");
        let refused = read(&["--audit-log-maxage=3"]).unwrap_err();
        assert!(refused.contains("--audit-log-maxage=3: not implemented"), "{refused}");
        read(&["--audit-log-maxage=0", "--audit-log-mode=blocking", "--enable-garbage-collector"]).unwrap();
        assert_eq!(read(&["--watch-cache=false"]).unwrap().warnings.len(), 1);
        assert!(read(&["--watch-cache=maybe"]).unwrap_err().contains("--watch-cache"));
        assert!(read(&["--no-such-flag"]).is_err());
    }

    #[test]
    fn the_table_is_consistent() {
        augment(Command::new("test")).debug_assert();
        let flags: Vec<&Flag> = table::FLAGS.iter().flat_map(|(_, flags)| flags.iter()).collect();
        // Upstream's v1.35 lists 171 with --help and --version; --data-dir is ours.
        assert_eq!(flags.len(), 170);
        for flag in flags {
            let values = flag.split(&[flag.default]).unwrap();
            assert!(flag.same(&values, &values), "{}", flag.name);
        }
    }
}
