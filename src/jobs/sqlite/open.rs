//! Opening the file and bringing its schema up to date.

use std::{path::Path, time::Duration};

use sqlx::{
    Connection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use super::SqliteStore;
use crate::jobs::{StoreError, StoreSettings};

/// What leads from each version of the schema to the next; each sets `user_version` itself.
const MIGRATIONS: [&str; 1] = [include_str!("../schema.sql")];

/// Readers never wait for the writer; more of them than cores would only take memory.
const READERS: u32 = 4;

/// How long another process may hold the file before a call fails.
const PATIENCE: Duration = Duration::from_secs(10);

impl SqliteStore {
    /// Opens the store in a file, which is made where it is missing; its folder must exist.
    pub async fn open(path: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(PATIENCE)
                .idle_timeout(None)
                .max_lifetime(None)
                // A file does not go away like a server; the test would cost as much as a read.
                .test_before_acquire(false)
        };
        let writer = pool(1)
            // Where a disk is full, SQLite ends a transaction by itself, and the driver counts it
            // as open for ever: such a connection is replaced, or nothing could be written again.
            .before_acquire(|connection, _| {
                let is_usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(is_usable) })
            })
            .connect_with(
                options
                    .clone()
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true),
            )
            .await
            .map_err(|error| unopened(path, &error.into()))?;
        migrate(&writer).await.map_err(|error| unopened(path, &error))?;
        let readers = pool(READERS)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(|error| unopened(path, &error.into()))?;
        Ok(Self { settings, writer, readers, wake: watch::Sender::new(0) })
    }
}

fn unopened(path: &Path, error: &StoreError) -> StoreError {
    let why = match error {
        StoreError::Backend(why) => why.clone(),
        other => other.to_string(),
    };
    StoreError::Backend(format!("cannot open {}: {why}", path.display()))
}

async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
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
    transaction.commit().await?;
    Ok(())
}
