//! Jobs and events as rows. What does not read back as it should is a damaged store, never a panic.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Decode, Row, Sqlite, SqliteConnection, Type, sqlite::SqliteRow};
use uuid::Uuid;

use crate::jobs::{
    Failure, Fence, Job, JobEvent, JobId, JobState, JobSummary, Lease, Milestone, Outcome,
    Principal, RequestId, Sequence, StateName, StoreError, StoreResult, Timestamp, Work, WorkerId,
    step::{self, Step},
};

/// Jobs without their works, which may be long; `CROSS JOIN` keeps the planner from walking
/// `summaries` first.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT jobs.*, summaries.summary, summaries.options FROM jobs \
             CROSS JOIN summaries ON summaries.job_id = jobs.id ",
            $rest
        )
    };
}
pub(super) use select;

/// The job to claim next: of the highest priority that has a job which is ready, the first job of
/// the principal that was served longest ago. The index is named, since the planner, knowing no row
/// counts, would rather sort every queued job; `state = 'queued'` is written out so that the partial
/// index serves.
pub(super) const NEXT_IN_TURN: &str = select!(
    "WHERE jobs.id = (SELECT line.first FROM \
     (SELECT principal, MIN(id) AS first FROM jobs INDEXED BY jobs_by_turn \
      WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1) \
      AND priority = (SELECT priority FROM jobs INDEXED BY jobs_by_turn \
       WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1) \
       ORDER BY priority DESC LIMIT 1) \
      GROUP BY principal) AS line \
     LEFT JOIN turns ON turns.principal = line.principal \
     ORDER BY COALESCE(turns.served, 0), line.first LIMIT 1)"
);
/// A job whose finished result waits for a worker. Few are published at a time, and the others of
/// them are held.
pub(super) const NEXT_TO_PUBLISH: &str = select!(
    "WHERE jobs.id = (SELECT id FROM jobs INDEXED BY jobs_by_state \
     WHERE state = 'publishing' AND lease_until IS NULL ORDER BY id LIMIT 1)"
);
/// Notes that a principal was served.
pub(super) const SERVED: &str = "INSERT INTO turns (principal, served) \
     VALUES (?, (SELECT COALESCE(MAX(served), 0) + 1 FROM turns)) \
     ON CONFLICT (principal) DO UPDATE SET served = excluded.served";
/// Jobs before one in the same order: none where it does not wait, no row where there is no such job.
pub(super) const AHEAD_IN_TURN: &str = "WITH \
     job AS (SELECT id, principal, priority FROM jobs WHERE id = ?1 AND state = 'queued'), \
     line AS (SELECT principal, COUNT(*) AS waiting, MIN(id) AS first, \
      COALESCE((SELECT served FROM turns WHERE turns.principal = jobs.principal), 0) AS served \
      FROM jobs INDEXED BY jobs_by_turn \
      WHERE state = 'queued' AND priority = (SELECT priority FROM job) GROUP BY principal), \
     mine AS (SELECT served, first, (SELECT COUNT(*) FROM jobs AS older \
       WHERE older.state = 'queued' AND older.priority = job.priority \
       AND older.principal = job.principal AND older.id < job.id) AS place \
      FROM job CROSS JOIN line ON line.principal = job.principal) \
     SELECT (SELECT COUNT(*) FROM jobs AS higher \
       WHERE higher.state = 'queued' AND higher.priority > (SELECT priority FROM job)) \
      + (SELECT COALESCE(SUM(MIN(line.waiting, mine.place \
         + ((line.served, line.first) < (mine.served, mine.first)))), 0) \
       FROM mine CROSS JOIN line) AS ahead \
     WHERE EXISTS (SELECT 1 FROM jobs WHERE id = ?1)";
/// The same for many jobs: one walk along the queue, however many they are.
pub(super) const ALL_AHEAD_IN_TURN: &str = "SELECT id, ahead FROM \
     (SELECT id, ROW_NUMBER() OVER (ORDER BY priority DESC, place, served, first) - 1 AS ahead FROM \
      (SELECT jobs.id, jobs.priority, COALESCE(turns.served, 0) AS served, \
        ROW_NUMBER() OVER (PARTITION BY jobs.priority, jobs.principal ORDER BY jobs.id) AS place, \
        MIN(jobs.id) OVER (PARTITION BY jobs.priority, jobs.principal) AS first \
       FROM jobs INDEXED BY jobs_by_turn \
       LEFT JOIN turns ON turns.principal = jobs.principal WHERE jobs.state = 'queued')) \
   WHERE id IN (SELECT value FROM json_each(?))";
pub(super) const PAST_DEADLINE: &str = select!("WHERE due_at <= ? ORDER BY due_at LIMIT ?");
pub(super) const PAST_LEASE: &str = select!("WHERE lease_until <= ? ORDER BY lease_until LIMIT ?");
pub(super) const HELD_BY: &str =
    select!("WHERE lease_until IS NOT NULL AND worker = ? ORDER BY lease_until LIMIT ?");

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Backend(error.to_string())
    }
}

pub(super) async fn load(connection: &mut SqliteConnection, id: JobId) -> StoreResult<JobSummary> {
    let row = sqlx::query(select!("WHERE jobs.id = ?"))
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?
        .ok_or(StoreError::NotFound(id))?;
    job(&row)
}

/// Adds what the job does; none where that is gone.
pub(super) async fn with_work(
    connection: &mut SqliteConnection,
    job: JobSummary,
) -> StoreResult<Option<Job>> {
    let row = sqlx::query("SELECT work FROM works WHERE job_id = ?")
        .bind(job.id.to_string())
        .fetch_optional(connection)
        .await?;
    let work = row.map(|row| json::<Work>("work", &field::<String>(&row, "work")?)).transpose()?;
    Ok(work.map(|work| job.with_work(work)))
}

pub(super) async fn check_exists(connection: &mut SqliteConnection, id: JobId) -> StoreResult<()> {
    sqlx::query("SELECT id FROM jobs WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?
        .map(drop)
        .ok_or(StoreError::NotFound(id))
}

/// Stores a step whole.
pub(super) async fn keep(connection: &mut SqliteConnection, step: Step) -> StoreResult<JobSummary> {
    update(connection, &step.job).await?;
    append(connection, step.job.id, &step.event).await?;
    if step.job.never_runs() {
        drop_work(connection, &step.job).await?;
    }
    Ok(step.job)
}

async fn drop_work(connection: &mut SqliteConnection, job: &JobSummary) -> StoreResult<()> {
    let id = job.id.to_string();
    let bytes = step::stored_bytes(&lasting("options", &job.options)?, None);
    sqlx::query("DELETE FROM works WHERE job_id = ?").bind(&id).execute(&mut *connection).await?;
    sqlx::query("UPDATE jobs SET stored_bytes = ? WHERE id = ?")
        .bind(number(bytes)?)
        .bind(&id)
        .execute(connection)
        .await?;
    Ok(())
}

/// A job's long texts, on their way in.
pub(super) struct Texts {
    work: String,
    options: String,
}

impl Texts {
    pub(super) fn of(job: &JobSummary, work: &Work) -> StoreResult<Self> {
        Ok(Self { work: lasting("work", work)?, options: lasting("options", &job.options)? })
    }

    /// What the job counts for.
    pub(super) fn bytes(&self) -> u64 {
        step::stored_bytes(&self.options, Some(&self.work))
    }
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    job: &JobSummary,
    texts: &Texts,
) -> StoreResult<()> {
    let id = job.id.to_string();
    sqlx::query(
        "INSERT INTO jobs (id, principal, request_id, request_digest, work_digest, kind, \
         base_model, priority, deadline, state, attempt, max_attempts, fence, cancel_requested, \
         last_sequence, created_at, updated_at, due_at, stored_bytes) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&id)
    .bind(&job.principal.0)
    .bind(job.request_id.0.hyphenated().to_string())
    .bind(&job.request_digest)
    .bind(&job.work_digest)
    .bind(job.work.kind())
    .bind(job.work.base_model())
    .bind(job.options.priority)
    .bind(job.options.deadline.map(|deadline| deadline.0))
    .bind(job.state.name().name())
    .bind(job.attempt)
    .bind(job.max_attempts)
    .bind(number(job.fence.0)?)
    .bind(job.cancel_requested)
    .bind(number(job.last_sequence.0)?)
    .bind(job.created_at.0)
    .bind(job.updated_at.0)
    .bind(job.options.deadline.map(|deadline| deadline.0))
    .bind(number(texts.bytes())?)
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO works (job_id, work) VALUES (?, ?)")
        .bind(&id)
        .bind(&texts.work)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO summaries (job_id, summary, options) VALUES (?, ?, ?)")
        .bind(&id)
        .bind(lasting("summary", &job.work)?)
        .bind(&texts.options)
        .execute(&mut *connection)
        .await?;
    for (name, value) in &job.options.labels {
        sqlx::query("INSERT INTO labels (name, value, job_id) VALUES (?, ?, ?)")
            .bind(name)
            .bind(value)
            .bind(&id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Stores what may change of a job.
pub(super) async fn update(connection: &mut SqliteConnection, job: &JobSummary) -> StoreResult<()> {
    let result = match &job.state {
        JobState::Succeeded(outcome) => Some(lasting("result", outcome)?),
        JobState::Failed(failure) => Some(lasting("result", failure)?),
        _ => None,
    };
    let progress =
        job.progress.as_ref().map(|progress| lasting("progress", progress)).transpose()?;
    let due = job.options.deadline.filter(|_| !job.state.name().is_terminal());
    let changed = sqlx::query(
        "UPDATE jobs SET state = ?, attempt = ?, fence = ?, worker = ?, lease_until = ?, \
         not_before = ?, cancel_requested = ?, last_sequence = ?, updated_at = ?, expires_at = ?, \
         due_at = ?, progress = ?, result = ?, losses = ?, milestone = ?, advanced = ? WHERE id = ?",
    )
    .bind(job.state.name().name())
    .bind(job.attempt)
    .bind(number(job.fence.0)?)
    .bind(job.lease.as_ref().map(|lease| lease.worker.0.as_str()))
    .bind(job.lease.as_ref().map(|lease| lease.until.0))
    .bind(job.not_before.map(|earliest| earliest.0))
    .bind(job.cancel_requested)
    .bind(number(job.last_sequence.0)?)
    .bind(job.updated_at.0)
    .bind(job.expires_at.map(|expires| expires.0))
    .bind(due.map(|due| due.0))
    .bind(progress)
    .bind(result)
    .bind(job.losses)
    .bind(number(job.milestone.0)?)
    .bind(job.advanced)
    .bind(job.id.to_string())
    .execute(connection)
    .await?;
    if changed.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NotFound(job.id)) }
}

/// Stores how a job is treated, which changes with nothing but a wish to publish it again.
pub(super) async fn update_options(
    connection: &mut SqliteConnection,
    job: &JobSummary,
) -> StoreResult<()> {
    let id = job.id.to_string();
    sqlx::query("UPDATE summaries SET options = ? WHERE job_id = ?")
        .bind(lasting("options", &job.options)?)
        .bind(&id)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE jobs SET deadline = ? WHERE id = ?")
        .bind(job.options.deadline.map(|deadline| deadline.0))
        .bind(&id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn append(
    connection: &mut SqliteConnection,
    id: JobId,
    event: &JobEvent,
) -> StoreResult<()> {
    sqlx::query("INSERT INTO events (job_id, sequence, recorded_at, body) VALUES (?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(number(event.sequence.0)?)
        .bind(event.recorded_at.0)
        .bind(lasting("event", &event.body)?)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn job(row: &SqliteRow) -> StoreResult<JobSummary> {
    let lease = match (field::<Option<String>>(row, "worker")?, time(row, "lease_until")?) {
        (Some(worker), Some(until)) => Some(Lease { worker: WorkerId(worker), until }),
        _ => None,
    };
    let progress: Option<String> = field(row, "progress")?;
    Ok(Job {
        id: id(row)?,
        principal: Principal(field(row, "principal")?),
        request_id: RequestId(uuid(row, "request_id")?),
        request_digest: field(row, "request_digest")?,
        work_digest: field(row, "work_digest")?,
        work: json("summary", &field::<String>(row, "summary")?)?,
        options: json("options", &field::<String>(row, "options")?)?,
        state: state(row)?,
        attempt: small(row, "attempt")?,
        max_attempts: small(row, "max_attempts")?,
        losses: small(row, "losses")?,
        milestone: Milestone(count(row, "milestone")?),
        advanced: field(row, "advanced")?,
        fence: Fence(count(row, "fence")?),
        lease,
        not_before: time(row, "not_before")?,
        cancel_requested: field(row, "cancel_requested")?,
        progress: progress.map(|text| json("progress", &text)).transpose()?,
        last_sequence: Sequence(count(row, "last_sequence")?),
        created_at: Timestamp(field(row, "created_at")?),
        updated_at: Timestamp(field(row, "updated_at")?),
        expires_at: time(row, "expires_at")?,
    })
}

pub(super) fn event(row: &SqliteRow) -> StoreResult<JobEvent> {
    Ok(JobEvent {
        sequence: Sequence(count(row, "sequence")?),
        recorded_at: Timestamp(field(row, "recorded_at")?),
        body: json("event", &field::<String>(row, "body")?)?,
    })
}

pub(super) fn id(row: &SqliteRow) -> StoreResult<JobId> {
    Ok(JobId(uuid(row, "id")?))
}

pub(super) fn count(row: &SqliteRow, column: &str) -> StoreResult<u64> {
    let found: i64 = field(row, column)?;
    u64::try_from(found).map_err(|_| damaged(column, format_args!("{found} is below zero")))
}

pub(super) fn state_name(row: &SqliteRow) -> StoreResult<StateName> {
    let found: String = field(row, "state")?;
    found.parse().map_err(|_| damaged("state", format_args!("\"{found}\" is no state")))
}

fn state(row: &SqliteRow) -> StoreResult<JobState> {
    let result = || {
        field::<Option<String>>(row, "result")?
            .ok_or_else(|| damaged("result", "a job that is done has none"))
    };
    Ok(match state_name(row)? {
        StateName::Queued => JobState::Queued,
        StateName::Preparing => JobState::Preparing,
        StateName::Running => JobState::Running,
        StateName::Publishing => JobState::Publishing,
        StateName::Succeeded => JobState::Succeeded(json::<Outcome>("result", &result()?)?),
        StateName::Failed => JobState::Failed(json::<Failure>("result", &result()?)?),
        StateName::Cancelled => JobState::Cancelled,
    })
}

pub(super) fn field<'row, T: Decode<'row, Sqlite> + Type<Sqlite>>(
    row: &'row SqliteRow,
    column: &str,
) -> StoreResult<T> {
    Ok(row.try_get(column)?)
}

fn time(row: &SqliteRow, column: &str) -> StoreResult<Option<Timestamp>> {
    Ok(field::<Option<i64>>(row, column)?.map(Timestamp))
}

fn small(row: &SqliteRow, column: &str) -> StoreResult<u32> {
    let found: i64 = field(row, column)?;
    u32::try_from(found).map_err(|_| damaged(column, format_args!("{found} is out of range")))
}

fn uuid(row: &SqliteRow, column: &str) -> StoreResult<Uuid> {
    let found: String = field(row, column)?;
    Uuid::try_parse(&found).map_err(|error| damaged(column, error))
}

fn json<T: DeserializeOwned>(what: &str, text: &str) -> StoreResult<T> {
    serde_json::from_str(text).map_err(|error| damaged(what, error))
}

/// As JSON that is sure to be read again: a number that is none, for instance, would make the job
/// unreadable for ever, so it is refused while its maker still listens.
pub(super) fn lasting<T: Serialize + DeserializeOwned>(
    what: &str,
    value: &T,
) -> StoreResult<String> {
    let text = serde_json::to_string(value)
        .map_err(|error| StoreError::Backend(format!("{what} cannot be stored: {error}")))?;
    serde_json::from_str::<T>(&text)
        .map_err(|error| StoreError::Backend(format!("{what} would not be read again: {error}")))?;
    Ok(text)
}

pub(super) fn number(value: u64) -> StoreResult<i64> {
    i64::try_from(value).map_err(|_| damaged("counter", format_args!("{value} is too large")))
}

fn damaged(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Backend(format!("the job store is damaged: {what}: {why}"))
}
