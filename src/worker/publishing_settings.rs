//! How long publishing is retried, and how often.

use std::time::Duration;

use crate::{artifacts::digest::digest_bytes, jobs::JobId};

/// How long a finished result is tried to be published, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishingSettings {
    /// From the first failure on, in this process; the job's deadline may end it earlier.
    pub retry_for: Duration,
    /// The wait after the first failure; doubles with each further one.
    pub first_wait: Duration,
    /// The longest such wait.
    pub longest_wait: Duration,
}

impl Default for PublishingSettings {
    fn default() -> Self {
        Self {
            retry_for: Duration::from_hours(12),
            first_wait: Duration::from_secs(2),
            longest_wait: Duration::from_mins(1),
        }
    }
}

impl PublishingSettings {
    /// The wait after so many failures: between half and the whole of what doubling comes to, by
    /// the job's name, so that daemons that met the same outage do not come back all at once.
    pub(super) fn wait(&self, id: JobId, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let longest = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        let digest = digest_bytes(format!("{id} {failures}").as_bytes());
        let share = digest.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
        longest / 2 + longest / 2 * u32::from(share.unwrap_or_default()) / 255
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ_by_job() {
        let settings = PublishingSettings::default();
        let (one, other) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
        for failures in 1..100 {
            let longest =
                Duration::from_secs(2 << (failures - 1).min(8)).min(settings.longest_wait);
            for id in [one, other] {
                let wait = settings.wait(id, failures);
                assert!((longest / 2..=longest).contains(&wait), "{failures}: {wait:?}");
            }
        }
        assert!(
            (1..20).any(|failures| settings.wait(one, failures) != settings.wait(other, failures))
        );
    }
}
