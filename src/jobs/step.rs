//! One step of a job's life, the same for every store: the next job and the events that its log
//! gains, as a pure function. A store only loads, asks here, and writes both in one transaction.

use std::time::Duration;

use super::{
    Clock, EventBody, FailureReason, Fence, Identifiers, JobEvent, JobId, JobState, JobSummary,
    ListQuery, Milestone, NewEvent, NewJob, Page, QueueLimits, Sequence, StateName, StoreError,
    StoreResult, Timestamp, Transition, WorkSummary, WorkerId, WorkerLoss, job::Job,
};

/// Most jobs of one page, whatever is asked.
pub(super) const MOST_JOBS_A_PAGE: u32 = 1_000;

/// A page ends with the job that fills it: what a client named its jobs by may be long, and a page
/// that cannot be sent helps nobody.
const MOST_BYTES_A_PAGE: usize = 2 << 20;

/// What a job takes beside its request: its row, its indexes and its first events, about.
const BYTES_A_JOB: u64 = 4 << 10;

/// What every store is made with.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Where the time comes from.
    pub clock: Clock,
    /// Where names come from.
    pub identifiers: Identifiers,
    /// How long a job is kept once it is done, and scores once they are stored.
    pub retention: Duration,
    /// How long the finished result of a job that failed while it was published is kept.
    pub keep_unpublished: Duration,
    /// How long a list may be looked for.
    pub query_limit: Duration,
}

impl StoreSettings {
    /// 30 days.
    pub const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);
    /// Seven days.
    pub const DEFAULT_KEEP_UNPUBLISHED: Duration = Duration::from_hours(7 * 24);
    /// 2 seconds: a hundred times what a page of a large store takes.
    pub const DEFAULT_QUERY_LIMIT: Duration = Duration::from_secs(2);
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            identifiers: Identifiers::default(),
            retention: Self::DEFAULT_RETENTION,
            keep_unpublished: Self::DEFAULT_KEEP_UNPUBLISHED,
            query_limit: Self::DEFAULT_QUERY_LIMIT,
        }
    }
}

/// The next job, and what its log gains.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) job: JobSummary,
    pub(super) event: JobEvent,
}

/// When a step is taken, and how long a done job is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) retention: Duration,
    pub(super) keep_unpublished: Duration,
}

impl StoreSettings {
    pub(super) fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            retention: self.retention,
            keep_unpublished: self.keep_unpublished,
        }
    }

    /// Scores that were stored by then are forgotten now.
    pub(super) fn oldest_kept(&self, now: Timestamp) -> Timestamp {
        let retention = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(retention))
    }
}

/// A worker that asks for a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub(super) worker: &'a WorkerId,
    pub(super) lease: Duration,
}

/// A new job with its first event; its work stands beside it.
pub(super) fn first_step(new: &NewJob, id: JobId, now: Timestamp) -> Step {
    let first = Sequence(1);
    Step {
        job: Job {
            id,
            principal: new.principal.clone(),
            request_id: new.request_id,
            request_digest: new.request_digest.clone(),
            work_digest: new.work_digest.clone(),
            work: new.work.summary(),
            options: new.options.clone(),
            state: JobState::Queued,
            attempt: 0,
            // A job that may never be tried would wait for ever.
            max_attempts: new.max_attempts.max(1),
            losses: 0,
            milestone: Milestone(0),
            advanced: false,
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
pub(super) fn same_request(new: &NewJob, existing: JobSummary) -> StoreResult<JobSummary> {
    if existing.request_digest == new.request_digest {
        return Ok(existing);
    }
    Err(StoreError::RequestIdReused { request_id: new.request_id, existing: existing.id })
}

/// What is there when a job asks to be stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Occupancy {
    /// Jobs that wait, everybody's.
    pub(super) queued: u64,
    /// Jobs of the principal that wait.
    pub(super) own_queued: u64,
    /// What is stored for the principal.
    pub(super) own_bytes: u64,
}

/// Refuses a job where too many wait, or too much is stored.
pub(super) fn admit(limits: QueueLimits, occupancy: Occupancy, adds: u64) -> StoreResult<()> {
    let Occupancy { queued, own_queued, own_bytes } = occupancy;
    for (queued, limit, of_principal) in
        [(own_queued, limits.of_principal, true), (queued, limits.total, false)]
    {
        if queued >= limit {
            return Err(StoreError::QueueFull { queued, limit, of_principal });
        }
    }
    check_room(own_bytes, adds, limits.stored_bytes)
}

/// Refuses what the principal has no room for.
pub(super) fn check_room(stored: u64, adds: u64, limit: u64) -> StoreResult<()> {
    if stored.saturating_add(adds) > limit {
        return Err(StoreError::PrincipalStorageFull { stored, adds, limit });
    }
    Ok(())
}

/// What a job counts for, with the JSON of its work where that is kept.
pub(super) fn stored_bytes(options: &str, work: Option<&str>) -> u64 {
    BYTES_A_JOB + options.len() as u64 + work.map_or(0, |work| work.len() as u64)
}

impl Job<WorkSummary> {
    /// Whether its work will never be wanted: it was done with before anybody claimed it.
    pub(super) fn never_runs(&self) -> bool {
        self.state.name().is_terminal() && self.fence == Fence(0)
    }

    /// What the holder's saved work makes of the job; `None` where it is no news.
    pub(super) fn step_of_milestone(
        &self,
        fence: Fence,
        milestone: Milestone,
    ) -> StoreResult<Option<Self>> {
        self.check_hold(fence)?;
        Ok(self.advance(milestone))
    }

    /// Moves on, with the event that says so.
    pub(super) fn step(&self, transition: &Transition, at: Moment) -> StoreResult<Step> {
        let mut job =
            self.apply(transition, at.now).map_err(|refusal| StoreError::IllegalTransition {
                id: self.id,
                state: refusal.state,
                what: format!("{}: {}", refusal.transition, refusal.remedy),
            })?;
        if job.state.name().is_terminal() {
            job.expires_at = Some(at.now + at.retention);
        }
        if matches!(self.state, JobState::Publishing)
            && let JobState::Failed(failure) = &mut job.state
            && failure.reason != FailureReason::ResultNotKept
        {
            // No longer than the job itself, which tells whose it is.
            let kept = at.keep_unpublished.min(at.retention);
            failure.result_kept_until = Some(at.now + kept);
        }
        let event = JobEvent {
            sequence: job.last_sequence,
            recorded_at: at.now,
            body: job.state_event(transition),
        };
        Ok(Step { job, event })
    }

    /// What a job that waits becomes when a worker asks for work: claimed, or done where a claim would
    /// be in vain.
    pub(super) fn step_of_claim(&self, by: Claimant<'_>, at: Moment) -> StoreResult<Step> {
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

    /// What a wish to have the finished result published makes of the job; nothing where it is
    /// published already, or will be.
    pub(super) fn step_of_publication(&self, at: Moment) -> StoreResult<Option<Step>> {
        match &self.state {
            JobState::Cancelled => Err(self.no_result_kept()),
            JobState::Failed(_) => self
                .step(&Transition::PublishAgain, at)
                .map(Some)
                .map_err(|_| self.no_result_kept()),
            _ => Ok(None),
        }
    }

    fn no_result_kept(&self) -> StoreError {
        StoreError::ResultNotKept { id: self.id, state: self.state.name() }
    }

    /// What the holder records; refused where another claim came after, or where the hold ended.
    pub(super) fn step_of_record(
        &self,
        fence: Fence,
        event: NewEvent,
        at: Moment,
    ) -> StoreResult<Step> {
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

    /// What time alone makes of the job, if anything. A worker that is known to be alive loses
    /// nothing, whatever the wall clock shows.
    pub(super) fn step_of_time(
        &self,
        at: Moment,
        alive: Option<&WorkerId>,
    ) -> Option<(Step, Cause)> {
        let passed = |limit: Option<Timestamp>| limit.is_some_and(|limit| limit <= at.now);
        let lease = self.lease.as_ref().filter(|lease| alive != Some(&lease.worker));
        let (transition, cause) = if passed(self.options.deadline) {
            (Transition::DeadlinePassed, Cause::Deadline)
        } else if passed(lease.map(|lease| lease.until)) {
            (Transition::LeaseExpired, Cause::Lease)
        } else {
            return None;
        };
        Some((self.step(&transition, at).ok()?, cause))
    }

    /// What the loss of a worker makes of the job, if that worker holds it.
    pub(super) fn step_of_loss(
        &self,
        worker: &WorkerId,
        loss: WorkerLoss,
        at: Moment,
    ) -> Option<Step> {
        let is_held = self.lease.as_ref().is_some_and(|lease| lease.worker == *worker);
        let transition = match loss {
            WorkerLoss::Unexplained => Transition::LeaseExpired,
            WorkerLoss::BesideCall => Transition::Released,
        };
        is_held.then(|| self.step(&transition, at).ok()).flatten()
    }

    /// Refuses a caller that does not hold the job any more. A lease counts until it is swept: the
    /// fence alone decides who may write, so a holder that is a little late loses nothing.
    pub(super) fn check_hold(&self, fence: Fence) -> StoreResult<()> {
        if self.fence == fence && self.lease.is_some() {
            return Ok(());
        }
        Err(StoreError::FenceIsOld { id: self.id, given: fence, current: self.fence })
    }

    /// Refuses to forget a job that is not done.
    pub(super) fn check_done(&self) -> StoreResult<()> {
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
    pub(super) fn matches(&self, job: &JobSummary) -> bool {
        self.principal.as_ref().is_none_or(|principal| *principal == job.principal)
            && (self.states.is_empty() || self.states.contains(&job.state.name()))
            && self.kind.as_ref().is_none_or(|kind| kind == job.work.kind())
            && self.base_model.as_ref().is_none_or(|model| model == job.work.base_model())
            && self.labels.iter().all(|(name, value)| job.options.labels.get(name) == Some(value))
    }
}

/// A page that is filled job by job.
#[derive(Debug)]
pub(super) struct PageInTheMaking {
    page: Page,
    size: usize,
    bytes: usize,
}

impl PageInTheMaking {
    pub(super) fn of(query: &ListQuery) -> Self {
        let page = Page { jobs: Vec::new(), next: None };
        Self { page, size: query.page_size() as usize, bytes: 0 }
    }

    /// Takes the next job; gives the page back once it is full and this one is left over.
    pub(super) fn take(mut self, job: JobSummary) -> Result<Self, Page> {
        let is_full = self.page.jobs.len() >= self.size || self.bytes >= MOST_BYTES_A_PAGE;
        if is_full && !self.page.jobs.is_empty() {
            self.page.next = self.page.jobs.last().map(|job| job.id);
            return Err(self.page);
        }
        // As it is sent, about.
        self.bytes += serde_json::to_vec(&job).map_or(0, |json| json.len());
        self.page.jobs.push(job);
        Ok(self)
    }

    /// The last page.
    pub(super) fn finish(self) -> Page {
        self.page
    }
}
