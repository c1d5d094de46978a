//! What an apply without force finds in its way.

use super::managers::ManagerId;
use super::path::{PathElement, show_path};
use crate::{Status, StatusCause, go_quote};

/// A field that the configuration wants to change and that someone else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner.
    pub manager: ManagerId,
    /// The field.
    pub path: Vec<PathElement>,
}

/// All conflicts of one apply, by owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflicts {
    fn message(&self) -> String {
        if let [only] = self.0.as_slice() {
            return format!("Apply failed with 1 conflict: conflict with {}: {}", describe(&only.manager), show_path(&only.path));
        }
        let mut lines = Vec::new();
        let mut last = None;
        for conflict in &self.0 {
            if last != Some(&conflict.manager) {
                lines.push(format!("conflicts with {}:", describe(&conflict.manager)));
                last = Some(&conflict.manager);
            }
            lines.push(format!("- {}", show_path(&conflict.path)));
        }
        format!("Apply failed with {} conflicts: {}", self.0.len(), lines.join("\n"))
    }
}

impl From<Conflicts> for Status {
    fn from(conflicts: Conflicts) -> Status {
        let causes = conflicts.0.iter().map(|conflict| StatusCause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", describe(&conflict.manager)),
            field: show_path(&conflict.path),
        });
        Status::apply_conflict(causes.collect(), conflicts.message())
    }
}

fn describe(manager: &ManagerId) -> String {
    let mut text = go_quote(&manager.manager);
    if !manager.subresource.is_empty() {
        text = format!("{text} with subresource {}", go_quote(&manager.subresource));
    }
    match manager.applies {
        true => text,
        false => format!("{text} using {}", manager.api_version),
    }
}
