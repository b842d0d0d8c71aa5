//! Follows a response's messages to their end, or ends them early at the deadline or when the
//! caller loses its access.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, OptionFuture},
};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tracing::Instrument;

use super::{
    call_record::CallRecord,
    request::RequestFault,
    status::{self, code_of},
};
use crate::auth::CallerWatch;

/// Resolves, with the call's status, once something ends the call early.
pub(super) type EarlyEnd = BoxFuture<'static, Status>;

/// What may end a call before its service does.
#[derive(Debug)]
pub(super) struct EarlyEnds {
    /// When the client stops waiting.
    pub(super) deadline: Option<Instant>,
    /// The drain, for services that do not end their streams by it themselves.
    pub(super) draining: Option<CancellationToken>,
    /// Whether the caller may still go on.
    pub(super) watch: Option<CallerWatch>,
}

impl EarlyEnds {
    /// The first of them; `None` where nothing can end the call early.
    pub(super) fn first(self) -> Option<EarlyEnd> {
        let Self { deadline, draining, mut watch } = self;
        if deadline.is_none() && draining.is_none() && watch.is_none() {
            return None;
        }
        let first = async move {
            // A branch without a future is none.
            tokio::select! {
                biased;
                Some(()) = OptionFuture::from(deadline.map(sleep_until)) => status::late(),
                Some(refusal) = OptionFuture::from(watch.as_mut().map(CallerWatch::revoked)) => {
                    status::refused(&refusal)
                }
                Some(()) = OptionFuture::from(draining.map(CancellationToken::cancelled_owned)) => {
                    status::draining()
                }
                else => std::future::pending().await,
            }
        };
        Some(first.boxed())
    }
}

/// The messages of one call, and how they ended.
pub(super) struct CallBody {
    messages: Arc<Messages>,
    /// What was wrong with the request, once something was.
    fault: RequestFault,
    /// The task that waits for an early end.
    watch: Option<AbortHandle>,
}

/// Shared with the watch, which drops the service's work even where the client does not read and so
/// nothing polls for the next message.
struct Messages(Mutex<Following>);

struct Following {
    state: State,
    call: CallRecord,
    waker: Option<Waker>,
}

enum State {
    Open(Body),
    /// Ended early, with a status that the client has not received yet.
    Ending(Status),
    Ended,
}

impl CallBody {
    /// `early_end` ends the messages early.
    pub(super) fn new(
        inner: Body,
        call: CallRecord,
        fault: RequestFault,
        early_end: Option<EarlyEnd>,
    ) -> Self {
        let span = call.span().clone();
        let following = Following { state: State::Open(inner), call, waker: None };
        let messages = Arc::new(Messages(Mutex::new(following)));
        let watch = early_end.map(|early_end| {
            let messages = Arc::clone(&messages);
            let watch = async move { messages.end_early(early_end.await) };
            tokio::spawn(watch.instrument(span)).abort_handle()
        });
        Self { messages, fault, watch }
    }
}

impl Drop for CallBody {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        // The watch may hold the messages for a moment longer.
        let state = self.messages.lock().close();
        drop(state);
    }
}

impl Messages {
    fn lock(&self) -> MutexGuard<'_, Following> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_early(&self, status: Status) {
        let mut following = self.lock();
        if !matches!(following.state, State::Open(_)) {
            return;
        }
        following.call.finish(status.code());
        let dropped = std::mem::replace(&mut following.state, State::Ending(status));
        let waker = following.waker.take();
        drop(following);
        // Outside of the lock, because dropping a service's body runs code of the service.
        drop(dropped);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Following {
    fn close(&mut self) -> State {
        let state = std::mem::replace(&mut self.state, State::Ended);
        self.call.abandon();
        state
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.state = State::Ended;
        self.call.finish(status.code());
        let mut trailers = HeaderMap::new();
        // Every status of ours fits into headers.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    fn poll(
        &mut self,
        fault: &RequestFault,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let inner = match &mut self.state {
            State::Open(inner) => inner,
            State::Ending(status) => {
                let status = status.clone();
                return Poll::Ready(Some(Ok(self.end(&status))));
            }
            State::Ended => return Poll::Ready(None),
        };
        let span = self.call.span().clone();
        let _in_span = span.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)));
        let Ok(polled) = polled else {
            return Poll::Ready(Some(Ok(self.end(&status::panicked()))));
        };
        match &polled {
            Poll::Pending => self.waker = Some(cx.waker().clone()),
            Poll::Ready(None) => self.call.finish(Code::Unknown),
            Poll::Ready(Some(Err(status))) => self.call.finish(status.code()),
            Poll::Ready(Some(Ok(frame))) => {
                let Some(code) = frame.trailers_ref().and_then(code_of) else { return polled };
                if let Some(fault) = fault.get()
                    && code == Code::Ok
                {
                    // The service ignored a message that it could not read.
                    return Poll::Ready(Some(Ok(self.end(fault))));
                }
                self.call.finish(code);
            }
        }
        polled
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.messages.lock().poll(&self.fault, cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.messages.lock().state {
            // A fault adds trailers to those of the service.
            State::Open(inner) => self.fault.get().is_none() && inner.is_end_stream(),
            State::Ending(_) => false,
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.messages.lock().state {
            State::Open(inner) => inner.size_hint(),
            State::Ending(_) | State::Ended => SizeHint::default(),
        }
    }
}
