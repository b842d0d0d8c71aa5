//! Converts a stored job into a `google.longrunning.Operation`.

use super::{
    event::{progress, state},
    outcome::{evaluated, unlearned},
    packed, small, time,
};
use crate::{
    api::{
        names::{operation_name, request_name},
        status::failure_status,
    },
    device::PlanEstimate,
    jobs::{
        EvaluateSummary, Failure, FailureReason, JobState, JobSummary, Outcome, UnlearnSummary,
        WorkSummary,
    },
    proto::{
        google::longrunning::{Operation, operation::Result as Ending},
        keystep::v1::{
            EvaluateErasureMetadata, EvaluateErasureResponse, Plan, UnlearnConceptMetadata,
            UnlearnConceptResponse,
        },
    },
};

/// A stored job; the position is of use while it is queued.
pub(in crate::api) fn operation(job: &JobSummary, queue_position: u64) -> Operation {
    let queue_position = u32::try_from(queue_position).unwrap_or(u32::MAX);
    // No trait spans the two messages, whose fields are equal but for what is given here.
    macro_rules! metadata {
        ($message:ident { $($own:ident: $value:expr),* }) => {
            packed(&$message {
                state: state(job.state.name()).into(),
                queue_position,
                progress: job.progress.map(progress),
                attempt: job.attempt,
                create_time: Some(time(job.created_at)),
                update_time: Some(time(job.updated_at)),
                expire_time: job.expires_at.map(time),
                labels: job.options.labels.clone(),
                cancel_requested: job.cancel_requested,
                last_sequence: job.last_sequence.0,
                request_id: request_name(job.request_id),
                priority: job.options.priority,
                deadline: job.options.deadline.map(time),
                result_expire_time: job.result_kept_until().map(time),
                $($own: $value,)*
            })
        };
    }
    let metadata = match &job.work {
        WorkSummary::Unlearn(UnlearnSummary { base_model, base_digest: _, concepts, seed }) => {
            metadata!(UnlearnConceptMetadata {
                base_model: base_model.clone(),
                concepts: concepts.clone(),
                seed: *seed
            })
        }
        WorkSummary::Evaluate(EvaluateSummary { base_model, edited_model, concept }) => {
            metadata!(EvaluateErasureMetadata {
                base_model: base_model.clone(),
                edited_model: edited_model.clone(),
                concept: concept.clone()
            })
        }
    };
    let result = ending(job);
    Operation {
        name: operation_name(job.id),
        metadata: Some(metadata),
        done: result.is_some(),
        result,
    }
}

fn ending(job: &JobSummary) -> Option<Ending> {
    match &job.state {
        JobState::Queued | JobState::Preparing | JobState::Running | JobState::Publishing => None,
        JobState::Succeeded(Outcome::Unlearned(outcome)) => {
            Some(Ending::Response(packed(&unlearned(job.id, outcome))))
        }
        JobState::Succeeded(Outcome::Evaluated(outcome)) => {
            Some(Ending::Response(packed(&evaluated(outcome))))
        }
        JobState::Failed(failure) => Some(Ending::Error(failure_status(failure))),
        JobState::Cancelled => {
            let failure = Failure::new(FailureReason::Cancelled, "the operation was cancelled");
            Some(Ending::Error(failure_status(&failure)))
        }
    }
}

/// What an erasure would take.
pub(in crate::api) fn plan(estimate: PlanEstimate) -> Plan {
    let PlanEstimate {
        updates,
        unet_evaluations,
        memory_bytes,
        estimated_duration,
        trainable_parameters,
        trainable_tensors,
        assumptions,
    } = estimate;
    Plan {
        updates: small(updates),
        unet_evaluations,
        memory_bytes,
        estimated_duration: estimated_duration.and_then(|time| time.try_into().ok()),
        trainable_parameters,
        trainable_tensors: small(trainable_tensors),
        assumptions,
    }
}

/// What answers `validate_only`: done, nameless since nothing is stored, and with a plan where the
/// request asks for an erasure.
pub(in crate::api) fn validated(plan: Option<Plan>) -> Operation {
    let response = match plan {
        Some(_) => packed(&UnlearnConceptResponse { plan, ..UnlearnConceptResponse::default() }),
        None => packed(&EvaluateErasureResponse::default()),
    };
    Operation {
        name: String::new(),
        metadata: None,
        done: true,
        result: Some(Ending::Response(response)),
    }
}
