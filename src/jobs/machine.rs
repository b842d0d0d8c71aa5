//! The state machine: what each [`Transition`] makes of a job. Pure: no clock, no store.
//!
//! ```text
//! Queued → Preparing → Running → Publishing → Succeeded
//!    ↑          │          │           │
//!    └──────────┴──────────┴───────────┘  lease lost, drained, or a failure that a retry may heal
//! Every live state → Failed, and → Cancelled
//! ```

use super::{Failure, FailureReason, Fence, Job, JobState, Lease, StateName, Transition};

/// A transition that cannot happen to a job where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state:?} cannot be {what}")]
pub struct IllegalTransition {
    /// Where the job stands.
    pub state: StateName,
    /// What was tried.
    pub what: &'static str,
}

impl Job {
    /// The job after a transition; times and the log's position are the store's to set.
    pub fn apply(&self, transition: &Transition) -> Result<Self, IllegalTransition> {
        let mut next = self.clone();
        match (self.state.name(), transition) {
            (StateName::Queued, Transition::Claimed { worker, fence, lease_until })
                if *fence > self.fence && self.attempt < self.max_attempts =>
            {
                next.state = JobState::Preparing;
                next.attempt += 1;
                next.fence = *fence;
                next.lease = Some(Lease { worker: worker.clone(), until: *lease_until });
                next.not_before = None;
            }
            (StateName::Preparing, Transition::Loaded) => next.state = JobState::Running,
            (StateName::Running, Transition::EngineDone) => next.state = JobState::Publishing,
            (StateName::Publishing, Transition::Published(outcome)) => {
                next.end(JobState::Succeeded(outcome.clone()));
            }
            (state, Transition::Failed { failure, retry_at }) if state.is_held() => {
                if self.cancel_requested {
                    next.end(JobState::Cancelled);
                } else if failure.reason.is_healed_by_retry() && self.attempt < self.max_attempts {
                    next.queue_again();
                    next.not_before = Some(*retry_at);
                } else {
                    next.end(JobState::Failed(failure.clone()));
                }
            }
            (state, Transition::CancelObserved) if !state.is_terminal() => {
                next.end(JobState::Cancelled);
            }
            (state, Transition::LeaseExpired) if state.is_held() => {
                if self.cancel_requested {
                    next.end(JobState::Cancelled);
                } else if self.attempt < self.max_attempts {
                    next.queue_again();
                } else {
                    next.end(JobState::Failed(self.attempts_exhausted()));
                }
            }
            (state, Transition::Released) if state.is_held() && self.cancel_requested => {
                next.end(JobState::Cancelled);
            }
            (state, Transition::Released) if state.is_held() => {
                next.queue_again();
                // Whoever goes away in good order has not tried and failed.
                next.attempt = self.attempt.saturating_sub(1);
            }
            (state, Transition::DeadlinePassed) if !state.is_terminal() => {
                next.end(JobState::Failed(Failure::new(
                    FailureReason::DeadlineExceeded,
                    "the job's deadline passed before it was done; give it more time",
                )));
            }
            (state, _) => return Err(IllegalTransition { state, what: transition.what() }),
        }
        Ok(next)
    }

    fn queue_again(&mut self) {
        self.state = JobState::Queued;
        self.lease = None;
    }

    fn end(&mut self, state: JobState) {
        self.state = state;
        self.lease = None;
        self.not_before = None;
    }

    fn attempts_exhausted(&self) -> Failure {
        Failure::new(
            FailureReason::AttemptsExhausted,
            format!(
                "the job's worker was lost {} times, which is as often as it is tried; look at the workers' logs before it is sent again",
                self.attempt
            ),
        )
        .with("attempts", &self.attempt)
    }
}

impl StateName {
    /// Whether a worker holds a job in that state.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Preparing | Self::Running | Self::Publishing)
    }
}

impl Transition {
    /// What is done to the job, for messages.
    fn what(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Loaded => "loaded",
            Self::EngineDone => "handed on to publishing",
            Self::Published(_) => "published",
            Self::Failed { .. } => "failed by a worker",
            Self::CancelObserved => "cancelled",
            Self::LeaseExpired => "taken from its holder",
            Self::Released => "released",
            Self::DeadlinePassed => "ended by its deadline",
        }
    }
}

impl Fence {
    /// That of the next claim.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        jobs::{
            EvaluateWork, Evaluated, JobId, JobOptions, Outcome, Principal, RequestId, Sequence,
            Timestamp, Work, WorkerId,
        },
        spec::{Concept, ConceptKind, JudgeSpec, Vocabulary},
    };

    fn queued() -> Job {
        let concept = Concept::new("cat", ConceptKind::Object);
        Job {
            id: JobId(Uuid::nil()),
            principal: Principal("someone".to_owned()),
            request_id: RequestId(Uuid::nil()),
            request_digest: String::new(),
            work_digest: String::new(),
            work: Work::Evaluate(Box::new(EvaluateWork {
                base_model: "base".to_owned(),
                base_digest: String::new(),
                edited_model: "edited".to_owned(),
                spec: JudgeSpec::new(concept, Vocabulary::default()),
                destination: "memory://".to_owned(),
            })),
            options: JobOptions::default(),
            state: JobState::Queued,
            attempt: 0,
            max_attempts: 3,
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
            manifest_uri: String::new(),
            manifest_sha256: String::new(),
            files: Vec::new(),
            verdicts: Vec::new(),
            unet_evaluations: 0,
        }))
    }

    fn claim(job: &Job) -> Transition {
        Transition::Claimed {
            worker: WorkerId("worker".to_owned()),
            fence: job.fence.next(),
            lease_until: Timestamp(60),
        }
    }

    fn failed(reason: FailureReason) -> Transition {
        Transition::Failed { failure: Failure::new(reason, "it broke"), retry_at: Timestamp(9) }
    }

    /// The job after a list of transitions that must all be legal.
    fn after(job: Job, transitions: &[Transition]) -> Job {
        transitions.iter().fold(job, |job, transition| job.apply(transition).unwrap())
    }

    fn running() -> Job {
        let job = queued();
        let claimed = claim(&job);
        after(job, &[claimed, Transition::Loaded])
    }

    #[test]
    fn a_job_goes_its_way() {
        let done = after(running(), &[Transition::EngineDone, Transition::Published(outcome())]);
        assert_eq!(done.state, JobState::Succeeded(outcome()));
        assert_eq!((done.attempt, done.fence, done.lease), (1, Fence(1), None));
    }

    #[test]
    fn a_retry_is_for_what_a_retry_can_heal() {
        let again = running().apply(&failed(FailureReason::StorageUnavailable)).unwrap();
        assert_eq!((again.state.name(), again.not_before), (StateName::Queued, Some(Timestamp(9))));
        let never = running().apply(&failed(FailureReason::NotFinite)).unwrap();
        assert_eq!(never.state.name(), StateName::Failed);
        let last = Job { max_attempts: 1, ..running() };
        let given_up = last.apply(&failed(FailureReason::StorageUnavailable)).unwrap();
        assert_eq!(given_up.state.name(), StateName::Failed);
    }

    #[test]
    fn a_drained_worker_costs_no_attempt_and_a_lost_one_does() {
        let released = running().apply(&Transition::Released).unwrap();
        assert_eq!((released.state.name(), released.attempt), (StateName::Queued, 0));
        let lost = running().apply(&Transition::LeaseExpired).unwrap();
        assert_eq!((lost.state.name(), lost.attempt), (StateName::Queued, 1));
        let last = Job { max_attempts: 1, ..running() }.apply(&Transition::LeaseExpired).unwrap();
        let JobState::Failed(failure) = last.state else { panic!("{:?}", last.state) };
        assert_eq!(failure.reason, FailureReason::AttemptsExhausted);
    }

    #[test]
    fn a_wish_to_cancel_outlives_the_holder_and_its_failures() {
        let wished = Job { cancel_requested: true, ..running() };
        for transition in [
            Transition::LeaseExpired,
            Transition::Released,
            Transition::CancelObserved,
            failed(FailureReason::EngineFault),
        ] {
            assert_eq!(wished.apply(&transition).unwrap().state, JobState::Cancelled);
        }
    }

    #[test]
    fn an_old_fence_claims_nothing() {
        let job = Job { fence: Fence(4), ..queued() };
        let stale = Transition::Claimed {
            worker: WorkerId("worker".to_owned()),
            fence: Fence(4),
            lease_until: Timestamp(60),
        };
        assert!(job.apply(&stale).is_err());
        assert!(running().apply(&claim(&running())).is_err());
    }

    #[test]
    fn every_reason_has_its_own_name_on_the_wire() {
        let names: std::collections::BTreeSet<_> = FailureReason::ALL
            .iter()
            .map(|reason| serde_json::to_string(reason).unwrap())
            .collect();
        assert_eq!(names.len(), FailureReason::ALL.len());
        assert!(names.contains("\"STORAGE_DENIED\""));
    }

    fn any_transition() -> impl Strategy<Value = Transition> {
        let reason = proptest::sample::select(FailureReason::ALL.to_vec());
        prop_oneof![
            (0_u64..6).prop_map(|fence| Transition::Claimed {
                worker: WorkerId("worker".to_owned()),
                fence: Fence(fence),
                lease_until: Timestamp(60),
            }),
            Just(Transition::Loaded),
            Just(Transition::EngineDone),
            Just(Transition::Published(outcome())),
            reason.prop_map(failed),
            Just(Transition::CancelObserved),
            Just(Transition::LeaseExpired),
            Just(Transition::Released),
            Just(Transition::DeadlinePassed),
        ]
    }

    proptest! {
        #[test]
        fn no_list_of_transitions_breaks_the_machine(
            transitions in proptest::collection::vec(any_transition(), 0..60),
            cancel_requested: bool,
        ) {
            let mut job = Job { cancel_requested, ..queued() };
            for transition in &transitions {
                let Ok(next) = job.apply(transition) else { continue };
                prop_assert!(!job.state.name().is_terminal(), "left {:?}", job.state);
                prop_assert!(next.fence >= job.fence);
                prop_assert!(next.attempt <= next.max_attempts);
                prop_assert_eq!(next.lease.is_some(), next.state.name().is_held());
                prop_assert!(next.not_before.is_none() || next.state.name() == StateName::Queued);
                // The work, its owner and its name are immutable.
                prop_assert_eq!((&next.work, &next.principal, next.id), (&job.work, &job.principal, job.id));
                job = next;
            }
        }

        #[test]
        fn a_job_comes_back_from_json_as_it_went(
            transitions in proptest::collection::vec(any_transition(), 0..20),
        ) {
            let mut job = queued();
            for transition in &transitions {
                job = job.apply(transition).unwrap_or(job);
            }
            let text = serde_json::to_string(&job).unwrap();
            prop_assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
        }
    }
}
