//! Frames on the wire.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame that is accepted. The format allows 16 MiB; the peers send at most 64 KiB.
const FRAME_MAX: usize = 1024 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Flag of a frame that ends its direction of the stream.
const FIN: u8 = 1;
/// The stream ids are 31 bits.
const ID_MASK: u32 = 0x7fff_ffff;

/// What ends a connection before its time.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection failed.
    #[error("connection")]
    Io(#[from] std::io::Error),
    /// The peer does not keep to the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
}

/// A frame as received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// `headers` are compressed.
    SynStream {
        id: u32,
        fin: bool,
        headers: Bytes,
    },
    /// Only to keep the compression's state in step.
    Headers {
        headers: Bytes,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates: nothing to do.
    Ignored,
}

/// Reads one frame; `None` at the end of the connection.
pub(crate) async fn read(source: &mut (impl AsyncRead + Unpin)) -> Result<Option<Incoming>, SpdyError> {
    let mut head = [0; 8];
    match source.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > FRAME_MAX {
        return Err(SpdyError::Protocol("frame too long"));
    }
    let mut payload = vec![0; length];
    source.read_exact(&mut payload).await?;
    let payload = Bytes::from(payload);
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    if first & !ID_MASK == 0 {
        return Ok(Some(Incoming::Data { id: first, fin: flags & FIN != 0, bytes: payload }));
    }
    if (first >> 16) & 0x7fff != 3 {
        return Err(SpdyError::Protocol("not version 3"));
    }
    control((first & 0xffff) as u16, flags, &payload).map(Some)
}

fn control(kind: u16, flags: u8, payload: &Bytes) -> Result<Incoming, SpdyError> {
    let id = || match payload.first_chunk::<4>() {
        Some(bytes) => Ok(u32::from_be_bytes(*bytes) & ID_MASK),
        None => Err(SpdyError::Protocol("frame too short")),
    };
    Ok(match kind {
        // Stream, associated stream, priority, slot, then the headers.
        SYN_STREAM if payload.len() >= 10 => {
            Incoming::SynStream { id: id()?, fin: flags & FIN != 0, headers: payload.slice(10..) }
        }
        SYN_STREAM => return Err(SpdyError::Protocol("frame too short")),
        SYN_REPLY | HEADERS => {
            id()?;
            Incoming::Headers { headers: payload.slice(4..) }
        }
        RST_STREAM => Incoming::Reset { id: id()? },
        PING => Incoming::Ping { id: id()? },
        GOAWAY => Incoming::GoAway,
        _ => Incoming::Ignored,
    })
}

fn control_head(target: &mut BytesMut, kind: u16, length: usize) {
    target.put_u16(0x8003);
    target.put_u16(kind);
    target.put_u32(length as u32);
}

/// A data frame.
pub(crate) fn data(id: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(id);
    frame.put_u32(bytes.len() as u32 | u32::from(if fin { FIN } else { 0 }) << 24);
    frame.extend_from_slice(bytes);
    frame.freeze()
}

/// The answer to a new stream; `headers` are compressed.
pub(crate) fn reply(id: u32, headers: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    control_head(&mut frame, SYN_REPLY, 4 + headers.len());
    frame.put_u32(id);
    frame.extend_from_slice(headers);
    frame.freeze()
}

/// Ends a stream in both directions. Status 5 is CANCEL, 1 PROTOCOL_ERROR.
pub(crate) fn reset(id: u32, status: u32) -> Bytes {
    let mut frame = BytesMut::new();
    control_head(&mut frame, RST_STREAM, 8);
    frame.put_u32(id);
    frame.put_u32(status);
    frame.freeze()
}

/// The answer to a ping.
pub(crate) fn ping(id: u32) -> Bytes {
    let mut frame = BytesMut::new();
    control_head(&mut frame, PING, 4);
    frame.put_u32(id);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: &[u8], expected: Incoming) {
        let found = read(&mut &bytes[..]).await.expect("frame").expect("frame");
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn frames() {
        let payload = Bytes::from_static(b"abc");
        check(&data(7, b"abc", true), Incoming::Data { id: 7, fin: true, bytes: payload.clone() }).await;
        check(&reset(9, 5), Incoming::Reset { id: 9 }).await;
        check(&ping(3), Incoming::Ping { id: 3 }).await;
        check(&reply(1, b"abc"), Incoming::Headers { headers: payload.clone() }).await;
        let syn = b"\x80\x03\0\x01\x01\0\0\x0d\0\0\0\x05\0\0\0\0\0\0abc";
        check(syn, Incoming::SynStream { id: 5, fin: true, headers: payload }).await;
        check(b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\0\x01", Incoming::Ignored).await;
        assert!(read(&mut &b""[..]).await.expect("end").is_none());
        for bad in
            [&b"\x80\x02\0\x01\0\0\0\0"[..], b"\x80\x03\0\x01\0\0\0\0", b"\0\0\0\x01\0\xff\xff\xff", b"\0\0\0\x01\0\0\0\x05abc"]
        {
            assert!(read(&mut &bad[..]).await.is_err(), "{bad:?}");
        }
    }
}
