//! The clock and the source of identifiers, which tests replace.

use std::{
    ops::Add,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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

/// How long this process has run, by a clock that nobody sets: only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// How long after an earlier time this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
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
    /// The same, with a wall clock that a test may set apart from the time that passes.
    Scripted(Arc<ScriptedClock>),
}

/// A clock for tests: its wall clock can jump, as a machine's does when somebody sets it.
#[derive(Debug)]
pub struct ScriptedClock {
    wall: AtomicI64,
    passed: AtomicU64,
}

impl ScriptedClock {
    /// Shows this time.
    pub fn new(now: Timestamp) -> Arc<Self> {
        Arc::new(Self { wall: AtomicI64::new(now.0), passed: AtomicU64::new(0) })
    }

    /// Lets time pass.
    pub fn pass(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.passed.fetch_add(micros, Ordering::SeqCst);
        self.jump(i64::try_from(micros).unwrap_or(i64::MAX));
    }

    /// Sets the wall clock forward, or back, by so many microseconds; no time passes.
    pub fn jump(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }
}

/// What [`Clock::monotonic`] counts from.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

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
            Self::Scripted(script) => Timestamp(script.wall.load(Ordering::SeqCst)),
        }
    }

    /// How long the process has run: unlike [`Clock::now`], no step of the wall clock moves this.
    pub fn monotonic(&self) -> Monotonic {
        let micros = |micros| Monotonic(Duration::from_micros(micros));
        match self {
            Self::System => Monotonic(START.elapsed()),
            Self::Manual(wall) => micros(u64::try_from(wall.load(Ordering::SeqCst)).unwrap_or(0)),
            Self::Scripted(script) => micros(script.passed.load(Ordering::SeqCst)),
        }
    }
}

/// The time by which stored things are forgotten: what both clocks agree has come. A wall clock that
/// jumps far ahead would otherwise end every retention at once.
#[derive(Debug)]
pub(super) struct AgreedTime {
    clock: Clock,
    began: (Timestamp, Monotonic),
    is_told: AtomicBool,
}

impl AgreedTime {
    /// A wall clock that is further ahead than this is worth a word.
    const WORTH_A_WORD: Duration = Duration::from_mins(1);

    /// From now on.
    pub(super) fn new(clock: Clock) -> Self {
        let began = (clock.now(), clock.monotonic());
        Self { clock, began, is_told: AtomicBool::new(false) }
    }

    /// Never later than the wall clock at the beginning and the time that passed since.
    pub(super) fn now(&self) -> Timestamp {
        let (wall, monotonic) = self.began;
        let passed = wall + self.clock.monotonic().since(monotonic);
        let now = self.clock.now();
        let ahead = now.since(passed);
        let is_worth_it = ahead >= Self::WORTH_A_WORD;
        if is_worth_it && !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ?ahead,
                "the wall clock jumped ahead of the time that passed: nothing is forgotten before \
                 both agree; if the clock is wrong, set it before the next start"
            );
        } else if !is_worth_it {
            self.is_told.store(false, Ordering::Relaxed);
        }
        now.min(passed)
    }
}

/// Of a UUID of version 7: what follows the time.
const RANDOM_BITS: u32 = 80;

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

    /// A new job's name that is newer than another, whatever the clock was set to in between.
    pub(super) fn job_after(&self, newest: Option<JobId>) -> JobId {
        let drawn = self.job();
        let Some(newest) = newest.filter(|newest| *newest >= drawn) else { return drawn };
        let (drawn, newest) = (drawn.0.as_u128(), newest.0.as_u128());
        // A version 7's first 48 bits are milliseconds: one more than the newest has, and the rest
        // of what was drawn.
        let next = ((newest >> RANDOM_BITS) + 1) << RANDOM_BITS;
        JobId(Uuid::from_u128(next | (drawn & ((1 << RANDOM_BITS) - 1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn the_agreed_time_follows_no_jump_ahead() {
        let script = ScriptedClock::new(Timestamp(10 * HOUR));
        let agreed = AgreedTime::new(Clock::Scripted(script.clone()));
        script.pass(Duration::from_mins(1));
        assert_eq!(agreed.now(), Timestamp(10 * HOUR + HOUR / 60));
        script.jump(40 * 24 * HOUR);
        assert_eq!(agreed.now(), Timestamp(10 * HOUR + HOUR / 60));
        script.pass(Duration::from_hours(1));
        assert_eq!(agreed.now(), Timestamp(11 * HOUR + HOUR / 60));
        script.jump(-42 * 24 * HOUR);
        assert!(agreed.now() < Timestamp(0), "a wall clock that is behind counts");
    }

    #[test]
    fn names_grow_whatever_the_clock_shows() {
        let mut newest = Identifiers::Random.job();
        // As if the clock had been set back by 40 days since.
        let ahead = 40 * 24 * 3_600_000_u128;
        newest.0 = Uuid::from_u128(newest.0.as_u128() + (ahead << RANDOM_BITS));
        for _ in 0..100 {
            let next = Identifiers::Random.job_after(Some(newest));
            assert!(next > newest, "{next} after {newest}");
            assert_eq!(next.0.get_version_num(), 7);
            assert_eq!(next.0.get_variant(), uuid::Variant::RFC4122);
            newest = next;
        }
        let first = Identifiers::Random.job_after(None);
        assert!(first < newest, "an empty store's names are the clock's");
    }
}
