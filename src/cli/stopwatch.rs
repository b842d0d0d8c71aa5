//! The clock: nothing else in the program reads the time.

use std::time::{Duration, Instant, SystemTime};

/// Runs from when it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "this is the seam that draws the time")]
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(super) fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

/// The time of day, for deadlines.
#[allow(clippy::disallowed_methods, reason = "this is the seam that draws the time")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
