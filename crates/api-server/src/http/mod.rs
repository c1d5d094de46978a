//! What a request is, before anyone decides what to do with it: its body, its place in the API, its context.

mod body;
mod context;
mod media_type;
mod query;
mod request_info;

pub use body::{Body, BoxError};
pub use context::{RequestContext, Warnings};
pub(crate) use media_type::media_type;
pub use query::Query;
pub use request_info::{RequestInfo, RequestInfoError, Verb};
