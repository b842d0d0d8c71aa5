//! Jobs to publish for, in tests.

use uuid::Uuid;

use crate::{
    jobs::{
        Evaluation, Fence, Job, JobId, JobOptions, JobState, Milestone, Principal, RequestId,
        Sequence, Timestamp, UnlearnWork, Work,
    },
    spec::{Concept, ConceptKind, MethodName, OutputFormat, UnlearnSpec},
};

pub(super) fn spec(concept: &str) -> UnlearnSpec {
    let concept = Concept::new(concept, ConceptKind::Object);
    UnlearnSpec { seed: 7, ..UnlearnSpec::new(concept, MethodName::Keystep) }
}

pub(super) fn unlearn(concept: &str, destination: &str) -> Work {
    Work::Unlearn(Box::new(UnlearnWork {
        base_model: "emoji-canvas".to_owned(),
        base_digest: "b".repeat(64),
        spec: spec(concept),
        score_digest: None,
        formats: vec![OutputFormat::Delta, OutputFormat::Unet],
        destination: destination.to_owned(),
        evaluation: Evaluation::WherePossible,
        evaluation_sampler: None,
    }))
}

pub(super) fn job(number: u128, work: Work) -> Job {
    Job {
        id: JobId(Uuid::from_u128(number)),
        principal: Principal("tester".to_owned()),
        request_id: RequestId(Uuid::from_u128(number)),
        request_digest: "request".to_owned(),
        work_digest: "work".to_owned(),
        work,
        options: JobOptions::default(),
        state: JobState::Publishing,
        attempt: 1,
        max_attempts: 3,
        losses: 0,
        milestone: Milestone(0),
        advanced: false,
        fence: Fence(1),
        lease: None,
        not_before: None,
        cancel_requested: false,
        progress: None,
        last_sequence: Sequence(4),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        expires_at: None,
    }
}
