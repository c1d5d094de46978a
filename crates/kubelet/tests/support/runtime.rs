//! A container runtime that runs nothing: a container's command says what it would do.
//! `["run"]` runs until stopped, `["exit", "N"]` ends at once with that code. `exec` of `["false"]` fails, of anything else succeeds.
//! Images exist unless their name contains `missing`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cri::{Code, Images, Runtime, Status, v1};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast;

#[derive(Default)]
struct State {
    sandboxes: Vec<v1::PodSandboxStatus>,
    containers: Vec<(String, v1::ContainerStatus, v1::ContainerConfig)>,
    /// Calls in order, `VERB NAME`.
    calls: Vec<String>,
    next: i64,
}

/// The runtime; clones share everything.
#[derive(Clone)]
pub(crate) struct Scripted {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn matches(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(1000).0 }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// The configuration that the newest container of that name was created with.
    pub(crate) fn config(&self, name: &str) -> v1::ContainerConfig {
        self.state
            .lock()
            .unwrap()
            .containers
            .iter()
            .rev()
            .map(|(_, _, config)| config)
            .find(|c| c.metadata.as_ref().unwrap().name == name)
            .unwrap()
            .clone()
    }

    /// Ends a running container as if its process had.
    pub(crate) fn end(&self, name: &str, code: i32) {
        let uid = {
            let mut state = self.state.lock().unwrap();
            let running = |c: &&mut (String, v1::ContainerStatus, v1::ContainerConfig)| {
                c.2.metadata.as_ref().unwrap().name == name && c.1.state == v1::ContainerState::ContainerRunning as i32
            };
            let (_, status, _) = state.containers.iter_mut().find(running).unwrap();
            finish(status, code);
            status.labels["io.kubernetes.pod.uid"].clone()
        };
        self.announce(&uid);
    }

    fn announce(&self, uid: &str) {
        let metadata = v1::PodSandboxMetadata { uid: uid.to_owned(), ..Default::default() };
        let event = v1::ContainerEventResponse {
            pod_sandbox_status: Some(v1::PodSandboxStatus { metadata: Some(metadata), ..Default::default() }),
            ..Default::default()
        };
        let _nobody_listens = self.events.send(event);
    }
}

fn finish(status: &mut v1::ContainerStatus, code: i32) {
    status.state = v1::ContainerState::ContainerExited as i32;
    status.exit_code = code;
    status.finished_at = now();
}

fn missing() -> Status {
    Status::not_found("no such id")
}

#[async_trait::async_trait]
impl Runtime for Scripted {
    async fn version(&self, _: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "scripted".into(),
            runtime_version: "1.0".into(),
            runtime_api_version: "v1".into(),
        })
    }
    async fn status(&self, _: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let condition = |name: &str| v1::RuntimeCondition { r#type: name.into(), status: true, ..Default::default() };
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] }),
            ..Default::default()
        })
    }
    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Status> {
        let config = request.config.unwrap();
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let id = format!("sandbox{}", state.next);
        let metadata = config.metadata.clone().unwrap();
        state.calls.push(format!("sandbox {}", metadata.name));
        let network = config.linux.as_ref().and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.clone());
        let ip = format!("10.1.0.{}", state.next);
        state.sandboxes.push(v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at: now(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: network }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: String::new(),
        });
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }
    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Status> {
        let mut state = self.state.lock().unwrap();
        if let Some(sandbox) = state.sandboxes.iter_mut().find(|s| s.id == request.pod_sandbox_id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        }
        Ok(v1::StopPodSandboxResponse {})
    }
    async fn remove_pod_sandbox(&self, request: v1::RemovePodSandboxRequest) -> Result<v1::RemovePodSandboxResponse, Status> {
        self.state.lock().unwrap().sandboxes.retain(|s| s.id != request.pod_sandbox_id);
        Ok(v1::RemovePodSandboxResponse {})
    }
    async fn pod_sandbox_status(&self, request: v1::PodSandboxStatusRequest) -> Result<v1::PodSandboxStatusResponse, Status> {
        let state = self.state.lock().unwrap();
        let status = state.sandboxes.iter().find(|s| s.id == request.pod_sandbox_id).ok_or_else(missing)?;
        Ok(v1::PodSandboxStatusResponse { status: Some(status.clone()), ..Default::default() })
    }
    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Status> {
        let selector = request.filter.map(|f| f.label_selector).unwrap_or_default();
        let state = self.state.lock().unwrap();
        let items = state.sandboxes.iter().filter(|s| matches(&s.labels, &selector)).map(|s| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(v1::ListPodSandboxResponse { items: items.collect() })
    }
    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<v1::CreateContainerResponse, Status> {
        let config = request.config.unwrap();
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let id = format!("container{}", state.next);
        state.calls.push(format!("create {}", config.metadata.as_ref().unwrap().name));
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: now(),
            image: config.image.clone(),
            image_ref: config.image.clone().unwrap().image,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: config.log_path.clone(),
            ..Default::default()
        };
        state.containers.push((request.pod_sandbox_id, status, config));
        Ok(v1::CreateContainerResponse { container_id: id })
    }
    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Status> {
        let uid = {
            let mut state = self.state.lock().unwrap();
            let (_, status, config) =
                state.containers.iter_mut().find(|(_, s, _)| s.id == request.container_id).ok_or_else(missing)?;
            status.started_at = now();
            status.state = v1::ContainerState::ContainerRunning as i32;
            if config.command.first().is_some_and(|c| c == "exit") {
                finish(status, config.command[1].parse().unwrap());
            }
            status.labels["io.kubernetes.pod.uid"].clone()
        };
        self.announce(&uid);
        Ok(v1::StartContainerResponse {})
    }
    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Status> {
        let uid = {
            let mut state = self.state.lock().unwrap();
            let (_, status, config) =
                state.containers.iter_mut().find(|(_, s, _)| s.id == request.container_id).ok_or_else(missing)?;
            let name = config.metadata.as_ref().unwrap().name.clone();
            if status.state == v1::ContainerState::ContainerRunning as i32 {
                finish(status, 143);
            }
            let uid = status.labels["io.kubernetes.pod.uid"].clone();
            state.calls.push(format!("stop {name} {}", request.timeout));
            uid
        };
        self.announce(&uid);
        Ok(v1::StopContainerResponse {})
    }
    async fn remove_container(&self, request: v1::RemoveContainerRequest) -> Result<v1::RemoveContainerResponse, Status> {
        self.state.lock().unwrap().containers.retain(|(_, s, _)| s.id != request.container_id);
        Ok(v1::RemoveContainerResponse {})
    }
    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Status> {
        let selector = request.filter.map(|f| f.label_selector).unwrap_or_default();
        let state = self.state.lock().unwrap();
        let list =
            state.containers.iter().filter(|(_, s, _)| matches(&s.labels, &selector)).map(|(sandbox, s, _)| v1::Container {
                id: s.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
                ..Default::default()
            });
        Ok(v1::ListContainersResponse { containers: list.collect() })
    }
    async fn container_status(&self, request: v1::ContainerStatusRequest) -> Result<v1::ContainerStatusResponse, Status> {
        let state = self.state.lock().unwrap();
        let (_, status, _) = state.containers.iter().find(|(_, s, _)| s.id == request.container_id).ok_or_else(missing)?;
        Ok(v1::ContainerStatusResponse { status: Some(status.clone()), ..Default::default() })
    }
    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
        self.state.lock().unwrap().calls.push(format!("exec {}", request.cmd.join(" ")));
        Ok(v1::ExecSyncResponse { exit_code: i32::from(request.cmd == ["false"]), ..Default::default() })
    }
    async fn get_container_events(
        &self,
        _: v1::GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
        let receiver = self.events.subscribe();
        Ok(futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.ok().map(|event| (Ok(event), receiver))
        })
        .boxed())
    }
    async fn list_container_stats(&self, _: v1::ListContainerStatsRequest) -> Result<v1::ListContainerStatsResponse, Status> {
        Ok(v1::ListContainerStatsResponse::default())
    }
    async fn reopen_container_log(&self, _: v1::ReopenContainerLogRequest) -> Result<v1::ReopenContainerLogResponse, Status> {
        Ok(v1::ReopenContainerLogResponse {})
    }
    async fn update_container_resources(
        &self,
        _: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn exec(&self, _: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn attach(&self, _: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn port_forward(&self, _: v1::PortForwardRequest) -> Result<v1::PortForwardResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn container_stats(&self, _: v1::ContainerStatsRequest) -> Result<v1::ContainerStatsResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn pod_sandbox_stats(&self, _: v1::PodSandboxStatsRequest) -> Result<v1::PodSandboxStatsResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn list_pod_sandbox_stats(&self, _: v1::ListPodSandboxStatsRequest) -> Result<v1::ListPodSandboxStatsResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn update_runtime_config(&self, _: v1::UpdateRuntimeConfigRequest) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn checkpoint_container(&self, _: v1::CheckpointContainerRequest) -> Result<v1::CheckpointContainerResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn list_metric_descriptors(
        &self,
        _: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn list_pod_sandbox_metrics(
        &self,
        _: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn runtime_config(&self, _: v1::RuntimeConfigRequest) -> Result<v1::RuntimeConfigResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[async_trait::async_trait]
impl Images for Scripted {
    async fn list_images(&self, _: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Status> {
        Ok(v1::ListImagesResponse {
            images: vec![v1::Image {
                id: "sha256:1".into(),
                repo_tags: vec!["here:latest".into()],
                size: 7,
                ..Default::default()
            }],
        })
    }
    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Status> {
        let name = request.image.unwrap_or_default().image;
        let image = (!name.contains("missing")).then(|| v1::Image { id: name, username: "app".into(), ..Default::default() });
        Ok(v1::ImageStatusResponse { image, ..Default::default() })
    }
    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status> {
        let name = request.image.unwrap_or_default().image;
        self.state.lock().unwrap().calls.push(format!("pull {name}"));
        if name.contains("missing") {
            Err(Status::new(Code::NotFound, format!("{name}: not found")))
        } else {
            Ok(v1::PullImageResponse { image_ref: name })
        }
    }
    async fn remove_image(&self, _: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Status> {
        Ok(v1::RemoveImageResponse {})
    }
    async fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Status> {
        Ok(v1::ImageFsInfoResponse::default())
    }
}
