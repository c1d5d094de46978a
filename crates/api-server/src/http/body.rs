//! The one body type of requests and responses inside the server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Why a body ended early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body of [`Bytes`]; small ones are held whole.
pub struct Body(UnsyncBoxBody<Bytes, BoxError>);

impl Body {
    /// No content.
    pub fn empty() -> Body {
        Body::full(Bytes::new())
    }

    /// Content that is there already.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        Body(Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync())
    }

    /// Any other body, for example the one that hyper received.
    pub fn new<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body(body.map_err(Into::into).boxed_unsync())
    }

    /// Content that is still being made; each item is sent on as it comes.
    pub fn stream<S>(stream: S) -> Body
    where
        S: futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    {
        use futures::TryStreamExt;
        Body(StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync())
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
