//! What is known of one call, and told once when it ends.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use super::{methods::Methods, request_id::RequestName};
use crate::api::TraceContext;

/// Is told of every call that ends, for metrics.
pub trait CallObserver: fmt::Debug + Send + Sync {
    /// `method` is `/package.Service/Method` of this server's own, or `unknown`. The duration of a
    /// stream is that until its last message.
    fn on_finished(&self, method: &str, code: Code, duration: Duration);
}

/// Tells nobody.
impl CallObserver for () {
    fn on_finished(&self, _method: &str, _code: Code, _duration: Duration) {}
}

/// One call, from its headers to its last message.
///
/// Dropped before it has finished it counts as given up by the client, for that is how the
/// transport lets go of a call.
pub(super) struct Call {
    methods: Arc<Methods>,
    path: String,
    observer: Arc<dyn CallObserver>,
    span: Span,
    started: Instant,
    /// How much time the client gave, if it said.
    time_given: Option<Duration>,
    finished: bool,
}

impl Call {
    pub(super) fn start(
        methods: Arc<Methods>,
        observer: Arc<dyn CallObserver>,
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
            time_given: time_given(&request.headers),
            finished: false,
        };
        (call, name)
    }

    /// What happens in it is logged in here.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Tells how it ended; only the first time counts.
    pub(super) fn finish(&mut self, code: Code) {
        if self.finished {
            return;
        }
        self.finished = true;
        let duration = self.started.elapsed();
        let method = self.methods.name(&self.path);
        self.observer.on_finished(method, code, duration);
        self.span.record("code", format_args!("{code:?}"));
        let milliseconds = duration.as_secs_f64() * 1e3;
        self.span.in_scope(|| match code {
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

impl Drop for Call {
    fn drop(&mut self) {
        let in_time = self.time_given.is_none_or(|given| self.started.elapsed() < given);
        self.finish(if in_time { Code::Cancelled } else { Code::DeadlineExceeded });
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("path", &self.path).finish_non_exhaustive()
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn time_given(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 60 * 60),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
