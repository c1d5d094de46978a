//! Container logs: the CRI log format read back, from the end or from a time, and followed by inotify.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::{Body, parameters, text};
use crate::context::Core;
use crate::pod::access::PodAccess;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// What the client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<u64>,
    limit_bytes: Option<u64>,
    since: Option<Timestamp>,
    /// Only this stream (KEP-3288).
    stream: Option<&'static str>,
}

fn options(query: Option<&str>) -> Result<Options, String> {
    let mut options = Options::default();
    for (key, value) in parameters(query) {
        let flag = matches!(value.as_str(), "true" | "1");
        let number = || value.parse::<u64>().map_err(|_| format!("invalid {key}: \"{value}\""));
        match key.as_str() {
            "follow" => options.follow = flag,
            "previous" => options.previous = flag,
            "timestamps" => options.timestamps = flag,
            "tailLines" if value != "all" => options.tail = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "sinceSeconds" => options.since = Timestamp::now().checked_sub(std::time::Duration::from_secs(number()?)).ok(),
            "sinceTime" => options.since = Some(value.parse().map_err(|_| format!("invalid sinceTime: \"{value}\""))?),
            "stream" => {
                options.stream = match value.as_str() {
                    "Stdout" => Some("stdout"),
                    "Stderr" => Some("stderr"),
                    _ => None,
                }
            }
            _ => {}
        }
    }
    Ok(options)
}

/// `/containerLogs`
pub(super) async fn serve(core: Arc<Core>, namespace: &str, name: &str, container: &str, query: Option<&str>) -> Response<Body> {
    let options = match options(query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(entry) = core.pods.by_name(namespace, name) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist"));
    };
    if entry.pod().find_container(container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{name}\""));
    }
    let status = entry.status.lock().clone();
    let lists = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == container);
    let id = match container_id(found.as_ref(), name, container, options.previous) {
        Ok(id) => id,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let record =
        match core.runtime.container_status(v1::ContainerStatusRequest { container_id: id.clone(), verbose: false }).await {
            Ok(v1::ContainerStatusResponse { status: Some(status), .. }) => status,
            Ok(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "the runtime gave no status"),
            Err(error) => {
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("unable to retrieve container logs for {}://{id}", core.runtime_name)
                        + &format!(": {}", error.message()),
                );
            }
        };
    let (sender, receiver) = mpsc::channel(8);
    let reader = Reader { path: PathBuf::from(record.log_path), container_id: id, options, core: Arc::clone(&core), sent: 0 };
    core.tasks.spawn(async move {
        let token = reader.core.token.clone();
        tokio::select! {
            () = token.cancelled() => {}
            () = sender.closed() => {}
            ended = reader.run(&sender) => if let Err(error) = ended {
                let _client_gone = sender.send(Err(error)).await;
            }
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item.map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()).boxed_unsync_to_sync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// `BoxBody` has to be `Sync`; a boxed stream is not, so it is put behind a lock that is never contended.
pub(super) trait IntoBody {
    fn boxed_unsync_to_sync(self) -> Body;
}

impl<S> IntoBody for StreamBody<S>
where
    S: futures::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + Unpin + 'static,
{
    fn boxed_unsync_to_sync(self) -> Body {
        struct Locked<T>(parking_lot::Mutex<T>);
        impl<T: hyper::body::Body<Data = Bytes, Error = io::Error> + Unpin> hyper::body::Body for Locked<T> {
            type Data = Bytes;
            type Error = io::Error;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
                std::pin::Pin::new(self.get_mut().0.get_mut()).poll_frame(context)
            }
        }
        Locked(parking_lot::Mutex::new(self)).boxed()
    }
}

/// Whose log it is, by the status; upstream's words where there is none.
fn container_id(status: Option<&ContainerStatus>, pod: &str, container: &str, previous: bool) -> Result<String, String> {
    let strip = |id: &str| id.split_once("://").map_or(id, |(_, id)| id).to_owned();
    let place = format!("container \"{container}\" in pod \"{pod}\"");
    let Some(status) = status else { return Err(format!("{place} is not available")) };
    let state = status.state.clone().unwrap_or_default();
    let last = status
        .last_state
        .as_ref()
        .and_then(|l| l.terminated.as_ref())
        .and_then(|t| t.container_id.as_deref())
        .filter(|id| !id.is_empty());
    if previous {
        return last.map(strip).ok_or_else(|| format!("previous terminated {place} not found"));
    }
    if state.running.is_some() {
        return status.container_id.as_deref().map(strip).ok_or_else(|| format!("{place} is not available"));
    }
    if let Some(id) = state.terminated.as_ref().and_then(|t| t.container_id.as_deref()).filter(|id| !id.is_empty()).or(last) {
        return Ok(strip(id));
    }
    if state.terminated.is_some() {
        return Err(format!("{place} is terminated"));
    }
    match state.waiting.and_then(|w| w.reason).as_deref() {
        None => Err(format!("{place} is waiting to start - no logs yet")),
        Some("ErrImagePull") => Err(format!("{place} is waiting to start: image can't be pulled")),
        Some("ImagePullBackOff") => Err(format!("{place} is waiting to start: trying and failing to pull image")),
        Some(reason) => Err(format!("{place} is waiting to start: {reason}")),
    }
}

struct Reader {
    path: PathBuf,
    container_id: String,
    options: Options,
    core: Arc<Core>,
    sent: u64,
}

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

impl Reader {
    async fn run(mut self, sender: &Sender) -> io::Result<()> {
        // Watching begins before reading, so that nothing falls between.
        let watch = if self.options.follow { Some(DirectoryWatch::new(&self.path)?) } else { None };
        let mut changes = self.core.runtime_changes.subscribe();
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            // Not a line was written yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.options.follow => return Ok(()),
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("failed to try resolving symlinks in path \"{}\": {error}", self.path.display()),
                ));
            }
        };
        if let Some(lines) = self.options.tail {
            let start = tail_start(&mut file, lines).await?;
            file.seek(io::SeekFrom::Start(start)).await?;
        }
        let mut pending = Vec::new();
        loop {
            // Asked before reading to the end: what a container wrote before it ended is not missed.
            let ended = !self.options.follow || !self.is_running().await;
            if !self.drain(&mut file, &mut pending, sender).await? {
                return Ok(());
            }
            if let Some(next) = self.rotated(&file).await {
                file = next;
                continue;
            }
            if ended {
                return Ok(());
            }
            let Some(watch) = &watch else { return Ok(()) };
            tokio::select! {
                changed = watch.changed() => changed?,
                _ = changes.changed() => {}
            }
        }
    }

    async fn is_running(&self) -> bool {
        let status = self
            .core
            .runtime
            .container_status(v1::ContainerStatusRequest { container_id: self.container_id.clone(), verbose: false })
            .await;
        status.ok().and_then(|s| s.status).is_some_and(|s| s.state == v1::ContainerState::ContainerRunning as i32)
    }

    /// The new file, when the log was rotated away under us.
    async fn rotated(&self, file: &File) -> Option<File> {
        if !self.options.follow {
            return None;
        }
        let ours = file.metadata().await.ok()?;
        let current = tokio::fs::metadata(&self.path).await.ok()?;
        if ours.ino() == current.ino() {
            return None;
        }
        File::open(&self.path).await.ok()
    }

    /// Sends everything up to the end of the file; `false`: the client has had enough.
    async fn drain(&mut self, file: &mut File, pending: &mut Vec<u8>, sender: &Sender) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                return Ok(true);
            }
            pending.extend_from_slice(&buffer[..read]);
            let Some(end) = pending.iter().rposition(|b| *b == b'\n') else { continue };
            let mut output = Vec::with_capacity(end);
            for line in pending[..=end].split_inclusive(|b| *b == b'\n') {
                render(line, &self.options, &mut output);
            }
            pending.drain(..=end);
            let mut last = false;
            if let Some(limit) = self.options.limit_bytes {
                let left = usize::try_from(limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
                last = output.len() >= left;
                output.truncate(left);
            }
            self.sent += output.len() as u64;
            if !output.is_empty() && sender.send(Ok(Bytes::from(output))).await.is_err() {
                return Ok(false);
            }
            if last {
                return Ok(false);
            }
        }
    }
}

/// Appends one line of the CRI format (`TIME STREAM TAG TEXT`) as the client wants it.
fn render(line: &[u8], options: &Options, output: &mut Vec<u8>) {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (Some(time), Some(stream), Some(tag), Some(content)) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return;
    };
    if options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
        return;
    }
    if let Some(since) = options.since {
        let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
        if at.is_some_and(|at| at < since) {
            return;
        }
    }
    if options.timestamps {
        output.extend_from_slice(time);
        output.push(b' ');
    }
    // A partial line goes on with the next one.
    let partial = tag.split(|b| *b == b':').any(|t| t == b"P");
    let content = if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    output.extend_from_slice(content);
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut position = file.metadata().await?.len();
    if lines == 0 {
        return Ok(position);
    }
    let mut left = lines + 1;
    let mut buffer = vec![0; CHUNK];
    while position > 0 {
        let size = usize::try_from(position).unwrap_or(usize::MAX).min(CHUNK);
        position -= size as u64;
        file.seek(io::SeekFrom::Start(position)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for (index, byte) in buffer[..size].iter().enumerate().rev() {
            if *byte == b'\n' {
                left -= 1;
                if left == 0 {
                    return Ok(position + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// An inotify instance that the reactor can hold.
struct Owned(Inotify);

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Tells of writes and new files in the log's directory.
struct DirectoryWatch {
    inotify: AsyncFd<Owned>,
}

impl DirectoryWatch {
    #[allow(unsafe_code)]
    fn new(log: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = log.parent().unwrap_or(Path::new("/"));
        inotify.add_watch(
            directory,
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE,
        )?;
        // SAFETY: `Owned` owns the descriptor, gives the same one each time and keeps it open as long as it lives.
        let inotify = unsafe { AsyncFd::register(Owned(inotify)) }.map_err(io::Error::from)?;
        Ok(Self { inotify })
    }

    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(events) => return events.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rendered() {
        let log: &[u8] =
            b"2026-01-01T00:00:00.1Z stdout P par\n2026-01-01T00:00:00.2Z stdout F tial\n2026-01-01T00:00:01Z stderr F err or\n";
        let cases = [
            ("", "partial\nerr or\n"),
            ("timestamps=true", "2026-01-01T00:00:00.1Z par2026-01-01T00:00:00.2Z tial\n2026-01-01T00:00:01Z err or\n"),
            ("sinceTime=2026-01-01T00:00:00.5Z", "err or\n"),
            ("stream=Stdout", "partial\n"),
        ];
        for (query, expected) in cases {
            let options = options(Some(query)).unwrap();
            let mut output = Vec::new();
            for line in log.split_inclusive(|b| *b == b'\n') {
                render(line, &options, &mut output);
            }
            assert_eq!(String::from_utf8(output).unwrap(), expected, "{query}");
        }
    }

    #[tokio::test]
    async fn tails_begin_at_a_line() {
        let path = std::env::temp_dir().join(format!("kubelet-tail-{}", std::process::id()));
        tokio::fs::write(&path, "one\ntwo\nthree\n").await.unwrap();
        let mut file = File::open(&path).await.unwrap();
        for (lines, start) in [(0, 14), (1, 8), (2, 4), (3, 0), (9, 0)] {
            assert_eq!(tail_start(&mut file, lines).await.unwrap(), start, "{lines}");
        }
        tokio::fs::remove_file(&path).await.unwrap();
    }

    #[test]
    fn waiting_containers_have_no_log() {
        let status = |json: serde_json::Value| -> ContainerStatus { serde_json::from_value(json).unwrap() };
        let base = serde_json::json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}});
        let error = container_id(Some(&status(base.clone())), "p", "c", false).unwrap_err();
        assert_eq!(error, "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image");
        assert_eq!(
            container_id(Some(&status(base.clone())), "p", "c", true).unwrap_err(),
            "previous terminated container \"c\" in pod \"p\" not found"
        );
        let mut crashed = base;
        crashed["lastState"] = serde_json::json!({"terminated": {"exitCode": 1, "containerID": "rusternetes://abc"}});
        assert_eq!(container_id(Some(&status(crashed)), "p", "c", false).unwrap(), "abc");
    }
}
