//! Command lines of upstream's components: flags as data, read as upstream's parser (pflag) reads them.
//!
//! Owns the types and what is accepted. Every flag of upstream is in a component's table; one whose meaning is not there yet is refused
//! by name unless it asks for the default, one that cannot matter here is accepted with a warning. Does not know what a flag does.

pub(crate) mod common;
mod value;

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;
pub(crate) use value::go_duration;

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--x`, `--x=false`; never `--x false`.
    Bool,
    Int,
    Float,
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
pub(crate) enum State {
    /// It does what it does upstream.
    Works,
    /// Any value is accepted, with a warning that gives the reason why it does not matter.
    Ignored(&'static str),
    /// Not implemented: refused unless it is the default.
    DefaultOnly,
}

/// One flag.
pub(crate) struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    state: State,
}

/// A row of a table.
pub(crate) const fn flag(name: &'static str, kind: Kind, default: &'static str, state: State) -> Flag {
    Flag { name, kind, default, state }
}

/// The flags of a component, by upstream's headings.
pub(crate) type Table = &'static [(&'static str, &'static [Flag])];

/// Adds the flags to a command.
pub(crate) fn augment(command: Command, table: Table) -> Command {
    let mut command = command.args_override_self(true);
    for (heading, flags) in table {
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
            Kind::Float => arg.value_name("FLOAT"),
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
            Kind::Float => value::float(&one(left)) == value::float(&one(right)),
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
            Kind::Float => value::float(first).map(drop)?,
            Kind::Duration => value::duration(first).map(drop)?,
            Kind::Text | Kind::List | Kind::Array => {}
        }
        Ok(values)
    }
}

/// A flag as it stands on the command line.
#[derive(Debug)]
struct Given {
    name: &'static str,
    kind: Kind,
    values: Vec<String>,
    /// Not by default.
    by_user: bool,
}

/// The values of all flags, checked.
#[derive(Debug)]
pub(crate) struct Values {
    values: Vec<Given>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl Values {
    /// As [`Values::read`], with the error as clap has it.
    pub(crate) fn from_matches(matches: &ArgMatches, table: Table) -> Result<Self, clap::Error> {
        let error = |reason| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{reason}\n"));
        Self::read(matches, table).map_err(error)
    }

    /// Reads what clap has matched; the error names the flag.
    pub(crate) fn read(matches: &ArgMatches, table: Table) -> Result<Self, String> {
        let (mut all, mut warnings) = (Vec::new(), Vec::new());
        for flag in table.iter().flat_map(|(_, flags)| flags.iter()) {
            let given = matches.value_source(flag.name).is_some();
            let values = flag.check(matches).map_err(|reason| format!("--{}: {reason}", flag.name))?;
            if given && !flag.same(&values, &flag.split(&[flag.default])?) {
                match flag.state {
                    State::DefaultOnly => return Err(format!("--{}={}: not implemented", flag.name, values.join(","))),
                    State::Ignored(why) => warnings.push(format!("--{} is ignored: {why}", flag.name)),
                    State::Works => {}
                }
            }
            all.push(Given { name: flag.name, kind: flag.kind, values, by_user: given });
        }
        Ok(Self { values: all, warnings })
    }

    fn find(&self, name: &str) -> &Given {
        self.values.iter().find(|given| given.name == name).expect("the name of a flag in the table")
    }

    /// Whether the user gave it.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.find(name).by_user
    }

    /// A text; empty means unset.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.find(name).values.first().map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All values of a list.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.find(name).values.clone()
    }

    /// A boolean.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        value::boolean(self.text(name).unwrap_or("false")).unwrap_or(false)
    }

    /// A whole number.
    pub(crate) fn integer(&self, name: &str) -> i64 {
        value::integer(self.text(name).unwrap_or_default()).unwrap_or(0)
    }

    /// A number.
    pub(crate) fn float(&self, name: &str) -> f64 {
        value::float(self.text(name).unwrap_or_default()).unwrap_or(0.0)
    }

    /// All flags with their values as they are, for `/flagz`.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        self.values.iter().map(|given| (given.name.to_owned(), given.values.join(","))).collect()
    }

    /// A value as upstream's configuration objects have it in JSON.
    pub(crate) fn json(&self, name: &str) -> Value {
        match self.find(name).kind {
            Kind::Bool => self.is_set(name).into(),
            Kind::Int => self.integer(name).into(),
            Kind::Float => self.float(name).into(),
            Kind::Duration => value::go_duration(self.duration(name)).into(),
            Kind::Text => self.text(name).unwrap_or_default().into(),
            Kind::List | Kind::Array => self.list(name).into(),
        }
    }

    /// A configuration object: each value at its path (`Generic.ClientConnection.QPS`).
    pub(crate) fn configuration(&self, fields: &[(&str, &str)]) -> Value {
        let mut whole = Value::Object(serde_json::Map::new());
        for (path, name) in fields {
            let place = path.split('.').fold(&mut whole, |place, part| &mut place[part]);
            *place = self.json(name);
        }
        whole
    }

    /// A duration.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        value::duration(self.text(name).unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Reads a command line.
    pub(crate) fn read(table: Table, arguments: &[&str]) -> Result<Values, String> {
        let command = augment(Command::new("test").no_binary_name(true), table);
        Values::read(&command.try_get_matches_from(arguments).map_err(|error| error.to_string())?, table)
    }

    /// Checks that a table is one that clap takes and that defaults are values, and counts its flags.
    pub(crate) fn count(table: Table) -> usize {
        augment(Command::new("test"), table).debug_assert();
        let flags: Vec<&Flag> = table.iter().flat_map(|(_, flags)| flags.iter()).collect();
        for flag in &flags {
            let values = flag.split(&[flag.default]).expect("the default is a value");
            assert!(flag.same(&values, &values), "{}", flag.name);
        }
        flags.len()
    }
}
