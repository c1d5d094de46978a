//! The poll loop of the shim: signals, connections, streams.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::container::{self, Container, STDIN_PENDING_MAX};
use super::operation::{make_pipes, read_result, spawn};
use super::protocol::{Answer, Exit, Request, StartSpec, frame};
use super::socket;
use crate::reexec;

/// Output held for an attached client before the container's streams are left alone until the client catches up.
const ATTACH_PENDING_MAX: usize = 256 * 1024;
/// Longest request.
const REQUEST_MAX: usize = 1024 * 1024;

type ClientId = u64;

/// A connection.
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    mode: Mode,
}

#[derive(Clone, PartialEq)]
enum Mode {
    Request,
    /// Its request is being worked on.
    Waiting,
    Subscriber,
    Attached(String),
    /// Closed once its output is written.
    Closing,
}

/// Why a process is our child.
enum Child {
    Create { id: String, client: ClientId, result: OwnedFd, console: Option<UnixListener> },
    ExecCreate { id: String, exec_id: String, client: ClientId, result: OwnedFd },
    Init { id: String },
    Exec { id: String, exec_id: String, client: ClientId },
}

/// A first process that was told to run its command. Its result pipe closes when it does; otherwise it says why not.
struct Starting {
    id: String,
    client: ClientId,
    pid: Pid,
    result: File,
}

struct Shim {
    starting: Vec<Starting>,
    containers: BTreeMap<String, Container>,
    clients: BTreeMap<ClientId, Client>,
    next_client: ClientId,
    children: HashMap<Pid, Child>,
    /// Ends of processes that a running libcontainer process will still tell us about.
    unclaimed: HashMap<Pid, i32>,
    pause: Option<Pid>,
    stopping: bool,
}

/// What one entry of the poll set belongs to.
enum Source {
    Listener,
    Signals,
    Client(ClientId),
    Starting(Pid),
    Output(String, u8),
    Stdin(String),
}

/// Runs until a [`Request::Shutdown`]. Returns the exit code.
pub(super) fn run(listener: UnixListener, pause: Option<Pid>) -> i32 {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = mask.thread_block().and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
    let Ok(signals) = signals else { return 1 };
    if listener.set_nonblocking(true).is_err() {
        return 1;
    }
    let mut shim = Shim {
        starting: Vec::new(),
        containers: BTreeMap::new(),
        clients: BTreeMap::new(),
        next_client: 0,
        children: HashMap::new(),
        unclaimed: HashMap::new(),
        pause,
        stopping: false,
    };
    // A child may have ended before the signal was blocked.
    shim.reap();
    loop {
        if shim.is_done() {
            shim.pause.into_iter().for_each(container::kill_quietly);
            return 0;
        }
        let Some(ready) = shim.wait(&listener, &signals) else { return 1 };
        for (source, events) in ready {
            shim.handle(&listener, &signals, source, events);
        }
        shim.finish_containers();
        shim.close_clients();
    }
}

impl Shim {
    /// Waits for something to do. `None` when polling fails, which it cannot with valid descriptors.
    fn wait(&self, listener: &UnixListener, signals: &SignalFd) -> Option<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut set = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            set.push(PollFd::new(fd, flags));
        };
        for (id, client) in &self.clients {
            let mut flags = PollFlags::empty();
            if self.accepts_input(client) {
                flags |= PollFlags::POLLIN;
            }
            if !client.output.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            add(Source::Client(*id), client.stream.as_fd(), flags);
        }
        for starting in &self.starting {
            add(Source::Starting(starting.pid), starting.result.as_fd(), PollFlags::POLLIN);
        }
        for (id, container) in &self.containers {
            if !self.is_congested(id) {
                for output in &container.outputs {
                    add(Source::Output(id.clone(), output.kind), output.file.as_fd(), PollFlags::POLLIN);
                }
            }
            if let Some(stdin) = container.stdin.as_ref().filter(|_| !container.stdin_pending.is_empty()) {
                add(Source::Stdin(id.clone()), stdin.as_fd(), PollFlags::POLLOUT);
            }
        }
        let deadline = self.containers.values().filter_map(Container::deadline).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
        });
        match poll(&mut set, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
        let events: Vec<PollFlags> = set.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(set);
        Some(sources.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect())
    }

    /// Whether more of a client's bytes can be taken: not while the container is behind with its input.
    fn accepts_input(&self, client: &Client) -> bool {
        match &client.mode {
            Mode::Attached(id) => {
                self.containers.get(id).is_none_or(|container| container.stdin_pending.len() < STDIN_PENDING_MAX)
            }
            Mode::Closing => false,
            _ => true,
        }
    }

    fn is_congested(&self, id: &str) -> bool {
        self.clients.values().any(|client| {
            client.output.len() > ATTACH_PENDING_MAX && matches!(&client.mode, Mode::Attached(attached) if attached == id)
        })
    }

    fn handle(&mut self, listener: &UnixListener, signals: &SignalFd, source: Source, events: PollFlags) {
        match source {
            Source::Listener => self.accept(listener),
            Source::Signals => {
                while let Ok(Some(_)) = signals.read_signal() {}
                self.reap();
            }
            Source::Client(id) => {
                if events.contains(PollFlags::POLLOUT) {
                    self.write_client(id);
                }
                if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    self.read_client(id);
                }
            }
            Source::Starting(pid) => self.started(pid),
            Source::Output(id, kind) => self.read_output(&id, kind),
            Source::Stdin(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.write_stdin();
                }
            }
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.next_client += 1;
            let client = Client { stream, input: Vec::new(), output: Vec::new(), descriptors: Vec::new(), mode: Mode::Request };
            self.clients.insert(self.next_client, client);
        }
    }

    fn write_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.stream.write(&client.output) {
            Ok(written) => {
                client.output.drain(..written);
                if client.output.is_empty() {
                    client.output = Vec::new();
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(_) => self.drop_client(id),
        }
    }

    fn read_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut buffer = [0; 16 * 1024];
        match socket::receive(client.stream.as_raw_fd(), &mut buffer, &mut client.descriptors) {
            Ok(0) => return self.drop_client(id),
            Ok(length) => client.input.extend_from_slice(&buffer[..length]),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return,
            Err(_) => return self.drop_client(id),
        }
        if client.mode == Mode::Request {
            if let Some(end) = client.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = client.input.drain(..=end).collect();
                client.mode = Mode::Waiting;
                match serde_json::from_slice(&line) {
                    Ok(request) => self.request(id, request),
                    Err(error) => self.answer_last(id, &failure(format!("request: {error}"))),
                }
            } else if client.input.len() > REQUEST_MAX {
                return self.drop_client(id);
            }
        }
        self.take_frames(id);
    }

    /// Passes input frames of an attached client on to the container.
    fn take_frames(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Mode::Attached(container) = &client.mode else { return };
        let Some(container) = self.containers.get_mut(container) else { return };
        while let Some(header) = client.input.first_chunk::<{ frame::HEADER }>() {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            if length > REQUEST_MAX {
                return self.drop_client(id);
            }
            let end = frame::HEADER + length;
            if client.input.len() < end {
                break;
            }
            if header[0] == frame::STDIN {
                if length == 0 {
                    container.end_stdin();
                } else if container.stdin.is_some() {
                    container.stdin_pending.extend(&client.input[frame::HEADER..end]);
                }
            }
            client.input.drain(..end);
        }
        container.write_stdin();
    }

    fn drop_client(&mut self, id: ClientId) {
        if let Some(Client { mode: Mode::Attached(container), .. }) = self.clients.remove(&id)
            && let Some(container) = self.containers.get_mut(&container)
        {
            container.end_stdin();
        }
    }

    fn close_clients(&mut self) {
        self.clients.retain(|_, client| client.mode != Mode::Closing || !client.output.is_empty());
    }

    fn answer(&mut self, id: ClientId, answer: &Answer) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if serde_json::to_writer(&mut client.output, answer).is_ok() {
            client.output.push(b'\n');
        }
        self.write_client(id);
    }

    fn answer_last(&mut self, id: ClientId, answer: &Answer) {
        self.answer(id, answer);
        if let Some(client) = self.clients.get_mut(&id) {
            client.mode = Mode::Closing;
        }
    }

    fn request(&mut self, client: ClientId, request: Request) {
        let answer = match request {
            Request::Subscribe => return self.subscribe(client),
            Request::Attach { id } => return self.attach(client, id),
            Request::Start(spec) => match self.start(client, spec) {
                Ok(()) => return,
                Err(message) => Err(message),
            },
            Request::Exec { id, exec_id, process, console } => match self.exec(client, id, exec_id, &process, console) {
                Ok(()) => return,
                Err(message) => Err(message),
            },
            Request::Kill { id, exec_id, signal, all } => self.kill(&id, &exec_id, signal, all),
            Request::ReopenLog { id } => {
                self.container(&id).and_then(|container| container.reopen_log().map_err(|error| error.to_string()))
            }
            Request::Resize { id, width, height } => {
                self.container(&id).and_then(|container| container.resize(width, height).map_err(|error| error.to_string()))
            }
            Request::Forget { id } => {
                if self.containers.get(&id).is_some_and(|container| container.exit.is_some()) {
                    self.containers.remove(&id);
                }
                Ok(())
            }
            Request::Shutdown => self.shutdown(),
        };
        self.answer_last(client, &answer.map_or_else(failure, |()| Answer::Done));
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers.get_mut(id).ok_or_else(|| format!("container {id} is not in this sandbox"))
    }

    fn subscribe(&mut self, client: ClientId) {
        let containers = self.containers.values().map(Container::running).collect();
        self.answer(client, &Answer::Snapshot { containers });
        if let Some(client) = self.clients.get_mut(&client) {
            client.mode = Mode::Subscriber;
        }
    }

    fn attach(&mut self, client: ClientId, id: String) {
        match self.containers.get(&id) {
            Some(container) if container.exit.is_none() => {
                self.answer(client, &Answer::Done);
                if let Some(client) = self.clients.get_mut(&client) {
                    client.mode = Mode::Attached(id);
                }
            }
            _ => self.answer_last(client, &failure(format!("container {id} is not running"))),
        }
    }

    fn kill(&mut self, id: &str, exec_id: &str, signal: i32, all: bool) -> Result<(), String> {
        if !exec_id.is_empty() {
            let target = self.children.iter().find_map(|(pid, child)| match child {
                Child::Exec { id: of, exec_id: exec, .. } if of == id && exec == exec_id => Some(*pid),
                _ => None,
            });
            return target.map_or(Ok(()), |pid| container::send_signal(pid, signal).map_err(|error| error.to_string()));
        }
        let container = self.container(id)?;
        container.signalled = true;
        if all {
            container.kill_all(signal);
        }
        container.signal(signal).map_err(|error| error.to_string())
    }

    /// Ends with everything that still runs; the loop goes on until that has ended.
    fn shutdown(&mut self) -> Result<(), String> {
        self.stopping = true;
        for container in self.containers.values().filter(|container| container.exit.is_none()) {
            container.kill_all(libc::SIGKILL);
            let _ = container.signal(libc::SIGKILL);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.stopping
            && self.clients.values().all(|client| client.output.is_empty())
            && self.containers.values().all(|container| container.exit.is_some() || container.pid.is_none())
    }

    fn start(&mut self, client: ClientId, spec: StartSpec) -> Result<(), String> {
        if self.containers.contains_key(&spec.id) {
            return Err(format!("container {} was started before", spec.id));
        }
        let id = spec.id.clone();
        let mut container = Container::new(spec);
        let mut arguments =
            vec![reexec::OCI_CREATE.to_owned(), container.spec.state_root.clone(), id.clone(), container.spec.bundle.clone()];
        let mut console = None;
        let stdio = if container.spec.tty {
            let path = Path::new(&container.spec.state_root).join(format!("{id}.console"));
            let _ = std::fs::remove_file(&path);
            console = Some(socket::listen(&path).map_err(|error| format!("console socket: {error}"))?);
            arguments.push(path.to_string_lossy().into_owned());
            [Stdio::null(), Stdio::null(), Stdio::null()]
        } else {
            make_pipes(&mut container).map_err(|error| format!("pipe: {error}"))?
        };
        let (pid, result) = spawn(&arguments, stdio)?;
        self.children.insert(pid, Child::Create { id: id.clone(), client, result, console });
        self.containers.insert(id, container);
        Ok(())
    }

    fn exec(
        &mut self,
        client: ClientId,
        id: String,
        exec_id: String,
        process: &str,
        console: Option<String>,
    ) -> Result<(), String> {
        let descriptors = self.clients.get_mut(&client).map(|client| std::mem::take(&mut client.descriptors));
        let container = self.container(&id)?;
        if container.exit.is_some() {
            return Err(format!("container {id} is not running"));
        }
        let mut arguments: Vec<String> =
            [reexec::OCI_EXEC, &container.spec.state_root, &id, &container.spec.bundle, process].map(str::to_owned).into();
        let stdio = match (console, <[OwnedFd; 3]>::try_from(descriptors.unwrap_or_default())) {
            (Some(console), _) => {
                arguments.push(console);
                [Stdio::null(), Stdio::null(), Stdio::null()]
            }
            (None, Ok(descriptors)) => descriptors.map(Stdio::from),
            (None, Err(_)) => return Err("exec without descriptors".to_owned()),
        };
        let (pid, result) = spawn(&arguments, stdio)?;
        self.children.insert(pid, Child::ExecCreate { id, exec_id, client, result });
        Ok(())
    }

    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => break,
                Ok(_) => continue,
                Err(_) => break,
            };
            self.ended(pid, code);
        }
        let creating = |child: &Child| matches!(child, Child::Create { .. } | Child::ExecCreate { .. });
        if !self.children.values().any(creating) {
            self.unclaimed.clear();
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) {
        match self.children.remove(&pid) {
            Some(Child::Create { id, client, result, console }) => self.created(id, client, result, console),
            Some(Child::ExecCreate { id, exec_id, client, result }) => match read_result(&result) {
                Ok(pid) => {
                    self.answer(client, &Answer::Started { pid: pid.as_raw(), started_at: container::now() });
                    self.claim(pid, Child::Exec { id, exec_id, client });
                }
                Err(message) => self.answer_last(client, &failure(message)),
            },
            Some(Child::Init { id }) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.end(code);
                }
            }
            Some(Child::Exec { exec_id, client, .. }) => {
                let exit = Exit { code, finished_at: container::now(), oom_killed: false };
                self.answer_last(client, &Answer::Exited { id: exec_id, exit });
            }
            None => {
                self.unclaimed.insert(pid, code);
            }
        }
    }

    /// libcontainer is done with a container: it waits to be started, or the creation failed.
    fn created(&mut self, id: String, client: ClientId, result: OwnedFd, console: Option<UnixListener>) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        let console_path = Path::new(&container.spec.state_root).join(format!("{id}.console"));
        let prepared = read_result(&result).and_then(|pid| {
            let prepared = match &console {
                Some(listener) => container.take_terminal(listener),
                None => Ok(()),
            };
            prepared.and_then(|()| container.start(pid)).map(|()| pid).map_err(|error| {
                container::kill_quietly(pid);
                format!("start: {error}")
            })
        });
        if console.is_some() {
            let _ = std::fs::remove_file(console_path);
        }
        match prepared {
            Ok(pid) => {
                self.starting.push(Starting { id: id.clone(), client, pid, result: File::from(result) });
                self.claim(pid, Child::Init { id });
            }
            Err(message) => {
                self.containers.remove(&id);
                self.answer_last(client, &failure(message));
            }
        }
    }

    /// The result pipe of a first process has something to say: its end means that the command runs.
    fn started(&mut self, pid: Pid) {
        let Some(index) = self.starting.iter().position(|starting| starting.pid == pid) else { return };
        let mut buffer = [0; 4096];
        let length = match self.starting[index].result.read(&mut buffer) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => return,
            Ok(length) => length,
            Err(_) => 0,
        };
        let Starting { id, client, .. } = self.starting.remove(index);
        if length == 0 {
            let started_at = self.containers.get(&id).map_or(0, |container| container.started_at);
            return self.answer_last(client, &Answer::Started { pid: pid.as_raw(), started_at });
        }
        let text = String::from_utf8_lossy(&buffer[..length]);
        let message = text.strip_prefix("error ").unwrap_or(&text).to_owned();
        self.containers.remove(&id);
        self.answer_last(client, &failure(message));
    }

    /// Makes a process ours; it may have ended already.
    fn claim(&mut self, pid: Pid, child: Child) {
        self.children.insert(pid, child);
        if let Some(code) = self.unclaimed.remove(&pid) {
            self.ended(pid, code);
        }
    }

    fn read_output(&mut self, id: &str, kind: u8) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(index) = container.outputs.iter().position(|output| output.kind == kind) else { return };
        let mut buffer = [0; 16 * 1024];
        let Some(bytes) = container.read_output(index, &mut buffer).filter(|bytes| !bytes.is_empty()) else { return };
        for client in self.clients.values_mut() {
            if matches!(&client.mode, Mode::Attached(attached) if attached == id) {
                client.output.extend_from_slice(&frame::header(kind, bytes.len()));
                client.output.extend_from_slice(bytes);
            }
        }
    }

    /// Publishes the containers that have ended with their streams drained.
    fn finish_containers(&mut self) {
        let starting = &self.starting;
        let finished: Vec<(String, Exit)> = self
            .containers
            .iter_mut()
            // Whether the command ran at all comes first.
            .filter(|(id, _)| !starting.iter().any(|starting| starting.id == **id))
            .filter_map(|(id, container)| Some((id.clone(), container.finish()?)))
            .collect();
        for (id, exit) in finished {
            let ids: Vec<ClientId> = self.clients.keys().copied().collect();
            for client in ids {
                let mode = self.clients.get(&client).map(|client| client.mode.clone());
                match mode {
                    Some(Mode::Subscriber) => self.answer(client, &Answer::Exited { id: id.clone(), exit }),
                    Some(Mode::Attached(attached)) if attached == id => {
                        if let Some(client) = self.clients.get_mut(&client) {
                            client.mode = Mode::Closing;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn failure(message: String) -> Answer {
    Answer::Error { message }
}
