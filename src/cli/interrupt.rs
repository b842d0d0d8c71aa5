//! Ctrl-C and SIGTERM: the first asks the run to stop, the second ends the process.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::engine::CancelFlag;

/// What the signal handler shares with the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt {
    /// Set by the first signal.
    pub(super) cancel: CancelFlag,
    /// The same for what waits and does not look.
    arrived: CancellationToken,
    unfinished: Arc<Mutex<Vec<PathBuf>>>,
}

impl Interrupt {
    /// Fails once a signal has come; for the parts of a run that the engine does not watch.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.cancel.is_cancelled() { Err(CliError::Interrupted) } else { Ok(()) }
    }

    /// What the work gives; fails once a signal has come, and drops the work.
    pub(super) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            biased;
            () = self.arrived.cancelled() => Err(CliError::Interrupted),
            done = work => Ok(done),
        }
    }

    /// Names an unfinished folder, which the second signal removes before the process ends.
    pub(super) fn guard(&self, folder: &Path) {
        self.lock().push(folder.to_owned());
    }

    /// A folder that is finished or gone.
    pub(super) fn release(&self, folder: &Path) {
        self.lock().retain(|known| known != folder);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        // A list of paths is whole after any panic.
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn signal(&self) {
        if !self.cancel.is_cancelled() {
            self.cancel.cancel();
            self.arrived.cancel();
            return;
        }
        for folder in self.lock().drain(..) {
            // Files may still be added while this removes. The process ends in any case; what
            // cannot be removed stays.
            let _ = (0..3).find(|_| std::fs::remove_dir_all(&folder).is_ok());
        }
        std::process::exit(130);
    }
}

/// Sets the handler, once a process.
pub(super) fn install() -> Result<Interrupt, CliError> {
    let interrupt = Interrupt::default();
    let shared = interrupt.clone();
    ctrlc::set_handler(move || shared.signal()).map_err(CliError::Signals)?;
    Ok(interrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_asks_the_run_to_stop() {
        let interrupt = Interrupt::default();
        assert!(interrupt.check().is_ok());
        interrupt.signal();
        assert!(matches!(interrupt.check(), Err(CliError::Interrupted)));
    }

    #[tokio::test]
    async fn what_waits_ends_with_the_signal() {
        let interrupt = Interrupt::default();
        assert!(matches!(interrupt.unless(async { 5 }).await, Ok(5)));
        let waiting = interrupt.unless(std::future::pending::<()>());
        let (waited, ()) = tokio::join!(waiting, async { interrupt.signal() });
        assert!(matches!(waited, Err(CliError::Interrupted)));
    }
}
