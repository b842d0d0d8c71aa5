//! A response's messages, followed to their end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::task::AbortHandle;
use tonic::{Code, Status, body::Body};
use tracing::Instrument;

use super::{
    call::Call,
    ending::Ending,
    request_body::Fault,
    status::{self, code_of},
};

/// The messages of one call, and how they ended.
pub(super) struct CallBody {
    messages: Arc<Messages>,
    /// What was wrong with the request, once something was.
    fault: Fault,
    /// Waits for what ends the call early.
    watch: Option<AbortHandle>,
}

/// Shared with the watch, which lets go of the service's work even where the client does not read
/// and so nobody asks for the next message.
struct Messages(Mutex<Following>);

struct Following {
    state: State,
    call: Call,
    waker: Option<Waker>,
}

enum State {
    Open(Body),
    /// Ended early, which the client does not know yet.
    Ending(Status),
    Ended,
}

impl CallBody {
    /// `ending` ends the messages early.
    pub(super) fn new(inner: Body, call: Call, fault: Fault, ending: Option<Ending>) -> Self {
        let span = call.span().clone();
        let following = Following { state: State::Open(inner), call, waker: None };
        let messages = Arc::new(Messages(Mutex::new(following)));
        let watch = ending.map(|ending| {
            let messages = Arc::clone(&messages);
            let watch = async move { messages.end_early(ending.await) };
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
        // Outside of the lock, for what a service does when it is dropped is its own.
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
        // What cannot be said in headers was not said by us.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    fn poll(
        &mut self,
        fault: &Fault,
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
                    // The service passed over what it could not read.
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
            // With a fault there are trailers to come that the service does not know of.
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
