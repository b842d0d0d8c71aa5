//! Jobs in one SQLite file: write-ahead log, every commit on disk before it is answered, one writer
//! and a few readers that never wait for it.

mod list;
mod open;
mod rows;

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::watch;

use self::rows::{keep, load, select};
use super::{
    Fence, Inserted, Job, JobEvent, JobId, JobStore, LeaseStatus, ListQuery, NewEvent, NewJob,
    Page, Principal, QueueLimits, RequestId, Sequence, StateName, StoreError, StoreSettings, Swept,
    Transition, WorkerId,
    step::{self, Cause, Claimant, Moment},
};

/// Most jobs that one transaction of a sweep or a claim touches, so that no writer waits long.
const JOBS_A_TRANSACTION: i64 = 256;

/// Jobs in a file.
#[derive(Debug)]
pub struct SqliteStore {
    settings: StoreSettings,
    writer: SqlitePool,
    readers: SqlitePool,
    wake: watch::Sender<u64>,
}

impl SqliteStore {
    /// Waits for what is under way and closes the file; later calls fail.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A transaction that writes. Takes the write lock at once: one that began by reading could
    /// fail when it comes to write.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        transaction.commit().await?;
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Jobs whose time is up, until none is left.
    async fn sweep_due(
        &self,
        candidates: &'static str,
        at: Moment,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
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
                let Some((step, cause)) = rows::job(row)?.step_of_time(at) else { continue };
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
    async fn forget_old(&self, at: Moment, swept: &mut Swept) -> Result<(), StoreError> {
        loop {
            let mut transaction = self.begin().await?;
            let rows = sqlx::query(
                "DELETE FROM jobs WHERE id IN \
                 (SELECT id FROM jobs WHERE expires_at <= ? ORDER BY expires_at LIMIT ?) \
                 RETURNING id",
            )
            .bind(at.now.0)
            .bind(JOBS_A_TRANSACTION)
            .fetch_all(&mut *transaction)
            .await?;
            let scores = sqlx::query("DELETE FROM scores WHERE stored_at <= ?")
                .bind(at.oldest_kept().0)
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

/// Jobs that wait: everybody's and one principal's.
async fn queued(
    connection: &mut SqliteConnection,
    principal: &Principal,
) -> Result<(u64, u64), StoreError> {
    let row = sqlx::query(
        "SELECT COALESCE(SUM(jobs), 0) AS total, \
         COALESCE(SUM(CASE WHEN principal = ? THEN jobs END), 0) AS own \
         FROM tallies WHERE state = 'queued'",
    )
    .bind(&principal.0)
    .fetch_one(connection)
    .await?;
    Ok((rows::count(&row, "total")?, rows::count(&row, "own")?))
}

impl JobStore for SqliteStore {
    async fn insert(&self, new: NewJob, limits: QueueLimits) -> Result<Inserted, StoreError> {
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
        let (total, own) = queued(&mut transaction, &new.principal).await?;
        step::admit(limits, total, own)?;
        // Drawn under the write lock, so that the order of names is that of commits.
        let id = self.settings.identifiers.job();
        let first = step::first_step(new, id, self.settings.clock.now());
        rows::insert(&mut transaction, &first.job).await?;
        rows::append(&mut transaction, id, &first.event).await?;
        self.commit(transaction).await?;
        Ok(Inserted::Created(Box::new(first.job)))
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let mut reader = self.readers.acquire().await?;
        match load(&mut reader, id).await {
            Ok(job) => Ok(Some(job)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> Result<Option<Job>, StoreError> {
        let row = sqlx::query(select!("WHERE principal = ? AND request_id = ?"))
            .bind(&principal.0)
            .bind(request_id.0.hyphenated().to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(rows::job).transpose()
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let mut reader = self.readers.acquire().await?;
        list::page(&mut reader, query).await
    }

    async fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> Result<Option<Job>, StoreError> {
        let row = sqlx::query(select!(
            "WHERE state = 'succeeded' AND principal = ? AND work_digest = ? ORDER BY id DESC LIMIT 1"
        ))
        .bind(&principal.0)
        .bind(work_digest)
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(rows::job).transpose()
    }

    async fn claim(&self, worker: &WorkerId, lease: Duration) -> Result<Option<Job>, StoreError> {
        loop {
            let at = self.settings.moment();
            let mut transaction = self.begin().await?;
            let mut changed = false;
            for _ in 0..JOBS_A_TRANSACTION {
                let row = sqlx::query(rows::NEXT_IN_TURN)
                    .bind(at.now.0)
                    .fetch_optional(&mut *transaction)
                    .await?;
                let Some(row) = row else {
                    if changed {
                        self.commit(transaction).await?;
                    }
                    return Ok(None);
                };
                let step = rows::job(&row)?.step_of_claim(Claimant { worker, lease }, at)?;
                let job = keep(&mut transaction, step).await?;
                changed = true;
                if job.state.name() == StateName::Preparing {
                    self.commit(transaction).await?;
                    return Ok(Some(job));
                }
            }
            self.commit(transaction).await?;
        }
    }

    async fn extend(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
    ) -> Result<LeaseStatus, StoreError> {
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

    async fn record(&self, id: JobId, fence: Fence, event: NewEvent) -> Result<Job, StoreError> {
        let mut transaction = self.begin().await?;
        let at = self.settings.moment();
        let step = load(&mut transaction, id).await?.step_of_record(fence, event, at)?;
        let job = keep(&mut transaction, step).await?;
        self.commit(transaction).await?;
        Ok(job)
    }

    async fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> Result<Vec<JobEvent>, StoreError> {
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

    async fn request_cancel(&self, id: JobId) -> Result<Job, StoreError> {
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

    async fn delete(&self, id: JobId) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        load(&mut transaction, id).await?.check_done()?;
        sqlx::query("DELETE FROM jobs WHERE id = ?")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        self.commit(transaction).await
    }

    async fn sweep(&self) -> Result<Swept, StoreError> {
        let at = self.settings.moment();
        let mut swept = Swept::default();
        self.sweep_due(rows::PAST_DEADLINE, at, &mut swept).await?;
        self.sweep_due(rows::PAST_LEASE, at, &mut swept).await?;
        self.forget_old(at, &mut swept).await?;
        Ok(swept)
    }

    async fn expire_worker(&self, worker: &WorkerId) -> Result<Vec<JobId>, StoreError> {
        let at = self.settings.moment();
        let mut expired = Vec::new();
        loop {
            let mut transaction = self.begin().await?;
            let rows = sqlx::query(rows::HELD_BY)
                .bind(&worker.0)
                .bind(JOBS_A_TRANSACTION)
                .fetch_all(&mut *transaction)
                .await?;
            let before = expired.len();
            for row in &rows {
                // A candidate that is none would come back for ever.
                let Some(step) = rows::job(row)?.step_of_loss(worker, at) else { continue };
                expired.push(keep(&mut transaction, step).await?.id);
            }
            if expired.len() == before {
                return Ok(expired);
            }
            self.commit(transaction).await?;
        }
    }

    async fn queue_position(&self, id: JobId) -> Result<u64, StoreError> {
        let mut reader = self.readers.acquire().await?;
        let row = sqlx::query(rows::AHEAD_IN_TURN)
            .bind(id.to_string())
            .fetch_optional(&mut *reader)
            .await?
            .ok_or(StoreError::NotFound(id))?;
        rows::count(&row, "ahead")
    }

    async fn queue_positions(&self, ids: &[JobId]) -> Result<BTreeMap<JobId, u64>, StoreError> {
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

    async fn counts(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        let mut counts: BTreeMap<_, _> = StateName::ALL.into_iter().map(|name| (name, 0)).collect();
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
        digest: &str,
        scores_json: &str,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO scores (principal, digest, scores, stored_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (principal, digest) \
             DO UPDATE SET scores = excluded.scores, stored_at = excluded.stored_at",
        )
        .bind(&principal.0)
        .bind(digest)
        .bind(scores_json)
        .bind(self.settings.clock.now().0)
        .execute(&mut *transaction)
        .await?;
        self.commit(transaction).await
    }

    async fn get_scores(
        &self,
        principal: &Principal,
        digest: &str,
    ) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT scores FROM scores WHERE principal = ? AND digest = ?")
            .bind(&principal.0)
            .bind(digest)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|row| row.try_get("scores")).transpose()?)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let written = sqlx::query("UPDATE probe SET value = value + 1 RETURNING value")
            .fetch_one(&self.writer)
            .await?;
        let read = sqlx::query("SELECT value FROM probe").fetch_one(&self.readers).await?;
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
