//! The Container Runtime Interface v1 (KEP-2040): messages, the [`Runtime`] and [`Images`] traits that the kubelet is written
//! against, a client for a CRI socket and the glue to serve an implementation on one.
//!
//! The kubelet holds `Arc<dyn Runtime>` and `Arc<dyn Images>` and does not know whether they are the embedded runtime (a plain
//! call, no transport) or a [`Connection`] to containerd.

mod socket;

/// The generated messages and gRPC stubs of `runtime.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

pub use socket::{Connection, SocketError, serve};
/// The error of every CRI call: a gRPC status. `NotFound` for unknown ids, as the CRI asks.
pub use tonic::{Code, Status};

use futures::stream::BoxStream;

/// Declares a CRI service from one list of its calls: the trait, and its implementation over a [`Connection`].
macro_rules! service {
    ($(#[$doc:meta])* $trait:ident over $client:ident {  $($(#[$rpc_doc:meta])* $rpc:ident($request:ident) -> $response:ident;)* } also { $($extra:item)* } { $($extra_client:item)* }) => {
        $(#[$doc])*
        #[async_trait::async_trait]
        pub trait $trait: Send + Sync + 'static {
            $($(#[$rpc_doc])* async fn $rpc(&self, request: v1::$request) -> Result<v1::$response, Status>;)*
            $($extra)*
        }

        #[async_trait::async_trait]
        impl $trait for Connection {
            $(async fn $rpc(&self, request: v1::$request) -> Result<v1::$response, Status> {
                self.$client().$rpc(request).await.map(tonic::Response::into_inner)
            })*
            $($extra_client)*
        }
    };
}

service! {
    /// Sandboxes and containers: CRI `RuntimeService`.
    Runtime over runtime {
        /// CRI `Version`.
        version(VersionRequest) -> VersionResponse;
        /// CRI `RunPodSandbox`.
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        /// CRI `StopPodSandbox`.
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        /// CRI `RemovePodSandbox`.
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        /// CRI `PodSandboxStatus`.
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        /// CRI `ListPodSandbox`.
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        /// CRI `CreateContainer`.
        create_container(CreateContainerRequest) -> CreateContainerResponse;
        /// CRI `StartContainer`.
        start_container(StartContainerRequest) -> StartContainerResponse;
        /// CRI `StopContainer`.
        stop_container(StopContainerRequest) -> StopContainerResponse;
        /// CRI `RemoveContainer`.
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        /// CRI `ListContainers`.
        list_containers(ListContainersRequest) -> ListContainersResponse;
        /// CRI `ContainerStatus`.
        container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        /// CRI `UpdateContainerResources`.
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        /// CRI `ReopenContainerLog`.
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        /// CRI `ExecSync`.
        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        /// CRI `Exec`.
        exec(ExecRequest) -> ExecResponse;
        /// CRI `Attach`.
        attach(AttachRequest) -> AttachResponse;
        /// CRI `PortForward`.
        port_forward(PortForwardRequest) -> PortForwardResponse;
        /// CRI `ContainerStats`.
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        /// CRI `ListContainerStats`.
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        /// CRI `PodSandboxStats`.
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        /// CRI `ListPodSandboxStats`.
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        /// CRI `UpdateRuntimeConfig`.
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        /// CRI `Status`.
        status(StatusRequest) -> StatusResponse;
        /// CRI `CheckpointContainer`.
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        /// CRI `ListMetricDescriptors`.
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        /// CRI `ListPodSandboxMetrics`.
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        /// CRI `RuntimeConfig`.
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        /// CRI `UpdatePodSandboxResources`.
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    } also {
        /// CRI `GetContainerEvents`: every change of a container's or sandbox's state from now on.
        async fn get_container_events(&self, request: v1::GetEventsRequest) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status>;
    } {
        async fn get_container_events(&self, request: v1::GetEventsRequest) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>, Status> {
            let events = self.runtime().get_container_events(request).await?.into_inner();
            Ok(futures::StreamExt::boxed(events))
        }
    }
}

service! {
    /// Images: CRI `ImageService`.
    Images over images {
        /// CRI `ListImages`.
        list_images(ListImagesRequest) -> ListImagesResponse;
        /// CRI `ImageStatus`.
        image_status(ImageStatusRequest) -> ImageStatusResponse;
        /// CRI `PullImage`.
        pull_image(PullImageRequest) -> PullImageResponse;
        /// CRI `RemoveImage`.
        remove_image(RemoveImageRequest) -> RemoveImageResponse;
        /// CRI `ImageFsInfo`.
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    } also {} {}
}
