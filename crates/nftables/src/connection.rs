//! The netlink socket: sends batches and requests, and reads the kernel's answers.
//!
//! The kernel works a datagram off before `send` returns, so all answers to a batch are in the receive queue by then and are
//! read without waiting.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::attr::{Attrs, Message, Messages, Writer, u32_at};
use crate::batch::Batch;
use crate::error::Error;
use crate::uapi::*;

/// Large enough for any answer of the kernel (it fills dumps to at most 32 KiB).
const RECEIVE_BYTES: usize = 64 * 1024;
/// A dump that another writer disturbs is begun again this often.
const DUMP_ATTEMPTS_MAX: usize = 16;

/// A connection to the netfilter of one network namespace: the one that the opening thread was in.
pub struct Connection {
    socket: Socket,
    send_buffer: usize,
    seq: u32,
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(socket_error("open"))?;
        socket.bind_auto().map_err(socket_error("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(socket_error("connect"))?;
        // Without these two an error repeats the refused message and carries no explanation.
        socket.set_cap_ack(true).map_err(socket_error("setsockopt NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(socket_error("setsockopt NETLINK_EXT_ACK"))?;
        Ok(Self { socket, send_buffer: 0, seq: 0 })
    }

    /// Applies a batch whole, or not at all. An empty batch does nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let (datagram, last) = batch.datagram();
        self.send(&datagram)?;
        let mut confirmed = false;
        let mut refused: Option<Error> = None;
        let mut buf = Vec::with_capacity(RECEIVE_BYTES);
        while self.receive(&mut buf, libc::MSG_DONTWAIT)? {
            for message in Messages(&buf) {
                let message = message?;
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                let (errno, detail) = acknowledgement(&message)?;
                if errno == 0 {
                    confirmed |= message.seq == last;
                } else if refused.is_none() {
                    refused = Some(Error::Refused {
                        object: batch.describe(message.seq),
                        detail,
                        source: io::Error::from_raw_os_error(errno),
                    });
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if confirmed => Ok(()),
            None => Err(Error::Unconfirmed { messages: batch.len() }),
        }
    }

    /// Sends one request outside of a batch and waits for its acknowledgement.
    pub(crate) fn request(&mut self, kind: u16, family: u8, what: &str, body: impl FnOnce(&mut Writer)) -> Result<(), Error> {
        self.seq += 1;
        let seq = self.seq;
        let mut writer = Writer::default();
        let start = writer.begin_message(kind, NLM_F_REQUEST | NLM_F_ACK, seq, family, 0);
        body(&mut writer);
        writer.end_message(start);
        self.send(&writer.buf)?;
        let mut buf = Vec::with_capacity(RECEIVE_BYTES);
        while self.receive(&mut buf, 0)? {
            for message in Messages(&buf) {
                let message = message?;
                if message.seq != seq || message.kind != NLMSG_ERROR {
                    continue;
                }
                let (errno, detail) = acknowledgement(&message)?;
                return if errno == 0 { Ok(()) } else { Err(refusal(what, errno, detail)) };
            }
        }
        Err(Error::Unconfirmed { messages: 1 })
    }

    /// Asks for a dump and hands every message of it to `each`. Begins again when the dump was disturbed by a change;
    /// `restart` is called before every attempt.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        family: u8,
        what: &str,
        body: impl Fn(&mut Writer),
        each: impl Fn(Attrs<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            self.seq += 1;
            let mut writer = Writer::default();
            let start = writer.begin_message(kind, NLM_F_REQUEST | NLM_F_DUMP, self.seq, family, 0);
            body(&mut writer);
            writer.end_message(start);
            self.send(&writer.buf)?;
            if let Some(found) = self.read_dump(what, &each)? {
                return Ok(found);
            }
        }
        Err(refusal(what, libc::EINTR, Some("the dump was disturbed again and again".to_owned())))
    }

    /// Reads one dump to its end; `None` if it was disturbed.
    fn read_dump<T>(&mut self, what: &str, each: &impl Fn(Attrs<'_>) -> Option<T>) -> Result<Option<Vec<T>>, Error> {
        let mut found = Vec::new();
        let mut disturbed = false;
        let mut buf = Vec::with_capacity(RECEIVE_BYTES);
        while self.receive(&mut buf, 0)? {
            for message in Messages(&buf) {
                let message = message?;
                if message.seq != self.seq {
                    continue;
                }
                disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => return Ok((!disturbed).then_some(found)),
                    NLMSG_ERROR => {
                        let (errno, detail) = acknowledgement(&message)?;
                        return Err(refusal(what, errno, detail));
                    }
                    _ => found.extend(each(message.attrs())),
                }
            }
        }
        Err(Error::Unconfirmed { messages: 1 })
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Error> {
        // A datagram must fit the socket's send buffer (212,992 bytes by default); root may exceed net.core.wmem_max.
        if datagram.len() > 128 * 1024 && datagram.len() * 2 > self.send_buffer {
            let size = datagram.len() * 2;
            setsockopt(&self.socket, sockopt::SndBufForce, &size)
                .map_err(|errno| socket_error("setsockopt SO_SNDBUFFORCE")(errno.into()))?;
            self.send_buffer = size;
        }
        let sent = self.socket.send(datagram, 0).map_err(socket_error("send"))?;
        if sent == datagram.len() { Ok(()) } else { Err(Error::Malformed("datagram sent in part")) }
    }

    /// Reads one datagram; `false` when none is there and `MSG_DONTWAIT` was given.
    fn receive(&self, buf: &mut Vec<u8>, flags: libc::c_int) -> Result<bool, Error> {
        loop {
            buf.clear();
            match self.socket.recv(buf, flags) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(socket_error("receive")(error)),
            }
        }
    }
}

fn socket_error(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { operation, source }
}

fn refusal(what: &str, errno: i32, detail: Option<String>) -> Error {
    Error::Refused { object: what.to_owned(), detail, source: io::Error::from_raw_os_error(errno) }
}

/// The error number (0 is success) and explanation in an NLMSG_ERROR.
fn acknowledgement(message: &Message<'_>) -> Result<(i32, Option<String>), Error> {
    // A negative errno, then the refused message's header (and the message, unless capped), then attributes.
    let body = message.body;
    if body.len() < 4 {
        return Err(Error::Malformed("acknowledgement cut short"));
    }
    let errno = -(u32_at(body, 0) as i32);
    let mut detail = None;
    if message.flags & NLM_F_ACK_TLVS != 0 && body.len() >= 20 {
        let repeated = if message.flags & NLM_F_CAPPED != 0 { 16 } else { u32_at(body, 4) as usize };
        let attrs = body.get(4 + repeated.next_multiple_of(4)..).unwrap_or_default();
        detail = Attrs(attrs).text(NLMSGERR_ATTR_MSG);
    }
    Ok((errno, detail))
}
