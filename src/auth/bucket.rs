//! A token bucket: so much at once, so much a second.

use std::time::Duration;

use tokio::time::Instant;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// In the long run.
    pub(super) per_second: f64,
    /// At once, after a pause.
    pub(super) burst: f64,
}

/// What is left of a rate.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Nothing was used yet.
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Uses one, or says how long until there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.wait(rate, now).map_or_else(
            || {
                self.left -= 1.0;
                Ok(())
            },
            Err,
        )
    }

    /// How long until there is one; `None` when there is.
    pub(super) fn wait(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = now;
        // What is missing by rounding alone is not worth a refusal.
        let missing = 1.0 - self.left;
        (missing > 1e-9).then(|| Duration::from_secs_f64(missing / rate.per_second))
    }

    /// When it was last looked at.
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}
