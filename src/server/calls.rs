//! The layer around all services: request id, span, metrics, credentials, panics.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::FutureExt;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{
    admission::Admission,
    body::CallBody,
    call::{Call, CallObserver},
    methods::Methods,
    request_id, status,
};
use crate::api::TraceContext;

/// Services of the transport itself, whose streams no draining service ends.
const OF_TRANSPORT: &str = "/grpc.";

/// The layer around all services.
#[derive(Debug, Clone)]
pub(super) struct CallLayer {
    pub(super) admission: Admission,
    pub(super) observer: Arc<dyn CallObserver>,
    pub(super) methods: Arc<Methods>,
    /// Ends the streams of health and reflection, which would keep connections open for ever.
    pub(super) draining: CancellationToken,
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { layer: self.clone(), inner }
    }
}

/// Services within the layer.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    layer: CallLayer,
    inner: S,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        // The one that was polled ready is the one to call.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        Box::pin(answer(self.layer.clone(), ready, request))
    }
}

async fn answer<S>(
    layer: CallLayer,
    service: S,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    let (mut request, body) = request.into_parts();
    if let Some(context) =
        request.headers.get("traceparent").and_then(|text| TraceContext::of(text.to_str().ok()?))
    {
        request.extensions.insert(context);
    }
    let (mut call, name) = Call::start(layer.methods, layer.observer, &request);
    let header = name.to_header();
    request.extensions.insert(name);
    let ends_with_drain = request.uri.path().starts_with(OF_TRANSPORT);
    let response = match layer.admission.admit(&mut request) {
        Err(status) => status.into_http(),
        Ok(caller) => {
            if let Some(caller) = caller {
                call.span().record("principal", caller.principal.0.as_str());
            }
            let request = Request::from_parts(request, body);
            let answered = guarded(service, request).instrument(call.span().clone());
            let response = answered.await;
            if code_of(response.headers()).is_none() {
                let draining = ends_with_drain.then_some(layer.draining);
                let followed = |body| Body::new(CallBody::new(body, call, draining));
                return Ok(named(response.map(followed), header));
            }
            response
        }
    };
    // The headers already say how it ended; there is nothing to follow.
    call.finish(code_of(response.headers()).unwrap_or(Code::Unknown));
    Ok(named(response, header))
}

/// The service's answer, or `INTERNAL` when it panics: one call must not end the process.
async fn guarded<S>(mut service: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let answered = AssertUnwindSafe(async move { service.call(request).await }).catch_unwind();
    match answered.await {
        Ok(Ok(response)) => response,
        Err(_panic) => status::panicked().into_http(),
    }
}

/// The status in headers or trailers, if they hold one.
pub(super) fn code_of(headers: &http::HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

fn named(mut response: Response<Body>, name: Option<http::HeaderValue>) -> Response<Body> {
    if let Some(name) = name {
        response.headers_mut().insert(request_id::HEADER, name);
    }
    response
}
