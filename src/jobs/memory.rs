//! A store that forgets everything when the process ends: for tests.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Fence, Inserted, Job, JobEvent, JobId, JobStore, LeaseStatus, ListQuery, NewEvent, NewJob,
    Page, Principal, QueueLimits, RequestId, Sequence, StateName, StoreError, StoreSettings, Swept,
    Timestamp, Transition, WorkerId,
    step::{self, Cause, Claimant, Step},
};

/// Jobs in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    settings: StoreSettings,
    kept: Mutex<Kept>,
    wake: watch::Sender<u64>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, kept: Mutex::default(), wake: watch::Sender::new(0) }
    }

    /// Nothing between taking and giving back the lock can panic, so what a poisoned lock guards
    /// is still whole.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[derive(Debug, Default)]
struct Kept {
    jobs: BTreeMap<JobId, Job>,
    requests: HashMap<(Principal, RequestId), JobId>,
    /// What waits, in the order of claims.
    queue: BTreeSet<(Reverse<i32>, JobId)>,
    events: HashMap<JobId, Vec<JobEvent>>,
    scores: BTreeMap<(Principal, String), (String, Timestamp)>,
    probe: u64,
}

impl Kept {
    fn job(&self, id: JobId) -> Result<&Job, StoreError> {
        self.jobs.get(&id).ok_or(StoreError::NotFound(id))
    }

    /// Stores a step whole.
    fn keep(&mut self, step: Step) -> Job {
        let Step { job, event } = step;
        let place = (Reverse(job.options.priority), job.id);
        if job.state.name() == StateName::Queued {
            self.queue.insert(place);
        } else {
            self.queue.remove(&place);
        }
        self.events.entry(job.id).or_default().push(event);
        self.jobs.insert(job.id, job.clone());
        job
    }

    fn forget(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.requests.remove(&(job.principal, job.request_id));
            self.queue.remove(&(Reverse(job.options.priority), id));
        }
        self.events.remove(&id);
    }
}

impl JobStore for MemoryStore {
    async fn insert(&self, new: NewJob, limits: QueueLimits) -> Result<Inserted, StoreError> {
        let now = self.settings.clock.now();
        let mut kept = self.kept();
        let request = (new.principal.clone(), new.request_id);
        if let Some(existing) = kept.requests.get(&request).and_then(|id| kept.jobs.get(id)) {
            let job = step::same_request(&new, existing.clone())?;
            return Ok(Inserted::Existing(Box::new(job)));
        }
        let waits = |(_, id): &&(Reverse<i32>, JobId)| {
            kept.jobs.get(id).is_some_and(|job| job.principal == new.principal)
        };
        let of_principal = kept.queue.iter().filter(waits).count() as u64;
        step::admit(limits, kept.queue.len() as u64, of_principal)?;
        let id = self.settings.identifiers.job();
        kept.requests.insert(request, id);
        let job = kept.keep(step::first_step(new, id, now));
        drop(kept);
        self.bump();
        Ok(Inserted::Created(Box::new(job)))
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.kept().jobs.get(&id).cloned())
    }

    async fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> Result<Option<Job>, StoreError> {
        let kept = self.kept();
        let id = kept.requests.get(&(principal.clone(), request_id));
        Ok(id.and_then(|id| kept.jobs.get(id)).cloned())
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let size = query.page_size() as usize;
        let kept = self.kept();
        let mut jobs: Vec<Job> = kept
            .jobs
            .iter()
            .rev()
            .filter(|(id, job)| {
                query.before.is_none_or(|before| **id < before) && query.matches(job)
            })
            .map(|(_, job)| job.clone())
            .take(size + 1)
            .collect();
        let more = jobs.len() > size;
        jobs.truncate(size);
        let next = jobs.last().filter(|_| more).map(|job| job.id);
        Ok(Page { jobs, next })
    }

    async fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> Result<Option<Job>, StoreError> {
        let is_same = |job: &&Job| {
            job.state.name() == StateName::Succeeded
                && job.principal == *principal
                && job.work_digest == work_digest
        };
        Ok(self.kept().jobs.values().rev().find(is_same).cloned())
    }

    async fn claim(&self, worker: &WorkerId, lease: Duration) -> Result<Option<Job>, StoreError> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let mut claimed = None;
        let mut changed = false;
        while claimed.is_none() {
            let ready = kept.queue.iter().find_map(|(_, id)| {
                let job = kept.jobs.get(id)?;
                job.not_before.is_none_or(|earliest| earliest <= at.now).then_some(job)
            });
            let Some(job) = ready else { break };
            let step = job.step_of_claim(Claimant { worker, lease }, at)?;
            let job = kept.keep(step);
            changed = true;
            claimed = (job.state.name() == StateName::Preparing).then_some(job);
        }
        drop(kept);
        if changed {
            self.bump();
        }
        Ok(claimed)
    }

    async fn extend(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        let until = self.settings.clock.now() + lease;
        let mut kept = self.kept();
        let job = kept.jobs.get_mut(&id).ok_or(StoreError::NotFound(id))?;
        job.check_hold(fence)?;
        if let Some(hold) = &mut job.lease {
            hold.until = until;
        }
        let status =
            LeaseStatus { cancel_requested: job.cancel_requested, deadline: job.options.deadline };
        drop(kept);
        self.bump();
        Ok(status)
    }

    async fn record(&self, id: JobId, fence: Fence, event: NewEvent) -> Result<Job, StoreError> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let step = kept.job(id)?.step_of_record(fence, event, at)?;
        let job = kept.keep(step);
        drop(kept);
        self.bump();
        Ok(job)
    }

    async fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> Result<Vec<JobEvent>, StoreError> {
        let kept = self.kept();
        let events = kept.events.get(&id).ok_or(StoreError::NotFound(id))?;
        let from = events.partition_point(|event| event.sequence <= after);
        Ok(events[from..].iter().take(limit as usize).cloned().collect())
    }

    async fn request_cancel(&self, id: JobId) -> Result<Job, StoreError> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let job = kept.job(id)?;
        let state = job.state.name();
        if state.is_terminal() || (job.cancel_requested && state != StateName::Queued) {
            return Ok(job.clone());
        }
        let job = if state == StateName::Queued {
            let step = job.step(&Transition::CancelObserved, at)?;
            kept.keep(step)
        } else {
            let mut job = job.clone();
            job.cancel_requested = true;
            job.updated_at = at.now;
            kept.jobs.insert(id, job.clone());
            job
        };
        drop(kept);
        self.bump();
        Ok(job)
    }

    async fn delete(&self, id: JobId) -> Result<(), StoreError> {
        let mut kept = self.kept();
        kept.job(id)?.check_done()?;
        kept.forget(id);
        drop(kept);
        self.bump();
        Ok(())
    }

    async fn sweep(&self) -> Result<Swept, StoreError> {
        let at = self.settings.moment();
        let mut swept = Swept::default();
        let mut kept = self.kept();
        let due: Vec<_> = kept.jobs.values().filter_map(|job| job.step_of_time(at)).collect();
        for (step, cause) in due {
            let id = kept.keep(step).id;
            match cause {
                Cause::Deadline => swept.missed_deadlines.push(id),
                Cause::Lease => swept.expired_leases.push(id),
            }
        }
        let is_old = |job: &&Job| job.expires_at.is_some_and(|expires| expires <= at.now);
        swept.forgotten = kept.jobs.values().filter(is_old).map(|job| job.id).collect();
        for id in &swept.forgotten {
            kept.forget(*id);
        }
        kept.scores.retain(|_, (_, stored)| *stored > at.oldest_kept());
        drop(kept);
        if swept != Swept::default() {
            self.bump();
        }
        Ok(swept)
    }

    async fn expire_worker(&self, worker: &WorkerId) -> Result<Vec<JobId>, StoreError> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let lost: Vec<_> =
            kept.jobs.values().filter_map(|job| job.step_of_loss(worker, at)).collect();
        let expired: Vec<_> = lost.into_iter().map(|step| kept.keep(step).id).collect();
        drop(kept);
        if !expired.is_empty() {
            self.bump();
        }
        Ok(expired)
    }

    async fn queue_position(&self, id: JobId) -> Result<u64, StoreError> {
        let kept = self.kept();
        let job = kept.job(id)?;
        let place = (Reverse(job.options.priority), id);
        let waits = kept.queue.contains(&place);
        Ok(if waits { kept.queue.range(..place).count() as u64 } else { 0 })
    }

    async fn queue_positions(&self, ids: &[JobId]) -> Result<BTreeMap<JobId, u64>, StoreError> {
        let kept = self.kept();
        let places = (0_u64..).zip(&kept.queue).map(|(ahead, (_, id))| (*id, ahead));
        Ok(places.filter(|(id, _)| ids.contains(id)).collect())
    }

    async fn counts(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        let mut counts: BTreeMap<_, _> = StateName::ALL.into_iter().map(|name| (name, 0)).collect();
        for job in self.kept().jobs.values() {
            *counts.entry(job.state.name()).or_default() += 1;
        }
        Ok(counts)
    }

    async fn put_scores(
        &self,
        principal: &Principal,
        digest: &str,
        scores_json: &str,
    ) -> Result<(), StoreError> {
        let now = self.settings.clock.now();
        let key = (principal.clone(), digest.to_owned());
        self.kept().scores.insert(key, (scores_json.to_owned(), now));
        self.bump();
        Ok(())
    }

    async fn get_scores(
        &self,
        principal: &Principal,
        digest: &str,
    ) -> Result<Option<String>, StoreError> {
        let key = (principal.clone(), digest.to_owned());
        Ok(self.kept().scores.get(&key).map(|(scores, _)| scores.clone()))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let written = {
            let mut kept = self.kept();
            kept.probe = kept.probe.wrapping_add(1);
            kept.probe
        };
        // Another probe may have come between.
        if self.kept().probe < written {
            return Err(StoreError::Backend("what was written did not come back".to_owned()));
        }
        Ok(())
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }
}
