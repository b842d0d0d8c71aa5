//! What is around all services: request id, span, metrics, credentials, deadlines, panics.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt;
use tracing::Instrument;

use super::{
    authentication::{Admission, Admitted},
    body::CallBody,
    call::{Call, CallObserver},
    connection::Peer,
    ending::{Ending, Endings},
    methods::Methods,
    protocol,
    request_body::{Fault, RequestBody, RequestRules},
    request_id,
    status::{self, code_of},
};
use crate::api::TraceContext;

/// Services of the transport itself, whose streams no draining service ends.
const OF_TRANSPORT: &str = "/grpc.";

/// Those of them that read a stream of requests.
const OF_REFLECTION: &str = "/grpc.reflection.";

/// The longest message of a call that is open to anybody, in bytes: a probe names a service.
const LONGEST_OF_STRANGERS: usize = 4 << 10;

/// The services, and what is around them.
#[derive(Debug, Clone)]
pub(super) struct Calls(pub(super) Arc<CallParts>);

/// What every call passes.
#[derive(Debug)]
pub(super) struct CallParts {
    pub(super) services: Routes,
    pub(super) admission: Admission,
    pub(super) observer: Arc<dyn CallObserver>,
    pub(super) methods: Arc<Methods>,
    /// The longest request message.
    pub(super) max_message_bytes: usize,
    /// Ends the streams of health and reflection, which would keep connections open for ever.
    pub(super) draining: CancellationToken,
}

/// How a call begins to be answered.
enum Begun {
    /// There may be messages.
    Answered { response: Response<Body>, fault: Fault, ending: Option<Ending> },
    /// There are none.
    Refused(Status),
}

impl Calls {
    /// The answer to a request that came over this connection.
    pub(super) async fn answer(&self, peer: &Peer, request: Request<Body>) -> Response<Body> {
        let (mut request, body) = request.into_parts();
        let context = request.headers.get("traceparent").and_then(|text| text.to_str().ok());
        if let Some(context) = context.and_then(TraceContext::of) {
            request.extensions.insert(context);
        }
        let (methods, observer) = (Arc::clone(&self.0.methods), Arc::clone(&self.0.observer));
        let (mut call, name) = Call::start(methods, observer, peer.place.usage.begin(), &request);
        let header = name.to_header();
        request.extensions.insert(name);
        let mut response = match protocol::refusal(&request) {
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
            response.headers_mut().insert(request_id::HEADER, name);
        }
        response
    }

    async fn call(&self, mut call: Call, peer: &Peer, request: Request<Body>) -> Response<Body> {
        let status = match self.begin(&mut call, peer, request).await {
            Begun::Answered { response, fault, ending } => match code_of(response.headers()) {
                None => {
                    let followed = |body| Body::new(CallBody::new(body, call, fault, ending));
                    return response.map(followed);
                }
                // The headers already say how it ended; there is nothing to follow.
                Some(code) => {
                    call.finish(code);
                    return response;
                }
            },
            Begun::Refused(status) => status,
        };
        call.finish(status.code());
        status.into_http()
    }

    async fn begin(&self, call: &mut Call, peer: &Peer, request: Request<Body>) -> Begun {
        let parts = &*self.0;
        let (mut request, body) = request.into_parts();
        let path = request.uri.path();
        let ends_with_drain = path.starts_with(OF_TRANSPORT);
        let mut rules = RequestRules {
            most_bytes: parts.max_message_bytes,
            one_message: parts.methods.takes_one_message(path),
            compression: request.headers.contains_key("grpc-encoding"),
            reflection: path.starts_with(OF_REFLECTION),
        };
        let Ok(time) = protocol::time_given(&request.headers) else {
            let problem = "grpc-timeout is not up to eight digits and one of H, M, S, m, u, n";
            return Begun::Refused(self.stranger(call, peer, status::malformed(problem)));
        };
        let deadline = time.and_then(|time| call.give(time));
        let (is_known, watch) = match parts.admission.admit(peer, &mut request) {
            Ok(Admitted::Anybody) => {
                rules.most_bytes = rules.most_bytes.min(LONGEST_OF_STRANGERS);
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
                return Begun::Refused(refused.status);
            }
        };
        let draining = ends_with_drain.then(|| parts.draining.clone());
        let mut ending = Endings { deadline, draining, watch }.first();
        let fault = Fault::default();
        let body = Body::new(RequestBody::new(body, rules, Arc::clone(&fault)));
        let answered = guarded(parts.services.clone(), Request::from_parts(request, body));
        let answered = answered.instrument(call.span().clone());
        let response = match &mut ending {
            None => answered.await,
            Some(ending) => tokio::select! {
                biased;
                response = answered => response,
                status = ending => return Begun::Refused(status),
            },
        };
        let said = response.extensions().get::<Status>();
        match said.and_then(|said| fault_of_client(said, &fault, rules.most_bytes)) {
            None => Begun::Answered { response, fault, ending },
            Some(status) if is_known => Begun::Refused(status),
            Some(status) => Begun::Refused(self.stranger(call, peer, status)),
        }
    }

    /// What a client is told whose call failed and nobody signed for.
    fn stranger(&self, call: &mut Call, peer: &Peer, status: Status) -> Status {
        match self.0.admission.count_stranger(peer) {
            Ok(()) => status,
            Err(refused) => {
                call.quiet();
                refused
            }
        }
    }
}

/// What is wrong with the request, where that is why it failed.
fn fault_of_client(said: &Status, fault: &Fault, limit: usize) -> Option<Status> {
    fault.get().cloned().or_else(|| status::of_decoder(said, limit))
}

/// The service's answer, or `INTERNAL` when it panics: one call must not end the process.
async fn guarded(services: Routes, request: Request<Body>) -> Response<Body> {
    match AssertUnwindSafe(services.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(_panic) => status::panicked().into_http(),
    }
}
