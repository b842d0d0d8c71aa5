//! The statuses that the server itself answers with, before and around the services.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    api::{CallReason, StatusBuilder},
    auth::Refusal,
    jobs::FailureReason,
};

/// How long a client should wait before it tries again, perhaps at another server.
const SOON: Duration = Duration::from_secs(2);

/// A refusal, which does not say which part of the credentials was wrong.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let of = |reason| StatusBuilder::new(reason, refusal.to_string());
    match refusal {
        Refusal::Unauthenticated => {
            let mut status = of(CallReason::CallerUnknown).build();
            let challenge = MetadataValue::from_static("Bearer realm=\"keystep\"");
            status.metadata_mut().insert("www-authenticate", challenge);
            status
        }
        Refusal::Revoked => of(CallReason::CallerUnknown).build(),
        Refusal::RoleLost { role } => {
            of(CallReason::RoleMissing).with("role", &role.name()).build()
        }
        Refusal::TooManyFailures { retry_after } => {
            of(CallReason::RateLimited).quota("address").retry_after(*retry_after).build()
        }
        Refusal::TooManyRequests { principal, retry_after, .. } => of(CallReason::RateLimited)
            .quota(&format!("principal:{}", principal.0))
            .retry_after(*retry_after)
            .build(),
    }
}

/// The answer to a call whose service panicked; the log says more.
pub(super) fn panicked() -> Status {
    tracing::error!("a service panicked; the panic's own message is on standard error");
    let message = "a fault of Keystep; the server's log says more under this call's x-request-id";
    StatusBuilder::new(CallReason::Internal, message).build()
}

/// The end of streams that no service ends when the server drains.
pub(super) fn draining() -> Status {
    let message = "the server is going away; call again";
    StatusBuilder::new(FailureReason::Draining, message).retry_after(SOON).build()
}

/// The end of a call at its deadline.
pub(super) fn late() -> Status {
    let message = "the call was not done within the time that its grpc-timeout gave";
    StatusBuilder::new(FailureReason::DeadlineExceeded, message).build()
}

/// A request that cannot be read; `problem` says why.
pub(super) fn malformed(problem: &str) -> Status {
    let message = format!("the request cannot be read: {problem}");
    StatusBuilder::new(CallReason::MalformedRequest, message).build()
}

/// A message of more bytes than the limit; `length` is `None` where it is compressed.
pub(super) fn too_long(length: Option<usize>, limit: usize) -> Status {
    let shown = length.map_or("more".to_owned(), |length| length.to_string());
    let message = format!("the message has {shown} bytes, the server reads at most {limit}");
    let status = StatusBuilder::new(CallReason::RequestTooLong, message).with("limit", &limit);
    match length {
        Some(length) => status.with("length", &length).build(),
        None => status.build(),
    }
}

/// A call over a connection that was accepted for health checks alone.
pub(super) fn connections_full() -> Status {
    let message = "all connections that may be open are in use; call again over fewer, or later";
    let status = StatusBuilder::new(CallReason::ConnectionsFull, message);
    status.quota("connections").retry_after(SOON).build()
}

/// The client's fault behind a status of the transport's decoder; `None` for a status of a service,
/// which always has details.
pub(super) fn of_decoder(status: &Status, limit: usize) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::Internal => Some(malformed(status.message())),
        Code::OutOfRange | Code::ResourceExhausted => Some(too_long(None, limit)),
        _ => None,
    }
}

/// The status in headers or trailers, if they hold one.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}
