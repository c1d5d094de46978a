//! The embedded container runtime: sandboxes, containers and images behind the CRI, with nothing installed on the machine.
//!
//! - [`ContainerRuntime`] implements [`cri::Runtime`] and [`cri::Images`].
//! - Containers are created by libcontainer in processes of their own and belong to a shim, one small process per sandbox, so
//!   that they outlive the server. All these processes are the same executable: [`reexec::dispatch`] must come first in `main`.
//! - [`ImageStore`] is for commands (`image import`) that run beside a server, or without one.
//!
//! Not here: the pod network (see [`SandboxNetwork`]), pod-level cgroups and log rotation, which are the kubelet's.

mod cgroup;
mod clock;
mod image_store;
mod images;
mod oci;
pub mod reexec;
mod reset;
mod runtime;
mod shim;
mod streaming;

pub use image_store::ImageStore;
pub use images::{ImageError, ImageSummary, RegistryConfig};
pub use reset::kill_all;
pub use runtime::{Config, ContainerRuntime, LoopbackNetwork, NetworkError, NetworkRequest, OpenError, SandboxNetwork};
