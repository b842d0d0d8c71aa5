//! The only map to gRPC: each error to its code and its details.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt, pb};

use super::{
    ApiError, Reason,
    names::{operation_name, request_name},
    violations::on_wire,
};
use crate::{
    jobs::{Failure, StoreError, VIOLATION},
    spec::Violation,
};

/// Who names the reasons.
const DOMAIN: &str = "keystep.v1";
/// Details travel as one header of 8 KiB at most, in base64.
const MOST_BYTES_OF_VIOLATIONS: usize = 3_500;
const MOST_CHARACTERS_OF_A_FIELD: usize = 120;
const MOST_CHARACTERS_OF_A_TEXT: usize = 400;
/// When to try again where nothing better is known.
const SOON: Duration = Duration::from_secs(2);
/// When a queue of jobs may have moved.
const LATER: Duration = Duration::from_secs(30);

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let Told { reason, message, variables, mut details } = Told::of(error);
        let variables: HashMap<String, String> =
            variables.into_iter().map(|(name, value)| (name, clipped(&value))).collect();
        details.set_error_info(reason.name(), DOMAIN, variables);
        Self::with_error_details(reason.code(), clipped(&message), details)
    }
}

/// The same map for an operation's error and for a log's entry.
pub(super) fn failure_status(failure: &Failure) -> pb::Status {
    let status = Status::from(ApiError::Failed(failure.clone()));
    // What was encoded a line above.
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// What a client is told.
struct Told {
    reason: Reason,
    message: String,
    /// Every variable of the message, by lowerCamelCase name.
    variables: Vec<(String, String)>,
    details: ErrorDetails,
}

impl Told {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message, variables: Vec::new(), details: ErrorDetails::new() }
    }

    fn with(mut self, name: &str, value: &impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self.with("retryAfterSeconds", &delay.as_secs())
    }

    fn resource(mut self, kind: &str, name: &str) -> Self {
        let text = clipped(&self.message);
        self.details.set_resource_info(kind, clipped(name), "", text);
        self
    }

    fn quota(mut self, subject: &str) -> Self {
        let text = clipped(&self.message);
        self.details.add_quota_failure_violation(subject, text);
        self
    }

    fn precondition(mut self, subject: &str) -> Self {
        let text = clipped(&self.message);
        self.details.add_precondition_failure_violation(self.reason.name(), subject, text);
        self
    }

    fn of(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::Invalid(violations) => {
                let mut told = Self::new(Reason::InvalidRequest, message)
                    .with("violations", &violations.len());
                told.details.set_bad_request(shown(&violations));
                told
            }
            ApiError::CallerUnknown => Self::new(Reason::CallerUnknown, message),
            ApiError::RoleMissing { needed } => {
                Self::new(Reason::RoleMissing, message).with("role", &needed.name())
            }
            ApiError::RateLimited { retry_after } => {
                Self::new(Reason::RateLimited, message).quota("calls").retry_after(retry_after)
            }
            ApiError::OperationNotFound { name } => Self::new(Reason::OperationNotFound, message)
                .with("operation", &name)
                .resource("operation", &name),
            ApiError::ModelNotFound { name } => Self::new(Reason::ModelNotFound, message)
                .with("model", &name)
                .resource("model", &name),
            ApiError::Unsupported { what } => {
                Self::new(Reason::Unsupported, message).with("what", &what)
            }
            ApiError::DeviceQueueFull(full) => Self::new(Reason::DeviceQueueFull, message)
                .with("waiting", &full.waiting)
                .with("limit", &full.limit)
                .quota("device")
                .retry_after(full.retry_after),
            ApiError::Draining => Self::new(Reason::Draining, message).retry_after(SOON),
            ApiError::Store(error) => Self::of_store(error),
            ApiError::Failed(failure) => Self::of_failure(failure),
            ApiError::Picture(cause) => {
                tracing::error!(error = %cause, "a picture cannot be encoded");
                Self::new(Reason::Internal, "a picture cannot be sent; see the server's log")
            }
            ApiError::Internal(cause) => {
                tracing::error!(error = cause, "a fault of the services");
                Self::new(Reason::Internal, "a fault of Keystep; see the server's log")
            }
        }
    }

    fn of_store(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound(id) => {
                Self::of(ApiError::OperationNotFound { name: operation_name(id) })
            }
            StoreError::RequestIdReused { request_id, existing } => {
                let (request, operation) = (request_name(request_id), operation_name(existing));
                let message = format!(
                    "the request id {request} was used before for another request, which made \
                     {operation}; make a new id"
                );
                Self::new(Reason::RequestIdReused, message)
                    .with("requestId", &request)
                    .with("operation", &operation)
                    .resource("operation", &operation)
            }
            StoreError::QueueFull { queued, limit, of_principal } => {
                let (reason, subject) = if of_principal {
                    (Reason::PrincipalQueueFull, "queued jobs of the caller")
                } else {
                    (Reason::QueueFull, "queued jobs")
                };
                Self::new(reason, message)
                    .with("queued", &queued)
                    .with("limit", &limit)
                    .quota(subject)
                    .retry_after(LATER)
            }
            StoreError::PrincipalStorageFull { stored, adds, limit } => {
                Self::new(Reason::PrincipalStorageFull, message)
                    .with("stored", &stored)
                    .with("adds", &adds)
                    .with("limit", &limit)
                    .quota("bytes stored for the caller")
            }
            StoreError::QueryTooLong { limit } => {
                Self::new(Reason::QueryTooLong, message).with("limitSeconds", &limit.as_secs_f64())
            }
            StoreError::IllegalTransition { id, state, what } => {
                let operation = operation_name(id);
                let state = state.name().to_uppercase();
                Self::new(Reason::OperationNotDone, format!("{operation} is {state}: {what}"))
                    .with("operation", &operation)
                    .with("state", &state)
                    .with("what", &what)
                    .precondition(&operation)
            }
            StoreError::ResultNotKept { id, state } => {
                let operation = operation_name(id);
                let state = state.name().to_uppercase();
                let message = format!(
                    "{operation} is {state} and has no finished result that is kept; submit it again"
                );
                Self::new(Reason::ResultNotKept, message)
                    .with("operation", &operation)
                    .with("state", &state)
                    .precondition(&operation)
            }
            // A fence is between a worker and the store.
            StoreError::FenceIsOld { .. } => {
                tracing::error!(error = message, "a service held a job");
                Self::new(Reason::Internal, "a fault of Keystep; see the server's log")
            }
            StoreError::Backend(cause) => {
                tracing::error!(error = cause, "the job store failed");
                let message = "the job store does not answer; call again";
                Self::new(Reason::StoreUnavailable, message).retry_after(SOON)
            }
        }
    }

    fn of_failure(failure: Failure) -> Self {
        let Failure { reason, message, metadata, result_kept_until: _ } = failure;
        let reason = Reason::from(reason);
        let subject = metadata.get("model").cloned().unwrap_or_default();
        let (fields, variables): (Vec<_>, Vec<_>) = metadata.into_iter().partition(|(name, _)| {
            // Before this prefix, a stored violation was told by its name alone.
            name.starts_with(VIOLATION) || !is_variable(name)
        });
        let mut told = Self { variables, ..Self::new(reason, message) };
        match reason {
            Reason::InvalidSpec => {
                let violations: Vec<_> = fields
                    .into_iter()
                    .map(|(name, message)| {
                        let field = name.strip_prefix(VIOLATION).unwrap_or(&name);
                        Violation { field: on_wire(field), message }
                    })
                    .collect();
                if !violations.is_empty() {
                    told.details.set_bad_request(shown(&violations));
                }
                told
            }
            Reason::ModelNotFound | Reason::DamagedModel => told.resource("model", &subject),
            Reason::ModelChanged | Reason::NoJudge => told.precondition(&subject),
            Reason::StorageDenied => told.precondition("object storage"),
            Reason::DestinationNotAllowed => told.precondition("storage.outputs"),
            Reason::ResultNotKept => told.precondition("result"),
            Reason::Draining | Reason::StorageUnavailable => told.retry_after(SOON),
            _ => told,
        }
    }
}

/// Whether a name may stand in `ErrorInfo.metadata`.
fn is_variable(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// As many violations as a header holds, each short enough to be read.
fn shown(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut left = MOST_BYTES_OF_VIOLATIONS;
    let mut shown = Vec::new();
    for (index, violation) in violations.iter().enumerate() {
        let field = clipped_to(&violation.field, MOST_CHARACTERS_OF_A_FIELD);
        let message = clipped(&violation.message);
        let size = field.len() + message.len() + 8;
        if size > left {
            let more = violations.len() - index;
            let message = format!("{more} more fields are wrong; change those named first");
            shown.push(FieldViolation::new("", message));
            break;
        }
        left -= size;
        shown.push(FieldViolation::new(field, message));
    }
    shown
}

/// A text of a client's may be as long as a message; what is told of it is not.
fn clipped(text: &str) -> String {
    clipped_to(text, MOST_CHARACTERS_OF_A_TEXT)
}

fn clipped_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::jobs::FailureReason;

    #[test]
    fn what_the_model_refuses_is_told_by_the_wires_fields() {
        let failure = Failure::new(FailureReason::InvalidSpec, "does not fit")
            .with("scope", &"all")
            .with("field:scope", &"matches no tensor")
            .with("field:method.updates", &"is too small")
            .with("field:concepts[1].text", &"is too long")
            // As it was stored before the prefix.
            .with("concepts[0].text", &"is unknown");
        let status = Status::from(ApiError::Failed(failure));
        let bad = status.get_details_bad_request().unwrap().field_violations;
        let mut fields: Vec<_> = bad.into_iter().map(|violation| violation.field).collect();
        fields.sort();
        assert_eq!(fields, ["concepts[0]", "concepts[1]", "scope", "updates"]);
        let variables = status.get_details_error_info().unwrap().metadata;
        assert_eq!(variables, HashMap::from([("scope".to_owned(), "all".to_owned())]));
    }

    #[test]
    fn every_failure_has_a_code_and_one_error_info() {
        for reason in FailureReason::ALL {
            let failure = Failure::new(reason, "the model is odd").with("model", &"sd14");
            let status = Status::from(ApiError::Failed(failure.clone()));
            assert_eq!(status.code(), Reason::from(reason).code());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, Reason::from(reason).name());
            assert_eq!((info.domain.as_str(), info.metadata["model"].as_str()), (DOMAIN, "sd14"));
            let packed = failure_status(&failure);
            assert_eq!(packed.code, status.code() as i32);
            assert!(!packed.details.is_empty());
        }
    }

    #[test]
    fn many_long_violations_fit_a_header() {
        let violation = |index| Violation {
            field: format!("preserve[{index}]"),
            message: "ä".repeat(100_000),
        };
        let status = Status::from(ApiError::Invalid((0..1_024).map(violation).collect()));
        assert!(status.details().len() < 6_000, "{}", status.details().len());
        let bad = status.get_details_bad_request().unwrap();
        assert!(bad.field_violations.last().unwrap().description.contains("more fields"));
        assert!(status.message().chars().count() < 500);
    }

    #[test]
    fn what_the_database_says_stays_here() {
        let status = Status::from(ApiError::Store(StoreError::Backend("secret".to_owned())));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!format!("{status:?}").contains("secret"));
        assert!(status.get_details_retry_info().is_some());
    }

    #[test]
    fn a_spec_that_does_not_fit_names_its_fields() {
        let failure = Failure::new(FailureReason::InvalidSpec, "concepts[0].text: is empty")
            .with("concepts[0].text", &"is empty");
        let status = Status::from(ApiError::Failed(failure));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "concepts[0]");
        assert!(status.get_details_error_info().unwrap().metadata.is_empty());
    }
}
