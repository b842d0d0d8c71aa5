//! A refusal as a status.

use std::time::Duration;

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::auth::Refusal;

/// What the client is told of a refusal.
pub(super) fn status(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Unauthenticated => {
            let mut metadata = MetadataMap::new();
            let challenge = MetadataValue::from_static("Bearer realm=\"keystep\"");
            metadata.insert("www-authenticate", challenge);
            Status::with_metadata(Code::Unauthenticated, message, metadata)
        }
        Refusal::TooManyFailures { retry_after } => exhausted(message, "address", *retry_after),
        Refusal::TooManyRequests { principal, retry_after, .. } => {
            exhausted(message, &format!("principal:{}", principal.0), *retry_after)
        }
    }
}

fn exhausted(message: String, subject: &str, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_quota_failure_violation(subject, message.as_str());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}
