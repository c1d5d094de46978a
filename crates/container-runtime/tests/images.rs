//! Images from archives and from a registry, and what containers see of them. Needs root.

#![allow(missing_docs)]

mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use bytes::Bytes;
use container_runtime::{ContainerRuntime, ImageStore};
use cri::{Images, Runtime, v1};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use support::{Node, container, words};
use tar::{Builder, EntryType, Header};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

fn file(layer: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, path, content).expect("file");
}

fn directory(layer: &mut Builder<Vec<u8>>, path: &str, mode: u32) {
    layer.append_data(&mut header(EntryType::Directory, mode), path, &[][..]).expect("directory");
}

fn link(layer: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    layer.append_link(&mut header(kind, 0o777), path, target).expect("link");
}

/// Layers that show everything that a layer can do.
fn layers() -> Vec<Vec<u8>> {
    let helper = std::fs::read(env!("CARGO_BIN_EXE_container-runtime-test-helper")).expect("helper");
    let mut first = Builder::new(Vec::new());
    directory(&mut first, "bin", 0o755);
    file(&mut first, "bin/rusternetes", 0o755, &helper);
    directory(&mut first, "tmp", 0o1777);
    directory(&mut first, "etc", 0o755);
    file(&mut first, "etc/passwd", 0o644, b"root:x:0:0::/:\nweb:x:1000:1001::/:\n");
    file(&mut first, "etc/group", 0o644, b"web:x:1001:\ndocker:x:50:web\n");
    directory(&mut first, "data", 0o755);
    for name in ["keep", "hide", "replace"] {
        file(&mut first, &format!("data/{name}"), 0o644, b"first");
    }
    directory(&mut first, "opaque", 0o755);
    file(&mut first, "opaque/old", 0o644, b"old");
    file(&mut first, "setuid", 0o4755, b"x");
    link(&mut first, EntryType::Link, "hard", "data/keep");
    link(&mut first, EntryType::Symlink, "outside", "/etc");
    let mut second = Builder::new(Vec::new());
    file(&mut second, "data/.wh.hide", 0o644, b"");
    file(&mut second, "data/replace", 0o644, b"second");
    directory(&mut second, "opaque", 0o755);
    file(&mut second, "opaque/.wh..wh..opq", 0o644, b"");
    file(&mut second, "opaque/new", 0o644, b"new");
    // A parent that the layer does not list keeps the attributes that it has below.
    file(&mut second, "tmp/file", 0o644, b"x");
    vec![first.into_inner().expect("tar"), second.into_inner().expect("tar")]
}

fn config_json(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Entrypoint": ["rusternetes"], "Cmd": ["env", "FROM_IMAGE"],
            "WorkingDir": "/work/deep", "User": "web", "StopSignal": "SIGQUIT",
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))
    .expect("json")
}

/// A `docker save` archive, compressed.
fn docker_archive(name: &str) -> Vec<u8> {
    let layers = layers();
    let mut archive = Builder::new(Vec::new());
    file(&mut archive, "config.json", 0o644, &config_json(&layers));
    for (index, layer) in layers.iter().enumerate() {
        file(&mut archive, &format!("{index}/layer.tar"), 0o644, layer);
    }
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["0/layer.tar", "1/layer.tar"] }]);
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    gzip(&archive.into_inner().expect("tar"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_is_what_its_layers_say() {
    let node = Node::start().await;
    let path = node.directory.path().join("image.tar.gz");
    std::fs::write(&path, docker_archive("layered:1")).expect("archive");
    let root = node.root();
    // As the command does it: beside the server, through the files alone.
    let imported = tokio::task::spawn_blocking(move || ImageStore::open(&root).and_then(|store| store.import(&path))).await;
    let imported = imported.expect("task").expect("import");
    assert_eq!(imported[0].tags, ["docker.io/library/layered:1"]);

    let sandbox = node.sandbox("layered").await;
    let mut config = container("c", &[]);
    config.image = Some(v1::ImageSpec { image: "layered:1".to_owned(), ..Default::default() });
    let (status, log) = node.run_to_end(&sandbox, config.clone()).await;
    assert_eq!((status.exit_code, support::texts(&log)), (0, vec!["yes".to_owned()]));
    let user = status.user.and_then(|user| user.linux).expect("user");
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![1001, 50]));
    assert_eq!(status.stop_signal, v1::Signal::Sigquit as i32);

    config.metadata = Some(v1::ContainerMetadata { name: "d".to_owned(), attempt: 0 });
    config.command = words(&["rusternetes", "sleep"]);
    let id = node.run(&sandbox, config).await;
    let output = |path: &'static str| {
        let (node, id) = (&node, &id);
        async move { node.output(id, &["rusternetes", "list", path]).await }
    };
    assert_eq!(output("/data").await, "keep replace");
    assert_eq!(output("/opaque").await, "new");
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/data/replace"]).await, "second");
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/hard"]).await, "first");
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/outside/passwd"]).await, "root:x:0:0::/:\nweb:x:1000:1001::/:");
    assert_eq!(node.output(&id, &["rusternetes", "pwd"]).await, "/work/deep");
    let rootfs = node.run_dir().join("containers").join(&id).join("rootfs");
    let mode = |name: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(rootfs.join(name)).expect(name)) & 0o7777;
    assert_eq!((mode("setuid"), mode("tmp")), (0o4755, 0o1777));

    // Removing the image takes nothing from the container.
    let image = Some(v1::ImageSpec { image: "layered:1".to_owned(), ..Default::default() });
    node.runtime.remove_image(v1::RemoveImageRequest { image: image.clone() }).await.expect("remove");
    assert_eq!(output("/data").await, "keep replace");
    let status = node.runtime.image_status(v1::ImageStatusRequest { image, verbose: false }).await.expect("status");
    assert!(status.image.is_none());
    node.stop().await;
}

#[test]
fn an_archive_cannot_write_outside_of_its_layer() {
    let directory_path = tempfile::tempdir().expect("directory");
    let mut layer = Builder::new(Vec::new());
    let target = directory_path.path().join("victim");
    std::fs::create_dir(&target).expect("victim");
    link(&mut layer, EntryType::Symlink, "escape", &target.to_string_lossy());
    link(&mut layer, EntryType::Symlink, "up", "../../../../../../../..");
    file(&mut layer, "escape/one", 0o644, b"x");
    file(&mut layer, &format!("up{}/two", target.display()), 0o644, b"x");
    let mut raw = header(EntryType::Regular, 0o644);
    raw.set_size(1);
    let name = b"../../../../../three";
    raw.as_old_mut().name[..name.len()].copy_from_slice(name);
    raw.set_cksum();
    layer.append(&raw, &b"x"[..]).expect("entry");
    link(&mut layer, EntryType::Link, "stolen", "/etc/passwd");
    let layer = layer.into_inner().expect("tar");
    let config = config_json(std::slice::from_ref(&layer));
    let mut archive = Builder::new(Vec::new());
    file(&mut archive, "config.json", 0o644, &config);
    file(&mut archive, "layer.tar", 0o644, &layer);
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["evil:1"], "Layers": ["layer.tar"] }]);
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    let path = directory_path.path().join("evil.tar");
    std::fs::write(&path, archive.into_inner().expect("tar")).expect("archive");
    let store = ImageStore::open(&directory_path.path().join("root")).expect("store");
    // The link to a file that the layer does not have ends it; what came before stayed inside.
    let error = store.import(&path).expect_err("imported");
    assert!(error.to_string().contains("stolen"), "{error}");
    assert_eq!(std::fs::read_dir(&target).expect("victim").count(), 0);
    assert!(store.list().expect("list").is_empty());
}

/// A registry that holds one image, behind a password.
struct Registry {
    address: std::net::SocketAddr,
    blob_requests: Arc<AtomicUsize>,
}

const PASSWORD: &str = "user:secret";

async fn registry(corrupt: bool) -> Registry {
    let layers = layers();
    let compressed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let config = config_json(&layers);
    let descriptor =
        |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": compressed.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest.as_bytes()), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": "amd64" } }],
    })
    .to_string();
    let mut paths: HashMap<String, (&str, Vec<u8>)> = HashMap::new();
    paths.insert("/v2/".to_owned(), ("application/json", b"{}".to_vec()));
    paths.insert("/v2/team/app/manifests/1".to_owned(), ("application/vnd.oci.image.index.v1+json", index.into_bytes()));
    paths.insert(
        format!("/v2/team/app/manifests/{}", digest(manifest.as_bytes())),
        ("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes()),
    );
    for blob in compressed.into_iter().chain([config]) {
        let path = format!("/v2/team/app/blobs/{}", digest(&blob));
        let blob = if corrupt && blob.len() > 1_000_000 { gzip(b"something else") } else { blob };
        paths.insert(path, ("application/octet-stream", blob));
    }
    let (paths, blob_requests) = (Arc::new(paths), Arc::new(AtomicUsize::new(0)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let counter = blob_requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (paths, counter) = (paths.clone(), counter.clone());
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let response = respond(&request, &paths, &counter);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Registry { address, blob_requests }
}

fn respond(
    request: &Request<hyper::body::Incoming>,
    paths: &HashMap<String, (&str, Vec<u8>)>,
    blob_requests: &AtomicUsize,
) -> Response<Full<Bytes>> {
    let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(PASSWORD));
    let authorized = request.headers().get("authorization").is_some_and(|value| value == expected.as_str());
    let path = request.uri().path();
    let builder = Response::builder();
    let response = match paths.get(path) {
        _ if !authorized => builder
            .status(StatusCode::UNAUTHORIZED)
            .header("www-authenticate", "Basic realm=\"test\"")
            .body(Full::from(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)),
        Some((kind, body)) => {
            if path.contains("/blobs/") {
                blob_requests.fetch_add(1, Ordering::SeqCst);
            }
            builder.header("content-type", *kind).body(Full::from(body.clone()))
        }
        None => builder
            .status(StatusCode::NOT_FOUND)
            .body(Full::from(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)),
    };
    response.expect("response")
}

fn pull_request(registry: &Registry, name: &str, password: bool) -> v1::PullImageRequest {
    let (username, secret) = PASSWORD.split_once(':').expect("colon");
    let auth = v1::AuthConfig { username: username.to_owned(), password: secret.to_owned(), ..Default::default() };
    v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: format!("{}/{name}", registry.address), ..Default::default() }),
        auth: password.then_some(auth),
        sandbox_config: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_once_and_run() {
    let node = Node::start().await;
    let registry = registry(false).await;
    let pulls = (0..5).map(|_| node.runtime.pull_image(pull_request(&registry, "team/app:1", true)));
    let references = futures::future::join_all(pulls).await;
    for reference in &references {
        assert_eq!(reference.as_ref().expect("pull").image_ref, references[0].as_ref().expect("pull").image_ref);
    }
    assert_eq!(registry.blob_requests.load(Ordering::SeqCst), 3, "two layers and a configuration");
    node.runtime.pull_image(pull_request(&registry, "team/app:1", true)).await.expect("pull");
    assert_eq!(registry.blob_requests.load(Ordering::SeqCst), 4, "only the configuration again");

    let list = node.runtime.list_images(v1::ListImagesRequest { filter: None }).await.expect("list").images;
    let name = format!("{}/team/app:1", registry.address);
    let image = list.iter().find(|image| image.repo_tags.contains(&name)).expect("listed");
    assert!(image.repo_digests[0].starts_with(&format!("{}/team/app@sha256:", registry.address)));
    assert_eq!((image.username.as_str(), image.pinned), ("web", false));
    assert!(image.size > 0);
    let sandbox = node.sandbox("pulled").await;
    let mut config = container("c", &[]);
    config.image = Some(v1::ImageSpec { image: image.id.clone(), ..Default::default() });
    let (status, log) = node.run_to_end(&sandbox, config).await;
    assert_eq!((status.exit_code, support::texts(&log)), (0, vec!["yes".to_owned()]));
    assert_eq!(status.image_ref, image.repo_digests[0]);
    let usage = node.runtime.image_fs_info(v1::ImageFsInfoRequest {}).await.expect("usage").image_filesystems;
    assert!(usage[0].used_bytes.expect("bytes").value > image.size);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_fail_with_words_that_help() {
    let node = Node::start().await;
    let good = registry(false).await;
    let fail = |request| {
        let runtime: Arc<ContainerRuntime> = node.runtime.clone();
        async move { runtime.pull_image(request).await.expect_err("pulled") }
    };
    let error = fail(pull_request(&good, "team/app:2", true)).await;
    assert!(error.code() == cri::Code::NotFound && error.message().contains("manifest unknown"), "{error}");
    let error = fail(pull_request(&good, "team/app:1", false)).await;
    assert!(error.message().contains("unauthorized"), "{error}");
    let error = fail(pull_request(&registry(true).await, "team/app:1", true)).await;
    assert!(error.message().contains("igest"), "{error}");
    let nobody = Registry { address: "127.0.0.1:1".parse().expect("address"), blob_requests: Arc::default() };
    let error = fail(pull_request(&nobody, "team/app:1", true)).await;
    assert!(error.message().contains("onnection refused"), "{error}");
    let image = Some(v1::ImageSpec { image: "Not A Name".to_owned(), ..Default::default() });
    let error = fail(v1::PullImageRequest { image, auth: None, sandbox_config: None }).await;
    assert_eq!(error.code(), cri::Code::InvalidArgument);
    let left = std::fs::read_dir(node.root().join("images/ingest")).expect("ingest").count();
    assert_eq!(left, 0, "work was left behind");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_image_needs_no_pull() {
    let node = Node::start().await;
    let image = Some(v1::ImageSpec { image: support::image(), ..Default::default() });
    let found = node
        .runtime
        .image_status(v1::ImageStatusRequest { image: image.clone(), verbose: false })
        .await
        .expect("status")
        .image
        .expect("image");
    assert!(found.pinned);
    let pulled = node
        .runtime
        .pull_image(v1::PullImageRequest { image: image.clone(), auth: None, sandbox_config: None })
        .await
        .expect("pull");
    assert_eq!(pulled.image_ref, found.id);
    assert!(node.runtime.remove_image(v1::RemoveImageRequest { image }).await.is_err());
    // Opening again is cheap, and makes nothing new.
    let layers = || std::fs::read_dir(node.root().join("images/layers")).expect("layers").count();
    let before = layers();
    ImageStore::open(&node.root()).expect("open");
    let node = node.restart().await;
    assert_eq!(std::fs::read_dir(node.root().join("images/layers")).expect("layers").count(), before);
    let version = node.runtime.version(v1::VersionRequest::default()).await.expect("version");
    assert_eq!(version.runtime_api_version, "v1");
    node.stop().await;
}
