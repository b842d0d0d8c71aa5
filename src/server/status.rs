//! What clients are told by the server itself, before and around the services.

use std::{collections::HashMap, time::Duration};

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{api::Reason, auth::Refusal};

/// Who names the reasons, as in `api`.
const DOMAIN: &str = "keystep.v1";

/// When another server will do.
const SOON: Duration = Duration::from_secs(2);

/// A refusal, without a word on which part of the credentials was wrong.
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
        Refusal::TooManyFailures { retry_after } => exhausted(message, "address", *retry_after),
        Refusal::TooManyRequests { principal, retry_after, .. } => {
            exhausted(message, &format!("principal:{}", principal.0), *retry_after)
        }
    }
}

/// What a client is told of a panic; the rest stands in the log.
pub(super) fn panicked() -> Status {
    tracing::error!("a service panicked; the panic's own message is on standard error");
    let message = "a fault of Keystep; the server's log says more under this call's x-request-id";
    Status::with_error_details(Code::Internal, message, reason(Reason::Internal, HashMap::new()))
}

/// What ends streams that no service ends.
pub(super) fn draining() -> Status {
    let mut details = reason(Reason::Draining, retry_seconds(SOON));
    details.set_retry_info(Some(SOON));
    Status::with_error_details(Code::Unavailable, "the server is going away; call again", details)
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
