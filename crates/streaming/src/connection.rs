//! Streams over one connection.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{self, Incoming, SpdyError};
use super::headers::{Decoder, Encoder};

/// Frames held for the connection, and data held for one stream.
const PENDING_MAX: usize = 16;
/// Streams that the peer has opened and nobody has taken yet.
const BACKLOG_MAX: usize = 64;
/// Streams open at once.
const STREAMS_MAX: usize = 4096;
/// Longest data frame that is sent; the peers' own size.
const DATA_MAX: usize = 32 * 1024;

/// A stream that the peer has opened.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Vec<(String, String)>,
    /// What the peer sends.
    pub reader: StreamReader,
    /// What the peer gets.
    pub writer: StreamWriter,
}

impl Stream {
    /// The number of the stream: odd and rising.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A header of the stream, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct StreamReader {
    data: mpsc::Receiver<Bytes>,
}

impl StreamReader {
    /// The next bytes; `None` when the peer has ended its side, or the connection is gone. Cancel safe.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }
}

/// The sending half of a stream. Dropping it without [`StreamWriter::finish`] leaves the peer waiting until the connection ends.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

impl StreamWriter {
    /// Sends bytes; waits while the connection is busy. `false` when the connection is gone.
    pub async fn write(&self, bytes: &[u8]) -> bool {
        for chunk in bytes.chunks(DATA_MAX) {
            if self.frames.send(frame::data(self.id, chunk, false)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends this side of the stream.
    pub async fn finish(self) {
        let _ = self.frames.send(frame::data(self.id, &[], true)).await;
    }

    /// Breaks the stream off in both directions.
    pub async fn reset(self) {
        // CANCEL
        let _ = self.frames.send(frame::reset(self.id, 5)).await;
    }
}

/// The streams that a peer opens on its connection.
#[derive(Debug)]
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
}

impl Connection {
    /// The next new stream, already accepted; `None` when the connection has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

/// Serves a connection on `io`: the streams, and the future that does the work. The future ends with the connection, or once
/// the [`Connection`] and every stream are dropped and all that was written is sent.
pub fn accept<S>(io: S) -> (Connection, impl Future<Output = Result<(), SpdyError>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (new_streams, streams) = mpsc::channel(BACKLOG_MAX);
    let (frames, outgoing) = mpsc::channel(PENDING_MAX);
    (Connection { streams }, serve(io, new_streams, frames, outgoing))
}

async fn serve<S>(
    io: S,
    new_streams: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Bytes>,
    mut outgoing: mpsc::Receiver<Bytes>,
) -> Result<(), SpdyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut source, mut sink) = tokio::io::split(io);
    // Weak: when all streams are gone, the channel of frames closes and the connection can end.
    let weak = frames.downgrade();
    let keep_open = frames;
    let mut state =
        State { new_streams, frames: weak, streams: HashMap::new(), decoder: Decoder::new(), encoder: Encoder::default() };
    let closed = state.new_streams.clone();
    let writing = async {
        while let Some(bytes) = outgoing.recv().await {
            sink.write_all(&bytes).await?;
            while let Ok(bytes) = outgoing.try_recv() {
                sink.write_all(&bytes).await?;
            }
            sink.flush().await?;
        }
        sink.shutdown().await
    };
    // The channel of frames stays open at least as long as somebody may take new streams.
    let holding = async move {
        closed.closed().await;
        drop(keep_open);
    };
    let reading = async {
        while let Some(incoming) = frame::read(&mut source).await? {
            if !state.handle(incoming).await? {
                break;
            }
        }
        // Readers learn that nothing more will come.
        state.streams.clear();
        Ok::<_, SpdyError>(())
    };
    tokio::pin!(writing, holding, reading);
    let mut held = false;
    loop {
        tokio::select! {
            result = &mut writing => return Ok(result?),
            result = &mut reading => return result,
            () = &mut holding, if !held => held = true,
        }
    }
}

struct State {
    new_streams: mpsc::Sender<Stream>,
    frames: mpsc::WeakSender<Bytes>,
    /// Where the data of open streams goes.
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    decoder: Decoder,
    encoder: Encoder,
}

impl State {
    /// Acts on a frame; `false` when the peer says goodbye.
    async fn handle(&mut self, incoming: Incoming) -> Result<bool, SpdyError> {
        match incoming {
            Incoming::SynStream { id, fin, headers } => self.open(id, fin, &headers).await?,
            Incoming::Headers { headers } => drop(self.decoder.decode(&headers)?),
            Incoming::Data { id, fin, bytes } => {
                if let Some(stream) = self.streams.get(&id)
                    && !bytes.is_empty()
                    && stream.send(bytes).await.is_err()
                {
                    // Nobody reads it any more; the rest of it is dropped.
                    self.streams.remove(&id);
                }
                if fin {
                    self.streams.remove(&id);
                }
            }
            Incoming::Reset { id } => drop(self.streams.remove(&id)),
            // Even numbers would be answers to ours, and we send none.
            Incoming::Ping { id } if id % 2 == 1 => self.send(frame::ping(id)).await,
            Incoming::GoAway => return Ok(false),
            Incoming::Ping { .. } | Incoming::Ignored => {}
        }
        Ok(true)
    }

    async fn send(&self, frame: Bytes) {
        if let Some(frames) = self.frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: &[u8]) -> Result<(), SpdyError> {
        let headers = self.decoder.decode(headers)?;
        if id.is_multiple_of(2) || self.streams.contains_key(&id) {
            return Err(SpdyError::Protocol("stream id"));
        }
        let Some(frames) = self.frames.upgrade().filter(|_| self.streams.len() < STREAMS_MAX) else {
            // REFUSED_STREAM
            self.send(frame::reset(id, 3)).await;
            return Ok(());
        };
        let (sender, data) = mpsc::channel(PENDING_MAX);
        if !fin {
            self.streams.insert(id, sender);
        }
        let reply = frame::reply(id, &self.encoder.empty());
        self.send(reply).await;
        let stream = Stream { id, headers, reader: StreamReader { data }, writer: StreamWriter { id, frames } };
        // Nobody takes new streams: the peer will see the connection end.
        let _ = self.new_streams.send(stream).await;
        Ok(())
    }
}
