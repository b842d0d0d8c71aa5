//! Whether the daemon can do what it is asked: health says what this finds.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::output_probe::probe_output;
use crate::{
    jobs::{JobStore, Store},
    storage::{Place, Storages},
    telemetry,
    worker::DeviceHealth,
};

/// From one look at the store to the next, and at an output that failed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From one look at an output that works to the next: each one costs requests to a bucket.
const PROBE_EVERY: Duration = Duration::from_mins(5);
/// What takes longer than this does not work.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) store: Arc<Store>,
    pub(super) storages: Arc<Storages>,
    /// URL of the place where results go by default.
    pub(super) output: String,
    pub(super) identity: String,
    pub(super) device: watch::Receiver<DeviceHealth>,
    pub(super) draining: CancellationToken,
}

impl Readiness {
    /// Says whether everything works, until the daemon drains; then that it does not.
    pub(super) async fn watch(mut self, told: watch::Sender<bool>) {
        let draining = self.draining.clone();
        draining.run_until_cancelled(self.look(&told)).await;
        tell(&told, Ok(()), false);
    }

    async fn look(&mut self, told: &watch::Sender<bool>) {
        let mut output: Option<Result<(), String>> = None;
        let mut next_probe = Instant::now();
        loop {
            if Instant::now() >= next_probe {
                let probed = self.probe_output().await;
                next_probe = Instant::now() + if probed.is_ok() { PROBE_EVERY } else { LOOK_EVERY };
                output = Some(probed);
            }
            let works = match &output {
                Some(Err(problem)) => Err(format!("{}: {problem}", self.output)),
                _ => self.look_at_store().await,
            };
            let device = *self.device.borrow_and_update();
            let works = works.and_then(|()| match device {
                DeviceHealth::Ready => Ok(()),
                DeviceHealth::Starting => Err("the device starts".to_owned()),
                DeviceHealth::Recovering => Err("the device recovers from a fault".to_owned()),
            });
            let is_ready = works.is_ok();
            tell(told, works, is_ready);
            tokio::select! {
                () = sleep_until(Instant::now() + LOOK_EVERY) => {}
                // A device that is gone wakes nobody, and is not ready.
                Ok(()) = self.device.changed() => {}
            }
        }
    }

    async fn look_at_store(&self) -> Result<(), String> {
        match timeout(PATIENCE, self.store.probe()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the job store did not answer within {PATIENCE:?}")),
        }
    }

    async fn probe_output(&self) -> Result<(), String> {
        let place: Place = self.storages.open(&self.output).map_err(|error| error.to_string())?;
        match timeout(PATIENCE, probe_output(&place, &self.identity)).await {
            Ok(probed) => probed,
            Err(_) => Err(format!("did not answer within {PATIENCE:?}")),
        }
    }
}

/// Tells what was found, and logs what changed.
fn tell(told: &watch::Sender<bool>, works: Result<(), String>, is_ready: bool) {
    let changed = told.send_if_modified(|ready| {
        let changed = *ready != is_ready;
        *ready = is_ready;
        changed
    });
    telemetry::ready(is_ready);
    match works {
        Ok(()) if changed && is_ready => tracing::info!("ready: health says serving"),
        Ok(()) if changed => tracing::info!("health says not-serving"),
        Ok(()) => {}
        Err(problem) => tracing::warn!(problem, "not ready"),
    }
}
