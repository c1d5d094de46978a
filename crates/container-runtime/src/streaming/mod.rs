//! The streaming server: exec, attach and port-forward by URL, as the CRI has it.
//!
//! It listens on a loopback address. A URL carries a token that cannot be guessed, works once and only for a minute, so that
//! whoever holds it may do this one thing. Protocols: WebSocket (`channel.k8s.io` and its fourth and fifth version, with base64 too; for
//! port-forward its fourth version, and SPDY tunnelled) and SPDY/3.1.

mod channels;
mod forward;
mod server;
mod session;
mod spdy;
mod websocket;

pub(crate) use channels::PORTS_MAX;
pub(crate) use server::StreamingServer;
