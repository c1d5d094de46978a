//! The Common Expression Language as Kubernetes uses it: parser, type checker, cost estimate and evaluator, with the libraries of
//! upstream's base environment for v1.35 (`k8s.io/apiserver/pkg/cel`), and the environments of the API built on it.
//!
//! Errors are cel-go's, to the word and the caret, because clients see them. Hostile input gives an error: depth and size of an
//! expression are bounded by the parser, its types by the checker, what an evaluation may cost and how long it may take by its [`Budget`],
//! what a value may grow to, and what all work and memory of an evaluation come to, by the evaluator.
//!
//! What is evaluated today are selectors of devices, whose estimated cost is refused as well where it is too much. Expressions of
//! admission policies and of match conditions are only compiled and checked.
//!
//! Not here: CRD validation rules (`self`, `oldSelf`), which come with CustomResourceDefinitions; what `authorizer` answers; messages of
//! protocol buffers.

pub mod admission;
mod ast;
mod checker;
mod cost;
mod decls;
pub mod device;
mod env;
mod eval;
mod library;
mod meter;
pub mod names;
mod parser;
mod runtime_cost;
mod source;
mod types;
mod validate;
mod value;

pub use cost::{Range, SizeEstimator, estimate};
pub use env::{Ast, COMPATIBLE, Env};
pub use eval::{Activation, Budget, EvalError, Program};
pub use library::format::Format;
pub use library::semver::Version;
pub use source::{Issue, Issues};
pub use types::Type;
pub use value::{Extension, List, Map, MapKey, Val};
