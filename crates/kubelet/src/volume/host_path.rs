//! `hostPath` with its types (<https://kubernetes.io/docs/concepts/storage/volumes/#hostpath>).

use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{Mounted, describe};

pub(super) fn set_up(source: &HostPathVolumeSource) -> Result<Mounted, String> {
    let path = PathBuf::from(&source.path);
    match source.type_.as_deref().unwrap_or("") {
        "" => {
            // As runtimes do: a missing directory is made.
            if !path.exists() {
                std::fs::create_dir_all(&path).map_err(|e| describe(&e, "cannot create", &path))?;
            }
        }
        "DirectoryOrCreate" => {
            if !path.exists() {
                std::fs::create_dir_all(&path).map_err(|e| describe(&e, "cannot create", &path))?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                    .map_err(|e| describe(&e, "cannot set the mode of", &path))?;
            }
            expect(&path, "directory", FileType::is_dir)?;
        }
        "FileOrCreate" => {
            if !path.exists() {
                std::fs::File::create(&path).map_err(|e| describe(&e, "cannot create", &path))?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
                    .map_err(|e| describe(&e, "cannot set the mode of", &path))?;
            }
            expect(&path, "file", FileType::is_file)?;
        }
        "Directory" => expect(&path, "directory", FileType::is_dir)?,
        "File" => expect(&path, "file", FileType::is_file)?,
        "Socket" => expect(&path, "socket file", FileTypeExt::is_socket)?,
        "CharDevice" => expect(&path, "character device", FileTypeExt::is_char_device)?,
        "BlockDevice" => expect(&path, "block device", FileTypeExt::is_block_device)?,
        other => return Err(format!("hostPath type \"{other}\" is not known")),
    }
    Ok(Mounted::at(path))
}

fn expect(path: &Path, what: &str, is: impl Fn(&FileType) -> bool) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(metadata) if is(&metadata.file_type()) => Ok(()),
        _ => Err(format!("hostPath type check failed: {} is not a {what}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_creates() {
        let directory = std::env::temp_dir().join(format!("kubelet-host-path-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let source = |name: &str, kind: &str| HostPathVolumeSource {
            path: directory.join(name).to_string_lossy().into_owned(),
            type_: Some(kind.to_owned()),
        };
        assert!(set_up(&source("d", "Directory")).unwrap_err().contains("is not a directory"));
        assert!(set_up(&source("d", "DirectoryOrCreate")).is_ok());
        assert!(set_up(&source("d", "Directory")).is_ok());
        assert!(set_up(&source("d", "File")).unwrap_err().contains("is not a file"));
        assert!(set_up(&source("f", "FileOrCreate")).is_ok());
        assert!(set_up(&source("f", "Socket")).unwrap_err().contains("is not a socket file"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
