//! The node agent: registers its machine as a Node, runs the pods that are bound to it through the CRI, and reports how they do.
//!
//! [`Kubelet::run`] is the whole of it. A pod is a state machine with one task (`pod::worker`); what to do next is decided by a pure function
//! (`pod::actions`), what the API shows by another (`pod::status`). It talks to the API server, to the runtime through the `cri` traits, to
//! the disk below [`Config::root_dir`] and to cgroups below [`Config::cgroup_root`], and to nothing else.
//!
//! Deliberately absent: device plugins, dynamic resource allocation, user namespaces, CSI volumes, swap, checkpoints.

mod admit;
mod cgroup;
mod config;
mod config_file;
mod context;
mod dns;
mod env;
mod error;
mod events;
mod eviction;
mod gc;
mod hollow;
mod hosts;
mod image;
mod kubelet;
mod node;
mod objects;
mod pod;
mod probe;
mod quantity;
mod runtime;
mod server;
mod volume;

pub use config::{Config, ServerTls};
pub use config_file::ConfigFileError;
pub use error::Error;
pub use hollow::{HollowConfig, HollowError, run_hollow};
pub use kubelet::Kubelet;
