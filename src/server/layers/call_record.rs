//! Logs and counts each call: its request id, method, span, and how it ended.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;
use uuid::Uuid;

use crate::{
    api::TraceContext,
    jobs::Principal,
    proto,
    server::{connection_slots::CallInProgress, error::ServerError},
};

/// The header of the request id, in requests and in responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that a client may choose, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// The label of a method that this server does not have.
const UNKNOWN: &str = "unknown";

/// Observes every call that ends, for metrics.
pub trait CallObserver: fmt::Debug + Send + Sync {
    /// `method` is `/package.Service/Method` of this server's own, or `unknown`. The duration of a
    /// stream is that until its last message.
    fn on_finished(&self, method: &str, code: Code, duration: Duration);
}

/// Observes nothing.
impl CallObserver for () {
    fn on_finished(&self, _method: &str, _code: Code, _duration: Duration) {}
}

/// The request id of a call, for the logs of both sides: the client's own where it is printable and
/// short, else a new one. Lies in the extensions of every request and the headers of every response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestName(pub String);

impl RequestName {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        // A request id goes into logs, where it must not pass for something else.
        let is_safe = |name: &&str| {
            (1..=LONGEST_REQUEST_ID).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        Self(given.filter(is_safe).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned))
    }

    pub(super) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

/// Every method of this server, as `/package.Service/Method`, so that labels and logs hold no name
/// that a client made up.
#[derive(Debug)]
pub(in crate::server) struct Methods {
    all: BTreeSet<String>,
    /// Those that take a stream of messages.
    client_streaming: BTreeSet<String>,
}

impl Methods {
    pub(in crate::server) fn read() -> Result<Self, ServerError> {
        let sets = [
            proto::DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let (mut all, mut client_streaming) = (BTreeSet::new(), BTreeSet::new());
        for set in sets {
            let set = FileDescriptorSet::decode(set)
                .map_err(|error| ServerError::Descriptors(error.to_string()))?;
            for file in set.file {
                let package = file.package();
                for service in &file.service {
                    let name = service.name();
                    for method in &service.method {
                        let path = format!("/{package}.{name}/{}", method.name());
                        if method.client_streaming() {
                            client_streaming.insert(path.clone());
                        }
                        all.insert(path);
                    }
                }
            }
        }
        Ok(Self { all, client_streaming })
    }

    /// The path of a request where it names a method, else [`UNKNOWN`].
    pub(super) fn name<'a>(&'a self, path: &str) -> &'a str {
        self.all.get(path).map_or(UNKNOWN, String::as_str)
    }

    /// Whether a method takes one message.
    pub(super) fn takes_one_message(&self, path: &str) -> bool {
        !self.client_streaming.contains(path)
    }
}

/// One call, from its headers to its last message.
///
/// One that is dropped before it has finished counts as cancelled by the client, because that is how
/// the transport lets go of a call.
pub(super) struct CallRecord {
    methods: Arc<Methods>,
    path: String,
    observer: Arc<dyn CallObserver>,
    span: Span,
    started: Instant,
    /// When the client stops waiting.
    deadline: Option<Instant>,
    is_quiet: bool,
    finished: bool,
    /// Until it has finished.
    in_progress: Option<CallInProgress>,
}

impl CallRecord {
    pub(super) fn start(
        methods: Arc<Methods>,
        observer: Arc<dyn CallObserver>,
        in_progress: CallInProgress,
        request: &http::request::Parts,
    ) -> (Self, RequestName) {
        let name = RequestName::of(&request.headers);
        let path = request.uri.path();
        let span = tracing::info_span!(
            "rpc",
            method = methods.name(path),
            request_id = name.0,
            principal = tracing::field::Empty,
            trace_id = tracing::field::Empty,
            code = tracing::field::Empty,
        );
        if let Some(context) = request.extensions.get::<TraceContext>() {
            span.record("trace_id", format_args!("{:032x}", context.trace));
        }
        let call = Self {
            path: path.to_owned(),
            methods,
            observer,
            span,
            started: Instant::now(),
            deadline: None,
            is_quiet: false,
            finished: false,
            in_progress: Some(in_progress),
        };
        (call, name)
    }

    /// The span in which the call is logged.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Sets the time that the client allows, and returns when it ends.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> Option<Instant> {
        self.deadline = self.started.checked_add(timeout);
        self.deadline
    }

    /// Records the caller, once it is known.
    pub(super) fn admitted(&mut self, principal: &Principal) {
        self.span.record("principal", principal.0.as_str());
        if let Some(in_progress) = &mut self.in_progress {
            in_progress.admitted();
        }
    }

    /// Logs the end at debug level alone, because the client causes many such calls.
    pub(super) fn quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Reports how the call ended to the observer and the log; only the first time counts.
    pub(super) fn finish(&mut self, code: Code) {
        if self.finished {
            return;
        }
        self.finished = true;
        self.in_progress = None;
        let duration = self.started.elapsed();
        let method = self.methods.name(&self.path);
        self.observer.on_finished(method, code, duration);
        self.span.record("code", format_args!("{code:?}"));
        let milliseconds = duration.as_secs_f64() * 1e3;
        self.span.in_scope(|| match code {
            _ if self.is_quiet => tracing::debug!(milliseconds, "finished"),
            Code::Ok => tracing::debug!(milliseconds, "finished"),
            Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => tracing::info!(milliseconds, "finished"),
            Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unavailable => tracing::warn!(milliseconds, "finished"),
            Code::Unknown | Code::Internal | Code::DataLoss => {
                tracing::error!(milliseconds, "finished");
            }
        });
    }
}

impl CallRecord {
    /// Finishes a call that the transport dropped: the client cancelled it or its time ran out.
    pub(super) fn abandon(&mut self) {
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() < deadline);
        self.finish(if in_time { Code::Cancelled } else { Code::DeadlineExceeded });
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallRecord").field("path", &self.path).finish_non_exhaustive()
    }
}
