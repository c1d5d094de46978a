//! The three patch types that a client computes itself: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch
//! (<https://github.com/kubernetes/design-proposals-archive/blob/main/cli/preserve-order-in-strategic-merge-patch.md>).
//!
//! All are pure: a document and a patch in, the patched document or an error out; nothing is half applied. Server-side apply is
//! not a patch of this kind; it lives with the managed fields.

mod facts;
mod json;
mod merge;
mod order;
mod strategic;

pub use json::{JsonPatch, JsonPatchError};
pub use merge::{merge_patch, without_nulls};
pub use strategic::{FieldRule, ListRule, PatchSchema, StrategicError, go_text, strategic_merge_patch};
