//! What the clock and this machine say of a run.

use super::stopwatch::Stopwatch;
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

/// Peak resident set in bytes; none where the system does not tell.
fn peak_rss_bytes() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_status_file() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 1 kB\n"), Some(1_263_616));
        assert_eq!(parse_peak("Name:\tx\n"), None);
        assert_eq!(parse_peak("VmHWM: many kB\n"), None);
    }
}
