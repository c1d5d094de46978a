//! The CRI calls, each one line of plumbing to the code that does it.

use cri::{Status, v1};
use futures::stream::BoxStream;

use super::ContainerRuntime;
use super::container::container_status;
use super::spec::sandbox_namespaces;
use crate::streaming::PORTS_MAX;

/// What `Version` and `Status` call this runtime.
const NAME: &str = "rusternetes";

fn not_implemented<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not implemented")))
}

#[async_trait::async_trait]
impl cri::Runtime for ContainerRuntime {
    async fn version(&self, _request: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Status> {
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: self.inner.run_sandbox(request).await? })
    }

    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Status> {
        self.inner.stop_sandbox(&request.pod_sandbox_id).await?;
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: v1::RemovePodSandboxRequest) -> Result<v1::RemovePodSandboxResponse, Status> {
        self.inner.remove_sandbox(&request.pod_sandbox_id).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: v1::PodSandboxStatusRequest) -> Result<v1::PodSandboxStatusResponse, Status> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        let status = self.inner.sandbox_status(&sandbox);
        let containers = self.inner.containers_of(&status.id);
        Ok(v1::PodSandboxStatusResponse {
            status: Some(status),
            info: Default::default(),
            containers_statuses: containers.iter().map(|container| container_status(container)).collect(),
            timestamp: crate::clock::nanoseconds(),
        })
    }

    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Status> {
        Ok(v1::ListPodSandboxResponse { items: self.inner.list_sandboxes(&request.filter.unwrap_or_default()) })
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<v1::CreateContainerResponse, Status> {
        Ok(v1::CreateContainerResponse { container_id: self.inner.create_container(request).await? })
    }

    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Status> {
        self.inner.start_container(&request.container_id).await?;
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Status> {
        self.inner.stop_container(&request.container_id, request.timeout).await?;
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(&self, request: v1::RemoveContainerRequest) -> Result<v1::RemoveContainerResponse, Status> {
        self.inner.remove_container(&request.container_id).await?;
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Status> {
        Ok(v1::ListContainersResponse { containers: self.inner.list_containers(&request.filter.unwrap_or_default()) })
    }

    async fn container_status(&self, request: v1::ContainerStatusRequest) -> Result<v1::ContainerStatusResponse, Status> {
        let container = self.inner.container(&request.container_id)?;
        Ok(v1::ContainerStatusResponse { status: Some(container_status(&container)), info: Default::default() })
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        self.inner.update_resources(request).await?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        self.inner.reopen_log(&request.container_id).await?;
        Ok(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
        self.inner.exec_sync(request).await
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        self.inner.running(&request.container_id)?;
        Ok(v1::ExecResponse { url: self.inner.streaming()?.exec_url(request)? })
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
        self.inner.running(&request.container_id)?;
        Ok(v1::AttachResponse { url: self.inner.streaming()?.attach_url(request)? })
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<v1::PortForwardResponse, Status> {
        let record = self.inner.sandbox(&request.pod_sandbox_id)?.snapshot();
        if !record.ready {
            return Err(Status::failed_precondition(format!("sandbox {} is not ready", record.id)));
        }
        let ports = request.port.iter().map(|port| u16::try_from(*port)).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(|_| Status::invalid_argument("a port is a number up to 65535"))?;
        if ports.len() > PORTS_MAX {
            return Err(Status::invalid_argument(format!("at most {PORTS_MAX} ports at a time")));
        }
        let host_network = sandbox_namespaces(&record.config.0).network() == v1::NamespaceMode::Node;
        let netns = (!host_network).then(|| self.inner.layout.sandbox_run(&record.id).join("netns"));
        let name = record.config.0.metadata.map_or(record.id, |metadata| metadata.name);
        Ok(v1::PortForwardResponse { url: self.inner.streaming()?.port_forward_url(name, netns, ports)? })
    }

    async fn container_stats(&self, request: v1::ContainerStatsRequest) -> Result<v1::ContainerStatsResponse, Status> {
        Ok(v1::ContainerStatsResponse { stats: Some(self.inner.container_stats(&request.container_id).await?) })
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        Ok(v1::ListContainerStatsResponse { stats: self.inner.list_container_stats(request.filter.unwrap_or_default()).await? })
    }

    async fn pod_sandbox_stats(&self, request: v1::PodSandboxStatsRequest) -> Result<v1::PodSandboxStatsResponse, Status> {
        Ok(v1::PodSandboxStatsResponse { stats: Some(self.inner.sandbox_stats(&request.pod_sandbox_id).await?) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse, Status> {
        Ok(v1::ListPodSandboxStatsResponse { stats: self.inner.list_sandbox_stats(&request.filter.unwrap_or_default()).await? })
    }

    /// The pod network learns its address range from its own configuration.
    async fn update_runtime_config(
        &self,
        _request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        Ok(v1::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _request: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let condition = |kind: &str, reason: &str, problem: Option<String>| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: if problem.is_some() { reason.to_owned() } else { String::new() },
            message: problem.unwrap_or_default(),
        };
        let network = self.inner.config.network.problem().await;
        let handler = v1::RuntimeHandler {
            name: String::new(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
        };
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", "", None),
                    condition("NetworkReady", "NetworkPluginNotReady", network),
                ],
            }),
            info: Default::default(),
            runtime_handlers: vec![handler],
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true }),
        })
    }

    async fn checkpoint_container(
        &self,
        _request: v1::CheckpointContainerRequest,
    ) -> Result<v1::CheckpointContainerResponse, Status> {
        not_implemented("CheckpointContainer")
    }

    async fn list_metric_descriptors(
        &self,
        _request: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse, Status> {
        not_implemented("ListMetricDescriptors")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse, Status> {
        not_implemented("ListPodSandboxMetrics")
    }

    async fn runtime_config(&self, _request: v1::RuntimeConfigRequest) -> Result<v1::RuntimeConfigResponse, Status> {
        Ok(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 }),
        })
    }

    async fn update_pod_sandbox_resources(
        &self,
        _request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        // The pod's cgroup belongs to the kubelet, which has changed it already; nothing else depends on the numbers.
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }

    async fn get_container_events(
        &self,
        _request: v1::GetEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
        Ok(self.inner.events.listen())
    }
}

#[async_trait::async_trait]
impl cri::Images for ContainerRuntime {
    async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Status> {
        self.inner.images.list_images(request).await
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Status> {
        self.inner.images.image_status(request).await
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status> {
        self.inner.images.pull_image(request).await
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Status> {
        self.inner.images.remove_image(request).await
    }

    async fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Status> {
        self.inner.images.image_fs_info(request).await
    }
}
