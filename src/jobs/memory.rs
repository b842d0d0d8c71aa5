//! A store that forgets everything when the process ends: for tests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Fence, Inserted, Job, JobEvent, JobId, JobStore, JobSummary, LeaseStatus, ListQuery, Milestone,
    NewEvent, NewJob, Page, Principal, QueueLimits, RequestId, ScoresJson, Sequence, StateName,
    StoreError, StoreResult, StoreSettings, Swept, Timestamp, Transition, Work, WorkerId,
    WorkerLoss,
    clock::AgreedTime,
    step::{self, Cause, Claimant, Occupancy, PageInTheMaking, Step},
    turns::{Served, Waiting, in_turn},
};

/// Jobs in the memory of this process.
#[derive(Debug)]
pub struct MemoryStore {
    settings: StoreSettings,
    /// By which things are forgotten.
    agreed: AgreedTime,
    kept: Mutex<StoredJobs>,
    wake: watch::Sender<u64>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(settings: StoreSettings) -> Self {
        let agreed = AgreedTime::new(settings.clock.clone());
        Self { settings, agreed, kept: Mutex::default(), wake: watch::Sender::new(0) }
    }

    /// Nothing between taking and giving back the lock can panic, so what a poisoned lock guards
    /// is still whole.
    fn kept(&self) -> MutexGuard<'_, StoredJobs> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[derive(Debug, Default)]
struct StoredJobs {
    jobs: BTreeMap<JobId, JobSummary>,
    works: HashMap<JobId, Work>,
    /// What each job counts for.
    bytes: HashMap<JobId, u64>,
    requests: HashMap<(Principal, RequestId), JobId>,
    served: Served,
    events: HashMap<JobId, Vec<JobEvent>>,
    scores: BTreeMap<(Principal, String), (String, Timestamp)>,
    probe: u64,
}

impl StoredJobs {
    fn job(&self, id: JobId) -> StoreResult<&JobSummary> {
        self.jobs.get(&id).ok_or(StoreError::NotFound(id))
    }

    /// What waits and is wanted, in the order of claims.
    fn queue(&self, is_wanted: impl Fn(&JobSummary) -> bool) -> Vec<JobId> {
        let waits = |job: &&JobSummary| job.state.name() == StateName::Queued && is_wanted(job);
        let waiting = self.jobs.values().filter(waits).map(|job| Waiting {
            id: job.id,
            principal: job.principal.clone(),
            priority: job.options.priority,
        });
        in_turn(waiting.collect(), &self.served)
    }

    fn occupancy(&self, principal: &Principal) -> Occupancy {
        let mut occupancy =
            Occupancy { own_bytes: self.bytes_of_scores(principal), ..Occupancy::default() };
        for job in self.jobs.values() {
            let (is_own, waits) =
                (job.principal == *principal, job.state.name() == StateName::Queued);
            occupancy.queued += u64::from(waits);
            occupancy.own_queued += u64::from(waits && is_own);
            if is_own {
                occupancy.own_bytes += self.bytes.get(&job.id).copied().unwrap_or(0);
            }
        }
        occupancy
    }

    fn bytes_of_scores(&self, principal: &Principal) -> u64 {
        let own = self.scores.iter().filter(|((owner, _), _)| owner == principal);
        own.map(|(_, (scores, _))| scores.len() as u64).sum()
    }

    /// Stores a step whole.
    fn keep(&mut self, step: Step) -> JobSummary {
        let Step { job, event } = step;
        if job.never_runs() {
            self.works.remove(&job.id);
            self.bytes.insert(job.id, weight(&job, None));
        }
        self.events.entry(job.id).or_default().push(event);
        self.jobs.insert(job.id, job.clone());
        job
    }

    fn forget(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.requests.remove(&(job.principal, job.request_id));
        }
        self.works.remove(&id);
        self.bytes.remove(&id);
        self.events.remove(&id);
    }
}

/// What a job counts for: its texts as another store would write them.
fn weight(job: &JobSummary, work: Option<&Work>) -> u64 {
    let options = serde_json::to_string(&job.options).unwrap_or_default();
    let work = work.map(|work| serde_json::to_string(work).unwrap_or_default());
    step::stored_bytes(&options, work.as_deref())
}

impl JobStore for MemoryStore {
    async fn insert(&self, new: NewJob, limits: QueueLimits) -> StoreResult<Inserted> {
        let now = self.settings.clock.now();
        let mut kept = self.kept();
        let request = (new.principal.clone(), new.request_id);
        if let Some(existing) = kept.requests.get(&request).and_then(|id| kept.jobs.get(id)) {
            let job = step::same_request(&new, existing.clone())?;
            return Ok(Inserted::Existing(Box::new(job)));
        }
        let newest = kept.jobs.keys().next_back().copied();
        let id = self.settings.identifiers.job_after(newest);
        let first = step::first_step(&new, id, now);
        let bytes = weight(&first.job, Some(&new.work));
        step::admit(limits, kept.occupancy(&new.principal), bytes)?;
        kept.requests.insert(request, id);
        kept.works.insert(id, new.work);
        kept.bytes.insert(id, bytes);
        let job = kept.keep(first);
        drop(kept);
        self.bump();
        Ok(Inserted::Created(Box::new(job)))
    }

    async fn get(&self, id: JobId) -> StoreResult<Option<JobSummary>> {
        Ok(self.kept().jobs.get(&id).cloned())
    }

    async fn get_whole(&self, id: JobId) -> StoreResult<Option<Job>> {
        let kept = self.kept();
        let (job, work) = (kept.jobs.get(&id), kept.works.get(&id));
        Ok(job.zip(work).map(|(job, work)| job.clone().with_work(work.clone())))
    }

    async fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> StoreResult<Option<JobSummary>> {
        let kept = self.kept();
        let id = kept.requests.get(&(principal.clone(), request_id));
        Ok(id.and_then(|id| kept.jobs.get(id)).cloned())
    }

    async fn list(&self, query: &ListQuery) -> StoreResult<Page> {
        let kept = self.kept();
        let mut page = PageInTheMaking::of(query);
        for (id, job) in kept.jobs.iter().rev() {
            let is_wanted = query.before.is_none_or(|before| *id < before) && query.matches(job);
            if is_wanted {
                page = match page.take(job.clone()) {
                    Ok(page) => page,
                    Err(full) => return Ok(full),
                };
            }
        }
        Ok(page.finish())
    }

    async fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> StoreResult<Option<JobSummary>> {
        let is_same = |job: &&JobSummary| {
            job.state.name() == StateName::Succeeded
                && job.principal == *principal
                && job.work_digest == work_digest
        };
        Ok(self.kept().jobs.values().rev().find(is_same).cloned())
    }

    async fn claim(&self, worker: &WorkerId, lease: Duration) -> StoreResult<Option<Job>> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let mut claimed = None;
        let mut changed = false;
        while claimed.is_none() {
            let is_ready =
                |job: &JobSummary| job.not_before.is_none_or(|earliest| earliest <= at.now);
            let finished = kept.jobs.values().find(|job| job.waits_for_publication());
            let finished = finished.map(|job| job.id);
            let Some(next) = finished.or_else(|| kept.queue(is_ready).first().copied()) else {
                break;
            };
            let step = kept.job(next)?.step_of_claim(Claimant { worker, lease }, at)?;
            let job = kept.keep(step);
            changed = true;
            if job.lease.is_some() {
                if job.state.name() == StateName::Preparing {
                    kept.served.note(&job.principal);
                }
                let work = kept.works.get(&next).cloned().ok_or(StoreError::NotFound(next))?;
                claimed = Some(job.with_work(work));
            }
        }
        drop(kept);
        if changed {
            self.bump();
        }
        Ok(claimed)
    }

    async fn extend(&self, id: JobId, fence: Fence, lease: Duration) -> StoreResult<LeaseStatus> {
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

    async fn record(&self, id: JobId, fence: Fence, event: NewEvent) -> StoreResult<JobSummary> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let step = kept.job(id)?.step_of_record(fence, event, at)?;
        let job = kept.keep(step);
        drop(kept);
        self.bump();
        Ok(job)
    }

    async fn note_saved(&self, id: JobId, fence: Fence, milestone: Milestone) -> StoreResult<()> {
        let mut kept = self.kept();
        if let Some(job) = kept.job(id)?.step_of_milestone(fence, milestone)? {
            kept.jobs.insert(id, job);
        }
        Ok(())
    }

    async fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> StoreResult<Vec<JobEvent>> {
        let kept = self.kept();
        let events = kept.events.get(&id).ok_or(StoreError::NotFound(id))?;
        let from = events.partition_point(|event| event.sequence <= after);
        Ok(events[from..].iter().take(limit as usize).cloned().collect())
    }

    async fn request_cancel(&self, id: JobId) -> StoreResult<JobSummary> {
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

    async fn publish_again(&self, id: JobId) -> StoreResult<JobSummary> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let job = kept.job(id)?;
        let Some(step) = job.step_of_publication(at)? else { return Ok(job.clone()) };
        let job = kept.keep(step);
        drop(kept);
        self.bump();
        Ok(job)
    }

    async fn delete(&self, id: JobId) -> StoreResult<()> {
        let mut kept = self.kept();
        kept.job(id)?.check_done()?;
        kept.forget(id);
        drop(kept);
        self.bump();
        Ok(())
    }

    async fn sweep(&self, alive: Option<&WorkerId>) -> StoreResult<Swept> {
        let (at, agreed) = (self.settings.moment(), self.agreed.now());
        let mut swept = Swept::default();
        let mut kept = self.kept();
        let due: Vec<_> =
            kept.jobs.values().filter_map(|job| job.step_of_time(at, alive)).collect();
        for (step, cause) in due {
            let id = kept.keep(step).id;
            match cause {
                Cause::Deadline => swept.missed_deadlines.push(id),
                Cause::Lease => swept.expired_leases.push(id),
            }
        }
        let is_old = |job: &&JobSummary| job.expires_at.is_some_and(|expires| expires <= agreed);
        swept.forgotten = kept.jobs.values().filter(is_old).map(|job| job.id).collect();
        for id in &swept.forgotten {
            kept.forget(*id);
        }
        let oldest = self.settings.oldest_kept(agreed);
        kept.scores.retain(|_, (_, stored)| *stored > oldest);
        drop(kept);
        if swept != Swept::default() {
            self.bump();
        }
        Ok(swept)
    }

    async fn expire_worker(
        &self,
        worker: &WorkerId,
        worked_on: &[JobId],
        loss: WorkerLoss,
    ) -> StoreResult<Vec<JobId>> {
        let at = self.settings.moment();
        let mut kept = self.kept();
        let lost = kept.jobs.values().filter(|job| !worked_on.contains(&job.id));
        let lost: Vec<_> = lost.filter_map(|job| job.step_of_loss(worker, loss, at)).collect();
        let expired: Vec<_> = lost.into_iter().map(|step| kept.keep(step).id).collect();
        drop(kept);
        if !expired.is_empty() {
            self.bump();
        }
        Ok(expired)
    }

    async fn queue_position(&self, id: JobId) -> StoreResult<u64> {
        let kept = self.kept();
        kept.job(id)?;
        let ahead = kept.queue(|_| true).iter().position(|other| *other == id);
        Ok(ahead.unwrap_or(0) as u64)
    }

    async fn queue_positions(&self, ids: &[JobId]) -> StoreResult<BTreeMap<JobId, u64>> {
        let queue = self.kept().queue(|_| true);
        let places = (0_u64..).zip(queue).map(|(ahead, id)| (id, ahead));
        Ok(places.filter(|(id, _)| ids.contains(id)).collect())
    }

    async fn counts(&self) -> StoreResult<BTreeMap<StateName, u64>> {
        let mut counts: BTreeMap<_, _> = StateName::ALL.iter().map(|name| (*name, 0)).collect();
        for job in self.kept().jobs.values() {
            *counts.entry(job.state.name()).or_default() += 1;
        }
        Ok(counts)
    }

    async fn put_scores(
        &self,
        principal: &Principal,
        scores: ScoresJson<'_>,
        most_bytes: u64,
    ) -> StoreResult<()> {
        let now = self.settings.clock.now();
        let key = (principal.clone(), scores.digest.to_owned());
        let mut kept = self.kept();
        let before = kept.scores.get(&key).map_or(0, |(before, _)| before.len() as u64);
        let stored = kept.occupancy(principal).own_bytes - before;
        step::check_room(stored, scores.json.len() as u64, most_bytes)?;
        kept.scores.insert(key, (scores.json.to_owned(), now));
        drop(kept);
        self.bump();
        Ok(())
    }

    async fn get_scores(&self, principal: &Principal, digest: &str) -> StoreResult<Option<String>> {
        let key = (principal.clone(), digest.to_owned());
        Ok(self.kept().scores.get(&key).map(|(scores, _)| scores.clone()))
    }

    async fn probe(&self) -> StoreResult<()> {
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
