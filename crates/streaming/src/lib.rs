//! SPDY/3.1 as Kubernetes uses it for exec, attach and port-forward: many streams over one connection, the server's side.
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>
//!
//! Deliberately absent: flow control windows. The peers (client-go and its moby/spdystream) neither send nor expect window
//! updates; what slows a sender down is the connection itself.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Stream, StreamReader, StreamWriter, accept};
pub use frame::SpdyError;
