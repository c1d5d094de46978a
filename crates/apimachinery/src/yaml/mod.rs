//! YAML as Kubernetes reads and writes it: YAML syntax, with the scalar rules of sigs.k8s.io/yaml (YAML 1.1 booleans such
//! as `yes` and `on`, octal numbers with a leading zero), mapped to JSON's values.
//!
//! Hostile input: nesting is limited as in JSON, and what aliases expand to is limited, so that neither a deep document nor
//! an alias bomb costs more than an error.

mod parse;
mod scalar;
mod write;

pub use parse::{Document, YamlError, parse_all, parse_one, strict_json};
pub use write::to_yaml;
