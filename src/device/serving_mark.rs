//! A file that exists while a call is served. If the process is lost meanwhile, the call may have
//! killed it, so the loss is not charged to the job beside it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Its name in the data folder.
const NAME: &str = "serving";

/// Marks that calls are being served. Clones share it.
#[derive(Debug, Clone)]
pub struct ServingMark {
    path: PathBuf,
    /// Calls that are being served, by all slots.
    serving: Arc<Mutex<usize>>,
}

/// Takes the mark away when the last call has ended, however it did.
#[derive(Debug)]
pub(super) struct Serving<'a>(&'a ServingMark);

impl ServingMark {
    /// In a data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(NAME), serving: Arc::default() }
    }

    /// Whether the last process on the folder was lost while it served a call; forgets it. To be
    /// asked before the device starts.
    pub fn take_left_behind(&self) -> bool {
        match fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %self.path.display(), "cannot remove a mark");
                }
                false
            }
        }
    }

    pub(super) fn set(&self) -> Serving<'_> {
        let mut serving = self.serving();
        // Without the mark a loss is charged to the job, and that is all.
        if *serving == 0
            && let Err(error) = fs::write(&self.path, "")
        {
            tracing::debug!(%error, "a call that is served is not marked");
        }
        *serving += 1;
        Serving(self)
    }

    fn serving(&self) -> MutexGuard<'_, usize> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut serving = self.0.serving();
        *serving -= 1;
        if *serving == 0 {
            // A mark that could not be written needs no removing.
            let _ = fs::remove_file(&self.0.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_of_calls_that_did_not_end() {
        let folder = tempfile::tempdir().unwrap();
        let mark = ServingMark::new(folder.path());
        assert!(!mark.take_left_behind());
        let first = mark.set();
        drop(mark.clone().set());
        assert!(folder.path().join(NAME).exists(), "the first call is still served");
        drop(first);
        assert!(!mark.take_left_behind());
        std::mem::forget(mark.set());
        assert!(mark.take_left_behind());
        assert!(!mark.take_left_behind());
    }
}
