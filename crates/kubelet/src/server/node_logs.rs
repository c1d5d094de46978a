//! `/logs/`: the node's own logs, as files and lists of files (upstream's `enableSystemLogHandler`, Go's `http.FileServer` of `/var/log`).
//!
//! Unlike there no link leads out of the directory: whoever may write into it from a container could have the kubelet read any file of the host.

use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use tokio_util::io::ReaderStream;

use super::logs::IntoBody;
use super::{Body, decode, full, text};

/// Where a node's logs are.
pub(super) const DIRECTORY: &str = "/var/log";
/// So much of a file tells whether it is text.
const SNIFFED: usize = 512;

/// What is there.
enum Found {
    Directory(Vec<(String, bool)>),
    File { file: std::fs::File, is_text: bool },
}

/// Answers for a path below `/logs`, as the URL has it.
pub(super) async fn serve(directory: &'static str, path: &str) -> Response<Body> {
    let wanted = decode(path);
    let is_directory_asked = wanted.is_empty() || wanted.ends_with('/');
    let relative: PathBuf = Path::new(&wanted).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    // `..` would be cleaned away by Go, too; nobody asks for it but to get out.
    if Path::new(&wanted).components().any(|part| part == Component::ParentDir) {
        return text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    }
    let found = tokio::task::spawn_blocking(move || find(Path::new(directory), &relative)).await;
    match found.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(Found::Directory(_)) if !is_directory_asked => moved(path.rsplit('/').next().unwrap_or_default(), "/"),
        Ok(Found::File { .. }) if is_directory_asked => {
            moved("../", path.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
        }
        Ok(Found::Directory(entries)) => html(&entries),
        Ok(Found::File { file, is_text }) => {
            let stream = ReaderStream::new(tokio::fs::File::from_std(file));
            let frames = stream.map(|chunk| chunk.map(Frame::data)).boxed();
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync_to_sync());
            let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Opens what a path below a directory means; links are followed as long as they stay in it.
fn find(directory: &Path, relative: &Path) -> io::Result<Found> {
    use std::io::Read;
    let root = directory.canonicalize()?;
    let real = root.join(relative).canonicalize()?;
    if !real.starts_with(&root) {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Nobody has put a link there since.
    let how =
        OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd: OwnedFd = openat2(AT_FDCWD, &real, how)?;
    let mut file = std::fs::File::from(fd);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        let entries = std::fs::read_dir(&real)?.filter_map(Result::ok);
        let entry = |entry: std::fs::DirEntry| {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            Some((entry.file_name().into_string().ok()?, is_directory))
        };
        let mut entries: Vec<_> = entries.filter_map(entry).collect();
        entries.sort();
        return Ok(Found::Directory(entries));
    }
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut start = Vec::new();
    (&mut file).take(SNIFFED as u64).read_to_end(&mut start)?;
    io::Seek::rewind(&mut file)?;
    Ok(Found::File { file, is_text: !start.contains(&0) })
}

/// To the name with a slash at its end, or without; the query is not needed.
fn moved(before: &str, after: &str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{before}{after}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// As Go lists a directory.
fn html(entries: &[(String, bool)]) -> Response<Body> {
    let mut page = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for (name, is_directory) in entries {
        let slash = if *is_directory { "/" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(page, "<a href=\"{}{slash}\">{}{slash}</a>", as_reference(name), as_text(name));
    }
    page.push_str("</pre>\n");
    let mut response = Response::new(full(page));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn as_text(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

/// A relative reference (RFC 3986): a colon in its first part would be taken for a scheme.
fn as_reference(name: &str) -> String {
    let mut reference = String::from(if name.contains(':') { "./" } else { "" });
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'$' | b'+' | b'@' | b':' | b'=' => {
                reference.push(char::from(byte));
            }
            _ => _ = write!(reference, "%{byte:02X}"),
        }
    }
    reference
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(directory: &'static str, path: &str) -> (u16, String, String) {
        let response = serve(directory, path).await;
        let name = if response.status().is_redirection() { header::LOCATION } else { header::CONTENT_TYPE };
        let shown = response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, shown, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn files_and_lists_of_them() {
        let directory = std::env::temp_dir().join(format!("kubelet-node-logs-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        std::fs::write(directory.join("a b<.log"), "hello\n").unwrap();
        std::fs::write(directory.join("sub/binary"), [1, 0, 2]).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.join("out")).unwrap();
        std::os::unix::fs::symlink("a b<.log", directory.join("in")).unwrap();
        let root: &'static str = Box::leak(directory.to_str().unwrap().to_owned().into_boxed_str());
        let (status, kind, page) = get(root, "").await;
        assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
        assert!(
            page.contains("<a href=\"a%20b%3C.log\">a b&lt;.log</a>\n") && page.contains("<a href=\"sub/\">sub/</a>\n"),
            "{page}"
        );
        let text = "text/plain; charset=utf-8".to_owned();
        assert_eq!(get(root, "a%20b%3C.log").await, (200, text.clone(), "hello\n".to_owned()));
        assert_eq!(get(root, "in").await, (200, text.clone(), "hello\n".to_owned()), "a link that stays inside");
        assert_eq!(get(root, "sub/binary").await.1, "application/octet-stream");
        assert_eq!(get(root, "out").await.0, 404, "a link that leads out");
        assert_eq!(get(root, "sub/../../etc/hostname").await.0, 400);
        assert_eq!(get(root, "%2e%2e/etc/hostname").await.0, 400);
        assert_eq!(get(root, "nothing").await.0, 404);
        assert_eq!((get(root, "sub").await.0, get(root, "sub").await.1), (301, "sub/".to_owned()));
        assert_eq!(get(root, "sub/binary/").await.1, "../binary");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
