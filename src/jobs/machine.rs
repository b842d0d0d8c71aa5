//! The state machine, whole: what may happen to a job in which state, and what it then is.
//!
//! ```text
//! Queued → Preparing → Running → Publishing → Succeeded
//!    ↑          │          │           │
//!    └──────────┴──────────┴───────────┘  lease lost, drained, or a failure that a retry may heal
//! Every live state → Failed, and → Cancelled
//! ```

use super::{
    EventBody, Failure, FailureReason, Job, JobState, Lease, Sequence, StateName, Timestamp,
    Transition,
};

/// This cannot happen to a job in that state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state:?} cannot take {transition}: {remedy}")]
pub struct IllegalTransition {
    /// Where the job stands.
    pub state: StateName,
    /// What was tried.
    pub transition: &'static str,
    /// What would do instead.
    pub remedy: &'static str,
}

impl Job {
    /// The job after a transition, or why it is illegal. Pure: no clock, no I/O. The next job
    /// counts the transition's event ([`Job::state_event`]) as its newest.
    pub fn apply(
        &self,
        transition: &Transition,
        now: Timestamp,
    ) -> Result<Self, IllegalTransition> {
        let state = self.state.name();
        let illegal = |remedy| IllegalTransition { state, transition: transition.name(), remedy };
        if state.is_terminal() {
            return Err(illegal("it is done and never changes again; submit a new job"));
        }
        let is_held =
            matches!(state, StateName::Preparing | StateName::Running | StateName::Publishing);
        let mut next = self.clone();
        match transition {
            Transition::Claimed { worker, fence, lease_until } => {
                if state != StateName::Queued {
                    return Err(illegal("only a queued job can be claimed"));
                }
                if fence.0.checked_sub(1) != Some(self.fence.0) {
                    return Err(illegal("the fence must be one more than the job's"));
                }
                if self.attempt >= self.max_attempts {
                    return Err(illegal("no attempts are left"));
                }
                next.state = JobState::Preparing;
                next.attempt += 1;
                next.fence = *fence;
                next.lease = Some(Lease { worker: worker.clone(), until: *lease_until });
                next.not_before = None;
            }
            Transition::Loaded => {
                if state != StateName::Preparing {
                    return Err(illegal("only a preparing job can be loaded"));
                }
                next.state = JobState::Running;
            }
            Transition::EngineDone => {
                if state != StateName::Running {
                    return Err(illegal("only a running job's engine can be done"));
                }
                next.state = JobState::Publishing;
            }
            Transition::Published(outcome) => {
                if state != StateName::Publishing {
                    return Err(illegal("only a publishing job can be published"));
                }
                next.state = JobState::Succeeded(outcome.clone());
            }
            Transition::Failed { failure, retry_at } => {
                if !is_held {
                    return Err(illegal("only a claimed job can fail at its work"));
                }
                if self.attempt >= failure.reason.most_attempts(self.max_attempts) {
                    next.state = JobState::Failed(failure.clone());
                } else if self.cancel_requested {
                    next.state = JobState::Cancelled;
                } else {
                    next.state = JobState::Queued;
                    next.not_before = Some(*retry_at);
                }
            }
            Transition::CancelObserved => {
                next.cancel_requested = true;
                next.state = JobState::Cancelled;
            }
            Transition::LeaseExpired => {
                if !is_held {
                    return Err(illegal("only a claimed job has a lease that can expire"));
                }
                next.state = if self.cancel_requested {
                    JobState::Cancelled
                } else if self.has_attempts_left() {
                    JobState::Queued
                } else {
                    JobState::Failed(self.attempts_exhausted())
                };
            }
            Transition::Released => {
                if !is_held {
                    return Err(illegal("only a claimed job can be given back"));
                }
                next.attempt = self.attempt.saturating_sub(1);
                next.state =
                    if self.cancel_requested { JobState::Cancelled } else { JobState::Queued };
            }
            Transition::DeadlinePassed => {
                next.state = JobState::Failed(self.deadline_exceeded());
            }
        }
        if matches!(next.state.name(), StateName::Queued) || next.state.name().is_terminal() {
            next.lease = None;
        }
        if next.state.name().is_terminal() {
            next.not_before = None;
        }
        next.updated_at = now;
        next.last_sequence = Sequence(self.last_sequence.0 + 1);
        Ok(next)
    }

    /// What the log says of the transition that led here: a job's events tell its state, its
    /// attempt and its failure.
    pub fn state_event(&self, transition: &Transition) -> EventBody {
        let failure = match (&self.state, transition) {
            (JobState::Failed(failure), _)
            | (JobState::Queued, Transition::Failed { failure, .. }) => Some(failure.clone()),
            _ => None,
        };
        EventBody::StateChanged { state: self.state.name(), attempt: self.attempt, failure }
    }

    fn has_attempts_left(&self) -> bool {
        self.attempt < self.max_attempts
    }

    fn attempts_exhausted(&self) -> Failure {
        Failure::new(
            FailureReason::AttemptsExhausted,
            format!(
                "the worker was lost in attempt {} of {}; see the workers' logs, then submit the \
                 job again",
                self.attempt, self.max_attempts
            ),
        )
        .with("attempt", &self.attempt)
        .with("maxAttempts", &self.max_attempts)
    }

    fn deadline_exceeded(&self) -> Failure {
        let state = self.state.name().name();
        let failure = Failure::new(
            FailureReason::DeadlineExceeded,
            format!(
                "the job's deadline passed while it was {state}; submit it again with a later \
                 deadline or a higher priority"
            ),
        )
        .with("state", &state);
        match self.options.deadline {
            Some(deadline) => failure.with("deadlineMicros", &deadline.0),
            None => failure,
        }
    }
}

impl Transition {
    /// The variant's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "Claimed",
            Self::Loaded => "Loaded",
            Self::EngineDone => "EngineDone",
            Self::Published(_) => "Published",
            Self::Failed { .. } => "Failed",
            Self::CancelObserved => "CancelObserved",
            Self::LeaseExpired => "LeaseExpired",
            Self::Released => "Released",
            Self::DeadlinePassed => "DeadlinePassed",
        }
    }
}

#[cfg(test)]
mod tests;
