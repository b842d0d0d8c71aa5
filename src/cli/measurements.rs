//! Time, peak memory and platform of a run, for its report.

use super::{process::peak_rss_bytes, timing::Stopwatch};
use crate::run::Measurements;

/// Measures a verb's run.
#[derive(Debug, Clone, Copy)]
pub(super) struct VerbMeasurements {
    /// Runs from the verb's beginning.
    pub(super) stopwatch: Stopwatch,
    /// Seconds that an earlier process spent on the same work.
    pub(super) earlier: f64,
}

impl Measurements for VerbMeasurements {
    fn seconds(&self) -> f64 {
        self.earlier + self.stopwatch.seconds()
    }

    fn peak_rss_bytes(&self) -> Option<u64> {
        peak_rss_bytes()
    }

    fn platform(&self) -> String {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        format!("{} {}, {threads} threads", std::env::consts::OS, std::env::consts::ARCH)
    }
}
