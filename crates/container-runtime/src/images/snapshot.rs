//! File systems of containers: overlayfs over the layers of an image.

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

/// Mounts `layers` (keys below `layers_root`, bottom first) at `target`, with changes going to `container/upper`.
///
/// Runs in a thread of its own that changes its directory: with short relative names the list of layers fits into the one page
/// that mount(2) takes, for the 127 layers that Docker allows too.
pub(crate) fn mount_overlay(layers_root: &Path, layers: &[String], container: &Path, target: &Path) -> std::io::Result<()> {
    let (upper, work) = (container.join("upper"), container.join("work"));
    for directory in [&upper, &work, &target.to_owned()] {
        std::fs::create_dir_all(directory)?;
    }
    let changes = format!(",upperdir={},workdir={}", escape(&upper), escape(&work));
    mount(layers_root, layers, target, &changes, MsFlags::empty())
}

fn mount(layers_root: &Path, layers: &[String], target: &Path, rest: &str, flags: MsFlags) -> std::io::Result<()> {
    let lower: Vec<String> = layers.iter().rev().map(|key| format!("{key}/fs")).collect();
    let options = format!("lowerdir={}{rest}", lower.join(":"));
    let (root, target): (PathBuf, PathBuf) = (layers_root.to_owned(), target.to_owned());
    let mounted = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&root)?;
        nix::mount::mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str()))
    })?;
    match mounted.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err(std::io::Error::other("the mounting thread panicked")),
    }
}

/// Overlayfs' option parser wants these characters quoted.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
