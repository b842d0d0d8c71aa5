//! The machine under random transition lists.

use proptest::prelude::*;

use crate::{
    jobs::{
        EvaluateWork, Evaluated, EventBody, Failure, FailureReason, Fence, Job, JobId, JobOptions,
        JobState, Milestone, Outcome, Principal, RequestId, Sequence, StateName, Timestamp,
        Transition, Work, WorkerId,
    },
    outcome::{EvaluationResults, Published},
    spec::{Concept, ConceptKind, JudgeSpec, Vocabulary},
};

fn job(max_attempts: u32) -> Job {
    let spec = JudgeSpec::new(Concept::new("cat", ConceptKind::Object), Vocabulary::default());
    Job {
        id: JobId(uuid::Uuid::from_u128(1)),
        principal: Principal("ada".to_owned()),
        request_id: RequestId(uuid::Uuid::from_u128(2)),
        request_digest: "request".to_owned(),
        work_digest: "work".to_owned(),
        work: Work::Evaluate(Box::new(EvaluateWork {
            base_model: "emoji-canvas".to_owned(),
            base_digest: "base".to_owned(),
            edited_model: "edited".to_owned(),
            spec,
            destination: "file:///tmp".to_owned(),
        })),
        options: JobOptions::default(),
        state: JobState::Queued,
        attempt: 0,
        max_attempts,
        losses: 0,
        milestone: Milestone(0),
        advanced: false,
        fence: Fence(0),
        lease: None,
        not_before: None,
        cancel_requested: false,
        progress: None,
        last_sequence: Sequence(1),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        expires_at: None,
    }
}

fn outcome() -> Outcome {
    Outcome::Evaluated(Box::new(Evaluated {
        published: Published {
            manifest_uri: "file:///tmp/manifest.json".to_owned(),
            manifest_sha256: "00".to_owned(),
            files: Vec::new(),
        },
        verdicts: Vec::new(),
        unet_evaluations: 1,
        evaluation: EvaluationResults::default(),
    }))
}

fn claimed(job: &Job) -> Transition {
    Transition::Claimed {
        worker: WorkerId("worker".to_owned()),
        fence: Fence(job.fence.0 + 1),
        lease_until: Timestamp(60),
    }
}

fn failed(reason: FailureReason) -> Transition {
    Transition::Failed { failure: Failure::new(reason, "why"), retry_at: Timestamp(77) }
}

fn after(job: &Job, transitions: &[Transition]) -> Job {
    let mut job = job.clone();
    for transition in transitions {
        job = job.apply(transition, Timestamp(5)).unwrap();
    }
    job
}

fn running(max_attempts: u32) -> Job {
    let job = job(max_attempts);
    after(&job, &[claimed(&job), Transition::Loaded])
}

#[test]
fn a_life_without_incident_ends_in_success() {
    let job = running(1);
    let done = after(&job, &[Transition::EngineDone, Transition::Published(outcome())]);
    assert_eq!(done.state, JobState::Succeeded(outcome()));
    assert_eq!((done.attempt, done.fence, done.last_sequence), (1, Fence(1), Sequence(5)));
    assert_eq!((done.lease, done.updated_at), (None, Timestamp(5)));
}

#[test]
fn a_failure_is_retried_only_where_that_may_heal() {
    let again = after(&running(2), &[failed(FailureReason::StorageUnavailable)]);
    assert_eq!((again.state.name(), again.not_before), (StateName::Queued, Some(Timestamp(77))));
    assert_eq!(again.lease, None);
    let reason = |job: &Job| match &job.state {
        JobState::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    let permanent = after(&running(2), &[failed(FailureReason::NotFinite)]);
    assert_eq!(reason(&permanent), FailureReason::NotFinite);
    let last = after(&running(1), &[failed(FailureReason::StorageUnavailable)]);
    assert_eq!(reason(&last), FailureReason::StorageUnavailable);
    let lost = after(&running(1), &[Transition::LeaseExpired]);
    assert_eq!(reason(&lost), FailureReason::AttemptsExhausted);
    let late = after(&job(1), &[Transition::DeadlinePassed]);
    assert_eq!(reason(&late), FailureReason::DeadlineExceeded);
}

#[test]
fn a_job_given_back_loses_no_attempt_but_keeps_its_fence() {
    let again = after(&running(1), &[Transition::Released]);
    assert_eq!((again.attempt, again.fence), (0, Fence(1)));
    assert_eq!(after(&again, &[claimed(&again)]).fence, Fence(2));
}

#[test]
fn a_wish_to_cancel_wins_over_another_try() {
    let mut job = running(5);
    job.cancel_requested = true;
    for transition in
        [Transition::LeaseExpired, Transition::Released, failed(FailureReason::DiskFull)]
    {
        assert_eq!(after(&job, &[transition]).state, JobState::Cancelled);
    }
}

#[test]
fn a_claim_needs_the_next_fence_and_an_attempt() {
    let job = job(1);
    let wrong = |fence| Transition::Claimed {
        worker: WorkerId("worker".to_owned()),
        fence: Fence(fence),
        lease_until: Timestamp(1),
    };
    assert!(job.apply(&wrong(0), Timestamp(0)).is_err());
    assert!(job.apply(&wrong(2), Timestamp(0)).is_err());
    let error = running(1).apply(&wrong(2), Timestamp(0)).unwrap_err();
    assert!(error.to_string().contains("Running cannot take Claimed"), "{error}");
    let mut used_up = job.clone();
    used_up.attempt = 1;
    assert!(used_up.apply(&wrong(1), Timestamp(0)).is_err());
}

#[test]
fn a_result_that_is_kept_leads_from_failure_to_publishing() {
    let job = after(&running(1), &[Transition::EngineDone]);
    let failure = Failure::new(FailureReason::StorageUnavailable, "away");
    let unpublished = Transition::Unpublished { failure };
    let mut failed = after(&job, std::slice::from_ref(&unpublished));
    assert!(failed.apply(&Transition::PublishAgain, Timestamp(5)).is_err(), "nothing is kept");
    let JobState::Failed(failure) = &mut failed.state else { panic!("{:?}", failed.state) };
    failure.result_kept_until = Some(Timestamp(10));
    failed.options.deadline = Some(Timestamp(4));
    assert!(failed.apply(&Transition::PublishAgain, Timestamp(10)).is_err(), "its time is up");
    let again = after(&failed, &[Transition::PublishAgain]);
    assert_eq!((again.state.name(), &again.lease), (StateName::Publishing, &None));
    assert_eq!(again.options.deadline, None);
    assert!(again.apply(&Transition::LeaseExpired, Timestamp(5)).is_err(), "nobody holds it");
    assert!(again.apply(&Transition::Published(outcome()), Timestamp(5)).is_err());
    let held = after(&again, &[claimed(&again)]);
    assert_eq!((held.state.name(), held.attempt), (StateName::Publishing, 1));
    after(&held, &[Transition::Published(outcome())]);
    after(&held, &[unpublished]);
    assert!(running(1).apply(&Transition::PublishAgain, Timestamp(5)).is_err());
}

fn transitions() -> impl Strategy<Value = Vec<(u8, usize)>> {
    proptest::collection::vec((0..13_u8, 0..FailureReason::ALL.len()), 0..60)
}

fn chosen(choice: u8, reason: usize, job: &Job) -> Transition {
    match choice {
        0 | 9 => claimed(job),
        1 | 10 => Transition::Loaded,
        2 => Transition::EngineDone,
        3 => Transition::Published(outcome()),
        4 => failed(FailureReason::ALL[reason]),
        5 if reason == 0 => Transition::CancelObserved,
        6 => Transition::LeaseExpired,
        7 => Transition::Released,
        8 if reason == 0 => Transition::DeadlinePassed,
        11 => {
            let failure = Failure::new(FailureReason::StorageUnavailable, "away");
            Transition::Unpublished { failure }
        }
        12 => Transition::PublishAgain,
        _ => Transition::Claimed {
            worker: WorkerId("stranger".to_owned()),
            fence: job.fence,
            lease_until: Timestamp(1),
        },
    }
}

proptest! {
    #[test]
    fn every_life_is_lawful(choices in transitions(), max_attempts in 1..4_u32, wish in 0..80_usize) {
        let mut job = job(max_attempts);
        let mut log = vec![EventBody::StateChanged {
            state: StateName::Queued, attempt: 0, failure: None,
        }];
        for (index, (choice, reason)) in choices.into_iter().enumerate() {
            job.cancel_requested |= index == wish;
            let transition = chosen(choice, reason, &job);
            let Ok(next) = job.apply(&transition, Timestamp(i64::try_from(index).unwrap())) else { continue };
            let is_kept = job.result_kept_until().is_some();
            let leads_on = is_kept && next.state.name() == StateName::Publishing;
            prop_assert!(!job.state.name().is_terminal() || leads_on, "{:?} was left", job.state);
            prop_assert!(next.fence >= job.fence);
            prop_assert!(next.attempt <= next.max_attempts);
            prop_assert_eq!(next.last_sequence.0, job.last_sequence.0 + 1);
            let in_work = !matches!(next.state.name(), StateName::Queued)
                && !next.state.name().is_terminal();
            prop_assert_eq!(next.lease.is_some(), in_work && !next.waits_for_publication());
            prop_assert!(!next.waits_for_publication() || leads_on || job.waits_for_publication());
            log.push(next.state_event(&transition));
            let was_publishing = job.state.name() == StateName::Publishing;
            job = next;
            // As a store does it.
            if let JobState::Failed(failure) = &mut job.state
                && was_publishing
            {
                failure.result_kept_until = Some(Timestamp(1_000));
                log.pop();
                log.push(job.state_event(&transition));
            }
        }
        let Some(EventBody::StateChanged { state, attempt, failure }) = log.last() else {
            panic!("no state event");
        };
        prop_assert_eq!(*state, job.state.name());
        prop_assert_eq!(*attempt, job.attempt);
        if let JobState::Failed(stored) = &job.state {
            prop_assert_eq!(failure.as_ref(), Some(stored));
        }
        prop_assert_eq!(log.len() as u64, job.last_sequence.0);
    }
}
