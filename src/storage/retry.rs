//! Trying again what fails for a moment.

use std::time::Duration;

use super::{StorageError, StorageErrorKind};

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
