//! The clock of the command line, and the pace of work.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

/// Seconds that the pace is taken over. The first units of a phase take longer than the others, and
/// what a shared machine gives changes, so that the mean since the start would be wrong for long.
const WINDOW: f64 = 20.0;
/// Seconds before there is a pace: events of a job that is over come all at once.
const LEAST: f64 = 1.0;

/// Measures the time since it was started.
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

/// The pace of one phase.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Seconds since the start and units done, oldest first: those of the window, and the newest
    /// before it.
    seen: VecDeque<(f64, u64)>,
}

impl Pace {
    /// Notes what is done so many seconds after the start.
    pub(super) fn see(&mut self, seconds: f64, done: u64) {
        // Work that begins again has no pace yet.
        if self.seen.back().is_some_and(|(_, before)| *before > done) {
            self.seen.clear();
        }
        self.seen.push_back((seconds, done));
        while self.seen.get(1).is_some_and(|(then, _)| *then <= seconds - WINDOW) {
            self.seen.pop_front();
        }
    }

    /// Units a second over the window that ends now; none before anything was done in it.
    pub(super) fn rate(&self, now: f64) -> Option<f64> {
        let (then, before) = self.seen.front()?;
        let (_, done) = self.seen.back()?;
        (done > before && now - then >= LEAST).then(|| (done - before) as f64 / (now - then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        pace.see(0.0, 0);
        assert_eq!(pace.rate(5.0), None);
        pace.see(0.5, 1);
        assert_eq!(pace.rate(0.6), None, "too soon to tell");
        pace.see(10.0, 1);
        assert_eq!(pace.rate(10.0), Some(0.1));
        // Ten times as fast from here on: soon the slow start is forgotten.
        for second in 11..=40_u32 {
            pace.see(f64::from(second), u64::from(second) - 9);
        }
        assert_eq!(pace.rate(40.0), Some(1.0));
        assert!(pace.seen.len() <= 22, "{}", pace.seen.len());
        // Where nothing comes, it falls.
        assert!(pace.rate(80.0).unwrap() < 0.5);
        pace.see(81.0, 3);
        assert_eq!(pace.rate(90.0), None, "it began again");
    }
}
