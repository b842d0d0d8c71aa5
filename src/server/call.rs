//! What is known of one call, and told once when it ends.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use super::{methods::Methods, places::CallInProgress, request_id::RequestName};
use crate::{api::TraceContext, jobs::Principal};

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
    /// When the client stops waiting.
    deadline: Option<Instant>,
    is_quiet: bool,
    finished: bool,
    /// Until it has finished.
    in_progress: Option<CallInProgress>,
}

impl Call {
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

    /// What happens in it is logged in here.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The client gives it so much time; says when that ends.
    pub(super) fn give(&mut self, time: Duration) -> Option<Instant> {
        self.deadline = self.started.checked_add(time);
        self.deadline
    }

    /// Its caller is known.
    pub(super) fn admitted(&mut self, principal: &Principal) {
        self.span.record("principal", principal.0.as_str());
        if let Some(in_progress) = &mut self.in_progress {
            in_progress.admitted();
        }
    }

    /// Its end is not worth a line: the client has had many of its kind.
    pub(super) fn quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Tells how it ended; only the first time counts.
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

impl Call {
    /// The transport let go of it: the client gave it up, or stopped waiting.
    pub(super) fn abandon(&mut self) {
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() < deadline);
        self.finish(if in_time { Code::Cancelled } else { Code::DeadlineExceeded });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("path", &self.path).finish_non_exhaustive()
    }
}
