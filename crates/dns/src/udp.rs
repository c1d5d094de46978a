//! The UDP socket: a thread of its own that takes and sends several datagrams at a time, and answers what [`crate::prepared`] can.
//! The rest goes to the handler, which may have to wait for other servers.
//!
//! A thread and not a task: between question and answer there is one wake-up, and no other thread is woken.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::handler::{Handler, UDP_PAYLOAD_MAX};
use crate::zone::SharedZone;

/// Datagrams that are taken at once.
const BATCH: usize = 32;
/// Questions are much shorter; one that does not fit is dropped.
const QUESTION_MAX: usize = 4096;
/// Questions that wait for the handler. One too many is dropped: its client asks again.
const WAITING_MAX: usize = 256;
/// Questions that the handler works on, most of them waiting for other servers.
const WORKING_MAX: usize = 1024;

/// A question for the handler.
type Packet = (Vec<u8>, SocketAddr);

/// Ends the socket's thread when it goes out of scope, however its task ends.
struct Stop(Arc<EventFd>);

impl Drop for Stop {
    fn drop(&mut self) {
        // The counter cannot overflow by one.
        let _ = self.0.write(1);
    }
}

/// Serves a socket until the token ends. The error is one of the socket's own.
pub(crate) async fn serve(
    socket: tokio::net::UdpSocket,
    zone: SharedZone,
    handler: Handler,
    token: CancellationToken,
) -> io::Result<()> {
    let socket = Arc::new(socket.into_std()?);
    let wake = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let stop = Stop(Arc::clone(&wake));
    let (send, receive) = mpsc::channel(WAITING_MAX);
    let fast = Fast { socket: Arc::clone(&socket), zone, rest: send };
    let mut thread = tokio::task::spawn_blocking(move || fast.run(&wake));
    let rest = handle_rest(socket, handler, receive);
    tokio::select! {
        () = token.cancelled() => {}
        ended = &mut thread => return ended.map_err(io::Error::other)?,
        () = rest => {}
    }
    drop(stop);
    thread.await.map_err(io::Error::other)?
}

/// The thread's side.
struct Fast {
    socket: Arc<UdpSocket>,
    zone: SharedZone,
    rest: mpsc::Sender<Packet>,
}

impl Fast {
    fn run(&self, wake: &EventFd) -> io::Result<()> {
        let mut questions = vec![[0; QUESTION_MAX]; BATCH];
        let mut answers: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(usize::from(UDP_PAYLOAD_MAX))).collect();
        let mut headers = (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
        let mut received: Vec<(usize, SockaddrStorage)> = Vec::with_capacity(BATCH);
        loop {
            if wait(&self.socket, wake)? {
                return Ok(());
            }
            received.clear();
            match receive(&self.socket, &mut headers.0, &mut questions, &mut received) {
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(error) => return Err(error.into()),
            }
            let mut recipients = Vec::with_capacity(received.len());
            {
                let zone = self.zone.read();
                for (question, (length, from)) in questions.iter().zip(&received) {
                    let question = &question[..*length];
                    let answer = &mut answers[recipients.len()];
                    answer.clear();
                    if zone.answer(question, answer) {
                        recipients.push(Some(*from));
                    } else if let Some(from) = address(from) {
                        // Full: dropped.
                        let _ = self.rest.try_send((question.to_vec(), from));
                    }
                }
            }
            send(&self.socket, &mut headers.1, &answers, &recipients);
        }
    }
}

/// Waits for datagrams; true: it is time to end.
fn wait(socket: &UdpSocket, wake: &EventFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[1].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    questions: &mut [[u8; QUESTION_MAX]],
    received: &mut Vec<(usize, SockaddrStorage)>,
) -> nix::Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = questions.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    for message in messages {
        // Cut off: as good as none, but it keeps its place.
        let length = if message.flags.contains(MsgFlags::MSG_TRUNC) { 0 } else { message.bytes };
        received.push((length, message.address.unwrap_or_else(nobody)));
    }
    Ok(())
}

/// Who cannot be answered.
fn nobody() -> SockaddrStorage {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into()
}

/// An answer that cannot be sent is lost, as any datagram may be.
fn send(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    answers: &[Vec<u8>],
    recipients: &[Option<SockaddrStorage>],
) {
    let mut sent = 0;
    while sent < recipients.len() {
        let slices: Vec<[IoSlice<'_>; 1]> = answers[sent..recipients.len()].iter().map(|answer| [IoSlice::new(answer)]).collect();
        let result = sendmmsg(socket.as_raw_fd(), headers, slices.iter(), &recipients[sent..], [], MsgFlags::MSG_DONTWAIT);
        sent += match result {
            Ok(messages) => messages.count().max(1),
            Err(Errno::EINTR) => 0,
            Err(_) => 1,
        };
    }
}

/// A sender that can be answered.
fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|address: &SockaddrIn| SocketAddr::from((address.ip(), address.port())));
    let v6 = || address.as_sockaddr_in6().map(|address: &SockaddrIn6| SocketAddr::V6((*address).into()));
    v4().or_else(v6).filter(|address| address.port() != 0 && !address.ip().is_unspecified() && !is_broadcast(address.ip()))
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// Gives questions to the handler; ends when the socket's thread does.
async fn handle_rest(socket: Arc<UdpSocket>, handler: Handler, mut questions: mpsc::Receiver<Packet>) {
    let mut working = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = working.join_next(), if !working.is_empty() => {}
            question = questions.recv(), if working.len() < WORKING_MAX => match question {
                Some(question) => drop(working.spawn(handle(Arc::clone(&socket), handler.clone(), question))),
                None => return,
            },
        }
    }
}

async fn handle(socket: Arc<UdpSocket>, handler: Handler, (bytes, from): Packet) {
    let mut decoder = BinDecoder::new(&bytes);
    // Too short for a header: no DNS message. A response is never answered, or two servers would keep each other busy.
    let Ok(header) = Header::read(&mut decoder) else { return };
    if header.metadata.message_type == MessageType::Response {
        return;
    }
    match Request::from_bytes(bytes, from, Protocol::Udp) {
        Ok(request) => {
            let asked = request.edns.as_ref().map_or(512, |edns| edns.max_payload().clamp(512, UDP_PAYLOAD_MAX));
            handler.handle_request::<_, TokioTime>(&request, Reply { socket, to: from, payload_max: asked }).await;
        }
        Err(error) => {
            tracing::debug!(%error, "a DNS question cannot be read");
            let mut metadata = Metadata::response_from_request(&header.metadata);
            metadata.response_code = ResponseCode::FormErr;
            if let Ok(answer) = (Header { metadata, counts: HeaderCounts::default() }).to_bytes() {
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

/// Sends the handler's response.
#[derive(Clone)]
struct Reply {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    payload_max: u16,
}

#[async_trait::async_trait]
impl ResponseHandler for Reply {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(usize::from(PAYLOAD_USUAL));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.payload_max);
        let info = response.destructive_emit(&mut encoder)?;
        self.socket.send_to(&bytes, self.to)?;
        Ok(info)
    }
}

/// Room for most responses.
const PAYLOAD_USUAL: u16 = 512;
