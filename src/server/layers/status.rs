//! The statuses that the server itself answers with, before and around the services.

use std::{collections::HashMap, time::Duration};

use http::HeaderMap;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{api::Reason, auth::Refusal};

/// The domain of the reasons, as in `api`.
const DOMAIN: &str = "keystep.v1";

/// How long a client should wait before it tries again, perhaps at another server.
const SOON: Duration = Duration::from_secs(2);

/// A refusal, which does not say which part of the credentials was wrong.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Unauthenticated => {
            let mut metadata = MetadataMap::new();
            let challenge = MetadataValue::from_static("Bearer realm=\"keystep\"");
            metadata.insert("www-authenticate", challenge);
            let details = reason(Reason::CallerUnknown, HashMap::new());
            let code = Code::Unauthenticated;
            Status::with_error_details_and_metadata(code, message, details, metadata)
        }
        Refusal::Revoked => {
            let details = reason(Reason::CallerUnknown, HashMap::new());
            Status::with_error_details(Code::Unauthenticated, message, details)
        }
        Refusal::RoleLost { role } => {
            let variables = HashMap::from([("role".to_owned(), role.name().to_owned())]);
            let details = reason(Reason::RoleMissing, variables);
            Status::with_error_details(Code::PermissionDenied, message, details)
        }
        Refusal::TooManyFailures { retry_after } => exhausted(message, "address", *retry_after),
        Refusal::TooManyRequests { principal, retry_after, .. } => {
            exhausted(message, &format!("principal:{}", principal.0), *retry_after)
        }
    }
}

/// The answer to a call whose service panicked; the log says more.
pub(super) fn panicked() -> Status {
    tracing::error!("a service panicked; the panic's own message is on standard error");
    let message = "a fault of Keystep; the server's log says more under this call's x-request-id";
    Status::with_error_details(Code::Internal, message, reason(Reason::Internal, HashMap::new()))
}

/// The end of streams that no service ends when the server drains.
pub(super) fn draining() -> Status {
    let mut details = reason(Reason::Draining, retry_seconds(SOON));
    details.set_retry_info(Some(SOON));
    Status::with_error_details(Code::Unavailable, "the server is going away; call again", details)
}

/// The end of a call at its deadline.
pub(super) fn late() -> Status {
    let message = "the call was not done within the time that its grpc-timeout gave";
    let details = reason(Reason::DeadlineExceeded, HashMap::new());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// A request that cannot be read; `problem` says why.
pub(super) fn malformed(problem: &str) -> Status {
    let message = format!("the request cannot be read: {problem}");
    let details = reason(Reason::MalformedRequest, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A message of more bytes than the limit; `length` is `None` where it is compressed.
pub(super) fn too_long(length: Option<usize>, limit: usize) -> Status {
    let mut variables = HashMap::from([("limit".to_owned(), limit.to_string())]);
    let length = length.map_or("more".to_owned(), |length| {
        variables.insert("length".to_owned(), length.to_string());
        length.to_string()
    });
    let message = format!("the message has {length} bytes, the server reads at most {limit}");
    let details = reason(Reason::RequestTooLong, variables);
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A call over a connection that was accepted for health checks alone.
pub(super) fn connections_full() -> Status {
    let message = "all connections that may be open are in use; call again over fewer, or later";
    let mut details = reason(Reason::ConnectionsFull, retry_seconds(SOON));
    details.set_retry_info(Some(SOON));
    details.add_quota_failure_violation("connections", message);
    Status::with_error_details(Code::ResourceExhausted, message, details)
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

fn exhausted(message: String, subject: &str, retry_after: Duration) -> Status {
    let mut details = reason(Reason::RateLimited, retry_seconds(retry_after));
    details.set_retry_info(Some(retry_after));
    details.add_quota_failure_violation(subject, message.as_str());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn reason(reason: Reason, variables: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.name(), DOMAIN, variables)
}

fn retry_seconds(delay: Duration) -> HashMap<String, String> {
    HashMap::from([("retryAfterSeconds".to_owned(), delay.as_secs().to_string())])
}

/// The status in headers or trailers, if they hold one.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}
