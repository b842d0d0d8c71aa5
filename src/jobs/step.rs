//! One step of a job's life as every store takes it: the next job and what its log gains, decided
//! purely. A store only loads, asks here, and writes both in one transaction.

use std::time::Duration;

use super::{
    Clock, EventBody, Fence, Identifiers, Job, JobEvent, JobId, JobState, ListQuery, NewEvent,
    NewJob, QueueLimits, Sequence, StateName, StoreError, Timestamp, Transition, WorkerId,
};

/// Most jobs of one page, whatever is asked.
pub(super) const MOST_JOBS_A_PAGE: u32 = 1_000;

/// What every store is made with.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Where the time comes from.
    pub clock: Clock,
    /// Where names come from.
    pub identifiers: Identifiers,
    /// How long a job is kept once it is done, and scores once they are stored.
    pub retention: Duration,
}

impl StoreSettings {
    /// 30 days.
    pub const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            identifiers: Identifiers::default(),
            retention: Self::DEFAULT_RETENTION,
        }
    }
}

/// The next job, and what its log gains.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) job: Job,
    pub(super) event: JobEvent,
}

/// When a step is taken, and how long a done job is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) retention: Duration,
}

impl Moment {
    /// What was stored by then is forgotten now.
    pub(super) fn oldest_kept(self) -> Timestamp {
        let retention = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.now.0.saturating_sub(retention))
    }
}

impl StoreSettings {
    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), retention: self.retention }
    }
}

/// A worker that asks for a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub(super) worker: &'a WorkerId,
    pub(super) lease: Duration,
}

/// A new job with its first event.
pub(super) fn first_step(new: NewJob, id: JobId, now: Timestamp) -> Step {
    let first = Sequence(1);
    Step {
        job: Job {
            id,
            principal: new.principal,
            request_id: new.request_id,
            request_digest: new.request_digest,
            work_digest: new.work_digest,
            work: new.work,
            options: new.options,
            state: JobState::Queued,
            attempt: 0,
            // A job that may never be tried would wait for ever.
            max_attempts: new.max_attempts.max(1),
            fence: Fence(0),
            lease: None,
            not_before: None,
            cancel_requested: false,
            progress: None,
            last_sequence: first,
            created_at: now,
            updated_at: now,
            expires_at: None,
        },
        event: JobEvent {
            sequence: first,
            recorded_at: now,
            body: EventBody::StateChanged { state: StateName::Queued, attempt: 0, failure: None },
        },
    }
}

/// The job that an equal request made, or why the request is refused.
pub(super) fn same_request(new: &NewJob, existing: Job) -> Result<Job, StoreError> {
    if existing.request_digest == new.request_digest {
        return Ok(existing);
    }
    Err(StoreError::RequestIdReused { request_id: new.request_id, existing: existing.id })
}

/// Refuses a job where too many wait.
pub(super) fn admit(limits: QueueLimits, total: u64, of_principal: u64) -> Result<(), StoreError> {
    for (queued, limit, of_principal) in
        [(of_principal, limits.of_principal, true), (total, limits.total, false)]
    {
        if queued >= limit {
            return Err(StoreError::QueueFull { queued, limit, of_principal });
        }
    }
    Ok(())
}

impl Job {
    /// Moves on, with the event that says so.
    pub(super) fn step(&self, transition: &Transition, at: Moment) -> Result<Step, StoreError> {
        let mut job =
            self.apply(transition, at.now).map_err(|refusal| StoreError::IllegalTransition {
                id: self.id,
                state: refusal.state,
                what: format!("{}: {}", refusal.transition, refusal.remedy),
            })?;
        if job.state.name().is_terminal() {
            job.expires_at = Some(at.now + at.retention);
        }
        let event = JobEvent {
            sequence: job.last_sequence,
            recorded_at: at.now,
            body: job.state_event(transition),
        };
        Ok(Step { job, event })
    }

    /// What a queued job becomes when a worker asks for work: claimed, or done where a claim would
    /// be in vain.
    pub(super) fn step_of_claim(&self, by: Claimant<'_>, at: Moment) -> Result<Step, StoreError> {
        let transition = if self.cancel_requested {
            Transition::CancelObserved
        } else if self.options.deadline.is_some_and(|deadline| deadline <= at.now) {
            Transition::DeadlinePassed
        } else {
            Transition::Claimed {
                worker: by.worker.clone(),
                fence: Fence(self.fence.0.saturating_add(1)),
                lease_until: at.now + by.lease,
            }
        };
        self.step(&transition, at)
    }

    /// What the holder records; refused where another claim came after, or where the hold ended.
    pub(super) fn step_of_record(
        &self,
        fence: Fence,
        event: NewEvent,
        at: Moment,
    ) -> Result<Step, StoreError> {
        self.check_hold(fence)?;
        let body = match event {
            NewEvent::Transition(transition) => return self.step(&transition, at),
            NewEvent::Progress(progress) => EventBody::Progress(progress),
            NewEvent::Warning { reason, message } => {
                EventBody::Warning { reason: reason.to_owned(), message }
            }
        };
        let mut job = self.clone();
        job.updated_at = at.now;
        job.last_sequence = Sequence(self.last_sequence.0 + 1);
        if let EventBody::Progress(progress) = &body {
            job.progress = Some(*progress);
        }
        let event = JobEvent { sequence: job.last_sequence, recorded_at: at.now, body };
        Ok(Step { job, event })
    }

    /// What time alone makes of the job, if anything.
    pub(super) fn step_of_time(&self, at: Moment) -> Option<(Step, Cause)> {
        let passed = |limit: Option<Timestamp>| limit.is_some_and(|limit| limit <= at.now);
        let (transition, cause) = if passed(self.options.deadline) {
            (Transition::DeadlinePassed, Cause::Deadline)
        } else if passed(self.lease.as_ref().map(|lease| lease.until)) {
            (Transition::LeaseExpired, Cause::Lease)
        } else {
            return None;
        };
        Some((self.step(&transition, at).ok()?, cause))
    }

    /// What the loss of a worker makes of the job, if that worker holds it.
    pub(super) fn step_of_loss(&self, worker: &WorkerId, at: Moment) -> Option<Step> {
        let is_held = self.lease.as_ref().is_some_and(|lease| lease.worker == *worker);
        is_held.then(|| self.step(&Transition::LeaseExpired, at).ok()).flatten()
    }

    /// Refuses a caller that does not hold the job any more. A lease counts until it is swept: the
    /// fence alone decides who may write, so a holder that is a little late loses nothing.
    pub(super) fn check_hold(&self, fence: Fence) -> Result<(), StoreError> {
        if self.fence == fence && self.lease.is_some() {
            return Ok(());
        }
        Err(StoreError::FenceIsOld { id: self.id, given: fence, current: self.fence })
    }

    /// Refuses to forget a job that is not done.
    pub(super) fn check_done(&self) -> Result<(), StoreError> {
        let state = self.state.name();
        if state.is_terminal() {
            return Ok(());
        }
        Err(StoreError::IllegalTransition {
            id: self.id,
            state,
            what: "only a job that is done can be deleted; cancel it and wait".to_owned(),
        })
    }
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Deadline,
    Lease,
}

impl ListQuery {
    /// How many jobs a page holds.
    pub(super) fn page_size(&self) -> u32 {
        self.limit.clamp(1, MOST_JOBS_A_PAGE)
    }

    /// Whether the job is asked for, wherever the page begins.
    pub(super) fn matches(&self, job: &Job) -> bool {
        self.principal.as_ref().is_none_or(|principal| *principal == job.principal)
            && (self.states.is_empty() || self.states.contains(&job.state.name()))
            && self.kind.as_ref().is_none_or(|kind| kind == job.work.kind())
            && self.base_model.as_ref().is_none_or(|model| model == job.work.base_model())
            && self.labels.iter().all(|(name, value)| job.options.labels.get(name) == Some(value))
    }
}
