//! Tracks whether results can be published, from publications and from probes of the output. While
//! they cannot, no job is begun that would have to be published.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::jobs::JobId;

/// Whether the output works, as far as is known. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputHealth(watch::Sender<Known>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// What is wrong with each publication under way, since it failed and until it ends.
    publications: BTreeMap<JobId, String>,
    /// What the last probe found wrong.
    probe: Option<String>,
}

impl Known {
    fn problem(&self) -> Option<&String> {
        self.publications.values().next().or(self.probe.as_ref())
    }
}

impl Default for OutputHealth {
    /// Works until something else is found.
    fn default() -> Self {
        Self(watch::Sender::new(Known::default()))
    }
}

impl OutputHealth {
    /// Does not work until a probe says that it does.
    pub fn unproven() -> Self {
        let probe = Some("the output was not probed yet".to_owned());
        Self(watch::Sender::new(Known { publications: BTreeMap::new(), probe }))
    }

    /// Notes what a probe found.
    pub fn probed(&self, problem: Option<String>) {
        self.change(|known| known.probe = problem);
    }

    /// Notes that the publication of a job's result failed, and will be tried again.
    pub(super) fn publication_fails(&self, job: JobId, problem: &str) {
        self.change(|known| {
            known.publications.insert(job, problem.to_owned());
        });
    }

    /// Notes that the publication of a job's result does not fail any more.
    pub(super) fn publication_ended(&self, job: JobId) {
        self.change(|known| {
            known.publications.remove(&job);
        });
    }

    /// Notes that the publication of a job's result was given up: what it found counts until a probe
    /// finds otherwise.
    pub(super) fn publication_given_up(&self, job: JobId, problem: &str) {
        self.change(|known| {
            known.publications.remove(&job);
            known.probe = Some(problem.to_owned());
        });
    }

    /// What is wrong; `None` while the output works.
    pub fn problem(&self) -> Option<String> {
        self.0.borrow().problem().cloned()
    }

    /// Waits for another answer than this one. Clones never end it.
    pub async fn changed_from(&self, problem: Option<&str>) {
        let mut seen = self.0.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = seen.wait_for(|known| known.problem().map(String::as_str) != problem).await;
    }

    /// Waits until the output works.
    pub(super) async fn works(&self) {
        let mut seen = self.0.subscribe();
        let _ = seen.wait_for(|known| known.problem().is_none()).await;
    }

    /// Waits until a probe fails and then one succeeds: what failed may be tried again at once.
    pub(super) async fn recovers(&self) {
        let mut seen = self.0.subscribe();
        let _ = seen.wait_for(|known| known.probe.is_some()).await;
        let _ = seen.wait_for(|known| known.probe.is_none()).await;
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.0.send_if_modified(|known| {
            let before = known.clone();
            change(known);
            *known != before
        });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_publication_outweighs_a_probe_until_it_ends() {
        let (job, other) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
        let health = OutputHealth::unproven();
        assert!(health.problem().is_some());
        health.probed(None);
        assert_eq!(health.problem(), None);
        health.publication_fails(job, "full");
        health.probed(None);
        assert_eq!(health.problem().as_deref(), Some("full"));
        health.publication_ended(other);
        assert_eq!(health.problem().as_deref(), Some("full"), "only another one has ended");
        health.publication_ended(job);
        health.works().await;

        // Also where it was tried once and no more.
        health.publication_given_up(job, "away");
        assert_eq!(health.problem().as_deref(), Some("away"), "until a probe says otherwise");
        health.probed(None);
        health.works().await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_probe_that_failed_can_recover() {
        let health = OutputHealth::default();
        health.publication_fails(JobId(Uuid::from_u128(1)), "full");
        let soon = std::time::Duration::from_secs(1);
        health.probed(None);
        assert!(tokio::time::timeout(soon, health.recovers()).await.is_err());
        let seen = health.clone();
        let recovers = tokio::spawn(async move { seen.recovers().await });
        tokio::task::yield_now().await;
        health.probed(Some("away".to_owned()));
        tokio::task::yield_now().await;
        health.probed(None);
        recovers.await.unwrap();
    }
}
