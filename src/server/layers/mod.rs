//! The layers around all services: request id, span, metrics, credentials, deadlines, panics.

mod authentication;
mod call_record;
mod request;
mod response;
mod status;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt;
use tracing::Instrument;

pub use self::call_record::{CallObserver, RequestName};
pub(super) use self::{authentication::Admission, call_record::Methods};
use self::{
    authentication::Admitted,
    call_record::{CallRecord, REQUEST_ID},
    request::{RequestBody, RequestFault, RequestRules},
    response::{CallBody, EarlyEnd, EarlyEnds},
    status::code_of,
};
use super::connection::Peer;
use crate::api::TraceContext;

/// The prefix of the transport's own services, whose streams no draining service ends.
const TRANSPORT_SERVICES: &str = "/grpc.";

/// The prefix of reflection, which reads a stream of requests.
const REFLECTION: &str = "/grpc.reflection.";

/// The longest message of a call that needs no credentials, in bytes: a probe names a service.
const LONGEST_OPEN_MESSAGE: usize = 4 << 10;

/// The services with their layers.
#[derive(Debug, Clone)]
pub(super) struct LayeredServices(pub(super) Arc<LayerParts>);

/// What the layers are made of.
#[derive(Debug)]
pub(super) struct LayerParts {
    pub(super) services: Routes,
    pub(super) admission: Admission,
    pub(super) observer: Arc<dyn CallObserver>,
    pub(super) methods: Arc<Methods>,
    /// The longest request message, in bytes.
    pub(super) max_message_bytes: usize,
    /// Cancelled to end the streams of health and reflection, which would keep connections open for
    /// ever.
    pub(super) draining: CancellationToken,
}

/// The first answer to a call.
enum FirstAnswer {
    /// The service's response, whose messages may follow.
    Response { response: Response<Body>, fault: RequestFault, early_end: Option<EarlyEnd> },
    /// A status alone.
    Refused(Status),
}

impl LayeredServices {
    /// The answer to a request that came over this connection.
    pub(super) async fn answer(&self, peer: &Peer, request: Request<Body>) -> Response<Body> {
        let (mut request, body) = request.into_parts();
        let context = request.headers.get("traceparent").and_then(|text| text.to_str().ok());
        if let Some(context) = context.and_then(TraceContext::of) {
            request.extensions.insert(context);
        }
        let (methods, observer) = (Arc::clone(&self.0.methods), Arc::clone(&self.0.observer));
        let in_progress = peer.slot.usage.begin();
        let (mut call, name) = CallRecord::start(methods, observer, in_progress, &request);
        let header = name.to_header();
        request.extensions.insert(name);
        let mut response = match request::not_grpc(&request) {
            Some(refusal) => {
                if self.0.admission.count_stranger(peer).is_err() {
                    call.quiet();
                }
                call.finish(Code::Unimplemented);
                refusal
            }
            None => self.call(call, peer, Request::from_parts(request, body)).await,
        };
        if let Some(name) = header {
            response.headers_mut().insert(REQUEST_ID, name);
        }
        response
    }

    async fn call(
        &self,
        mut call: CallRecord,
        peer: &Peer,
        request: Request<Body>,
    ) -> Response<Body> {
        let status = match self.begin(&mut call, peer, request).await {
            FirstAnswer::Response { response, fault, early_end } => {
                match code_of(response.headers()) {
                    None => {
                        let followed =
                            |body| Body::new(CallBody::new(body, call, fault, early_end));
                        return response.map(followed);
                    }
                    // The headers already say how it ended; there is nothing to follow.
                    Some(code) => {
                        call.finish(code);
                        return response;
                    }
                }
            }
            FirstAnswer::Refused(status) => status,
        };
        call.finish(status.code());
        status.into_http()
    }

    async fn begin(
        &self,
        call: &mut CallRecord,
        peer: &Peer,
        request: Request<Body>,
    ) -> FirstAnswer {
        let parts = &*self.0;
        let (mut request, body) = request.into_parts();
        let path = request.uri.path();
        let ends_with_drain = path.starts_with(TRANSPORT_SERVICES);
        let mut rules = RequestRules {
            most_bytes: parts.max_message_bytes,
            one_message: parts.methods.takes_one_message(path),
            compression: request.headers.contains_key("grpc-encoding"),
            reflection: path.starts_with(REFLECTION),
        };
        let Ok(timeout) = request::timeout(&request.headers) else {
            let problem = "grpc-timeout is not up to eight digits and one of H, M, S, m, u, n";
            return FirstAnswer::Refused(self.stranger(call, peer, status::malformed(problem)));
        };
        let deadline = timeout.and_then(|timeout| call.set_timeout(timeout));
        let (is_known, watch) = match parts.admission.admit(peer, &mut request) {
            Ok(Admitted::Anybody) => {
                rules.most_bytes = rules.most_bytes.min(LONGEST_OPEN_MESSAGE);
                (false, None)
            }
            Ok(Admitted::Known { principal, watch }) => {
                call.admitted(&principal);
                (true, watch)
            }
            Err(refused) => {
                if refused.is_repeated {
                    call.quiet();
                }
                return FirstAnswer::Refused(refused.status);
            }
        };
        let draining = ends_with_drain.then(|| parts.draining.clone());
        let mut early_end = EarlyEnds { deadline, draining, watch }.first();
        let fault = RequestFault::default();
        let body = Body::new(RequestBody::new(body, rules, Arc::clone(&fault)));
        let answered = guarded(parts.services.clone(), Request::from_parts(request, body));
        let answered = answered.instrument(call.span().clone());
        let response = match &mut early_end {
            None => answered.await,
            Some(early_end) => tokio::select! {
                biased;
                response = answered => response,
                status = early_end => return FirstAnswer::Refused(status),
            },
        };
        let failed = response.extensions().get::<Status>();
        match failed.and_then(|failed| fault_of_client(failed, &fault, rules.most_bytes)) {
            None => FirstAnswer::Response { response, fault, early_end },
            Some(status) if is_known => FirstAnswer::Refused(status),
            Some(status) => FirstAnswer::Refused(self.stranger(call, peer, status)),
        }
    }

    /// The status of a failed call without a known caller, which is counted against its address.
    fn stranger(&self, call: &mut CallRecord, peer: &Peer, status: Status) -> Status {
        match self.0.admission.count_stranger(peer) {
            Ok(()) => status,
            Err(refused) => {
                call.quiet();
                refused
            }
        }
    }
}

/// The request's fault, where that is why the call failed.
fn fault_of_client(failed: &Status, fault: &RequestFault, limit: usize) -> Option<Status> {
    fault.get().cloned().or_else(|| status::of_decoder(failed, limit))
}

/// The service's answer, or `INTERNAL` when it panics: one call must not end the process.
async fn guarded(services: Routes, request: Request<Body>) -> Response<Body> {
    match AssertUnwindSafe(services.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(_panic) => status::panicked().into_http(),
    }
}
