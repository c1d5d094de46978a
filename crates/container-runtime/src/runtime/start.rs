//! From a CRI container configuration to a running container: snapshot, specification, shim.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::Status;
use cri::v1::{self, ContainerEventType, NamespaceMode};

use super::records::{Container, ContainerRecord, Phase, Sandbox, UserRecord, Wire, save};
use super::spec::{self, Inputs};
use super::{Inner, blocking, io_status, new_id, privileges, shim_client, user};
use crate::clock;
use crate::images::{Image, ProcessConfig, mount_overlay};
use crate::oci::PRIVILEGES_FILE;
use crate::shim::protocol::{Answer, Exit, Request, StartSpec};

/// The exit code and reason of a container whose command could not be run; containerd's.
const START_ERROR_CODE: i32 = 128;
const START_ERROR_REASON: &str = "StartError";

impl Inner {
    pub(super) async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("container configuration missing"))?;
        if config.metadata.is_none() {
            return Err(Status::invalid_argument("container metadata missing"));
        }
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        // Not against each other, but against the sandbox going away.
        let sandbox_record = sandbox.snapshot();
        if !sandbox_record.ready {
            return Err(Status::failed_precondition(format!("sandbox {} is not ready", sandbox_record.id)));
        }
        let id = new_id();
        let this = self.this.upgrade().ok_or_else(|| Status::unavailable("the runtime is closing"))?;
        let created = {
            let (id, sandbox) = (id.clone(), sandbox.clone());
            blocking(move || this.prepare_container(&id, config, &sandbox)).await
        };
        match created {
            Ok(record) => {
                let sandbox_id = record.sandbox_id.clone();
                self.containers.write().insert(id.clone(), Arc::new(Container::new(record, Phase::Created)));
                if !sandbox.snapshot().ready {
                    // It was stopped meanwhile, and did not see this container.
                    self.remove_container(&id).await?;
                    return Err(Status::failed_precondition(format!("sandbox {sandbox_id} is not ready")));
                }
                self.publish(&sandbox_id, &id, ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(error) => {
                self.delete_container_files(&id);
                Err(error)
            }
        }
    }

    /// Blocking: image, writable layer, user, specification, record.
    fn prepare_container(&self, id: &str, config: v1::ContainerConfig, sandbox: &Sandbox) -> Result<ContainerRecord, Status> {
        let sandbox = sandbox.snapshot();
        let image_status = |error: crate::images::ImageError| Status::internal(error.chain());
        let hold = self.images.store.hold().map_err(image_status)?;
        let name = config.image.as_ref().map(|spec| spec.image.clone()).unwrap_or_default();
        let image = self
            .images
            .store
            .find(&name)
            .map_err(image_status)?
            .ok_or_else(|| Status::not_found(format!("image {name:?} not found")))?;
        let directory = self.layout.container(id);
        std::fs::create_dir_all(&directory).map_err(io_status("container directory"))?;
        let mut record = self.new_record(id, &config, &sandbox, &image);
        save(&self.container_file(id), &record).map_err(io_status("container record"))?;
        drop(hold);

        let rootfs = self.layout.rootfs(id);
        mount_overlay(&self.images.store.layers_root(), &image.layers, &directory, &rootfs)
            .map_err(io_status("mounting the root file system"))?;
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        record.user = user::resolve(&rootfs, &context, &image.config.user).map_err(Status::invalid_argument)?;
        save(&self.container_file(id), &record).map_err(io_status("container record"))?;
        make_sources(&config).map_err(Status::invalid_argument)?;
        if let Some(directory) = Path::new(&record.log_path).parent().filter(|_| !record.log_path.is_empty()) {
            std::fs::create_dir_all(directory).map_err(io_status("log directory"))?;
        }
        make_working_directory(&rootfs, &spec::working_directory(&config, &image.config));
        self.write_bundle(&record, &image.config, &sandbox.config.0)?;
        Ok(record)
    }

    fn new_record(
        &self,
        id: &str,
        config: &v1::ContainerConfig,
        sandbox: &super::records::SandboxRecord,
        image: &Image,
    ) -> ContainerRecord {
        let log_directory = &sandbox.config.0.log_directory;
        let log_path = if config.log_path.is_empty() || log_directory.is_empty() {
            String::new()
        } else {
            Path::new(log_directory).join(&config.log_path).to_string_lossy().into_owned()
        };
        let pid_mode = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.as_ref())
            .map_or(NamespaceMode::Pod, v1::NamespaceOption::pid);
        ContainerRecord {
            id: id.to_owned(),
            sandbox_id: sandbox.id.clone(),
            image_ref: image.reference().to_owned(),
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            created_at: clock::nanoseconds(),
            started_at: 0,
            user: UserRecord::default(),
            stop_signal: super::container::stop_signal(config, &image.config.stop_signal),
            cgroup: format!("{}/{id}", sandbox.cgroup_parent.trim_end_matches('/')),
            log_path,
            private_pid: pid_mode == NamespaceMode::Container,
            start_error: None,
            config: Wire(config.clone()),
        }
    }

    fn write_bundle(
        &self,
        record: &ContainerRecord,
        image: &ProcessConfig,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<(), Status> {
        let config = &record.config.0;
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let inputs = Inputs {
            config,
            sandbox,
            image,
            user: &record.user,
            capabilities: privileges::capabilities(&context).map_err(Status::invalid_argument)?,
            rootfs: &self.layout.rootfs(&record.id),
            sandbox_run: &self.layout.sandbox_run(&record.sandbox_id),
            cgroup: &record.cgroup,
            hierarchies: &self.hierarchies,
            target_pid: self.target_pid(&context),
        };
        let directory = self.layout.container(&record.id);
        let spec = spec::spec(&inputs).map_err(Status::invalid_argument)?;
        let privileges = spec::privileges(&inputs).map_err(Status::unimplemented)?;
        // `process.json` is the base of every process that joins the container later.
        save(&directory.join("process.json"), &spec::process(&inputs, Vec::new(), false))
            .and_then(|()| save(&directory.join("config.json"), &spec))
            .and_then(|()| save(&directory.join(PRIVILEGES_FILE), &privileges))
            .map_err(io_status("bundle"))
    }

    fn target_pid(&self, context: &v1::LinuxContainerSecurityContext) -> Option<i32> {
        let options = context.namespace_options.as_ref()?;
        if options.pid() != NamespaceMode::Target {
            return None;
        }
        match self.container(&options.target_id).ok()?.phase() {
            Phase::Running { pid } => Some(pid),
            _ => None,
        }
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let _operation = container.operation.lock().await;
        let record = container.snapshot();
        match container.phase() {
            Phase::Created => {}
            phase => {
                return Err(Status::failed_precondition(format!(
                    "container {id} cannot be started: it is {}",
                    phase_name(&phase)
                )));
            }
        }
        match self.start_in_shim(&record).await {
            Ok((pid, started_at)) => {
                self.note_started(&container, pid, started_at);
                self.publish(&record.sandbox_id, &record.id, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(error) => {
                let (failed, saved) = container.update(&self.container_file(&record.id), |record| {
                    record.start_error = Some(error.message().to_owned());
                });
                if let Err(error) = saved {
                    tracing::warn!(container = failed.id, %error, "container record could not be written");
                }
                container.phase.send_replace(start_failed(error.message(), clock::nanoseconds()));
                self.release_container(&container).await;
                self.publish(&failed.sandbox_id, &failed.id, ContainerEventType::ContainerStoppedEvent);
                Err(error)
            }
        }
    }

    async fn start_in_shim(&self, record: &ContainerRecord) -> Result<(i32, i64), Status> {
        let config = &record.config.0;
        let cgroups = self.hierarchies.directory("memory", &record.cgroup);
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let spec = StartSpec {
            id: record.id.clone(),
            bundle: path(self.layout.container(&record.id)),
            state_root: path(self.layout.oci()),
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            log_path: record.log_path.clone(),
            exit_file: path(self.layout.container(&record.id).join("exit.json")),
            cgroups: cgroups.into_iter().map(path).collect(),
            private_pid: record.private_pid,
        };
        let _permit = self.starts.acquire().await.map_err(|_| Status::unavailable("the runtime is closing"))?;
        match shim_client::call_slow(&self.layout.shim_socket(&record.sandbox_id), &Request::Start(spec)).await {
            Ok(Answer::Started { pid, started_at }) => Ok((pid, started_at)),
            Ok(other) => Err(Status::internal(format!("unexpected answer of the shim: {other:?}"))),
            Err(error) => {
                if error.code() == cri::Code::DeadlineExceeded {
                    // It counts as failed from here on, and must not come to life later.
                    let _ = self.signal(record, libc::SIGKILL, true).await;
                }
                Err(error)
            }
        }
    }

    /// The process runs; it may even have ended already, if its event was faster than its answer.
    pub(super) fn note_started(&self, container: &Container, pid: i32, started_at: i64) {
        let path = self.container_file(&container.snapshot().id);
        let (record, saved) = container.update(&path, |record| record.started_at = started_at);
        if let Err(error) = saved {
            tracing::warn!(container = record.id, %error, "container record could not be written");
        }
        container.phase.send_if_modified(|phase| {
            let created = *phase == Phase::Created;
            if created {
                *phase = Phase::Running { pid };
            }
            created
        });
    }
}

/// The phase of a container whose command could not be run.
pub(super) fn start_failed(message: &str, at: i64) -> Phase {
    Phase::Exited {
        exit: Exit { code: START_ERROR_CODE, finished_at: at, oom_killed: false },
        reason: START_ERROR_REASON.to_owned(),
        message: message.to_owned(),
    }
}

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running { .. } => "running",
        Phase::Exited { .. } => "exited",
    }
}

/// Sources of mounts that do not exist become directories, as in other runtimes.
fn make_sources(config: &v1::ContainerConfig) -> Result<(), String> {
    for mount in &config.mounts {
        if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
            return Err(format!("mount {}: image volumes are not implemented", mount.container_path));
        }
        let source = Path::new(&mount.host_path);
        if !source.is_absolute() || !mount.container_path.starts_with('/') {
            return Err(format!("mount {} on {}: paths must be absolute", mount.host_path, mount.container_path));
        }
        if !source.exists() {
            std::fs::create_dir_all(source).map_err(|error| format!("mount source {}: {error}", mount.host_path))?;
        }
    }
    Ok(())
}

/// The working directory is made if the image lacks it; a failure shows when the process starts.
fn make_working_directory(rootfs: &Path, directory: &str) {
    use nix::fcntl::{AT_FDCWD, OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let Ok(root) = openat(AT_FDCWD, rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else { return };
    let mut parent = root.try_clone().ok();
    let mut walked = PathBuf::new();
    for component in Path::new(directory).components() {
        if let std::path::Component::Normal(name) = component {
            let Some(at) = parent else { return };
            let _ = mkdirat(&at, name, Mode::from_bits_truncate(0o755));
            walked.push(name);
            parent = crate::images::open_in_root(&root, &walked).ok();
        }
    }
}
