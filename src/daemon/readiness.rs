//! Decides whether the daemon can do its work, which health checks answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    device::DeviceHealth,
    jobs::{JobStore, Store},
    storage::{Patience, StorageError, Storages, prove},
    telemetry,
    worker::OutputHealth,
};

/// The interval between checks of the store, and of an output that failed.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The interval between probes of an output that works: each costs requests to a bucket.
const PROBE_EVERY: Duration = Duration::from_mins(5);
/// A check that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is checked.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) store: Arc<Store>,
    pub(super) storages: Arc<Storages>,
    /// URLs of the places where results may go; the first is the default.
    pub(super) outputs: Vec<String>,
    /// Whether the outputs work, by the probes here and by publications.
    pub(super) health: OutputHealth,
    pub(super) identity: String,
    pub(super) device: watch::Receiver<DeviceHealth>,
    pub(super) draining: CancellationToken,
    /// Notified to probe the outputs at once, as on a reload.
    pub(super) probe_now: Arc<Notify>,
}

impl Readiness {
    /// Sends whether everything works, until the daemon drains; then that it does not.
    pub(super) async fn watch(mut self, ready: watch::Sender<bool>) {
        let draining = self.draining.clone();
        let mut verdict = Verdict { ready, problem: None };
        draining.run_until_cancelled(self.check(&mut verdict)).await;
        if verdict.send(false) {
            tracing::info!("health says not-serving");
        }
    }

    async fn check(&mut self, verdict: &mut Verdict) {
        let mut next_probe = Instant::now();
        loop {
            if Instant::now() >= next_probe {
                // A failed publication is reported before the probe, which may take long.
                if let Some(problem) = self.health.problem()
                    && *verdict.ready.borrow()
                {
                    verdict.give(Err(problem));
                }
                self.health.probed(self.probe_outputs().await.err());
                next_probe = Instant::now() + PROBE_EVERY;
            }
            let output = self.health.problem();
            telemetry::output_works(output.is_none());
            if output.is_some() {
                next_probe = next_probe.min(Instant::now() + CHECK_EVERY);
            }
            let works = match &output {
                Some(problem) => Err(problem.clone()),
                None => self.check_store().await,
            };
            let device = *self.device.borrow_and_update();
            let works = works.and_then(|()| match device {
                DeviceHealth::Ready => Ok(()),
                DeviceHealth::Starting => Err("the device starts".to_owned()),
                DeviceHealth::Recovering => Err("the device recovers from a fault".to_owned()),
            });
            verdict.give(works);
            tokio::select! {
                () = sleep_until(Instant::now() + CHECK_EVERY) => {}
                () = self.probe_now.notified() => next_probe = Instant::now(),
                () = self.health.changed_from(output.as_deref()) => next_probe = Instant::now(),
                // A device that is gone sends no change, and is not ready.
                Ok(()) = self.device.changed() => {}
            }
        }
    }

    async fn check_store(&self) -> Result<(), String> {
        match timeout(PATIENCE, self.store.probe()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the job store did not answer within {PATIENCE:?}")),
        }
    }

    /// Fails where the default output does, or where another can never take a manifest. Another one
    /// that fails for now does not keep jobs with other outputs from running.
    async fn probe_outputs(&self) -> Result<(), String> {
        for (index, output) in self.outputs.iter().enumerate() {
            match self.probe_output(output).await {
                Ok(()) => {}
                Err(problem) if index == 0 || problem.is_lasting => {
                    return Err(format!("{output}: {}", problem.message));
                }
                Err(problem) => {
                    tracing::warn!(output, problem = problem.message, "an output does not work");
                }
            }
        }
        Ok(())
    }

    async fn probe_output(&self, output: &str) -> Result<(), Problem> {
        let probe = async {
            let place = self.storages.open(output)?;
            let once = Patience { attempts: 1, ..Patience::default() };
            prove(&place, &format!(".{}.probe", self.identity), once).await
        };
        let proven = timeout(PATIENCE, probe).await.map_err(|_| Problem {
            is_lasting: false,
            message: format!("did not answer within {PATIENCE:?}"),
        })?;
        proven.map_err(|error| Problem {
            is_lasting: matches!(error, StorageError::NoConditionalWrites { .. }),
            message: error.to_string(),
        })
    }
}

/// What is wrong with an output.
struct Problem {
    /// Whether only other settings or another store can mend it.
    is_lasting: bool,
    message: String,
}

/// The answer to health checks, whose changes are logged.
struct Verdict {
    ready: watch::Sender<bool>,
    /// The problem at the last check.
    problem: Option<String>,
}

impl Verdict {
    fn give(&mut self, works: Result<(), String>) {
        let changed = self.send(works.is_ok());
        let problem = works.err();
        match &problem {
            None if changed => tracing::info!("ready: health says serving"),
            None => {}
            Some(problem) if self.problem.as_ref() == Some(problem) => {
                tracing::debug!(problem, "still not ready");
            }
            Some(problem) => tracing::warn!(problem, "not ready"),
        }
        self.problem = problem;
    }

    /// Sends the answer, and returns whether it changed.
    fn send(&self, is_ready: bool) -> bool {
        telemetry::ready(is_ready);
        self.ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        jobs::{MemoryStore, StoreSettings},
        storage::{
            StorageSettings,
            testing::{Conditions, Flaky},
        },
    };

    /// Far less than [`PROBE_EVERY`].
    const SOON: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn an_output_without_conditional_writes_is_not_ready_at_start_and_on_a_reload() {
        let bucket = Flaky::in_memory();
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        storages.mount("memory://bucket", bucket.clone(), None).unwrap();
        let (_device, device) = watch::channel(DeviceHealth::Ready);
        let probe_now = Arc::new(Notify::new());
        let store = Arc::new(Store::from(MemoryStore::new(StoreSettings::default())));
        let readiness = || Readiness {
            store: store.clone(),
            storages: storages.clone(),
            outputs: vec!["memory://bucket/results".to_owned()],
            health: OutputHealth::unproven(),
            identity: "one".to_owned(),
            device: device.clone(),
            draining: CancellationToken::new(),
            probe_now: probe_now.clone(),
        };
        for (conditions, said) in [
            (Conditions::Ignored, "wrote over"),
            (Conditions::NotImplemented, "501 NotImplemented"),
        ] {
            bucket.treat_conditions(conditions);
            let problem = readiness().probe_outputs().await.unwrap_err();
            for part in ["memory://bucket/results: ", said, "If-None-Match", "use a store that"] {
                assert!(problem.contains(part), "\"{part}\" is not in: {problem}");
            }
        }

        let (sender, mut ready) = watch::channel(true);
        tokio::spawn(readiness().watch(sender));
        timeout(SOON, ready.wait_for(|ready| !ready)).await.unwrap().unwrap();
        for (conditions, is_ready) in [
            (Conditions::Heeded, true),
            (Conditions::Ignored, false),
            (Conditions::Heeded, true),
            (Conditions::NotImplemented, false),
        ] {
            bucket.treat_conditions(conditions);
            probe_now.notify_one();
            timeout(SOON, ready.wait_for(|ready| *ready == is_ready)).await.unwrap().unwrap();
        }
    }
}
