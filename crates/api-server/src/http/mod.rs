//! What a request is, before anyone decides what to do with it: its body, its place in the API, its context.

mod body;
mod context;
mod query;
mod request_info;

pub use body::{Body, BoxError};
pub use context::{RequestContext, Warnings};
pub use query::Query;
pub use request_info::{RequestInfo, RequestInfoError, Verb};
