//! Ctrl-C and SIGTERM: the first asks the run to stop, the second ends the process.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::CliError;
use crate::engine::CancelFlag;

/// What the signal handler shares with the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt {
    /// Set by the first signal.
    pub(super) cancel: CancelFlag,
    unfinished: Arc<Mutex<Vec<PathBuf>>>,
}

impl Interrupt {
    /// Fails once a signal has come; for the parts of a run that the engine does not watch.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.cancel.is_cancelled() { Err(CliError::Interrupted) } else { Ok(()) }
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

    fn signal(&self) {
        if !self.cancel.is_cancelled() {
            self.cancel.cancel();
            return;
        }
        for folder in self.lock().drain(..) {
            // The process ends in any case; what cannot be removed stays.
            let _ = std::fs::remove_dir_all(folder);
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
}
