//! A response's messages, followed to their end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};

use super::{call::Call, calls::code_of, status};

/// The messages of one call, and how they ended.
pub(super) struct CallBody {
    /// Gone once the end was sent.
    inner: Option<Body>,
    call: Call,
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl CallBody {
    /// `draining` ends the messages, where their service does not do it itself.
    pub(super) fn new(inner: Body, call: Call, draining: Option<CancellationToken>) -> Self {
        let draining = draining.map(|draining| Box::pin(draining.cancelled_owned()));
        Self { inner: Some(inner), call, draining }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.inner = None;
        self.call.finish(status.code());
        let mut trailers = HeaderMap::new();
        // What cannot be said in headers was not said by us.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = &mut *self;
        let Some(inner) = body.inner.as_mut() else { return Poll::Ready(None) };
        if body.draining.as_mut().is_some_and(|draining| draining.poll_unpin(cx).is_ready()) {
            return Poll::Ready(Some(Ok(body.end(&status::draining()))));
        }
        let span = body.call.span().clone();
        let _in_span = span.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)));
        let Ok(polled) = polled else {
            return Poll::Ready(Some(Ok(body.end(&status::panicked()))));
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => body.call.finish(Code::Unknown),
            Poll::Ready(Some(Err(status))) => body.call.finish(status.code()),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of) {
                    body.call.finish(code);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
