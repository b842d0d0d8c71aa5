//! How files are sent, and tried again while the store is away.

use std::{path::PathBuf, time::Duration};

use super::{StorageError, StorageErrorKind, StorageSettings};

/// How a file is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferOptions {
    /// Bytes of a part; a file that is no larger goes in one piece.
    pub part_bytes: u64,
    /// Parts in flight, each of which is held in memory.
    pub parts_in_flight: usize,
    /// A file that records which parts were sent, so that another process can go on; several uploads
    /// may share it, one after another.
    pub journal: Option<PathBuf>,
    /// How often a part is tried.
    pub patience: Patience,
}

impl From<&StorageSettings> for TransferOptions {
    fn from(settings: &StorageSettings) -> Self {
        Self {
            part_bytes: settings.effective_part_bytes(),
            parts_in_flight: settings.effective_parts_in_flight(),
            journal: None,
            patience: Patience::default(),
        }
    }
}

/// How often something is tried, beyond what the client does within one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries in all, at least one.
    pub attempts: u32,
    /// The wait after the first one; doubles.
    pub first_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 3, first_wait: Duration::from_secs(1) }
    }
}

/// Tries again while the store is away.
pub(super) async fn retrying<T, Attempt>(
    patience: Patience,
    mut attempt: impl FnMut() -> Attempt,
) -> Result<T, StorageError>
where
    Attempt: Future<Output = Result<T, StorageError>>,
{
    let mut wait = patience.first_wait;
    for _ in 1..patience.attempts {
        match attempt().await {
            Err(error) if error.kind() == StorageErrorKind::Unavailable => {
                tracing::debug!(%error, ?wait, "storage is tried again");
                tokio::time::sleep(wait).await;
                wait = wait.saturating_mul(2);
            }
            done => return done,
        }
    }
    attempt().await
}
