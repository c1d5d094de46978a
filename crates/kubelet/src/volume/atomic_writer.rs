//! Publishes a set of files at once, with upstream's layout: the files are in `..TIMESTAMP`, `..data` links there, and each visible name
//! links through `..data`. An update renames one link; readers see the old set or the new one, never a mixture.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    /// The user that owns it, where that is not root.
    pub(super) owner: Option<u32>,
}

/// Makes `directory` show exactly `payload` (relative path to file). `group` owns everything where set. A no-op when nothing differs.
pub(super) fn write(directory: &Path, payload: &BTreeMap<String, File>, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let old = std::fs::read_link(directory.join(DATA)).ok();
    if old.is_none() {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))?;
    }
    if let Some(old) = &old
        && same(&directory.join(old), payload)
    {
        return Ok(());
    }
    let name = new_name(directory);
    let target = directory.join(&name);
    std::fs::create_dir(&target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&target, path, file, group)?;
    }
    if let Some(group) = group {
        super::ownership::apply(&target, group, true)?;
        std::os::unix::fs::lchown(directory, None, Some(group))?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o2777))?;
    }
    let temporary = directory.join(NEW_DATA);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, &temporary)?;
    std::fs::rename(&temporary, directory.join(DATA))?;
    publish_names(directory, payload)?;
    if let Some(old) = old {
        std::fs::remove_dir_all(directory.join(old))?;
    }
    Ok(())
}

/// `..2026_11_22_21_00_00.123456789`
fn new_name(directory: &Path) -> String {
    loop {
        let now = Timestamp::now();
        let name = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>() % 1_000_000_000);
        if !directory.join(&name).exists() {
            return name;
        }
    }
}

fn write_file(root: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
        let mut current = parent;
        while current != root {
            std::fs::set_permissions(current, std::fs::Permissions::from_mode(0o755))?;
            current = current.parent().unwrap_or(root);
        }
    }
    std::fs::write(&target, &file.content)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
    if file.owner.is_some() {
        std::os::unix::fs::lchown(&target, file.owner, group)?;
    }
    Ok(())
}

/// The first component of each path becomes a link; names that are no longer in the payload go.
fn publish_names(directory: &Path, payload: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted: std::collections::BTreeSet<&str> =
        payload.keys().filter_map(|p| p.split('/').find(|part| !part.is_empty())).collect();
    for name in &wanted {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same(current: &Path, payload: &BTreeMap<String, File>) -> bool {
    let mut count = 0;
    let equal = payload.iter().all(|(path, file)| {
        let target = current.join(path);
        // The group may have been allowed to read: only the owner's and others' bits are ours to compare.
        let mode = std::fs::metadata(&target).map(|m| m.permissions().mode() & 0o707);
        mode.is_ok_and(|mode| mode == file.mode & 0o707) && std::fs::read(&target).is_ok_and(|content| content == file.content)
    });
    count_files(current, &mut count);
    equal && count == payload.len()
}

fn count_files(directory: &Path, count: &mut usize) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            count_files(&entry.path(), count);
        } else {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> BTreeMap<String, File> {
        files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), File { content: content.as_bytes().to_vec(), mode: 0o640, owner: None }))
            .collect()
    }

    #[test]
    fn publishes_updates_and_removes() {
        let directory = std::env::temp_dir().join(format!("kubelet-atomic-{}", std::process::id()));
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        write(&directory, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("sub/b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(std::fs::metadata(directory.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = std::fs::read_link(directory.join(DATA)).unwrap();
        write(&directory, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_link(directory.join(DATA)).unwrap(), first, "nothing changed, nothing written");
        write(&directory, &payload(&[("a", "3")]), None).unwrap();
        assert_eq!((read("a").as_deref(), read("sub/b")), (Some("3"), None));
        assert!(!directory.join(&first).exists() && !directory.join("sub").exists());
        // Changing a group takes no privilege when it is our own.
        let group = nix::unistd::getgid().as_raw();
        for content in ["4", "4"] {
            write(&directory, &payload(&[("a", content)]), Some(group)).unwrap();
            assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o2777);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
