//! Test doubles: an API server of a few hundred lines ([`api::Api`]) and a scripted container runtime ([`runtime::Scripted`]).

pub(crate) mod api;
pub(crate) mod runtime;
