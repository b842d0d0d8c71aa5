//! The state machine, whole: what may happen to a job in which state, and what it then is.
//!
//! ```text
//! Queued → Preparing → Running → Publishing → Succeeded
//!    ↑          │          │           │
//!    └──────────┴──────────┴───────────┘  lease lost, drained, or a failure that a retry may heal
//! Every live state → Failed, and → Cancelled
//! Failed → Publishing                              while its finished result is kept
//! ```

use super::{
    EventBody, Failure, FailureReason, Job, JobState, Lease, Milestone, Sequence, StateName,
    Timestamp, Transition,
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

impl<W: Clone> Job<W> {
    /// The job after a transition, or why it is illegal. Pure: no clock, no I/O. The next job
    /// counts the transition's event ([`Job::state_event`]) as its newest.
    #[expect(clippy::too_many_lines, reason = "a table, to be read from top to bottom")]
    pub fn apply(
        &self,
        transition: &Transition,
        now: Timestamp,
    ) -> Result<Self, IllegalTransition> {
        let state = self.state.name();
        let illegal = |remedy| IllegalTransition { state, transition: transition.name(), remedy };
        if matches!(transition, Transition::PublishAgain) {
            if self.result_kept_until().is_none_or(|until| until <= now) {
                return Err(illegal("it has no finished result that is kept; submit a new job"));
            }
        } else if state.is_terminal() {
            return Err(illegal("it is done and never changes again; submit a new job"));
        }
        let is_held =
            matches!(state, StateName::Preparing | StateName::Running | StateName::Publishing)
                && !self.waits_for_publication();
        let mut next = self.clone();
        match transition {
            Transition::Claimed { worker, fence, lease_until } => {
                let waits_for_publication = self.waits_for_publication();
                if state != StateName::Queued && !waits_for_publication {
                    return Err(illegal("only a job that waits can be claimed"));
                }
                if fence.0.checked_sub(1) != Some(self.fence.0) {
                    return Err(illegal("the fence must be one more than the job's"));
                }
                if !waits_for_publication {
                    if self.attempt >= self.max_attempts {
                        return Err(illegal("no attempts are left"));
                    }
                    next.state = JobState::Preparing;
                    next.attempt += 1;
                    next.advanced = false;
                }
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
                if state != StateName::Publishing || !is_held {
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
            Transition::Unpublished { failure } => {
                if state != StateName::Publishing || !is_held {
                    return Err(illegal("only a job that is published can fail at that"));
                }
                next.state = if self.cancel_requested {
                    JobState::Cancelled
                } else {
                    JobState::Failed(failure.clone())
                };
            }
            Transition::PublishAgain => {
                next.state = JobState::Publishing;
                next.options.deadline = None;
                next.cancel_requested = false;
                next.expires_at = None;
            }
            Transition::CancelObserved => {
                next.cancel_requested = true;
                next.state = JobState::Cancelled;
            }
            Transition::LeaseExpired => {
                if !is_held {
                    return Err(illegal("only a claimed job has a lease that can expire"));
                }
                // A lost worker is no fault of the job's: what counts is whether it gets anywhere.
                next.attempt = self.attempt.saturating_sub(1);
                next.losses = if self.advanced { 0 } else { self.losses.saturating_add(1) };
                next.state = if self.cancel_requested {
                    JobState::Cancelled
                } else if next.losses < self.max_attempts {
                    JobState::Queued
                } else {
                    JobState::Failed(self.attempts_exhausted(next.losses))
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

    /// The job once its holder has saved its work as far as this; `None` where that is no news.
    /// What was lost before is forgiven: the job gets on. A milestone that was reached before does
    /// not count again, so that a job which loses what it saves comes to its end.
    pub fn advance(&self, milestone: Milestone) -> Option<Self> {
        (milestone > self.milestone).then(|| {
            let mut next = self.clone();
            (next.milestone, next.advanced, next.losses) = (milestone, true, 0);
            next
        })
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

    /// Whether its finished result waits for a worker that publishes it.
    pub fn waits_for_publication(&self) -> bool {
        matches!(self.state, JobState::Publishing) && self.lease.is_none()
    }

    /// Until when a failed job's finished result is kept, where it has one.
    pub fn result_kept_until(&self) -> Option<Timestamp> {
        match &self.state {
            JobState::Failed(failure) => failure.result_kept_until,
            _ => None,
        }
    }

    fn attempts_exhausted(&self, losses: u32) -> Failure {
        Failure::new(
            FailureReason::AttemptsExhausted,
            format!(
                "the worker was lost {losses} times in a row before it saved anything new, the \
                 limit is {}; see the workers' logs, then submit the job again",
                self.max_attempts
            ),
        )
        .with("losses", &losses)
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
            Self::Unpublished { .. } => "Unpublished",
            Self::PublishAgain => "PublishAgain",
            Self::CancelObserved => "CancelObserved",
            Self::LeaseExpired => "LeaseExpired",
            Self::Released => "Released",
            Self::DeadlinePassed => "DeadlinePassed",
        }
    }
}

#[cfg(test)]
mod tests;
