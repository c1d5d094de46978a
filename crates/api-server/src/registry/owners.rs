//! Owner references that are there twice: one of them goes, with a warning, as upstream's handlers do it.
//!
//! Whole references are compared: those with the same UID that differ otherwise stay.

use apimachinery::Value;

use crate::http::Warnings;

/// When it is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// What the client sent.
    Sent,
    /// What admission made of it.
    Admitted,
}

/// Takes repeated owner references out.
pub(super) fn dedup(object: &mut Value, stage: Stage, warnings: &Warnings) {
    let path = ["metadata", "ownerReferences"];
    let references = object.array_at(&path);
    if references.len() < 2 {
        return;
    }
    let (mut kept, mut repeated): (Vec<Value>, Vec<&str>) = (Vec::new(), Vec::new());
    for reference in references {
        match kept.contains(reference) {
            true => repeated.push(reference["uid"].as_str().unwrap_or_default()),
            false => kept.push(reference.clone()),
        }
    }
    if repeated.is_empty() {
        return;
    }
    let when = if stage == Stage::Admitted { " after mutating admission happens" } else { "" };
    warnings.add(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such \
         requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        repeated.join(", ")
    ));
    object.set_path(&path, kept);
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn one_of_each_stays() {
        let warnings = Warnings::default();
        let owner = |uid: &str, controller: bool| value!({"uid": uid, "name": "a", "controller": controller});
        let with = |owners: Vec<Value>| value!({"metadata": {"ownerReferences": owners}});
        let mut object = with(vec![owner("1", true), owner("1", false), owner("2", true)]);
        let before = object.clone();
        dedup(&mut object, Stage::Sent, &warnings);
        assert_eq!(object, before, "they differ");
        assert!(warnings.take().is_empty());
        let mut object = with(vec![owner("1", true), owner("2", true), owner("1", true), owner("2", true)]);
        dedup(&mut object, Stage::Admitted, &warnings);
        assert_eq!(object, with(vec![owner("1", true), owner("2", true)]));
        let texts = warnings.take();
        assert!(texts[0].contains("after mutating admission") && texts[0].ends_with("observed: 1, 2"), "{texts:?}");
    }
}
