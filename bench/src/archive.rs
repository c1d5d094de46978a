//! Container images for peers, as OCI archives of one layer: no registry is needed.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes an archive with one image. `files` are (path in the image, file); directories that every image has are made.
pub(crate) fn write(archive: &Path, name: &str, files: &[(&str, &Path)], command: &[&str]) -> anyhow::Result<()> {
    let layer = layer(files)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let file = File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    put(&mut tar, "index.json", &index, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        put(&mut tar, &format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), blob, 0o644)?;
    }
    tar.finish().with_context(|| format!("cannot write {}", archive.display()))
}

fn layer(files: &[(&str, &Path)]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    for (path, file) in files {
        let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        put(&mut tar, path.trim_start_matches('/'), &content, 0o755)?;
    }
    Ok(tar.into_inner()?)
}

/// Every number is written: readers take an empty field for an error.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn put(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    tar.append_data(&mut header(content.len() as u64, mode), path, content)
        .with_context(|| format!("cannot add {path} to the archive"))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let mut text = String::from("sha256:");
    for byte in hash {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_index_leads_to_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (program, archive) = (directory.path().join("program"), directory.path().join("image.tar"));
        std::fs::write(&program, "content").expect("writable");
        write(&archive, "localhost/a:b", &[("/bin/program", &program)], &["/bin/program"]).expect("written");
        let mut blobs = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(File::open(&archive).expect("exists")).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("readable");
            blobs.insert(path, content);
        }
        let follow = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
            blobs[&format!("blobs/{digest}")].clone()
        };
        let index: Value = serde_json::from_slice(&blobs["index.json"]).expect("JSON");
        let manifest: Value = serde_json::from_slice(&follow(&index["manifests"][0])).expect("JSON");
        let layer = follow(&manifest["layers"][0]);
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .expect("a tar")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert!(names.contains(&"bin/program".to_owned()), "{names:?}");
    }
}
