//! When the write-ahead log is checkpointed into the database file. Until then the file alone lacks
//! what was stored last, and losing the log loses that.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::SqlitePool;

use crate::jobs::{Clock, Monotonic, StoreResult};

/// From one checkpoint to the next, where anything was stored.
const EVERY: Duration = Duration::from_mins(1);

/// When the last one was.
#[derive(Debug)]
pub(super) struct Checkpoints {
    clock: Clock,
    last: Mutex<Monotonic>,
}

impl Checkpoints {
    pub(super) fn new(clock: Clock) -> Self {
        let last = Mutex::new(clock.monotonic());
        Self { clock, last }
    }

    /// Whether it is time for the next one, which the caller then makes.
    fn is_due(&self) -> bool {
        let now = self.clock.monotonic();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now.since(*last) >= EVERY;
        if is_due {
            *last = now;
        }
        is_due
    }

    /// From time to time takes as much of the log as no reader needs, and waits for none.
    pub(super) async fn make_if_due(&self, writer: &SqlitePool) -> StoreResult<()> {
        if self.is_due() {
            sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(writer).await?;
        }
        Ok(())
    }
}

/// Takes the whole log into the file.
pub(super) async fn checkpoint(writer: &SqlitePool) -> StoreResult<()> {
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(writer).await?;
    Ok(())
}
