//! A file that says that a call was being served: where a process is lost with it, the call may be
//! what killed it, and no job that it held beside is to blame.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Its name in the data folder.
const NAME: &str = "serving";

/// Where the mark stands while a call is served.
#[derive(Debug, Clone)]
pub struct ServingMark {
    path: PathBuf,
}

/// Takes the mark away when the call has ended, however it did.
#[derive(Debug)]
pub(super) struct Served<'a>(&'a Path);

impl ServingMark {
    /// In a data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(NAME) }
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

    pub(super) fn set(&self) -> Served<'_> {
        // Without the mark a loss is charged to the job, which is all that it costs.
        if let Err(error) = fs::write(&self.path, "") {
            tracing::debug!(%error, "a call that is served is not marked");
        }
        Served(&self.path)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // What is not there needs no removing.
        let _ = fs::remove_file(self.0);
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
        drop(mark.set());
        assert!(!mark.take_left_behind());
        std::mem::forget(mark.set());
        assert!(mark.take_left_behind());
        assert!(!mark.take_left_behind());
    }
}
