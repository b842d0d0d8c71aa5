//! Jobs in one SQLite file: write-ahead log, every commit on disk before it is answered, one writer
//! and a few readers that never wait for it.

mod checkpoints;
mod list;
mod open;
mod rows;

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::watch;

use self::{
    checkpoints::Checkpoints,
    rows::{Texts, keep, load, select},
};
use super::{
    Fence, Inserted, Job, JobEvent, JobId, JobStore, JobSummary, LeaseStatus, ListQuery, Milestone,
    NewEvent, NewJob, Page, Principal, QueueLimits, RequestId, ScoresJson, Sequence, StateName,
    StoreError, StoreResult, StoreSettings, Swept, Timestamp, Transition, WorkerId, WorkerLoss,
    clock::AgreedTime,
    step::{self, Cause, Claimant, Moment, Occupancy},
};

/// Most jobs that one transaction of a sweep or a claim touches, so that no writer waits long.
const JOBS_A_TRANSACTION: i64 = 256;

/// Jobs in a file.
#[derive(Debug)]
pub struct SqliteStore {
    settings: StoreSettings,
    /// By which things are forgotten.
    agreed: AgreedTime,
    checkpoints: Checkpoints,
    is_new: bool,
    writer: SqlitePool,
    readers: SqlitePool,
    /// What a client's filter keeps busy is none of the other readers.
    listers: SqlitePool,
    /// Whether the store works is found out without waiting for anybody's calls.
    prober: SqlitePool,
    wake: watch::Sender<u64>,
}

impl SqliteStore {
    /// Waits for what is under way and closes the file; later calls fail.
    pub async fn close(&self) {
        self.readers.close().await;
        self.listers.close().await;
        self.prober.close().await;
        self.writer.close().await;
    }

    /// Whether there was no store before this one was opened.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// A transaction that writes. Takes the write lock at once: one that began by reading could
    /// fail when it comes to write.
    async fn begin(&self) -> StoreResult<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> StoreResult<()> {
        transaction.commit().await?;
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Jobs whose time is up, until none is left.
    async fn sweep_due(
        &self,
        candidates: &'static str,
        (at, alive): (Moment, Option<&WorkerId>),
        swept: &mut Swept,
    ) -> StoreResult<()> {
        loop {
            let mut transaction = self.begin().await?;
            let rows = sqlx::query(candidates)
                .bind(at.now.0)
                .bind(JOBS_A_TRANSACTION)
                .fetch_all(&mut *transaction)
                .await?;
            let mut changed = false;
            for row in &rows {
                // A candidate that is none would come back for ever.
                let Some((step, cause)) = rows::job(row)?.step_of_time(at, alive) else { continue };
                let id = keep(&mut transaction, step).await?.id;
                changed = true;
                match cause {
                    Cause::Deadline => swept.missed_deadlines.push(id),
                    Cause::Lease => swept.expired_leases.push(id),
                }
            }
            if !changed {
                return Ok(());
            }
            self.commit(transaction).await?;
        }
    }

    /// Jobs and scores whose retention ended.
    async fn forget_old(&self, now: Timestamp, swept: &mut Swept) -> StoreResult<()> {
        loop {
            let mut transaction = self.begin().await?;
            let rows = sqlx::query(
                "DELETE FROM jobs WHERE id IN \
                 (SELECT id FROM jobs WHERE expires_at <= ? ORDER BY expires_at LIMIT ?) \
                 RETURNING id",
            )
            .bind(now.0)
            .bind(JOBS_A_TRANSACTION)
            .fetch_all(&mut *transaction)
            .await?;
            let scores = sqlx::query("DELETE FROM scores WHERE stored_at <= ?")
                .bind(self.settings.oldest_kept(now).0)
                .execute(&mut *transaction)
                .await?;
            if rows.is_empty() && scores.rows_affected() == 0 {
                return Ok(());
            }
            for row in &rows {
                swept.forgotten.push(rows::id(row)?);
            }
            self.commit(transaction).await?;
        }
    }
}

/// What is there when one of the principal's jobs asks to be stored.
async fn occupancy(
    connection: &mut SqliteConnection,
    principal: &Principal,
) -> StoreResult<Occupancy> {
    let row = sqlx::query(
        "SELECT COALESCE(SUM(jobs), 0) AS total, \
         COALESCE(SUM(CASE WHEN principal = ?1 THEN jobs END), 0) AS own, \
         COALESCE((SELECT bytes FROM stored WHERE principal = ?1), 0) AS bytes \
         FROM tallies WHERE state = 'queued'",
    )
    .bind(&principal.0)
    .fetch_one(connection)
    .await?;
    Ok(Occupancy {
        queued: rows::count(&row, "total")?,
        own_queued: rows::count(&row, "own")?,
        own_bytes: rows::count(&row, "bytes")?,
    })
}

impl JobStore for SqliteStore {
    async fn insert(&self, new: NewJob, limits: QueueLimits) -> StoreResult<Inserted> {
        let mut transaction = self.begin().await?;
        let existing = sqlx::query(select!("WHERE principal = ? AND request_id = ?"))
            .bind(&new.principal.0)
            .bind(new.request_id.0.hyphenated().to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(row) = existing {
            let job = step::same_request(&new, rows::job(&row)?)?;
            return Ok(Inserted::Existing(Box::new(job)));
        }
        let newest = sqlx::query("SELECT id FROM jobs ORDER BY id DESC LIMIT 1")
            .fetch_optional(&mut *transaction)
            .await?;
        let newest = newest.as_ref().map(rows::id).transpose()?;
        // Drawn under the write lock, so that the order of names is that of commits.
        let id = self.settings.identifiers.job_after(newest);
        let first = step::first_step(&new, id, self.settings.clock.now());
        let texts = Texts::of(&first.job, &new.work)?;
        let found = occupancy(&mut transaction, &new.principal).await?;
        step::admit(limits, found, texts.bytes())?;
        rows::insert(&mut transaction, &first.job, &texts).await?;
        rows::append(&mut transaction, id, &first.event).await?;
        self.commit(transaction).await?;
        Ok(Inserted::Created(Box::new(first.job)))
    }

    async fn get(&self, id: JobId) -> StoreResult<Option<JobSummary>> {
        let mut reader = self.readers.acquire().await?;
        match load(&mut reader, id).await {
            Ok(job) => Ok(Some(job)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get_whole(&self, id: JobId) -> StoreResult<Option<Job>> {
        let Some(job) = self.get(id).await? else { return Ok(None) };
        let mut reader = self.readers.acquire().await?;
        rows::with_work(&mut reader, job).await
    }

    async fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> StoreResult<Option<JobSummary>> {
        let row = sqlx::query(select!("WHERE principal = ? AND request_id = ?"))
            .bind(&principal.0)
            .bind(request_id.0.hyphenated().to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(rows::job).transpose()
    }

    async fn list(&self, query: &ListQuery) -> StoreResult<Page> {
        let mut lister = self.listers.acquire().await?;
        match list::page(&mut lister, query).await {
            Ok(page) => page,
            Err(error) if list::is_interrupted(&error) => {
                let limit = self.settings.query_limit;
                tracing::warn!(?limit, labels = query.labels.len(), "a list took too long");
                Err(StoreError::QueryTooLong { limit })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> StoreResult<Option<JobSummary>> {
        let row = sqlx::query(select!(
            "WHERE state = 'succeeded' AND principal = ? AND work_digest = ? ORDER BY id DESC LIMIT 1"
        ))
        .bind(&principal.0)
        .bind(work_digest)
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(rows::job).transpose()
    }

    async fn claim(&self, worker: &WorkerId, lease: Duration) -> StoreResult<Option<Job>> {
        loop {
            let at = self.settings.moment();
            let mut transaction = self.begin().await?;
            let mut changed = false;
            for _ in 0..JOBS_A_TRANSACTION {
                let mut row =
                    sqlx::query(rows::NEXT_TO_PUBLISH).fetch_optional(&mut *transaction).await?;
                if row.is_none() {
                    row = sqlx::query(rows::NEXT_IN_TURN)
                        .bind(at.now.0)
                        .fetch_optional(&mut *transaction)
                        .await?;
                }
                let Some(row) = row else {
                    if changed {
                        self.commit(transaction).await?;
                    }
                    return Ok(None);
                };
                let step = rows::job(&row)?.step_of_claim(Claimant { worker, lease }, at)?;
                let job = keep(&mut transaction, step).await?;
                changed = true;
                if job.lease.is_some() {
                    let id = job.id;
                    if job.state.name() == StateName::Preparing {
                        sqlx::query(rows::SERVED)
                            .bind(&job.principal.0)
                            .execute(&mut *transaction)
                            .await?;
                    }
                    let whole = rows::with_work(&mut transaction, job).await?;
                    let whole = whole.ok_or(StoreError::NotFound(id))?;
                    self.commit(transaction).await?;
                    return Ok(Some(whole));
                }
            }
            self.commit(transaction).await?;
        }
    }

    async fn extend(&self, id: JobId, fence: Fence, lease: Duration) -> StoreResult<LeaseStatus> {
        let mut transaction = self.begin().await?;
        let mut job = load(&mut transaction, id).await?;
        job.check_hold(fence)?;
        if let Some(hold) = &mut job.lease {
            hold.until = self.settings.clock.now() + lease;
        }
        rows::update(&mut transaction, &job).await?;
        self.commit(transaction).await?;
        Ok(LeaseStatus { cancel_requested: job.cancel_requested, deadline: job.options.deadline })
    }

    async fn record(&self, id: JobId, fence: Fence, event: NewEvent) -> StoreResult<JobSummary> {
        let mut transaction = self.begin().await?;
        let at = self.settings.moment();
        let step = load(&mut transaction, id).await?.step_of_record(fence, event, at)?;
        let job = keep(&mut transaction, step).await?;
        self.commit(transaction).await?;
        Ok(job)
    }

    async fn note_saved(&self, id: JobId, fence: Fence, milestone: Milestone) -> StoreResult<()> {
        let mut transaction = self.begin().await?;
        let next = load(&mut transaction, id).await?.step_of_milestone(fence, milestone)?;
        if let Some(job) = next {
            rows::update(&mut transaction, &job).await?;
            // Nobody waits for this: it wakes no one.
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> StoreResult<Vec<JobEvent>> {
        let mut reader = self.readers.acquire().await?;
        let found = sqlx::query(
            "SELECT sequence, recorded_at, body FROM events \
             WHERE job_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        )
        .bind(id.to_string())
        .bind(i64::try_from(after.0).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&mut *reader)
        .await?;
        if found.is_empty() {
            rows::check_exists(&mut reader, id).await?;
        }
        found.iter().map(rows::event).collect()
    }

    async fn request_cancel(&self, id: JobId) -> StoreResult<JobSummary> {
        let mut transaction = self.begin().await?;
        let mut job = load(&mut transaction, id).await?;
        let at = self.settings.moment();
        let state = job.state.name();
        if state.is_terminal() || (job.cancel_requested && state != StateName::Queued) {
            return Ok(job);
        }
        if state == StateName::Queued {
            let step = job.step(&Transition::CancelObserved, at)?;
            job = keep(&mut transaction, step).await?;
        } else {
            job.cancel_requested = true;
            job.updated_at = at.now;
            rows::update(&mut transaction, &job).await?;
        }
        self.commit(transaction).await?;
        Ok(job)
    }

    async fn publish_again(&self, id: JobId) -> StoreResult<JobSummary> {
        let mut transaction = self.begin().await?;
        let job = load(&mut transaction, id).await?;
        let Some(step) = job.step_of_publication(self.settings.moment())? else { return Ok(job) };
        let job = keep(&mut transaction, step).await?;
        rows::update_options(&mut transaction, &job).await?;
        self.commit(transaction).await?;
        Ok(job)
    }

    async fn delete(&self, id: JobId) -> StoreResult<()> {
        let mut transaction = self.begin().await?;
        load(&mut transaction, id).await?.check_done()?;
        sqlx::query("DELETE FROM jobs WHERE id = ?")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        self.commit(transaction).await
    }

    async fn sweep(&self, alive: Option<&WorkerId>) -> StoreResult<Swept> {
        let by = (self.settings.moment(), alive);
        let mut swept = Swept::default();
        self.sweep_due(rows::PAST_DEADLINE, by, &mut swept).await?;
        self.sweep_due(rows::PAST_LEASE, by, &mut swept).await?;
        self.forget_old(self.agreed.now(), &mut swept).await?;
        self.checkpoints.make_if_due(&self.writer).await?;
        Ok(swept)
    }

    async fn expire_worker(
        &self,
        worker: &WorkerId,
        worked_on: &[JobId],
        loss: WorkerLoss,
    ) -> StoreResult<Vec<JobId>> {
        let at = self.settings.moment();
        // Those that are worked on come with every look.
        let most = i64::try_from(worked_on.len()).unwrap_or(i64::MAX);
        let most = most.saturating_add(JOBS_A_TRANSACTION);
        let mut expired = Vec::new();
        loop {
            let mut transaction = self.begin().await?;
            let rows = sqlx::query(rows::HELD_BY)
                .bind(&worker.0)
                .bind(most)
                .fetch_all(&mut *transaction)
                .await?;
            let before = expired.len();
            for row in &rows {
                // A candidate that is none would come back for ever.
                let job = rows::job(row)?;
                if worked_on.contains(&job.id) {
                    continue;
                }
                let Some(step) = job.step_of_loss(worker, loss, at) else { continue };
                expired.push(keep(&mut transaction, step).await?.id);
            }
            if expired.len() == before {
                return Ok(expired);
            }
            self.commit(transaction).await?;
        }
    }

    async fn queue_position(&self, id: JobId) -> StoreResult<u64> {
        let mut reader = self.readers.acquire().await?;
        let row = sqlx::query(rows::AHEAD_IN_TURN)
            .bind(id.to_string())
            .fetch_optional(&mut *reader)
            .await?
            .ok_or(StoreError::NotFound(id))?;
        rows::count(&row, "ahead")
    }

    async fn queue_positions(&self, ids: &[JobId]) -> StoreResult<BTreeMap<JobId, u64>> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let found = sqlx::query(rows::ALL_AHEAD_IN_TURN)
            .bind(serde_json::Value::from(names).to_string())
            .fetch_all(&self.readers)
            .await?;
        found.iter().map(|row| Ok((rows::id(row)?, rows::count(row, "ahead")?))).collect()
    }

    async fn counts(&self) -> StoreResult<BTreeMap<StateName, u64>> {
        let mut counts: BTreeMap<_, _> = StateName::ALL.iter().map(|name| (*name, 0)).collect();
        let found = sqlx::query("SELECT state, SUM(jobs) AS jobs FROM tallies GROUP BY state")
            .fetch_all(&self.readers)
            .await?;
        for row in &found {
            counts.insert(rows::state_name(row)?, rows::count(row, "jobs")?);
        }
        Ok(counts)
    }

    async fn put_scores(
        &self,
        principal: &Principal,
        scores: ScoresJson<'_>,
        most_bytes: u64,
    ) -> StoreResult<()> {
        let mut transaction = self.begin().await?;
        let before = sqlx::query(
            "SELECT COALESCE(SUM(length(CAST(scores AS BLOB))), 0) AS bytes FROM scores \
             WHERE principal = ? AND digest = ?",
        )
        .bind(&principal.0)
        .bind(scores.digest)
        .fetch_one(&mut *transaction)
        .await?;
        let stored = occupancy(&mut transaction, principal).await?.own_bytes;
        let stored = stored.saturating_sub(rows::count(&before, "bytes")?);
        step::check_room(stored, scores.json.len() as u64, most_bytes)?;
        sqlx::query(
            "INSERT INTO scores (principal, digest, scores, stored_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (principal, digest) \
             DO UPDATE SET scores = excluded.scores, stored_at = excluded.stored_at",
        )
        .bind(&principal.0)
        .bind(scores.digest)
        .bind(scores.json)
        .bind(self.settings.clock.now().0)
        .execute(&mut *transaction)
        .await?;
        self.commit(transaction).await
    }

    async fn get_scores(&self, principal: &Principal, digest: &str) -> StoreResult<Option<String>> {
        let row = sqlx::query("SELECT scores FROM scores WHERE principal = ? AND digest = ?")
            .bind(&principal.0)
            .bind(digest)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|row| row.try_get("scores")).transpose()?)
    }

    async fn probe(&self) -> StoreResult<()> {
        let written = sqlx::query("UPDATE probe SET value = value + 1 RETURNING value")
            .fetch_one(&self.prober)
            .await?;
        let read = sqlx::query("SELECT value FROM probe").fetch_one(&self.prober).await?;
        let (written, read) = (rows::count(&written, "value")?, rows::count(&read, "value")?);
        // Another probe may have come between.
        if read < written {
            return Err(StoreError::Backend(format!(
                "the value {written} was written to the job store and {read} was read back"
            )));
        }
        Ok(())
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }
}

#[cfg(test)]
mod tests;
