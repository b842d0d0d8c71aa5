//! A result folder in the making that knows of signals.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::{CliError, interrupt::Interrupt};
use crate::artifacts::StagedFolder;

/// Appears under its name when it is complete, and else never.
#[derive(Debug)]
pub(super) struct Staging {
    // None once it is committed.
    folder: Option<StagedFolder>,
    target: PathBuf,
    unfinished: PathBuf,
    interrupt: Interrupt,
}

impl Staging {
    /// Begins the folder; the second signal removes it.
    pub(super) fn create(
        out: &Path,
        expected: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Self, CliError> {
        let folder = StagedFolder::create(out, expected)?;
        let unfinished = folder.unfinished().to_owned();
        interrupt.guard(&unfinished);
        let target = out.to_owned();
        Ok(Self { folder: Some(folder), target, unfinished, interrupt: interrupt.clone() })
    }

    /// Where it is until it is complete.
    pub(super) fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Where it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder, to write into; fails once a signal has come.
    pub(super) fn folder(&mut self) -> Result<&mut StagedFolder, CliError> {
        self.interrupt.check()?;
        // It is there until commit, which takes the staging itself.
        self.folder.as_mut().ok_or(CliError::Interrupted)
    }

    /// Writes one file.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        Ok(self.folder()?.write(name, |out: &mut dyn Write| out.write_all(bytes))?)
    }

    /// Gives the folder its name, unless a signal came.
    pub(super) fn commit(mut self) -> Result<(), CliError> {
        self.interrupt.check()?;
        if let Some(folder) = self.folder.take() {
            folder.commit()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.interrupt.release(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_interrupted_folder() {
        let parent = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::default();
        let out = parent.path().join("out");
        let mut staging = Staging::create(&out, &[], &interrupt).unwrap();
        staging.write("a", b"1").unwrap();
        interrupt.cancel.cancel();
        assert!(matches!(staging.write("b", b"2"), Err(CliError::Interrupted)));
        assert!(matches!(staging.commit(), Err(CliError::Interrupted)));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
