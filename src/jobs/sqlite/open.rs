//! Opening the file and bringing its schema up to date.

use std::{path::Path, time::Duration};

use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use super::{
    SqliteStore,
    checkpoints::{Checkpoints, checkpoint},
    rows,
};
use crate::jobs::{Clock, StoreError, StoreResult, StoreSettings, Work, clock::AgreedTime, step};

/// What leads from each version of the schema to the next; each sets `user_version` itself.
const MIGRATIONS: [&str; 2] = [include_str!("../schema.sql"), include_str!("../schema_2.sql")];

/// The version from which on what lists show stands beside the work.
const WITH_SUMMARIES: usize = 2;

/// Readers never wait for the writer; more of them than cores would only take memory.
const READERS: u32 = 4;

/// Lists have readers of their own, since a client decides what they cost.
const LISTERS: u32 = 2;

/// One to write and one to read back.
const PROBERS: u32 = 2;

/// Instructions of SQLite's machine between two looks at the clock.
const INSTRUCTIONS_A_LOOK: i32 = 2_000;

/// How long another process may hold the file before a call fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to open a file that another process holds.
const PAUSE: Duration = Duration::from_millis(20);
/// SQLite's `SQLITE_BUSY`, the lower byte of every code that says that another connection is in the way.
const BUSY: u32 = 5;

impl SqliteStore {
    /// Opens the store in a file, which is made where it is missing; its folder must exist.
    pub async fn open(path: &Path, settings: StoreSettings) -> StoreResult<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(PATIENCE)
            // A statement holds what clients wrote, and may be as long as they please.
            .disable_statement_logging();
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(PATIENCE)
                .idle_timeout(None)
                .max_lifetime(None)
                // A file does not go away like a server; the test would cost as much as a read.
                .test_before_acquire(false)
        };
        let writing = options
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let reading = options.pragma("query_only", "ON");
        let failed = |error: sqlx::Error| unopened(path, &error.into());
        // Where a disk is full, SQLite ends a transaction by itself, and the driver counts it as
        // open for ever: such a connection is replaced, or nothing could be written again.
        let writers = |connections| {
            pool(connections).before_acquire(|connection, _| {
                let is_usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(is_usable) })
            })
        };
        let new = writing.clone().create_if_missing(true);
        let writer = connect_patiently(writers(1), new).await.map_err(failed)?;
        let is_new = migrate(&writer).await.map_err(|error| unopened(path, &error))?;
        let readers = pool(READERS).connect_with(reading.clone()).await.map_err(failed)?;
        let clock = settings.clock.clone();
        let (at_first, limit) = (settings.clock.clone(), settings.query_limit);
        let listers = pool(LISTERS)
            .after_connect(move |connection, _| {
                Box::pin(limit_time(connection, at_first.clone(), limit))
            })
            .before_acquire(move |connection, _| {
                let limited = limit_time(connection, clock.clone(), limit);
                Box::pin(async move { limited.await.map(|()| true) })
            })
            .connect_with(reading)
            .await
            .map_err(failed)?;
        let prober = connect_patiently(writers(PROBERS), writing).await.map_err(failed)?;
        let agreed = AgreedTime::new(settings.clock.clone());
        let checkpoints = Checkpoints::new(settings.clock.clone());
        let wake = watch::Sender::new(0);
        let store =
            Self { settings, agreed, checkpoints, is_new, writer, readers, listers, prober, wake };
        // What was made or brought up to date stands in the file itself from here on.
        checkpoint(&store.writer).await.map_err(|error| unopened(path, &error))?;
        Ok(store)
    }
}

/// Opens a file that others may be opening. Where it is made one with a write-ahead log, SQLite does not
/// wait for them, whatever `busy_timeout` says.
async fn connect_patiently(
    pool: SqlitePoolOptions,
    options: SqliteConnectOptions,
) -> Result<SqlitePool, sqlx::Error> {
    let trying = async {
        loop {
            match pool.clone().connect_with(options.clone()).await {
                Err(error) if is_busy(&error) => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, trying).await {
        Ok(done) => done,
        // The last try says what is in the way.
        Err(_) => pool.connect_with(options).await,
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == BUSY)
}

/// Ends what runs on the connection after a while. Counted from now on: set anew whenever the
/// connection is lent.
async fn limit_time(
    connection: &mut SqliteConnection,
    clock: Clock,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    let began = clock.monotonic();
    let mut handle = connection.lock_handle().await?;
    handle
        .set_progress_handler(INSTRUCTIONS_A_LOOK, move || clock.monotonic().since(began) < limit);
    Ok(())
}

fn unopened(path: &Path, error: &StoreError) -> StoreError {
    let why = match error {
        StoreError::Backend(why) => why.clone(),
        other => other.to_string(),
    };
    StoreError::Backend(format!("cannot open {}: {why}", path.display()))
}

/// Brings the schema up to date; says whether there was none.
async fn migrate(writer: &SqlitePool) -> StoreResult<bool> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    let newest = MIGRATIONS.len();
    let from =
        usize::try_from(found).ok().filter(|version| *version <= newest).ok_or_else(|| {
            StoreError::Backend(format!(
                "its schema has version {found}, this program knows versions up to {newest}; \
             use the newer program that wrote it, or another data folder"
            ))
        })?;
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master")
        .fetch_one(&mut *transaction)
        .await?;
    if from == 0 && tables > 0 {
        return Err(StoreError::Backend(
            "it is another program's database; choose another data folder".to_owned(),
        ));
    }
    for migration in &MIGRATIONS[from..] {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    if from < WITH_SUMMARIES {
        summarize(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(from == 0)
}

/// Fills in what the works of an older version say, one after the other: each may be long.
async fn summarize(transaction: &mut Transaction<'static, Sqlite>) -> StoreResult<()> {
    let ids = sqlx::query("SELECT job_id AS id FROM works ORDER BY job_id")
        .fetch_all(&mut **transaction)
        .await?;
    for row in &ids {
        let id: String = rows::field(row, "id")?;
        let row = sqlx::query("SELECT work, options FROM works WHERE job_id = ?")
            .bind(&id)
            .fetch_one(&mut **transaction)
            .await?;
        let (work, options): (String, String) =
            (rows::field(&row, "work")?, rows::field(&row, "options")?);
        // A job that is damaged stays so, and hinders no other.
        let summary = serde_json::from_str::<Work>(&work).map_or_else(
            |_| Ok("{}".to_owned()),
            |work| rows::lasting("summary", &work.summary()),
        )?;
        sqlx::query("INSERT INTO summaries (job_id, summary, options) VALUES (?, ?, ?)")
            .bind(&id)
            .bind(summary)
            .bind(&options)
            .execute(&mut **transaction)
            .await?;
        sqlx::query("UPDATE jobs SET stored_bytes = ? WHERE id = ?")
            .bind(rows::number(step::stored_bytes(&options, Some(&work)))?)
            .bind(&id)
            .execute(&mut **transaction)
            .await?;
    }
    sqlx::raw_sql("ALTER TABLE works DROP COLUMN options").execute(&mut **transaction).await?;
    Ok(())
}
