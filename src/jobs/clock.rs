//! The seams through which time and identifiers are drawn.

use std::{
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::JobId;

/// Microseconds since 1970 (UTC).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// How long after an earlier time this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// Stands still until a test moves it (microseconds since 1970).
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(0) + since
            }
            Self::Manual(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }
}

/// Where identifiers come from.
#[derive(Debug, Clone, Default)]
pub enum Identifiers {
    /// UUID version 7: unique, in order of creation.
    #[default]
    Random,
    /// 1, 2, 3 for tests.
    Counted(Arc<AtomicU64>),
}

impl Identifiers {
    /// A new job's name.
    pub fn job(&self) -> JobId {
        JobId(match self {
            Self::Random => Uuid::now_v7(),
            Self::Counted(last) => {
                Uuid::from_u128(u128::from(last.fetch_add(1, Ordering::SeqCst) + 1))
            }
        })
    }
}
