//! Rules for the query parameters that all writes share.

use crate::Value;
use crate::field::{self, ErrorList, Path};

/// The longest name of a field manager, in bytes.
const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// A field manager's name: short, and printable characters only. Empty is valid (it is defaulted later).
pub fn validate_field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(field::Error::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for (i, c) in manager.char_indices() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            let detail = format!("invalid character U+{:04X} (at position {i})", c as u32);
            errors.push(field::Error::invalid(path, manager, detail));
        }
    }
    errors
}

/// `dryRun` may hold nothing but `All`.
pub fn validate_dry_run(values: &[String], path: &Path) -> ErrorList {
    if values.iter().all(|v| v == "All") {
        return Vec::new();
    }
    vec![field::Error::not_supported(path, values.iter().collect::<Value>(), &["All"])]
}

/// `fieldValidation` is empty, `Ignore`, `Warn` or `Strict`.
pub fn validate_field_validation(value: &str, path: &Path) -> ErrorList {
    let known = ["", "Ignore", "Strict", "Warn"];
    if known.contains(&value) { Vec::new() } else { vec![field::Error::not_supported(path, value, &known)] }
}

/// `propagationPolicy` is absent, `Foreground`, `Background` or `Orphan`.
pub fn validate_propagation_policy(value: Option<&str>, path: &Path) -> ErrorList {
    match value {
        None | Some("Foreground" | "Background" | "Orphan") => Vec::new(),
        Some(other) => vec![field::Error::not_supported(path, other, &["Foreground", "Background", "Orphan", "nil"])],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let path = Path::new("x");
        assert!(validate_field_manager("kubectl-client-side-apply", &path).is_empty());
        assert_eq!(
            validate_field_manager("a\nb", &path)[0].body(),
            "Invalid value: \"a\\nb\": invalid character U+000A (at position 1)"
        );
        assert_eq!(validate_field_manager(&"a".repeat(129), &path)[0].body(), "Too long: may not be more than 128 bytes");
        assert!(validate_dry_run(&["All".into()], &path).is_empty());
        assert_eq!(validate_dry_run(&["x".into()], &path)[0].body(), "Unsupported value: [\"x\"]: supported values: \"All\"");
        assert_eq!(
            validate_field_validation("x", &path)[0].body(),
            "Unsupported value: \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
        );
        assert_eq!(validate_propagation_policy(Some("x"), &path).len(), 1);
    }
}
