//! Between [`Value`] and typed structs (k8s-openapi's), by way of JSON: the components have that code for every type anyway, and a
//! second reader and writer for each would be megabytes of the executable.

use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Value;

/// Why a value does not fit a type, or a type cannot be a value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TypedError(String);

impl Value {
    /// Converts to a typed struct. A float is read as serde_json reads it, which may be a neighbour of the nearest number; no built-in type
    /// that is converted so has one.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T, TypedError> {
        serde_json::from_str(&self.to_json()).map_err(|error| TypedError(error.to_string()))
    }

    /// Converts from a typed struct.
    pub fn from_typed<T: Serialize + ?Sized>(typed: &T) -> Result<Value, TypedError> {
        let json = serde_json::to_vec(typed).map_err(|error| TypedError(error.to_string()))?;
        Value::from_slice(&json).map_err(|error| TypedError(error.to_string()))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(i) => serializer.serialize_i64(*i),
            Value::Float(f) => serializer.serialize_f64(*f),
            Value::String(s) => serializer.serialize_str(s),
            Value::Array(items) => serializer.collect_seq(items.iter()),
            Value::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members.iter() {
                    map.serialize_entry(key.as_str(), value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::value;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(rename_all = "camelCase")]
    struct Sample {
        first_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<i32>,
        ratio: f64,
        map: BTreeMap<String, u8>,
        list: Vec<Kind>,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Kind {
        Plain,
        Counted(i64),
    }

    #[test]
    fn typed_round_trip() {
        let value = value!({"firstName": "n", "port": 80, "ratio": 2, "map": {"a": 1}, "list": ["Plain", {"Counted": 3}]});
        let typed: Sample = value.to_typed().expect("fits");
        assert_eq!(typed.list, [Kind::Plain, Kind::Counted(3)]);
        let mut back = Value::from_typed(&typed).expect("has a JSON form");
        assert_eq!(back["ratio"], Value::Float(2.0));
        back.insert("ratio", 2);
        assert_eq!(back, value);
    }

    #[test]
    fn a_misfit_is_an_error() {
        let error = value!({"firstName": 1}).to_typed::<Sample>().expect_err("not a string");
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
