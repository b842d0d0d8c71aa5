//! Maps every error of the services to its gRPC code and details; no other file does.

use std::time::Duration;

use prost::Message;
use tonic::Status;
use tonic_types::pb;

use super::{
    ApiError, CallReason,
    names::{operation_name, request_name},
    status_builder::StatusBuilder,
};
use crate::{
    jobs::{Failure, FailureReason, StoreError},
    spec::Violation,
};

/// When to try again where nothing better is known.
const SOON: Duration = Duration::from_secs(2);
/// When a queue of jobs may have moved.
const LATER: Duration = Duration::from_secs(30);

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        of_error(error).build()
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

fn of_error(error: ApiError) -> StatusBuilder {
    let message = error.to_string();
    match error {
        ApiError::Invalid(violations) => StatusBuilder::new(CallReason::InvalidRequest, message)
            .with("violations", &violations.len())
            .bad_request(&violations),
        ApiError::CallerUnknown => StatusBuilder::new(CallReason::CallerUnknown, message),
        ApiError::RoleMissing { needed } => {
            StatusBuilder::new(CallReason::RoleMissing, message).with("role", &needed.name())
        }
        ApiError::RateLimited { retry_after } => {
            StatusBuilder::new(CallReason::RateLimited, message)
                .quota("calls")
                .retry_after(retry_after)
        }
        ApiError::OperationNotFound { name } => {
            StatusBuilder::new(CallReason::OperationNotFound, message)
                .with("operation", &name)
                .resource("operation", &name)
        }
        ApiError::ModelNotFound { name } => {
            StatusBuilder::new(FailureReason::ModelNotFound, message)
                .with("model", &name)
                .resource("model", &name)
        }
        ApiError::Unsupported { what } => {
            StatusBuilder::new(CallReason::Unsupported, message).with("what", &what)
        }
        ApiError::DeviceQueueFull(full) => StatusBuilder::new(CallReason::DeviceQueueFull, message)
            .with("waiting", &full.waiting)
            .with("limit", &full.limit)
            .quota("device")
            .retry_after(full.retry_after),
        ApiError::Draining => {
            StatusBuilder::new(FailureReason::Draining, message).retry_after(SOON)
        }
        ApiError::Store(error) => of_store(error),
        ApiError::Failed(failure) => of_failure(failure),
        ApiError::Picture(cause) => {
            tracing::error!(error = %cause, "a picture cannot be encoded");
            StatusBuilder::new(
                CallReason::Internal,
                "a picture cannot be sent; see the server's log",
            )
        }
        ApiError::Internal(cause) => {
            tracing::error!(error = cause, "a fault of the services");
            StatusBuilder::new(CallReason::Internal, "a fault of Keystep; see the server's log")
        }
    }
}

fn of_store(error: StoreError) -> StatusBuilder {
    let message = error.to_string();
    match error {
        StoreError::NotFound(id) => {
            of_error(ApiError::OperationNotFound { name: operation_name(id) })
        }
        StoreError::RequestIdReused { request_id, existing } => {
            let (request, operation) = (request_name(request_id), operation_name(existing));
            let message = format!(
                "the request id {request} was used before for another request, which made \
                 {operation}; make a new id"
            );
            StatusBuilder::new(CallReason::RequestIdReused, message)
                .with("requestId", &request)
                .with("operation", &operation)
                .resource("operation", &operation)
        }
        StoreError::QueueFull { queued, limit, of_principal } => {
            let (reason, subject) = if of_principal {
                (CallReason::PrincipalQueueFull, "queued jobs of the caller")
            } else {
                (CallReason::QueueFull, "queued jobs")
            };
            StatusBuilder::new(reason, message)
                .with("queued", &queued)
                .with("limit", &limit)
                .quota(subject)
                .retry_after(LATER)
        }
        StoreError::PrincipalStorageFull { stored, adds, limit } => {
            StatusBuilder::new(CallReason::PrincipalStorageFull, message)
                .with("stored", &stored)
                .with("adds", &adds)
                .with("limit", &limit)
                .quota("bytes stored for the caller")
        }
        StoreError::QueryTooLong { limit } => StatusBuilder::new(CallReason::QueryTooLong, message)
            .with("limitSeconds", &limit.as_secs_f64()),
        StoreError::IllegalTransition { id, state, what } => {
            let operation = operation_name(id);
            let state = state.name().to_uppercase();
            StatusBuilder::new(
                CallReason::OperationNotDone,
                format!("{operation} is {state}: {what}"),
            )
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
            StatusBuilder::new(FailureReason::ResultNotKept, message)
                .with("operation", &operation)
                .with("state", &state)
                .precondition(&operation)
        }
        // A fence is between a worker and the store.
        StoreError::FenceIsOld { .. } => {
            tracing::error!(error = message, "a service held a job");
            StatusBuilder::new(CallReason::Internal, "a fault of Keystep; see the server's log")
        }
        StoreError::Backend(cause) => {
            tracing::error!(error = cause, "the job store failed");
            let message = "the job store does not answer; call again";
            StatusBuilder::new(CallReason::StoreUnavailable, message).retry_after(SOON)
        }
    }
}

fn of_failure(failure: Failure) -> StatusBuilder {
    use FailureReason as Reason;
    let Failure { reason, message, metadata, violations, result_kept_until: _ } = failure;
    let variables = metadata.iter().filter(|(name, _)| is_variable(name));
    let status = variables.fold(StatusBuilder::new(reason, message), |status, (name, value)| {
        status.with(name, value)
    });
    match reason {
        Reason::InvalidSpec => {
            let on_wire = |broken: Violation| Violation { field: broken.field.on_wire(), ..broken };
            status.bad_request(&violations.into_iter().map(on_wire).collect::<Vec<_>>())
        }
        Reason::ModelNotFound | Reason::DamagedModel => {
            status.resource("model", metadata.get("model").map_or("", String::as_str))
        }
        Reason::ModelChanged | Reason::NoJudge => {
            status.precondition(metadata.get("model").map_or("", String::as_str))
        }
        Reason::StorageDenied => status.precondition("object storage"),
        Reason::DestinationNotAllowed => status.precondition("storage.outputs"),
        Reason::ResultNotKept => status.precondition("result"),
        Reason::Draining | Reason::StorageUnavailable => status.retry_after(SOON),
        _ => status,
    }
}

/// Whether a name may stand in `ErrorInfo.metadata`.
fn is_variable(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{api::Reason, spec::Field};

    #[test]
    fn what_the_model_refuses_is_told_by_the_wires_fields() {
        let stored = serde_json::json!({
            "reason": "INVALID_SPEC",
            "message": "does not fit",
            "metadata": {
                "scope": "all",
                "field:scope": "matches no tensor",
                "field:method.updates": "is too small",
                "field:concepts[1].text": "is too long",
                // As it was stored before the prefix.
                "concepts[0].text": "is unknown",
            },
        });
        let failure: Failure = serde_json::from_value(stored).unwrap();
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
        for &reason in FailureReason::ALL {
            let failure = Failure::new(reason, "the model is odd").with("model", &"sd14");
            let status = Status::from(ApiError::Failed(failure.clone()));
            assert_eq!(status.code(), Reason::from(reason).code());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, Reason::from(reason).name());
            assert_eq!(
                (info.domain.as_str(), info.metadata["model"].as_str()),
                ("keystep.v1", "sd14")
            );
            let packed = failure_status(&failure);
            assert_eq!(packed.code, status.code() as i32);
            assert!(!packed.details.is_empty());
        }
    }

    #[test]
    fn many_long_violations_fit_a_header() {
        let violation =
            |index| Violation { field: Field::Preserve.at(index), message: "ä".repeat(100_000) };
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
            .violated(Field::ConceptsText.at(0), "is empty");
        let status = Status::from(ApiError::Failed(failure));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "concepts[0]");
        assert!(status.get_details_error_info().unwrap().metadata.is_empty());
    }
}
