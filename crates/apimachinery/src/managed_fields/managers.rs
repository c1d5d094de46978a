//! `metadata.managedFields`: the managers of an object with what each of them owns.

use std::collections::BTreeMap;

use super::set::{Set, SetError};
use crate::{Value, value};

/// Who a manager is. The same name with another operation, subresource or (for updates) version is another manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// The name that the client gave.
    pub manager: String,
    /// Whether it applies; it updates otherwise.
    pub applies: bool,
    /// The version in which an updater wrote; empty for appliers.
    pub api_version: String,
    /// The subresource through which it writes.
    pub subresource: String,
}

/// What a manager owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// The fields.
    pub set: Set,
    /// The version in which the fields' paths are meant.
    pub api_version: String,
    /// When it last changed, RFC 3339 in seconds.
    pub time: Option<String>,
}

/// All managers of an object.
pub type Managers = BTreeMap<ManagerId, Owned>;

/// Why an entry of `managedFields` is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManagersError {
    /// The operation is neither Apply nor Update.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    NoVersion,
    /// No type of fields.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// Another type of fields than FieldsV1.
    #[error("invalid fieldsType {fields_type:?} in managed fields entry {index}")]
    FieldsType {
        /// The type.
        fields_type: String,
        /// The entry, counted from 0.
        index: usize,
    },
    /// The fields are not a set of fields.
    #[error("error decoding set in managed fields entry {index}")]
    Set {
        /// The entry, counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: SetError,
    },
}

/// Parses `managedFields`.
pub fn parse_managers(entries: &[Value]) -> Result<Managers, ManagersError> {
    let mut managers = Managers::new();
    for (index, entry) in entries.iter().enumerate() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let applies = match entry["operation"].as_str() {
            Some("Apply") => true,
            Some("Update") => false,
            _ => return Err(ManagersError::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(ManagersError::NoVersion);
        }
        match text("fieldsType").as_str() {
            "FieldsV1" => {}
            "" => return Err(ManagersError::NoFieldsType(index)),
            other => return Err(ManagersError::FieldsType { fields_type: other.to_owned(), index }),
        }
        let set = Set::parse(&entry["fieldsV1"]).map_err(|source| ManagersError::Set { index, source })?;
        let id = ManagerId {
            manager: text("manager"),
            applies,
            api_version: if applies { String::new() } else { api_version.clone() },
            subresource: text("subresource"),
        };
        let time = entry["time"].as_str().map(str::to_owned);
        managers.insert(id, Owned { set, api_version, time });
    }
    Ok(managers)
}

/// `managedFields`, in upstream's order: appliers first, then by time and name.
pub fn managers_to_values(managers: &Managers) -> Vec<Value> {
    let mut sorted: Vec<_> = managers.iter().collect();
    sorted.sort_by(|(a, owned_a), (b, owned_b)| {
        // Times in one format and zone compare as text.
        let key_a = (!a.applies, owned_a.time.as_deref().unwrap_or_default(), &a.manager, &owned_a.api_version, &a.subresource);
        let key_b = (!b.applies, owned_b.time.as_deref().unwrap_or_default(), &b.manager, &owned_b.api_version, &b.subresource);
        key_a.cmp(&key_b)
    });
    let entry = |(id, owned): (&ManagerId, &Owned)| {
        let mut entry = value!({
            "manager": &id.manager,
            "operation": if id.applies { "Apply" } else { "Update" },
            "apiVersion": &owned.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": owned.set.to_value(),
        });
        if let Some(time) = &owned.time {
            entry.insert("time", time.as_str());
        }
        if !id.subresource.is_empty() {
            entry.insert("subresource", id.subresource.as_str());
        }
        entry
    };
    sorted.into_iter().map(entry).collect()
}

/// Whether a client asked to forget all owners: an empty list, or one empty entry.
pub(super) fn is_reset(managed_fields: Option<&Value>) -> bool {
    match managed_fields.and_then(Value::as_array) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(|entry| entry.values().all(Value::is_empty)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_round_trip() {
        let entry = |manager: &str, operation: &str, time: &str| {
            value!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {}}})
        };
        let late = entry("a", "Update", "2026-01-01T00:00:02Z");
        let early = entry("b", "Update", "2026-01-01T00:00:01Z");
        let apply = entry("z", "Apply", "2026-01-01T00:00:03Z");
        let managers = parse_managers(&[late.clone(), early.clone(), apply.clone()]).expect("well formed");
        assert_eq!(managers_to_values(&managers), [apply, early, late]);
    }

    #[test]
    fn malformed_entries() {
        let check = |edit: (&str, Value), text: &str| {
            let mut entry = value!({"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1"});
            entry.insert(edit.0, edit.1);
            assert_eq!(parse_managers(&[entry]).expect_err("malformed").to_string(), text);
        };
        check(("operation", "Other".into()), "operation must be `Apply` or `Update`");
        check(("apiVersion", "".into()), "apiVersion must not be empty");
        check(("fieldsType", "".into()), "missing fieldsType in managed fields entry 0");
        check(("fieldsType", "V2".into()), "invalid fieldsType \"V2\" in managed fields entry 0");
        check(("fieldsV1", value!({"f": {}})), "error decoding set in managed fields entry 0");
        assert!(is_reset(Some(&value!([]))) && is_reset(Some(&value!([{}]))) && !is_reset(None));
    }
}
